-- Questions that everybody asks, named once.

-- Requests, errors, latency (microseconds from sent to scored) and scores of each minute; answered from the projection
-- per_minute. `latency_quantiles` are those of 0.5, 0.9 and 0.99.
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

-- One row a request: what became of it. duplicated_rows is 0, or something is wrong.
CREATE OR REPLACE VIEW prediction_fates AS
SELECT
    request_id,
    any(predictions.user_id) AS user_id,
    any(predictions.model) AS model,
    any(predictions.version) AS version,
    any(predictions.experiment) AS experiment,
    any(predictions.variant) AS variant,
    count() AS rows,
    countIf(predictions.code = 'OK') AS ok_rows,
    count() - uniqExact(row_number) AS duplicated_rows,
    arraySort(groupUniqArray(toString(predictions.code))) AS codes,
    min(predictions.sent_at) AS sent_at,
    max(predictions.scored_at) AS scored_at,
    dateDiff('microsecond', min(predictions.sent_at), max(predictions.scored_at)) AS latency_us
FROM predictions
GROUP BY request_id;

-- Each scored row beside each outcome that names its request.
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
