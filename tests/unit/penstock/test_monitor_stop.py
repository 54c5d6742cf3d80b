"""What the monitor writes to stop a variant: the roll back that `penstock experiments decide --apply` writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from memory_topic import BrokenOffError, MemoryTopic

from analytics.definition_reader import from_toml
from models.registry import ModelStore
from models.routing import Experiment
from penstock.experiments import Experiments, states_of
from penstock.monitor_stop import ExperimentStop
from stream_workers.guardrails import Breach
from stream_workers.monitor import StopRefusedError
from stream_workers.monitor_windows import Series

DEFINITION = Path("penstock/flights/experiment.toml")
NOW = datetime(2030, 6, 1, tzinfo=UTC)


def breach(version: str, variant: str, experiment: str) -> Breach:
    series = Series("flight-delay", version, experiment, variant)
    return Breach("error_rate/1", series, "error_rate", "", 0, "raising", 0.2, 0.05, 100)


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic()


def started(topic: MemoryTopic) -> tuple[str, str, str]:
    """A running experiment: its name, its control's version, and the other variant's name."""
    definition = from_toml(DEFINITION)
    ours = Experiments(topic, ModelStore("models/zoo"), topic.now)
    ours.create(definition, "experiment.toml")
    ours.start(definition.name)
    other = next(arm.name for arm in definition.variants if arm.name != definition.control)
    return definition.name, definition.versions()[definition.control], other


def test_a_variant_at_fault_is_rolled_back_and_a_second_stop_writes_nothing(topic: MemoryTopic) -> None:
    name, good, other = started(topic)
    bad = from_toml(DEFINITION).versions()[other]
    stop = ExperimentStop(topic, now=lambda: NOW)
    assert stop(breach("7", other, name)) == [], "the variant has another version by now: it is not the one at fault"
    done = stop(breach(bad, other, name))
    assert done[0] == f"flight-delay {good} ({from_toml(DEFINITION).control}) is the default"
    assert len(done) == 3
    assert topic.worker.live == {"flight-delay": good}
    assert topic.worker.router.assign(name, "anybody") is None
    assert states_of(topic.entries())[name].status == "stopped"
    written = len(topic.log)
    assert stop(breach(bad, other, name)) == []
    assert len(topic.log) == written
    assert topic.refused == 0


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_stop_that_broke_off_half_way_is_finished_by_the_next(topic: MemoryTopic, written: int) -> None:
    name, good, other = started(topic)
    bad = from_toml(DEFINITION).versions()[other]
    stop = ExperimentStop(topic, now=lambda: NOW)
    topic.writes_left = written
    with pytest.raises(BrokenOffError):
        stop(breach(bad, other, name))
    topic.writes_left = None
    assert len(stop(breach(bad, other, name))) == 3 - written
    assert topic.worker.live == {"flight-delay": good}
    assert topic.worker.router.assign(name, "anybody") is None
    assert states_of(topic.entries())[name].status == "stopped"


def test_without_a_plan_the_experiment_ends_where_its_users_have_a_safe_version_to_go_to(topic: MemoryTopic) -> None:
    shares, versions = {"old": 0.5, "new": 0.5}, {"old": "1", "new": "2"}
    topic.put("experiment", "by-hand", Experiment.create("by-hand", "flight-delay", shares, versions).to_json())
    stop = ExperimentStop(topic)
    with pytest.raises(StopRefusedError, match="has no plan that names its control"):
        stop(breach("2", "new", "by-hand"))
    topic.put("model", "flight-delay", {"version": "2"})
    with pytest.raises(StopRefusedError, match="is, or may be, version 2 itself"):
        stop(breach("2", "new", "by-hand"))
    topic.put("model", "flight-delay", {"version": "1"})
    assert stop(breach("2", "new", "by-hand")) == ["by-hand assigns nobody any more"]
    assert topic.worker.router.assign("by-hand", "anybody") is None


def test_what_cannot_be_stopped_is_said_in_a_line(topic: MemoryTopic) -> None:
    name, _, other = started(topic)
    bad = from_toml(DEFINITION).versions()[other]
    with pytest.raises(StopRefusedError, match=r"monitor\.stop is false"):
        ExperimentStop(topic, allowed=False)(breach(bad, other, name))
    topic.put("experiment-plan", name, "{}")
    with pytest.raises(StopRefusedError, match="experiment-plan"):
        ExperimentStop(topic)(breach(bad, other, name))
    assert ExperimentStop(topic)(breach(bad, other, "unknown")) == []
