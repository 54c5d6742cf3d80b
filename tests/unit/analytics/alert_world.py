"""What stands around an alert engine in tests: a clock, a receiver, a topic and a warehouse, each of which may fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from analytics.alert_history import AlertHistory
from analytics.alert_outbox import Mail, Message, Policy
from analytics.alert_rules import Condition, Rule
from analytics.alert_samples import Sampler
from analytics.alert_state import Report
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse, WarehouseUnavailableError
from stream_workers.alert_engine import AlertEngine, Told
from stream_workers.alert_receivers import DeliveryFailedError
from stream_workers.alert_reports import NoReports, Reports
from stream_workers.ops_alerts import AlertMetrics

# Tables forget what is old by the real clock.
START = datetime.now(UTC).replace(second=0, microsecond=0)
BEHIND = Rule("behind", Condition(">", 100), "{value:.0f} behind on {topic}", metric="ingest_lag")
AT_ONCE = Policy(wait=timedelta(), interval=timedelta())


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Listener:
    """A receiver that may be away."""

    def __init__(self) -> None:
        self.away = False
        self.heard: list[tuple[list[str], list[str]]] = []

    def send(self, message: Message, now: datetime) -> None:
        del now
        if self.away:
            raise DeliveryFailedError("nobody there")
        self.heard.append(([one.rule for one in message.firing], [one.rule for one in message.resolved]))

    def close(self) -> None:
        """Nothing to let go of."""


class Topic:
    """Reports as the topic gives them: again from where offsets were committed."""

    def __init__(self, *reports: Report, leads: bool = True) -> None:
        self.reports = list(reports)
        self.leads = leads
        self.committed = 0
        self._read = 0

    def read(self, timeout: float) -> list[Report]:
        del timeout
        found = self.reports[self._read :]
        self._read = len(self.reports)
        return found

    def commit(self) -> None:
        self.committed = self._read

    def close(self) -> None:
        """Another process reads from here."""
        self._read = self.committed


class ShakyHistory(AlertHistory):
    """One whose ClickHouse may be away."""

    away = False

    def write(self, mails: Sequence[Mail], now: datetime) -> None:
        if self.away:
            raise WarehouseUnavailableError("ClickHouse is away")
        super().write(mails, now)


class World:
    """What is there whoever judges: warehouse, figures, clock, receiver, topic."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.clock = Clock()
        self.lag: dict[str, float] = {}
        self.listener = Listener()
        self.topic: Reports = NoReports()
        self.rules: tuple[Rule, ...] = (BEHIND,)
        self.policy = AT_ONCE
        self.registry = CollectorRegistry()

    def figures(self, series: str, labels: tuple[str, ...]) -> list[tuple[dict[str, str], float]]:
        assert (series, labels) == ("penstock_ingest_lag", ("topic",))
        return [({"topic": name}, value) for name, value in self.lag.items()]

    @contextmanager
    def engine(self, history: AlertHistory | None = None) -> Iterator[AlertEngine]:
        """An engine of a process that is not killed: what it has is written at its end."""
        made = self.process(history)
        yield made
        made.close()

    def process(self, history: AlertHistory | None = None) -> AlertEngine:
        """An engine that ends whenever nobody calls it any more, as by kill -9."""
        self.registry = CollectorRegistry()
        sampler = Sampler(self.warehouse, ReadOnlySql(self.warehouse.another()), self.figures)
        return AlertEngine(
            self.rules,
            sampler,
            history or AlertHistory(self.warehouse),
            self.topic,
            {"r": Told(self.listener, self.policy)},
            AlertMetrics(self.registry),
            clock=self.clock,
        )

    def step(self, engine: AlertEngine, seconds: float = 15) -> None:
        """One look and one chance for each receiver."""
        self.clock.go(seconds)
        engine.round(0, True)
        engine.tell("r")

    def rows(self, columns: str = "state, delivered") -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM alert_events FINAL ORDER BY changed_at, state"  # noqa: S608 - the test's own
        return list(self.warehouse.query(sql).rows)

    def now(self) -> list[tuple[str, str]]:
        return list(self.warehouse.query("SELECT rule, state FROM alerts_now ORDER BY rule, state").rows)  # type: ignore[arg-type]


def report(state: str, seconds: float = 0) -> Report:
    at = START + timedelta(seconds=seconds)
    return Report(
        alert_id="m1",
        rule="guardrail",
        state=state,  # type: ignore[arg-type] - "firing" or "resolved"
        severity="critical",
        source="monitor",
        labels={"model": "a"},
        summary="p99 over its limit",
        value=2.0,
        threshold=1.0,
        n=50,
        raised_at=START,
        at=at,
        evidence='{"window": 1}',
    )
