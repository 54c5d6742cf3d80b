-- How much of a demo run has arrived: what the demo waits for.
SELECT
    (
        SELECT uniqExact(request_id) FROM predictions
        WHERE model = {model:String} AND scored_at >= fromUnixTimestamp64Micro({began:Int64})
            AND startsWith(request_id, {prefix:String})
    ) AS requests,
    (
        SELECT uniqExact(outcome_id) FROM outcomes
        WHERE name = {outcome:String} AND sent_at >= fromUnixTimestamp64Micro({began:Int64})
            AND startsWith(request_id, {prefix:String})
    ) AS outcomes
