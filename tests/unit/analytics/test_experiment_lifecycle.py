"""What the commands write on the control topic is what analysis finds in its history: runs, times and assignments."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from memory_topic import BrokenOffError, MemoryTopic
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from analytics.assignments import assignment_at
from analytics.definition_reader import read
from analytics.definitions import Plan
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse
from models.registry import ModelStore
from penstock.cli import build as command_line
from penstock.experiments import Experiments
from penstock.warehouse_app import AppServer, create_app
from stream_workers.ingest_rows import LogRecord, build
from stream_workers.ops_health import Health

STORE = ModelStore(Path(__file__).parents[3] / "models" / "zoo")
DEFINITION = read(
    {
        "name": "e",
        "hypothesis": "the network is better",
        "model": "flight-delay",
        "control": "a",
        "variants": [{"name": "a", "version": "1", "share": 0.1}, {"name": "b", "version": "2", "share": 0.1}],
        "metrics": [{"name": "late", "kind": "proportion", "outcome": "arr_delay_15"}],
    },
    "e.toml",
)


def ingested(warehouse: Warehouse, topic: MemoryTopic) -> None:
    records = [LogRecord(at, one.changed_at // 1000, 0, one) for at, one in enumerate(topic.history())]
    warehouse.insert("control_history", build(records, "control@1", 0))


def runs(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return list(warehouse.query("SELECT started_at, ended_at FROM experiment_runs ORDER BY started_at").rows)


def test_every_run_begins_with_the_assignment_that_its_users_met(warehouse: Warehouse) -> None:
    topic = MemoryTopic()
    ours = Experiments(topic, STORE, topic.now)
    ours.create(DEFINITION, "e.toml")
    plans: list[Plan] = []
    buckets = []
    for ramped in ({"a": 0.2, "b": 0.2}, {"a": 0.5, "b": 0.5}):
        ours.start("e")
        state = ours.state("e")
        assert state.assignment is not None
        buckets.append({one.name: round(one.share * 10_000) for one in state.assignment.variants})
        ours.ramp("e", ramped)
        ours.stop("e")
        state = ours.state("e")
        assert state.plan is not None
        plans.append(state.plan)
    ingested(warehouse, topic)
    assert runs(warehouse) == [(one.started_at, one.stopped_at) for one in plans]
    assert buckets == [{"a": 1000, "b": 1000}, {"a": 2000, "b": 2000}]
    for plan, expected in zip(plans, buckets, strict=True):
        assert isinstance(plan.started_at, datetime)
        assert assignment_at(warehouse, plan.definition, plan.started_at).buckets == expected


def test_a_start_that_broke_off_leaves_a_run_that_has_ended_and_no_users(warehouse: Warehouse) -> None:
    topic = MemoryTopic()
    ours = Experiments(topic, STORE, topic.now)
    ours.create(DEFINITION, "e.toml")
    topic.writes_left = 1
    with pytest.raises(BrokenOffError):
        ours.start("e")
    topic.writes_left = None
    ours.start("e")
    ingested(warehouse, topic)
    (began, ended), (again, open_end) = runs(warehouse)
    assert began < ended < again < open_end
    state = ours.state("e")
    assert (again, open_end.year) == (state.assigned_at, 2100)


def test_the_list_shows_what_the_last_look_at_the_present_run_decided(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = MemoryTopic()
    ours = Experiments(topic, STORE, topic.now)
    ours.create(DEFINITION, "e.toml")
    starts: list[datetime] = []
    for _ in range(2):
        ours.start("e")
        assigned_at = ours.state("e").assigned_at
        assert assigned_at is not None
        starts.append(assigned_at)
        ours.stop("e")
    looks = [(starts[0], 1, "ship"), (starts[1], 1, "no difference"), (starts[1], 2, "keep going")]
    columns: dict[str, Any] = {
        "experiment": ["e"] * 3,
        "started_at": pa.array([one[0] for one in looks], pa.timestamp("us", "UTC")),
        "look": pa.array([one[1] for one in looks], pa.uint32()),
        "looked_at": pa.array([starts[1] + timedelta(hours=one[1]) for one in looks], pa.timestamp("us", "UTC")),
        "decision": [one[2] for one in looks],
        "reason": ["because"] * 3,
    }
    warehouse.insert("experiment_looks", pa.table(columns))
    monkeypatch.setattr("producers.control.ControlTopic", lambda *_: topic)
    session = warehouse.another()
    app = create_app(ReadOnlySql(session), Health(expected=()), CollectorRegistry())
    with session, AppServer(app, "127.0.0.1", 0) as server:
        monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(server.port))
        result = CliRunner().invoke(command_line(), ["experiments", "list", "--json"])
        table = CliRunner().invoke(command_line(), ["experiments", "list"])
    (one,) = json.loads(result.stdout)
    assert one["last_decision"] == {
        "decision": "keep going",
        "reason": "because",
        "looked_at": (starts[1] + timedelta(hours=2)).isoformat(timespec="seconds"),
    }
    assert (table.stderr, "keep going" in table.stdout) == ("", True)
