-- What a shadow scored: the same columns as in predictions and batch_summaries, in tables of their own. Nobody was
-- answered by it, so that a question about requests, fates, drift or experiments must not come upon it.

CREATE TABLE IF NOT EXISTS shadow_predictions
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
    score         Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    features      Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    categories    Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)),
    outputs       Map(LowCardinality(String), Array(Float64)) CODEC(ZSTD(1)),
    texts         Map(LowCardinality(String), Array(String)) CODEC(ZSTD(1)),
    batch_id      String CODEC(ZSTD(1)),
    worker        LowCardinality(String),
    device        LowCardinality(String),
    degraded      LowCardinality(String),
    log           LowCardinality(String),
    log_partition Int32 CODEC(T64, ZSTD(1)),
    log_offset    Int64 CODEC(Delta, ZSTD(1)),
    log_time      DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_offset log_offset TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(scored_at)
ORDER BY (model, version, toStartOfHour(scored_at), user_id, request_id, row_number)
TTL toDateTime(log_time) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS shadow_summaries
(
    batch_id           String CODEC(ZSTD(1)),
    worker             LowCardinality(String),
    device             LowCardinality(String),
    degraded           LowCardinality(String),
    model              LowCardinality(String),
    version            LowCardinality(String),
    experiment         LowCardinality(String),
    variant            LowCardinality(String),
    topic              LowCardinality(String),
    scored_at          DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    requests           Int64 CODEC(T64, ZSTD(1)),
    rows               Int64 CODEC(T64, ZSTD(1)),
    padded_rows        Int64 CODEC(T64, ZSTD(1)),
    queue_us           Int64 CODEC(T64, ZSTD(1)),
    batch_us           Int64 CODEC(T64, ZSTD(1)),
    infer_us           Int64 CODEC(T64, ZSTD(1)),
    latency_histogram  Array(Int64) CODEC(ZSTD(1)),
    score_count        Int64 CODEC(T64, ZSTD(1)),
    score_sum          Float64 CODEC(Gorilla, ZSTD(1)),
    score_sum_squares  Float64 CODEC(Gorilla, ZSTD(1)),
    score_histogram    Array(Int64) CODEC(ZSTD(1)),
    errors             Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    feature_histograms Map(LowCardinality(String), Array(Int64)) CODEC(ZSTD(1)),
    log                LowCardinality(String),
    log_partition      Int32 CODEC(T64, ZSTD(1)),
    log_offset         Int64 CODEC(Delta, ZSTD(1)),
    log_time           DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX by_offset log_offset TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(scored_at)
ORDER BY (model, version, scored_at, batch_id)
TTL toDateTime(log_time) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
