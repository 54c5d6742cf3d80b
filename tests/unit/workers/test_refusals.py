"""A refused version fires one alert, which ends when it is loaded or gone, also if another process had raised it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from producers.errors import BrokerUnavailableError
from schemas.records import Alert
from stream_workers.ops import WorkerMetrics
from stream_workers.refusals import Refusals

LABELS = {"model": "late", "version": "2"}


class Topic:
    """The topic of alerts, which outlives workers."""

    def __init__(self) -> None:
        self.records: list[Alert] = []
        self.away = False

    def put(self, alert: Alert) -> None:
        if self.away:
            raise BrokerUnavailableError("no Kafka")
        self.records.append(alert)

    def states(self) -> dict[str, str]:
        if self.away:
            raise BrokerUnavailableError("no Kafka")
        return {one.alert_id: one.state for one in self.records}


class World:
    def __init__(self, topic: Topic, now: int = 1) -> None:
        self.registry = CollectorRegistry()
        self.now = now
        self.ours = Refusals(topic, WorkerMetrics(self.registry, "w"), "w", lambda: self.now)

    @property
    def shown(self) -> float | None:
        return self.registry.get_sample_value("penstock_version_refused", LABELS)

    def settle(self) -> None:
        self.ours._pool.submit(lambda: None).result()


def test_it_fires_once_and_ends_when_the_version_loads() -> None:
    topic = Topic()
    world = World(topic)
    for _ in range(3):
        world.ours.refused("late", "2", "its file is spoilt")
        world.now += 10
    assert world.shown == 1
    world.ours.over("late", "1")
    world.ours.over("late", "2")
    world.settle()
    assert world.shown is None
    assert [(one.state, one.labels, one.rule) for one in topic.records] == [
        ("firing", LABELS, "version-refused"),
        ("resolved", LABELS, "version-refused"),
    ]
    assert topic.records[0].alert_id == topic.records[1].alert_id
    assert "its file is spoilt" in topic.records[0].summary
    # Refused again it is another alert.
    world.ours.refused("late", "2", "again")
    world.settle()
    assert topic.records[2].alert_id != topic.records[0].alert_id


def test_a_worker_resolves_what_its_predecessor_raised_and_nothing_else() -> None:
    topic = Topic()
    first = World(topic)
    first.ours.refused("late", "2", "spoilt")
    first.ours.refused("soon", "7", "spoilt")
    first.settle()
    first.ours.close()
    second = World(topic, 99)
    second.ours.over("other", "1")
    second.settle()
    assert len(topic.records) == 2
    second.ours.over("late", "2")
    second.ours.over("late", "2")
    second.ours.over("soon", "7")
    second.settle()
    states = topic.states()
    assert len(topic.records) == 4
    assert set(states.values()) == {"resolved"}


def test_without_kafka_a_worker_goes_on_and_reads_later_what_was_raised() -> None:
    topic = Topic()
    first = World(topic)
    first.ours.refused("late", "2", "spoilt")
    first.settle()
    second = World(topic, 99)
    topic.away = True
    second.ours.refused("soon", "1", "spoilt")
    second.ours.over("late", "2")
    second.settle()
    topic.away = False
    second.ours.over("late", "2")
    second.settle()
    assert [one.state for one in topic.records] == ["firing", "resolved"]
