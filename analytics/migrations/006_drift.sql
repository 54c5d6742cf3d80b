-- What the drift job leaves: what each model version was held against, what was found window by window, and what has
-- been counted, so that a finished day is not counted again.

-- A version's reference profiles, JSON (see analytics/profiles.py). `source`: training (it came with the model) or window
-- (made of logged predictions); the newest of a window holds, else the newest of training.
CREATE TABLE IF NOT EXISTS reference_profiles
(
    model   LowCardinality(String),
    version LowCardinality(String),
    source  LowCardinality(String),
    made_at DateTime64(6, 'UTC'),
    body    String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (model, version, made_at, source);

-- One figure about one window of one slice. A window counted again replaces itself.
-- slice_by '' is all rows, else what they were cut by ('carrier', 'variant'). kind: data (feature), prediction (feature
-- '@score'), concept (figures of joined outcomes, feature ''), estimate (figures that need none, feature ''). n: rows
-- that the figure is of. quiet_95: what it would stay within, 95 times in a hundred, were nothing to have changed at
-- these n; NaN where that is not known. threshold: beyond which the verdict is drift; NaN where it never is.
-- verdict: ok, watch, drift, too few.
CREATE TABLE IF NOT EXISTS drift_results
(
    model           LowCardinality(String),
    version         LowCardinality(String),
    window_start    DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    window_end      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    slice_by        LowCardinality(String),
    slice           String CODEC(ZSTD(1)),
    kind            LowCardinality(String),
    feature         LowCardinality(String),
    metric          LowCardinality(String),
    value           Float64 CODEC(ZSTD(1)),
    n               UInt64 CODEC(T64, ZSTD(1)),
    reference_value Float64 CODEC(ZSTD(1)),
    reference_n     UInt64 CODEC(T64, ZSTD(1)),
    quiet_95        Float64 CODEC(ZSTD(1)),
    threshold       Float64 CODEC(ZSTD(1)),
    verdict         LowCardinality(String),
    message         String CODEC(ZSTD(1)),
    computed_at     DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(computed_at)
ORDER BY (model, version, window_start, window_end, slice_by, slice, kind, feature, metric);

-- The bins behind the figures: of all rows in every window, of a slice where its verdict was not ok. `bin` counts from
-- 0 in the order of the axis; shares are of all rows, the null bin among them.
CREATE TABLE IF NOT EXISTS drift_bins
(
    model           LowCardinality(String),
    version         LowCardinality(String),
    window_start    DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    window_end      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    slice_by        LowCardinality(String),
    slice           String CODEC(ZSTD(1)),
    kind            LowCardinality(String),
    feature         LowCardinality(String),
    bin             UInt16,
    label           String CODEC(ZSTD(1)),
    reference_share Float64 CODEC(ZSTD(1)),
    current_share   Float64 CODEC(ZSTD(1)),
    computed_at     DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(computed_at)
ORDER BY (model, version, window_start, window_end, slice_by, slice, kind, feature, bin);

-- What has been counted: `counted` is rows or outcomes (`rows` of them), and a window whose number has grown is counted
-- again.
CREATE TABLE IF NOT EXISTS drift_windows
(
    model        LowCardinality(String),
    version      LowCardinality(String),
    counted      LowCardinality(String),
    window_start DateTime64(6, 'UTC'),
    window_end   DateTime64(6, 'UTC'),
    rows         UInt64,
    computed_at  DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(computed_at)
ORDER BY (model, version, counted, window_start, window_end);

-- How far outcomes have been looked through for those that came after their window had been counted: `next` is the
-- first offset that has not been.
CREATE TABLE IF NOT EXISTS drift_marks
(
    model         LowCardinality(String),
    version       LowCardinality(String),
    log           LowCardinality(String),
    log_partition Int32,
    next          SimpleAggregateFunction(max, Int64),
    looked_at     SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (model, version, log, log_partition);

-- The figures as they hold now; windows are days, the last 24 hours at a full hour, and four weeks that end with a day.
CREATE OR REPLACE VIEW drift_latest AS SELECT * FROM drift_results FINAL;

-- Those of whole days (UTC).
CREATE OR REPLACE VIEW drift_days AS
SELECT * FROM drift_results FINAL
WHERE window_end = window_start + INTERVAL 1 DAY AND window_start = toStartOfDay(window_start);
