"""`penstock drift` against the process that holds the warehouse: rounds, reports, profiles, wishes, and who may ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from chdb_home import fresh_warehouse
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from analytics.drift_figures import Limits
from analytics.drift_job import DriftJob
from analytics.migrate import migrate
from analytics.readonly import ReadOnlySql
from analytics.retraining import KIND, Policy
from analytics.warehouse import Warehouse
from models.registry import ModelStore
from penstock import drift_profile, experiment_watch
from penstock.commands import drift
from penstock.drift_watch import DriftRounds, DriftWatch, Versions, again_of, serve
from penstock.retraining import Retraining
from penstock.warehouse_app import AppServer, create_app
from schemas.records import Control
from stream_workers.ops_health import Health

ZOO = Path(__file__).parents[3] / "models" / "zoo"
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS = 3


class Topic:
    """A control topic in memory."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Control] = {}

    def entries(self) -> dict[tuple[str, str], Control]:
        return dict(self.held)

    def put(self, kind: str, name: str, body: Any, *, author: str = "") -> Control:
        self.held[kind, name] = Control(kind, name, 1, json.dumps(body), 1, author)
        return self.held[kind, name]

    def remove(self, kind: str, name: str) -> None:
        del self.held[kind, name]


def fill(warehouse: Warehouse) -> None:
    """Three days of a version of the zoo that took features from another world."""
    for day in range(1, DAYS + 1):
        rows = 400
        at = TODAY - day * timedelta(days=1) + timedelta(hours=3)
        numbers = [[("distance", 9e9), ("seats", float(one))] for one in range(rows)]
        warehouse.insert(
            "predictions",
            pa.table(
                {
                    "request_id": [f"{day}-{one}" for one in range(rows)],
                    "model": ["flight-delay"] * rows,
                    "version": ["2"] * rows,
                    "code": ["OK"] * rows,
                    "score": pa.array([(one + 0.5) / rows for one in range(rows)], pa.float64()),
                    "scored_at": pa.array([at] * rows, pa.timestamp("us", "UTC")),
                    "features": pa.array(numbers, pa.map_(pa.string(), pa.float64())),
                    "log_time": pa.array([at] * rows, pa.timestamp("ms", "UTC")),
                }
            ),
        )


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    one = Topic()
    monkeypatch.setattr(experiment_watch, "control_topic", lambda _settings: one)
    return one


@pytest.fixture
def ask(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs `penstock drift …` against a warehouse of its own; returns exit status, standard output, standard error."""
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        fill(warehouse)
        session, reading = warehouse.another(), warehouse.another()
        versions = Versions(ModelStore(ZOO), topic)  # type: ignore[arg-type]
        job = DriftJob(session, versions.watched, Limits())
        watch = DriftWatch(session, DriftRounds(session, versions, Retraining(topic), Policy(), job), 0)
        app = create_app(ReadOnlySql(reading), Health(expected=()), CollectorRegistry())
        serve(app, watch)
        drift_profile.serve(app, watch.profile)
        commands = typer.Typer()
        drift.register(commands)
        with watch, reading, AppServer(app, "127.0.0.1", 0) as server:
            monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(server.port))

            def run(*arguments: str) -> tuple[int, str, str]:
                result = CliRunner().invoke(commands, ["drift", *arguments])
                return result.exit_code, result.stdout, result.stderr

            yield run


def test_a_round_counts_reports_asks_for_training_once_and_is_told_when_it_was_done(ask: Any, topic: Topic) -> None:
    assert "nothing has been counted yet" in ask("report")[2]
    code, out, err = ask("run")
    assert code == 0, err
    assert "flight-delay 2: 3 days and 2 days of outcomes counted, 1,200 rows" in err
    assert "distance psi: PSI" in out
    assert "flight-delay wants training: psi of" in err
    assert json.loads(topic.held[KIND, "flight-delay"].body)["evidence"]["version"] == "2"
    document = json.loads(ask("run", "--json")[1])
    assert [(one["version"], one["days"], one["alarms"]) for one in document["outcomes"]] == [("2", 0, [])]
    assert document["retrain"] == []
    code, out, err = ask("report", "--json", "--days", "1")
    report = json.loads(out)
    loud = {(one["feature"], one["metric"]) for one in report["figures"] if one["verdict"] == "drift"}
    assert ("distance", "psi") in loud
    assert all(one["window"].startswith(f"{TODAY - timedelta(days=1):%Y-%m-%d}") for one in report["figures"])
    assert [one["model"] for one in report["retrain"]] == ["flight-delay"]
    assert ask("retrained", "flight-delay")[0] == 0
    assert topic.held == {}
    code, _, err = ask("retrained", "flight-delay")
    assert code == 2
    assert err == "penstock: nothing asks for 'flight-delay' to be trained again; open: none\n"


def test_days_are_counted_again_when_that_is_asked_for(ask: Any) -> None:
    ask("run")
    day = f"{TODAY - timedelta(days=2):%Y-%m-%d}"
    document = json.loads(ask("run", "--from", day, "--json")[1])
    assert [one["days"] for one in document["outcomes"]] == [1]
    code, _, err = ask("run", "--from", day, "--to", "2020-01-01")
    assert (code, err.count("\n")) == (1, 1)
    assert "the last day, 2020-01-01, lies before the first" in err
    assert ask("run", "--model", "nobody") == (2, "", "penstock: nothing was scored by a model 'nobody'\n")


def test_a_profile_of_logged_predictions_takes_the_place_of_the_models_own(ask: Any) -> None:
    first, last = (f"{TODAY - timedelta(days=day):%Y-%m-%d}" for day in (DAYS, 2))
    code, out, err = ask("profile", "flight-delay", "--version", "2", "--from", first, "--to", last, "--json")
    assert code == 0, err
    assert list(json.loads(out)["features"]) == ["distance", "seats"]
    code, _, err = ask("run")
    assert code == 1
    assert "the profile of flight-delay 2 is for another signature: it has no" in err
    code, _, err = ask("profile", "flight-delay", "--version", "9", "--from", first, "--to", last)
    assert (code, err) == (1, "penstock: flight-delay 9 scored nothing in this time\n")


def test_a_range_of_days_has_both_its_ends_in_it() -> None:
    assert again_of("", "") is None
    day = datetime(2026, 3, 1, tzinfo=UTC)
    assert again_of("2026-03-01", "2026-03-02") == (day, day + timedelta(days=2))
    assert again_of("2026-03-01", "") == (day, day + timedelta(days=1))
