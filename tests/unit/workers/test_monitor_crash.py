"""A monitor that dies between any two of its steps raises a breach once, and counts nothing twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from monitor_records import NOON, FixedRules, summary
from prometheus_client import CollectorRegistry

from producers.errors import BrokerUnavailableError
from schemas.codec import Codec
from schemas.records import Alert
from schemas.topics import Topics
from stream_workers.guardrails import Breach, Recovery
from stream_workers.monitor import Monitor, MonitorConfig, StopRefusedError
from stream_workers.monitor_faust import FaustConfig
from stream_workers.monitor_metrics import MonitorMetrics
from stream_workers.monitor_watch import Entries, Span
from stream_workers.monitor_windows import MICRO
from stream_workers.ops import Health

CODEC = Codec()
RECORDS = [
    summary(0, variant="control"),
    summary(1, failed=60, variant="new", version="2"),
    summary(2, variant="control"),
    summary(70, variant="control"),
]


class KilledError(BaseException):
    """kill -9."""


@dataclass
class World:
    """What outlives a monitor: the changelog, the alerts, the stops, the committed offset. Dies at step `dies_at`."""

    dies_at: int = -1
    after: bool = False
    steps: int = 0
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    committed: int = 0

    def does(self, what: Any) -> None:
        """A step, which dies before or after it has taken effect."""
        self.steps += 1
        dies = self.steps - 1 == self.dies_at
        if dies and not self.after:
            raise KilledError
        what()
        if dies:
            raise KilledError

    def put(self, alert: Alert) -> None:
        self.does(lambda: self.alerts.append(alert))

    def states(self) -> dict[str, str]:
        return {one.alert_id: one.state for one in self.alerts}

    def stop(self, breach: Breach) -> list[str]:
        words = [] if self.stopped else ["stopped"]
        self.does(lambda: self.stopped.append(breach.alert_id))
        return words


class WithoutFaust(Monitor):
    """The monitor with the world in Faust's place."""

    world: World

    async def _keep(self, entries: Entries) -> None:
        for key, text in entries.items():
            raw = key.encode()
            if text is None:
                self.world.does(lambda raw=raw: self.world.changelog.pop(raw, None))  # type: ignore[misc]
            else:
                self.world.does(lambda raw=raw, text=text: self.world.changelog.update({raw: text.encode()}))  # type: ignore[misc]

    async def ack(self, event: Any) -> None:
        self.world.does(lambda: setattr(self.world, "committed", event.message.offset + 1))


def live(world: World, *, refuse: str = "") -> None:
    """One monitor's life: from the committed offset to the end of the log."""

    def stop(breach: Breach) -> list[str]:
        if refuse:
            raise StopRefusedError(refuse)
        return world.stop(breach)

    metrics, wall = MonitorMetrics(CollectorRegistry()), [NOON]
    config = MonitorConfig(FaustConfig("g", {}, 1), Topics(), Span(20 * MICRO, 5 * MICRO), Recovery())
    monitor = WithoutFaust(config, CODEC, FixedRules(), world, stop, metrics, Health(), wall=lambda: wall[0])
    monitor.world = world

    async def run() -> None:
        monitor.restore([0], dict(world.changelog), {0: len(RECORDS)})
        for offset in range(world.committed, len(RECORDS)):
            record = RECORDS[offset]
            wall[0] = record.scored_at
            message = SimpleNamespace(topic="t", partition=0, offset=offset, value=CODEC.encode(record))
            await monitor.step(monitor, [SimpleNamespace(message=message)])

    asyncio.run(run())


def test_a_breach_is_told_when_it_begins_and_when_it_is_over() -> None:
    world = World()
    live(world)
    assert [one.state for one in world.alerts] == ["firing", "resolved"]
    assert len(world.stopped) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_it_is_told_once_all_the_same(after: bool) -> None:
    whole = World()
    live(whole)
    assert whole.steps > 15
    for dies_at in range(whole.steps):
        world = World(dies_at, after)
        with pytest.raises(KilledError):
            live(world)
        live(world)
        told = [(one.alert_id, one.state, one.n, one.value) for one in world.alerts]
        assert told == [(one.alert_id, one.state, one.n, one.value) for one in whole.alerts], f"died at step {dies_at}"
        assert set(world.stopped) == set(whole.stopped)
        assert world.changelog == whole.changelog, f"died at step {dies_at}"


def test_a_variant_that_cannot_be_stopped_is_an_alert_that_says_why() -> None:
    world = World()
    live(world, refuse="monitor.stop is false")
    assert '"stop_failed": "monitor.stop is false"' in world.alerts[0].evidence


def test_while_kafka_takes_no_alert_nothing_is_acknowledged() -> None:
    world = World()

    def put(alert: Alert) -> None:
        raise BrokerUnavailableError(f"away: {alert.alert_id}")

    world.put = put  # type: ignore[method-assign]
    with pytest.raises(BrokerUnavailableError):
        live(world)
    assert world.committed == 1, "the record that made the breach comes again"
    del world.put
    live(world)
    assert [one.state for one in world.alerts] == ["firing", "resolved"]
