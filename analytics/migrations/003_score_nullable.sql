-- A row without a score has NULL there, not NaN: avg(score) over rows with errors among them is then what people mean.
-- A projection keeps the type of what it was made from, so the one over scores is made anew, as it was (001, 002).

ALTER TABLE predictions DROP PROJECTION IF EXISTS per_minute SETTINGS mutations_sync = 1;

ALTER TABLE predictions MODIFY COLUMN score Nullable(Float64) CODEC(Gorilla, ZSTD(1)) SETTINGS mutations_sync = 1;

ALTER TABLE predictions UPDATE score = NULL WHERE isNaN(score) SETTINGS mutations_sync = 1;

ALTER TABLE predictions ADD PROJECTION IF NOT EXISTS per_minute
(
    SELECT
        toStartOfMinute(scored_at) AS minute,
        model,
        version,
        experiment,
        variant,
        code,
        count(),
        sum(dateDiff('microsecond', sent_at, scored_at)),
        quantilesTDigest(0.5, 0.9, 0.99)(dateDiff('microsecond', sent_at, scored_at)),
        countIf(isFinite(score)),
        sumIf(score, isFinite(score)),
        sumIf(score * score, isFinite(score))
    GROUP BY minute, model, version, experiment, variant, code
);

ALTER TABLE predictions MATERIALIZE PROJECTION per_minute SETTINGS mutations_sync = 1;

-- A view keeps the types of its columns from when it was made.
CREATE OR REPLACE VIEW predictions_per_minute AS
SELECT
    toStartOfMinute(scored_at) AS minute,
    model,
    version,
    experiment,
    variant,
    code,
    count() AS rows,
    sum(dateDiff('microsecond', sent_at, scored_at)) AS latency_sum,
    quantilesTDigest(0.5, 0.9, 0.99)(dateDiff('microsecond', sent_at, scored_at)) AS latency_quantiles,
    countIf(isFinite(score)) AS scores,
    sumIf(score, isFinite(score)) AS score_sum,
    sumIf(score * score, isFinite(score)) AS score_sum_squares
FROM predictions
GROUP BY minute, model, version, experiment, variant, code;

CREATE OR REPLACE VIEW labelled_predictions AS
SELECT
    p.request_id AS request_id,
    p.row_number AS row_number,
    p.user_id AS user_id,
    p.model AS model,
    p.version AS version,
    p.experiment AS experiment,
    p.variant AS variant,
    p.scored_at AS scored_at,
    p.score AS score,
    o.name AS outcome,
    o.value AS value,
    o.occurred_at AS occurred_at
FROM predictions AS p
INNER JOIN (SELECT * FROM outcomes FINAL WHERE request_id != '') AS o ON p.request_id = o.request_id
WHERE p.code = 'OK';
