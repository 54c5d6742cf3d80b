"""The raw limit is held to what a worker is given: a limit that stands still is none."""

from __future__ import annotations

from penstock.bench.raw import reading
from penstock.settings import Settings
from stream_workers.scoring_clients import REQUESTS_AHEAD


def test_the_copy_reads_with_a_workers_settings_or_better() -> None:
    raw, worker = reading("127.0.0.1:9092"), Settings().kafka.consumer("g")
    assert raw["fetch.queue.backoff.ms"] <= worker["fetch.queue.backoff.ms"]
    assert {name: raw.get(name) for name in ("fetch.max.bytes", *REQUESTS_AHEAD)} == {
        "fetch.max.bytes": None,
        **REQUESTS_AHEAD,
    }
    assert raw["queued.min.messages"] >= worker.get("queued.min.messages", 100_000)
    assert raw["isolation.level"] == "read_uncommitted"
