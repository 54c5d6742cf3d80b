-- A demo run as a whole. `sent` is how many requests the demo published; each must have one row, whatever its fate.
-- `misassigned`: rows whose variant is not the one that the user's hash gives, recomputed here by ClickHouse.
SELECT
    uniqExact(request_id) AS requests,
    {sent:Int64} - uniqExact(request_id) AS lost,
    count() - uniqExact(request_id, row_number) AS duplicated,
    countIf(code = 'OK') AS scored,
    countIf(user_id != '' AND code = 'OK' AND variant != if(
        xxh3({salt:String} || ':' || user_id) % 10000 < {split:Int64}, {first:String}, {second:String}
    )) AS misassigned,
    quantileExact(0.5)(dateDiff('microsecond', sent_at, scored_at)) / 1000 AS p50_ms,
    quantileExact(0.99)(dateDiff('microsecond', sent_at, scored_at)) / 1000 AS p99_ms,
    uniqExact(batch_id) AS batches,
    uniqExact(worker) AS workers,
    dateDiff('microsecond', min(sent_at), max(scored_at)) / 1e6 AS seconds,
    count() / greatest(seconds, 1e-6) AS rows_per_second
FROM predictions
WHERE model = {model:String} AND scored_at >= fromUnixTimestamp64Micro({began:Int64})
    AND startsWith(request_id, {prefix:String})
