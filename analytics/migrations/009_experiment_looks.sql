-- What lets a look at an experiment pass over what has not changed.

-- When outcomes of a slot's units came late (microseconds), apart from when its units or predictions changed: what is
-- made of predictions alone need not be computed again for those. Until here `changed` told both.
ALTER TABLE experiment_folds ADD COLUMN IF NOT EXISTS reported SimpleAggregateFunction(max, UInt64);

-- Where the log of outcomes ends, by day: what a look asks first, and what most find unchanged.
ALTER TABLE outcomes MODIFY SETTING deduplicate_merge_projection_mode = 'rebuild';

ALTER TABLE outcomes ADD PROJECTION IF NOT EXISTS ends
(
    SELECT name, toDate(log_time) AS day, log, log_partition, max(log_offset), max(log_time)
    GROUP BY name, day, log, log_partition
);

ALTER TABLE outcomes MATERIALIZE PROJECTION ends SETTINGS mutations_sync = 1;

-- The users of few slots are found among those of all by a number.
ALTER TABLE experiment_exposures ADD COLUMN IF NOT EXISTS user_hash UInt64 MATERIALIZED cityHash64(user_id);

ALTER TABLE experiment_exposures MATERIALIZE COLUMN user_hash SETTINGS mutations_sync = 1;
