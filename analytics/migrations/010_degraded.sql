-- How far an answer fell short of how it should have been made (see ScoreReply): empty, half-batch, cpu,
-- fallback:MODEL/VERSION or cached.

ALTER TABLE predictions ADD COLUMN IF NOT EXISTS degraded LowCardinality(String) AFTER device;

ALTER TABLE batch_summaries ADD COLUMN IF NOT EXISTS degraded LowCardinality(String) AFTER device;
