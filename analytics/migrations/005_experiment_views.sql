-- Experiments for people to ask: the first two are made from the prediction log as they are asked, the others from what
-- looks have computed.

-- Runs as the control topic planned them; ended_at lies far ahead while one goes on.
CREATE OR REPLACE VIEW experiment_runs AS
SELECT
    name AS experiment,
    fromUnixTimestamp64Micro(started, 'UTC') AS started_at,
    if(stopped = 0, toDateTime64('2100-01-01 00:00:00', 6, 'UTC'), fromUnixTimestamp64Micro(stopped, 'UTC')) AS ended_at,
    model,
    control
FROM
(
    SELECT
        name,
        JSONExtractInt(body, 'started_at') AS started,
        argMax(JSONExtractInt(body, 'stopped_at'), (log_time, log_offset)) AS stopped,
        argMax(JSONExtractString(body, 'definition', 'model'), (log_time, log_offset)) AS model,
        argMax(JSONExtractString(body, 'definition', 'control'), (log_time, log_offset)) AS control
    FROM control_history
    WHERE kind = 'experiment-plan' AND NOT deleted
    GROUP BY name, started
)
WHERE started > 0;

-- Each unit's first exposure in each run: a prediction with a variant, whatever became of it. An experiment that nobody
-- planned is one run from 1970 on. `variants` above 1: the unit met more than one.
CREATE OR REPLACE VIEW exposures AS
SELECT
    p.experiment AS experiment,
    r.started_at AS started_at,
    p.user_id AS user_id,
    min(p.scored_at) AS first_at,
    argMin(p.variant, p.scored_at) AS variant,
    argMin(p.version, p.scored_at) AS version,
    argMin(p.request_id, p.scored_at) AS request_id,
    uniqExact(p.variant) AS variants,
    count() AS predictions
FROM predictions AS p
LEFT JOIN experiment_runs AS r ON p.experiment = r.experiment
WHERE p.experiment != '' AND p.variant != '' AND p.user_id != ''
    AND (r.experiment = '' OR (p.model = r.model AND p.scored_at >= r.started_at AND p.scored_at < r.ended_at))
GROUP BY experiment, started_at, user_id;

-- The same with the one variant that the unit counts for; '' and crossed = 1 where it met two and counts for none.
CREATE OR REPLACE VIEW experiment_units AS
SELECT
    experiment,
    started_at,
    user_id,
    if(variants = 1, variant, '') AS variant,
    variants > 1 AS crossed,
    first_at,
    request_id,
    predictions
FROM exposures;

-- Sufficient statistics by day of first exposure, of the metrics as they are defined now; see experiment_stats. Not
-- winsorised where the cap is a percentile, which is one of the whole run.
CREATE OR REPLACE VIEW experiment_day_metrics AS
SELECT
    experiment,
    started_at,
    metric,
    variant,
    toDate(slot) AS day,
    sum(n) AS n,
    sum(events) AS events,
    sum(y) AS sum_y,
    sum(x) AS sum_x,
    sum(yy) AS sum_yy,
    sum(xx) AS sum_xx,
    sum(yx) AS sum_yx,
    sum(c) AS sum_c,
    sum(cc) AS sum_cc,
    sum(yc) AS sum_yc
FROM experiment_stats
WHERE (experiment, started_at, grain, metric_key, slot, computed) IN
    (
        SELECT experiment, started_at, grain, metric_key, slot, max(computed) FROM experiment_sealed
        WHERE metric_key != '' GROUP BY experiment, started_at, grain, metric_key, slot
    )
    AND (experiment, started_at, metric, grain, metric_key) IN
    (
        SELECT experiment, started_at, metric, newest.1, newest.2 FROM
        (
            SELECT experiment, started_at, metric, argMax((grain, metric_key), computed) AS newest
            FROM experiment_stats GROUP BY experiment, started_at, metric
        )
    )
GROUP BY experiment, started_at, metric, variant, day;

-- Each arm on each metric, as of the last look. `value` is y a unit, of a ratio y by x.
CREATE OR REPLACE VIEW experiment_metrics AS
SELECT
    experiment,
    started_at,
    metric,
    variant,
    sum(n) AS units,
    sum(d.events) AS events,
    sum(d.sum_y) AS sum_y,
    sum(d.sum_x) AS sum_x,
    sum(d.sum_yy) AS sum_yy,
    sum(d.sum_xx) AS sum_xx,
    sum(d.sum_yx) AS sum_yx,
    sum(d.sum_c) AS sum_c,
    sum(d.sum_cc) AS sum_cc,
    sum(d.sum_yc) AS sum_yc,
    if(sum_xx > 0, sum_y / sum_x, sum_y / units) AS value
FROM experiment_day_metrics AS d
GROUP BY experiment, started_at, metric, variant;

-- The same at the end of each day.
CREATE OR REPLACE VIEW experiment_timeseries AS
SELECT
    experiment,
    started_at,
    metric,
    variant,
    day,
    sum(n) OVER so_far AS units,
    sum(d.sum_y) OVER so_far AS sum_y,
    sum(d.sum_x) OVER so_far AS sum_x,
    sum(d.sum_yy) OVER so_far AS sum_yy,
    if(sum_x > 0, sum_y / sum_x, sum_y / units) AS value
FROM experiment_day_metrics AS d
WINDOW so_far AS (PARTITION BY experiment, started_at, metric, variant ORDER BY day);

-- Every look as it was decided; a look that was repeated is there once.
CREATE OR REPLACE VIEW experiment_results AS SELECT * FROM experiment_looks FINAL;
