-- Each variant of a demo run against what really happened. Variant '' are flights of no known tail number, which belong
-- to no variant. Log loss in nats, scores kept off 0 and 1 by 1e-7. What needs outcomes of both kinds is null without.
WITH
    scored AS
    (
        SELECT request_id, user_id, variant, version, score FROM predictions
        WHERE model = {model:String} AND scored_at >= fromUnixTimestamp64Micro({began:Int64})
            AND startsWith(request_id, {prefix:String}) AND code = 'OK'
    ),
    known AS
    (
        SELECT request_id, value FROM outcomes FINAL
        WHERE name = {outcome:String} AND sent_at >= fromUnixTimestamp64Micro({began:Int64})
            AND startsWith(request_id, {prefix:String})
    )
SELECT
    variant,
    version,
    count() AS flights,
    uniqExactIf(user_id, user_id != '') AS users,
    countIf(known.request_id != '') AS with_outcome,
    avgIf(score, known.request_id != '') AS mean_score,
    avgIf(value, known.request_id != '') AS late_share,
    arrayAUC(
        groupArrayIf(score, known.request_id != ''), groupArrayIf(toUInt8(value), known.request_id != '')
    ) AS auc,
    avgIf(
        -if(value = 1, log(greatest(score, 1e-7)), log(greatest(1 - score, 1e-7))), known.request_id != ''
    ) AS log_loss
FROM scored LEFT JOIN known ON scored.request_id = known.request_id
GROUP BY variant, version
ORDER BY variant = '', version, variant
