"""What is written to control for a decision: in the right order, once, and only for a decision there is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from analytics.definition_reader import plan_from_json
from analytics.definition_reader import read as read_definition
from analytics.definitions import PLAN_KIND, Plan
from models.routing import Experiment
from penstock.experiment_verdict import Step, Verdict, VerdictError, allowed, last_look, plan_in, steps
from schemas.records import Control

START = datetime(2026, 3, 2, tzinfo=UTC)
NOW = START + timedelta(days=14)
SHARES = {"old": 0.5, "new": 0.5}
VERSIONS = {"old": "1", "new": "2"}
METRIC = {"name": "bought", "kind": "proportion", "outcome": "bought"}

Entries = dict[tuple[str, str], Control]


def plan() -> Plan:
    arms = [{"name": name, "version": VERSIONS[name], "share": share} for name, share in SHARES.items()]
    body = {"name": "exp", "hypothesis": "h", "model": "m", "control": "old", "variants": arms, "metrics": [METRIC]}
    return Plan(read_definition(body, "test")).start(START)


def entry(kind: str, name: str, body: str) -> Entries:
    return {(kind, name): Control(kind, name, 1, body, 1)}


def running() -> Entries:
    experiment = Experiment.create("exp", "m", SHARES, VERSIONS)
    return entry("experiment", "exp", experiment.to_json()) | entry(PLAN_KIND, "exp", plan().to_json())


def verdict(decision: str, winner: str = "", started: datetime = START) -> Verdict:
    return Verdict("exp", started, 3, NOW, decision, "because.", winner)


def apply(entries: Entries, winner: str, some: int | None = None) -> list[Step]:
    """Carry out `some` of the steps (all), as a broken-off attempt would."""
    found = steps(plan_in(entries, "exp"), winner, entries, NOW)
    for one in found[:some]:
        entries |= entry(one.kind, one.name, one.body)
    return found


@pytest.mark.parametrize(("winner", "version"), [("new", "2"), ("old", "1")])
def test_the_winner_becomes_the_default_before_the_experiment_stops(winner: str, version: str) -> None:
    entries = running()
    done = apply(entries, winner)
    assert [(one.kind, one.name) for one in done] == [("model", "m"), ("experiment", "exp"), (PLAN_KIND, "exp")]
    assert json.loads(entries["model", "m"].body) == {"version": version}
    assert Experiment.from_json(entries["experiment", "exp"].body).status == "stopped"
    assert plan_from_json(entries[PLAN_KIND, "exp"].body) == plan().stop(NOW)


@pytest.mark.parametrize("broken_off_after", [0, 1, 2, 3])
def test_whatever_a_broken_off_attempt_left_the_next_one_finishes_and_a_third_has_nothing_to_do(
    broken_off_after: int,
) -> None:
    entries = running()
    apply(entries, "new", broken_off_after)
    assert len(apply(entries, "new")) == 3 - broken_off_after
    assert apply(entries, "new") == []


def test_a_roll_back_leaves_a_default_alone_that_is_the_controls_already() -> None:
    entries = running() | entry("model", "m", '{"version": "1"}')
    assert [one.kind for one in apply(entries, "old")] == ["experiment", PLAN_KIND]


def test_a_default_that_no_worker_could_read_is_written_anew() -> None:
    entries = running() | entry("model", "m", "nonsense")
    assert [one.kind for one in apply(entries, "old")] == ["model", "experiment", PLAN_KIND]


def test_a_plan_whose_experiment_is_gone_is_stopped_all_the_same() -> None:
    entries = running()
    del entries["experiment", "exp"]
    assert [one.kind for one in apply(entries, "new")] == ["model", PLAN_KIND]


def test_only_ship_and_roll_back_can_be_applied() -> None:
    assert allowed(verdict("ship", "new"), plan()) == "new"
    assert allowed(verdict("roll back"), plan()) == "old"
    for decision in ("keep going", "no difference", "unhealthy"):
        with pytest.raises(VerdictError, match=f"nothing to apply of the decision '{decision}'.* --force WHY"):
            allowed(verdict(decision), plan())


def test_a_decision_on_an_earlier_run_is_not_applied_to_this_one() -> None:
    with pytest.raises(VerdictError, match="its last look is of the run that started at 2026-03-01"):
        allowed(verdict("ship", "new", START - timedelta(days=1)), plan())


def test_an_unknown_experiment_is_told_with_those_there_are() -> None:
    with pytest.raises(VerdictError, match=r"there is no experiment 'other'; experiments: exp"):
        plan_in(running(), "other")


def test_a_verdict_is_read_from_the_last_looks_row() -> None:
    row = {
        "experiment": "exp",
        "started": str(round(START.timestamp() * 1e6)),
        "look": 3,
        "decision": "ship",
        "looked": str(round(NOW.timestamp() * 1e6)),
        "reason": "because.",
        "details": '{"winner": "new"}',
    }
    assert Verdict.of(row) == verdict("ship", "new")


def test_a_name_with_quotes_stays_a_text_in_the_question() -> None:
    assert r"experiment = 'it\'s \\' ORDER" in last_look("it's \\")
