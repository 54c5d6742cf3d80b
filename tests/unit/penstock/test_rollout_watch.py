"""What a rollout is judged by are answers that somebody waits for: bulk batches, of whichever pool, are none."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Message
from prometheus_client import CollectorRegistry

from penstock.rollout_watch import rollout_watch
from penstock.settings import load
from schemas.codec import Codec
from schemas.records import BatchSummary
from stream_workers.ops_health import Health
from stream_workers.rollout_sources import RolloutSources

POOLS = """
kafka.topic_prefix = "p."
[pools.heavy]
models = ["bert-*"]
[pools.x]
models = ["x"]
bulk_topic = "files"
"""


class OneRead:
    """confluent's consumer, of topics without partitions; `log` is what it reads."""

    log: tuple[Message, ...] = ()

    def __init__(self, *_: Any) -> None:
        """It asks nobody."""

    def list_topics(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(topics=defaultdict(lambda: SimpleNamespace(partitions={})))

    def offsets_for_times(self, places: list[Any], **_: Any) -> list[Any]:
        return places

    def assign(self, places: list[Any]) -> None:
        assert places == []

    def consume(self, *_: Any) -> list[Message]:
        return list(self.log)


def summary(topic: str, model: str) -> Message:
    one = BatchSummary(
        batch_id="b",
        worker="w",
        device="cpu",
        model=model,
        version="1",
        experiment="",
        variant="",
        topic=topic,
        scored_at=0,
        requests=1,
        rows=1,
    )
    return Message("p.batch.summaries", 0, 7, model.encode(), Codec().encode(one))


def test_a_bulk_batch_of_no_pool_counts_in_a_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(POOLS)
    settings = load(file, environ={}, stack=False)
    given: list[Any] = []

    class Driver:
        def __init__(self, *own: Any, **_: Any) -> None:
            given.extend(own)

        def run(self, stop: threading.Event) -> None:
            stop.wait()

    monkeypatch.setattr("penstock.rollout_watch.RolloutDriver", Driver)
    monkeypatch.setattr("stream_workers.rollout_sources.Consumer", OneRead)
    monkeypatch.setattr("stream_workers.rollout_sources.WorkerStates", lambda *_: None)
    nothing: Any = SimpleNamespace()
    with rollout_watch(settings, Codec(), nothing, nothing, CollectorRegistry(), Health(), threading.Event()):
        sources = given[3](0)
    assert isinstance(sources, RolloutSources)
    asked, bulk = ["scoring.requests", "scoring.heavy.requests"], ["scoring.bulk", "scoring.heavy.bulk", "files"]
    OneRead.log = tuple(summary(f"p.{topic}", "bert-1") for topic in (*asked, *bulk))
    assert [one.topic for one, *_ in sources.summaries(["bert-1"])] == [f"p.{topic}" for topic in asked]
