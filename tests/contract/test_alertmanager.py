"""Alerts told to a real Alertmanager: it understands them, tells people once, and hears of all it missed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from chdb_home import fresh_warehouse
from prometheus_client import CollectorRegistry
from prometheus_programs import Alertmanager, Hook
from waiting import until

from analytics.alert_history import AlertHistory
from analytics.alert_outbox import Message, Policy
from analytics.alert_rules import Condition, Rule
from analytics.alert_samples import Sampler
from analytics.alert_state import Alert
from analytics.migrate import migrate
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse
from stream_workers.alert_engine import AlertEngine, Told
from stream_workers.alert_receivers import AlertmanagerReceiver
from stream_workers.alert_reports import NoReports
from stream_workers.ops_alerts import AlertMetrics

pytestmark = pytest.mark.usefixtures("prometheus_runs_here")
REFRESH = timedelta(seconds=60)
RULE = Rule("behind", Condition(">", 100), "{value:.0f} behind on {topic}", metric="ingest_lag", severity="critical")


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as made:
        yield made


@pytest.fixture
def manager(hook: Hook, tmp_path: Path) -> Iterator[Alertmanager]:
    """One that is not running yet."""
    made = Alertmanager(tmp_path / "alertmanager", hook.url)
    yield made
    made.stop()


class World:
    """A warehouse, a figure, and a clock that the test moves; engines come and go."""

    def __init__(self, warehouse: Warehouse, url: str) -> None:
        self.warehouse = warehouse
        # The outage is over when this clock has come to the present, since Alertmanager has a clock of its own.
        self.now = datetime.now(UTC) - timedelta(seconds=75)
        self.lag = 0.0
        self.url = url
        self.readonly = ReadOnlySql(warehouse.another())

    def engine(self) -> AlertEngine:
        receiver = AlertmanagerReceiver(self.url, REFRESH, link="http://page")
        return AlertEngine(
            (RULE,),
            Sampler(self.warehouse, self.readonly, lambda _series, _labels: [({"topic": "predictions"}, self.lag)]),
            AlertHistory(self.warehouse),
            NoReports(),
            {"alertmanager": Told(receiver, Policy(refresh=REFRESH))},
            AlertMetrics(CollectorRegistry()),
            clock=lambda: self.now,
        )

    def step(self, engine: AlertEngine, seconds: float) -> int:
        self.now += timedelta(seconds=seconds)
        engine.round(0, True)
        return engine.tell("alertmanager")

    def delivered(self) -> list[tuple[str, bool]]:
        rows = self.warehouse.query(
            "SELECT state, delivered['alertmanager'] != '' FROM alert_events FINAL ORDER BY changed_at"
        ).rows
        return [(str(state), bool(told)) for state, told in rows]


@pytest.fixture
def world(manager: Alertmanager) -> Iterator[World]:
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        made = World(warehouse, manager.url)
        yield made
        made.readonly.close()


def test_alertmanager_away_for_a_minute_is_told_when_it_is_back_and_tells_people_once(
    world: World, manager: Alertmanager, hook: Hook
) -> None:
    world.lag = 500
    killed = world.engine()
    for _ in range(4):
        assert world.step(killed, 15) == 0
    (line,) = killed.standing().receivers
    assert (line.waiting, "cannot be reached" in line.problem) == (1, True)
    assert world.delivered() == [("firing", False)]

    # The process that raised it is gone as well; the next one finds in ClickHouse who is still to be told.
    engine = world.engine()
    manager.start()
    assert world.step(engine, 14) == 1
    assert world.delivered() == [("firing", True)]
    (alert,) = manager.alerts()
    assert alert["labels"] == {
        "alertname": "behind",
        "severity": "critical",
        "source": "rule",
        "topic": "predictions",
    }
    assert alert["annotations"]["summary"] == "500 behind on predictions"
    assert alert["generatorURL"] == "http://page"
    started = world.warehouse.query("SELECT fired_at FROM alert_events FINAL").scalar()
    assert abs(datetime.fromisoformat(alert["startsAt"]) - started) < timedelta(milliseconds=1)
    until(lambda: hook.states() == [("behind", "firing")], 30, lambda: f"people were told {hook.states()}")
    assert world.step(engine, 0.5) == 0

    # Restarted, it has forgotten the alert but not whom it told: the refresh brings one back without telling anew.
    manager.stop()
    manager.start()
    assert manager.alerts() == []
    assert world.step(engine, 60) == 1
    assert [one["labels"]["alertname"] for one in manager.alerts()] == ["behind"]

    world.lag = 0
    world.now = datetime.now(UTC)
    engine.round(0, True)
    assert engine.tell("alertmanager") == 1
    until(lambda: len(hook.states()) > 1, 30, "nobody was told that it is over")
    assert hook.states() == [("behind", "firing"), ("behind", "resolved")]
    assert manager.alerts() == []
    assert world.delivered() == [("firing", True), ("resolved", True)]
    engine.close()
    killed.close()


def test_alertmanager_takes_labels_that_are_no_names_and_texts_of_any_kind(manager: Alertmanager) -> None:
    manager.start()
    now = datetime.now(UTC)
    alert = Alert(
        alert_id="a",
        rule="odd: näme",
        fingerprint="f",
        state="firing",
        severity="info",
        labels={"1-model": 'a "quoted"\nü', "empty": "", "variant": "β" * 300},
        summary="a\tb\nc",
        value=float("inf"),
        threshold=0.0,
        n=1,
        started_at=now,
        changed_at=now,
        fired_at=now,
    )
    receiver = AlertmanagerReceiver(f"{manager.url}/", REFRESH)
    receiver.send(Message("alertmanager", (), (alert,), ()), now)
    receiver.close()
    (found,) = manager.alerts()
    assert found["labels"]["_1_model"] == 'a "quoted"\nü'
    assert found["labels"]["variant"] == "β" * 300
    assert "empty" not in found["labels"]
    assert datetime.fromisoformat(found["endsAt"]) > now + 3 * REFRESH, "it would take it for resolved before the next"
