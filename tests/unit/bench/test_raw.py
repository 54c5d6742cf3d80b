"""The raw limit is held to what a worker is given: a limit that stands still is none."""

from __future__ import annotations

from penstock.bench.raw import reading
from penstock.settings import Settings
from stream_workers.scoring_clients import BULK_FETCH_BYTES, REQUESTS_AHEAD


def test_the_copy_reads_with_a_workers_settings_or_better() -> None:
    raw, worker = reading("127.0.0.1:9092"), Settings().kafka.consumer("g")
    assert raw["fetch.queue.backoff.ms"] <= worker["fetch.queue.backoff.ms"]
    # Measured by turns: the faster of a worker's two, and not librdkafka's 50 MB.
    assert raw["fetch.max.bytes"] == BULK_FETCH_BYTES
    assert raw.get("queued.max.messages.kbytes", 64 << 10) >= REQUESTS_AHEAD["queued.max.messages.kbytes"]
    assert raw["queued.min.messages"] >= worker.get("queued.min.messages", 100_000)
    assert raw["isolation.level"] == "read_uncommitted"
