-- What a look at an experiment keeps, so that the next one costs what has come since.
--
-- A run is (experiment, started_at). Time is cut into slots of `grain` seconds; a unit (a user) belongs to the slot of
-- its first exposure. A look folds new slots of predictions into experiment_exposures, and computes the statistics of
-- those slots whose windows have closed. Statistics of slots add up, so a figure is a sum over slots. Whatever a look
-- writes twice, or leaves half done, changes nothing: exposures are read as minima and maxima, and statistics count only
-- once their slot is in experiment_sealed. These are tables and no materialized views because ingest's block is one part of
-- one table (see 001), and because a user's first exposure is not known from a block.

-- A unit's exposures, a row for each fold that told something new about it: the first of those folded, with its variant,
-- version, worker and partition of the request topic, and the smallest and largest variant. Over a unit's rows the
-- earliest holds; where the smallest and largest of all are not equal, it met two variants.
CREATE TABLE IF NOT EXISTS experiment_exposures
(
    experiment LowCardinality(String),
    started_at DateTime64(6, 'UTC'),
    grain      UInt32,
    slot       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    user_id    String CODEC(ZSTD(1)),
    first_at   DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    variant    LowCardinality(String),
    version    LowCardinality(String),
    worker     LowCardinality(String),
    partition  Int32 CODEC(T64, ZSTD(1)),
    low        LowCardinality(String),
    high       LowCardinality(String)
)
ENGINE = MergeTree
ORDER BY (experiment, started_at, grain, slot, user_id);

-- Each slot's predictions that have been folded, and when (microseconds) its units or their outcomes last changed.
CREATE TABLE IF NOT EXISTS experiment_folds
(
    experiment LowCardinality(String),
    started_at DateTime64(6, 'UTC'),
    grain      UInt32,
    slot       DateTime('UTC'),
    rows       SimpleAggregateFunction(max, UInt64),
    changed    SimpleAggregateFunction(max, UInt64)
)
ENGINE = AggregatingMergeTree
ORDER BY (experiment, started_at, grain, slot);

-- How far outcomes have been looked through for late ones.
CREATE TABLE IF NOT EXISTS experiment_marks
(
    experiment    LowCardinality(String),
    started_at    DateTime64(6, 'UTC'),
    grain         UInt32,
    log           LowCardinality(String),
    log_partition Int32,
    log_offset    SimpleAggregateFunction(max, Int64),
    log_time      SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (experiment, started_at, grain, log, log_partition);

-- Which computation (microseconds of its beginning) of a slot holds, by metric; metric_key '' is experiment_counts.
CREATE TABLE IF NOT EXISTS experiment_sealed
(
    experiment LowCardinality(String),
    started_at DateTime64(6, 'UTC'),
    grain      UInt32,
    metric_key LowCardinality(String),
    slot       DateTime('UTC'),
    computed   SimpleAggregateFunction(max, UInt64)
)
ENGINE = AggregatingMergeTree
ORDER BY (experiment, started_at, grain, metric_key, slot);

-- Units of a slot by variant, whole (slice 'all') and by slice: partition, worker, version, joined ('start': the unit's
-- bucket had its variant from the run's start, 'later': a ramp brought it). Variant '' are units that met two.
CREATE TABLE IF NOT EXISTS experiment_counts
(
    experiment LowCardinality(String),
    started_at DateTime64(6, 'UTC'),
    grain      UInt32,
    slot       DateTime('UTC'),
    computed   UInt64,
    slice      LowCardinality(String),
    value      LowCardinality(String),
    variant    LowCardinality(String),
    units      UInt64
)
ENGINE = MergeTree
ORDER BY (experiment, started_at, grain, slot, computed, slice, value, variant);

-- Sufficient statistics of a slot's units: y is the unit's number (of a ratio its numerator), x a ratio's denominator,
-- c and d the same two before the exposure. Where a metric needs it (quantiles, percentile caps) they are by bin of y:
-- 0 for 0, else sign(y) * (1100 + ceil(log(|y|) / log(101 / 99))), a sketch of 1% relative error (see
-- analytics/experiment_sql.py).
CREATE TABLE IF NOT EXISTS experiment_stats
(
    experiment LowCardinality(String),
    started_at DateTime64(6, 'UTC'),
    grain      UInt32,
    metric     LowCardinality(String),
    metric_key LowCardinality(String),
    slot       DateTime('UTC'),
    computed   UInt64,
    variant    LowCardinality(String),
    bin        Int32,
    n          Int64,
    events     Int64,
    y          Float64,
    x          Float64,
    c          Float64,
    d          Float64,
    yy         Float64,
    xx         Float64,
    cc         Float64,
    dd         Float64,
    yx         Float64,
    yc         Float64,
    yd         Float64,
    xc         Float64,
    xd         Float64,
    cd         Float64
)
ENGINE = MergeTree
ORDER BY (experiment, started_at, grain, metric_key, slot, computed, variant, bin);

-- One row for each look, metric and arm: what was known, and what was decided on it. `variant` is the arm compared with
-- `control`; n_* are units; `lift` and its interval are relative to the control, `estimate` and `low` and `high`
-- absolute. `bound` is what |statistic| was held against, `information` the share (0 to 1) of the planned information.
-- Decision and reason are the experiment's and the same on each row of a look. A look repeated replaces itself.
CREATE TABLE IF NOT EXISTS experiment_looks
(
    experiment        LowCardinality(String),
    started_at        DateTime64(6, 'UTC'),
    look              UInt32,
    looked_at         DateTime64(6, 'UTC'),
    role              LowCardinality(String),
    metric            LowCardinality(String),
    control           LowCardinality(String),
    variant           LowCardinality(String),
    method            LowCardinality(String),
    n_control         UInt64,
    n_variant         UInt64,
    mean_control      Float64,
    mean_variant      Float64,
    estimate          Float64,
    low               Float64,
    high              Float64,
    lift              Float64,
    lift_low          Float64,
    lift_high         Float64,
    statistic         Float64,
    bound             Float64,
    p_value           Float64,
    p_adjusted        Float64,
    chance_to_win     Float64,
    information       Float64,
    alpha_spent       Float64,
    srm_p             Float64,
    units             UInt64,
    crossed           UInt64,
    days_left         Float64,
    decision          LowCardinality(String),
    reason            String CODEC(ZSTD(1)),
    details           String CODEC(ZSTD(1)),
    written_at        DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (experiment, started_at, look, metric, variant);
