-- What comes from Kafka, a row each: the tables that ingest fills.
--
-- log, log_partition, log_offset, log_time say which Kafka record a row came from (log = topic@topic-id, so that a
-- topic made anew is another log); ingest reads them back to know what has arrived. The deduplication window makes
-- ClickHouse drop a block that is sent twice. A score, and a number in a map, is NaN where there is none: NaN keeps the
-- columns plain, and every aggregate here asks isFinite first.

CREATE TABLE IF NOT EXISTS predictions
(
    request_id    String CODEC(ZSTD(1)),
    row_number    UInt32 CODEC(T64, ZSTD(1)),
    user_id       String CODEC(ZSTD(1)),
    model         LowCardinality(String),
    version       LowCardinality(String),
    experiment    LowCardinality(String),
    variant       LowCardinality(String),
    topic         LowCardinality(String),
    partition     Int32 CODEC(T64, ZSTD(1)),
    offset        Int64 CODEC(Delta, ZSTD(1)),
    sent_at       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at   DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    scored_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    code          LowCardinality(String),
    message       String CODEC(ZSTD(1)),
    score         Float64 CODEC(Gorilla, ZSTD(1)),
    features      Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    categories    Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)),
    outputs       Map(LowCardinality(String), Array(Float64)) CODEC(ZSTD(1)),
    texts         Map(LowCardinality(String), Array(String)) CODEC(ZSTD(1)),
    batch_id      String CODEC(ZSTD(1)),
    worker        LowCardinality(String),
    device        LowCardinality(String),
    log           LowCardinality(String),
    log_partition Int32 CODEC(T64, ZSTD(1)),
    log_offset    Int64 CODEC(Delta, ZSTD(1)),
    log_time      DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_offset log_offset TYPE minmax GRANULARITY 1,

    -- The per-minute roll-up lives in the parts themselves. A materialized view's target is written apart from its
    -- source, so that a process killed between the two leaves them different; a projection cannot differ from its rows.
    -- Read it by the view predictions_per_minute (migration 002).
    PROJECTION per_minute
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
    )
)
ENGINE = MergeTree
PARTITION BY toDate(scored_at)
ORDER BY (model, experiment, toStartOfHour(scored_at), user_id, request_id, row_number)
TTL toDateTime(log_time) + INTERVAL 180 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1,
    deduplicate_merge_projection_mode = 'rebuild', lightweight_mutation_projection_mode = 'rebuild';

CREATE TABLE IF NOT EXISTS batch_summaries
(
    batch_id          String CODEC(ZSTD(1)),
    worker            LowCardinality(String),
    device            LowCardinality(String),
    model             LowCardinality(String),
    version           LowCardinality(String),
    experiment        LowCardinality(String),
    variant           LowCardinality(String),
    topic             LowCardinality(String),
    scored_at         DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    requests          Int64 CODEC(T64, ZSTD(1)),
    rows              Int64 CODEC(T64, ZSTD(1)),
    padded_rows       Int64 CODEC(T64, ZSTD(1)),
    queue_us          Int64 CODEC(T64, ZSTD(1)),
    batch_us          Int64 CODEC(T64, ZSTD(1)),
    infer_us          Int64 CODEC(T64, ZSTD(1)),
    latency_histogram Array(Int64) CODEC(ZSTD(1)),
    score_count       Int64 CODEC(T64, ZSTD(1)),
    score_sum         Float64 CODEC(Gorilla, ZSTD(1)),
    score_sum_squares Float64 CODEC(Gorilla, ZSTD(1)),
    score_histogram   Array(Int64) CODEC(ZSTD(1)),
    errors            Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    log               LowCardinality(String),
    log_partition     Int32 CODEC(T64, ZSTD(1)),
    log_offset        Int64 CODEC(Delta, ZSTD(1)),
    log_time          DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX by_offset log_offset TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(scored_at)
ORDER BY (model, version, experiment, scored_at, batch_id)
TTL toDateTime(log_time) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- "A repeated id is the same outcome": read it with FINAL, as the views do. Partitioned by when it was logged: an
-- outcome may be about any time, however long ago.
CREATE TABLE IF NOT EXISTS outcomes
(
    outcome_id    String CODEC(ZSTD(1)),
    request_id    String CODEC(ZSTD(1)),
    user_id       String CODEC(ZSTD(1)),
    experiment    LowCardinality(String),
    model         LowCardinality(String),
    name          LowCardinality(String),
    value         Float64 CODEC(Gorilla, ZSTD(1)),
    occurred_at   DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    sent_at       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    log           LowCardinality(String),
    log_partition Int32 CODEC(T64, ZSTD(1)),
    log_offset    Int64 CODEC(Delta, ZSTD(1)),
    log_time      DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_offset log_offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(log_time)
PARTITION BY toDate(log_time)
ORDER BY (name, experiment, user_id, outcome_id)
TTL toDateTime(log_time) + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- A record that is reported twice, because the reporter was killed in between, is one dead letter under FINAL. The
-- value's hash keeps apart what two incarnations of a topic had at the same offset.
CREATE TABLE IF NOT EXISTS dead_letters
(
    topic         LowCardinality(String),
    partition     Int32,
    offset        Int64,
    key           Nullable(String) CODEC(ZSTD(1)),
    value         Nullable(String) CODEC(ZSTD(1)),
    headers       Map(String, String) CODEC(ZSTD(1)),
    reason        LowCardinality(String),
    detail        String CODEC(ZSTD(1)),
    worker        LowCardinality(String),
    failed_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    value_hash    UInt64 MATERIALIZED xxh3(ifNull(value, '')),
    log           LowCardinality(String),
    log_partition Int32 CODEC(T64, ZSTD(1)),
    log_offset    Int64 CODEC(Delta, ZSTD(1)),
    log_time      DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(log_time)
PARTITION BY toDate(log_time)
ORDER BY (topic, partition, offset, value_hash)
TTL toDateTime(log_time) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS control_history
(
    kind          LowCardinality(String),
    name          String,
    revision      Int64,
    body          String CODEC(ZSTD(1)),
    author        LowCardinality(String),
    changed_at    DateTime64(6, 'UTC'),
    deleted       Bool,
    log           LowCardinality(String),
    log_partition Int32,
    log_offset    Int64,
    log_time      DateTime64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toDate(log_time)
ORDER BY (kind, name, log_time, log_offset)
SETTINGS non_replicated_deduplication_window = 10000;
