"""The long-running consumers: scoring, ingest into ClickHouse, control, live monitor, rollout."""
