"""What the commands write on the control topic is what analysis finds in its history: runs, times and assignments."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from memory_topic import BrokenOffError, MemoryTopic

from analytics.assignments import assignment_at
from analytics.definition_reader import read
from analytics.definitions import Plan
from analytics.warehouse import Warehouse
from models.registry import ModelStore
from penstock.experiments import Experiments
from stream_workers.ingest_rows import LogRecord, build

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
