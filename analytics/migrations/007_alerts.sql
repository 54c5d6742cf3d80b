-- Alerts: what was raised, when it went, who was told of it, and what is to be kept quiet.

-- One row for each change of an alert. A row is written again when more receivers have been told of its change: under
-- FINAL the newest holds, so that nothing has to happen exactly once. `alert_id` is one occurrence (rule, labels and
-- start), `fingerprint` the rule and its labels, whenever. `fired_at` is 1970 for one that was pending and passed.
-- `delivered` has each receiver that is to be told: '' not yet, else when it was (ISO 8601), or why it never will be
-- ("silenced by ID", "given up: …"). `evidence` is JSON of whoever raised it; `n` what the value was computed from.
CREATE TABLE IF NOT EXISTS alert_events
(
    alert_id    String,
    rule        LowCardinality(String),
    fingerprint String,
    state       LowCardinality(String),
    severity    LowCardinality(String),
    labels      Map(String, String),
    summary     String CODEC(ZSTD(1)),
    value       Float64,
    threshold   Float64,
    n           UInt64,
    started_at  DateTime64(6, 'UTC'),
    fired_at    DateTime64(6, 'UTC'),
    changed_at  DateTime64(6, 'UTC'),
    source      LowCardinality(String),
    evidence    String CODEC(ZSTD(1)),
    delivered   Map(String, String),
    written_at  DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (rule, alert_id, changed_at, state)
TTL toDateTime(changed_at) + INTERVAL 365 DAY;

-- `matchers` are texts such as model=flight-delay or rule=~"drift.*"; all of them have to fit. Ended before its time:
-- written again with an earlier `until`.
CREATE TABLE IF NOT EXISTS alert_silences
(
    silence_id String,
    matchers   Array(String),
    starts_at  DateTime64(6, 'UTC'),
    until      DateTime64(6, 'UTC'),
    comment    String,
    author     String,
    written_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY silence_id
TTL toDateTime(until) + INTERVAL 365 DAY;

-- The newest state of each alert: pending and firing ones are what is on now.
CREATE OR REPLACE VIEW alerts_now AS
SELECT
    alert_id,
    argMax(e.rule, (e.changed_at, e.written_at)) AS rule,
    argMax(e.fingerprint, (e.changed_at, e.written_at)) AS fingerprint,
    argMax(e.state, (e.changed_at, e.written_at)) AS state,
    argMax(e.severity, (e.changed_at, e.written_at)) AS severity,
    argMax(e.labels, (e.changed_at, e.written_at)) AS labels,
    argMax(e.summary, (e.changed_at, e.written_at)) AS summary,
    argMax(e.value, (e.changed_at, e.written_at)) AS value,
    argMax(e.threshold, (e.changed_at, e.written_at)) AS threshold,
    argMax(e.n, (e.changed_at, e.written_at)) AS n,
    min(e.started_at) AS started_at,
    max(e.fired_at) AS fired_at,
    max(e.changed_at) AS changed_at,
    argMax(e.source, (e.changed_at, e.written_at)) AS source,
    argMax(e.evidence, (e.changed_at, e.written_at)) AS evidence,
    argMax(e.delivered, (e.changed_at, e.written_at)) AS delivered
FROM alert_events AS e
GROUP BY alert_id;
