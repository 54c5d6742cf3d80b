"""Lag as the page tells it: what Kafka says of a group, what ingest's own metrics say, and that nobody waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry

from analytics.dashboard.overview_html import Lag
from penstock.page_lag import LagWatch, group_lag, ingest_lag
from stream_workers.ops_metrics import IngestMetrics


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class Admin:
    """Kafka's answers: two partitions of `a` from 5 to 100, none of `b`; the group has committed 90 of the first."""

    def __init__(self) -> None:
        self.calls = 0

    def list_topics(self, **_: Any) -> Any:
        return SimpleNamespace(topics={"a": SimpleNamespace(partitions={0: None, 1: None})})

    def list_offsets(self, asked: dict[Any, Any], **_: Any) -> dict[Any, Any]:
        self.calls += 1
        # First the ends of all, then the beginnings of those without a commit.
        assert [place.partition for place in asked] == ([0, 1] if self.calls == 1 else [1])
        return {place: done(SimpleNamespace(offset=100 if self.calls == 1 else 5)) for place in asked}

    def list_consumer_group_offsets(self, asked: list[Any], **_: Any) -> dict[str, Any]:
        for place in asked[0].topic_partitions:
            place.offset = 90 if place.partition == 0 else -1001
        return {asked[0].group_id: done(asked[0])}


def test_a_groups_lag_is_from_what_it_committed_and_else_from_the_beginning() -> None:
    assert group_lag(Admin(), "g", ("a", "b")) == [Lag("g", "a", 10 + 95)]
    assert group_lag(Admin(), "g", ("b",)) == []


def test_ingests_lag_is_that_of_its_own_metrics_by_topic() -> None:
    registry = CollectorRegistry()
    metrics = IngestMetrics(registry)
    for topic, partition, records in (("predictions", 0, 3), ("predictions", 1, 4), ("outcomes", 0, 0)):
        metrics.lag(topic, partition, records)
    assert ingest_lag(registry, "i") == [Lag("i", "outcomes", 0), Lag("i", "predictions", 7)]


def test_kafka_is_asked_in_another_thread_and_only_when_somebody_looks() -> None:
    asked = threading.Semaphore(0)

    def read() -> list[Lag]:
        asked.release()
        return [Lag("g", "t", 1)]

    with LagWatch(read, every=0.0) as watch:
        assert not asked.acquire(blocking=False)
        assert watch.latest() == ()
        assert asked.acquire(timeout=30)
        while not watch.latest():
            assert asked.acquire(timeout=30)
        assert watch.latest() == (Lag("g", "t", 1),)


def test_a_kafka_that_is_away_is_said_to_be_and_asked_again() -> None:
    away = [KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)), TimeoutError("no answer")]

    def read() -> list[Lag]:
        if away:
            raise away.pop(0)
        return []

    watch = LagWatch(read)
    for _ in range(2):
        watch.look()
        assert watch._latest[0].problem.startswith("Kafka did not say")
    watch.look()
    assert watch._latest == ()
