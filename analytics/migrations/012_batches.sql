-- Small micro-batches of one commit share a summary: how many they were.

ALTER TABLE batch_summaries ADD COLUMN IF NOT EXISTS batches Int64 DEFAULT 1 CODEC(T64, ZSTD(1)) AFTER scored_at;

ALTER TABLE shadow_summaries ADD COLUMN IF NOT EXISTS batches Int64 DEFAULT 1 CODEC(T64, ZSTD(1)) AFTER scored_at;
