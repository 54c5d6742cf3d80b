-- The requests of a demo run that were not scored: how many, and what the first of each kind was told.
SELECT code, count() AS requests, argMin(message, scored_at) AS example
FROM predictions
WHERE model = {model:String} AND scored_at >= fromUnixTimestamp64Micro({began:Int64})
    AND startsWith(request_id, {prefix:String}) AND code != 'OK'
GROUP BY code
ORDER BY requests DESC, code
