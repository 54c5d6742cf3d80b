-- Whether users met the variant that their hash gives, recomputed here from the assignments in control_history. One row
-- for each experiment: its (user, variant) pairs, and how many of them no assignment in force at that time would give.
-- A worker hears of a change within a second or so: an assignment counts from {slack:Int64} seconds before it was
-- published until so long after the next one was. An experiment without a history has no row.
WITH
    entries AS
    (
        SELECT
            name,
            body,
            deleted,
            changed_at AS since,
            leadInFrame(changed_at, 1, toDateTime64('2100-01-01 00:00:00', 6, 'UTC')) OVER
                (
                    PARTITION BY name ORDER BY log_time, log_offset
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
                ) AS until
        FROM control_history WHERE kind = 'experiment'
    ),
    assignments AS
    (
        SELECT
            name,
            JSONExtractString(body, 'salt') AS salt,
            JSONExtractString(body, 'layer') AS layer,
            JSONExtract(body, 'layer_ranges', 'Array(Tuple(UInt16, UInt16))') AS layer_ranges,
            since - toIntervalSecond({slack:Int64}) AS since,
            until + toIntervalSecond({slack:Int64}) AS until,
            arrayFlatten(arrayMap(
                one -> arrayMap(span -> (one.1, span.1, span.2), one.2),
                JSONExtract(body, 'variants', 'Array(Tuple(name String, ranges Array(Tuple(UInt16, UInt16))))')
            )) AS owned
        FROM entries WHERE NOT deleted AND JSONExtractString(body, 'status') != 'stopped'
    ),
    met AS
    (
        SELECT experiment, user_id, toString(variant) AS variant, min(scored_at) AS first_at, max(scored_at) AS last_at
        FROM predictions
        WHERE experiment IN (SELECT name FROM assignments) AND variant != '' AND user_id != ''
        GROUP BY experiment, user_id, variant
    )
SELECT
    experiment,
    count() AS pairs,
    countIf(NOT first_right OR NOT last_right) AS wrong,
    anyIf(user_id, NOT first_right OR NOT last_right) AS example
FROM
(
    -- Between its first and its last meeting a user's variant was right at both ends.
    SELECT
        experiment,
        user_id,
        max(fits AND first_at >= since AND first_at < until) AS first_right,
        max(fits AND last_at >= since AND last_at < until) AS last_right
    FROM
    (
        SELECT
            met.experiment AS experiment, met.user_id AS user_id, met.variant AS variant, first_at, last_at,
            since, until, xxh3(salt || ':' || met.user_id) % 10000 AS bucket,
            xxh3('layer:' || layer || ':' || met.user_id) % 10000 AS place,
            arrayExists(one -> one.1 = met.variant AND bucket >= one.2 AND bucket < one.3, owned)
                AND (layer = '' OR arrayExists(one -> place >= one.1 AND place < one.2, layer_ranges)) AS fits
        FROM met INNER JOIN assignments ON met.experiment = assignments.name
    )
    GROUP BY experiment, user_id, variant
)
GROUP BY experiment
ORDER BY experiment
