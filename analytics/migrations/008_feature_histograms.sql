-- What the worker counts of each feature, in the bins of the version's reference profile (see BatchSummary).

ALTER TABLE batch_summaries
    ADD COLUMN IF NOT EXISTS feature_histograms Map(LowCardinality(String), Array(Int64)) CODEC(ZSTD(1)) AFTER errors;
