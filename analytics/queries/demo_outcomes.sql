-- The outcomes of a demo run, and those of them that name a request without a prediction.
SELECT
    count() AS outcomes,
    countIf(request_id NOT IN (
        SELECT request_id FROM predictions
        WHERE model = {model:String} AND scored_at >= fromUnixTimestamp64Micro({began:Int64})
            AND startsWith(request_id, {prefix:String})
    )) AS without_prediction
FROM outcomes FINAL
WHERE name = {outcome:String} AND sent_at >= fromUnixTimestamp64Micro({began:Int64})
    AND startsWith(request_id, {prefix:String})
