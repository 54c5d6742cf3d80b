"""The life of an experiment on the control topic: what each step writes, what it refuses, and what a crash leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_topic import BrokenOffError, MemoryTopic

from analytics.definition_reader import read
from analytics.definitions import PLAN_KIND, Definition, DefinitionError
from models.registry import ModelStore
from models.routing import Experiment
from penstock.experiments import Experiments, assignment_of, states_of

STORE = ModelStore(Path(__file__).parents[3] / "models" / "zoo")
USERS = [f"user-{number}" for number in range(4000)]
BODY: dict[str, Any] = {
    "name": "e",
    "hypothesis": "the network is better",
    "model": "flight-delay",
    "control": "a",
    "variants": [{"name": "a", "version": "1", "share": 0.1}, {"name": "b", "version": "2", "share": "10%"}],
    "metrics": [{"name": "late", "kind": "proportion", "outcome": "arr_delay_15"}],
}


def definition(**changes: Any) -> Definition:
    return read({**BODY, **changes}, "e.toml")


def arms(a: float, b: float) -> list[dict[str, Any]]:
    return [{"name": "a", "version": "1", "share": a}, {"name": "b", "version": "2", "share": b}]


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic()


@pytest.fixture
def ours(topic: MemoryTopic) -> Experiments:
    return over(topic)


def over(topic: MemoryTopic) -> Experiments:
    return Experiments(topic, STORE, topic.now)


def met(topic: MemoryTopic, name: str = "e") -> list[str]:
    """Whom workers give what, in one that followed and in one that starts now."""
    found = topic.worker.router.assign_many(name, USERS)
    assert found == topic.restarted_worker().router.assign_many(name, USERS)
    return [one.name if one else "" for one in found]


def started(ours: Experiments, **changes: Any) -> None:
    ours.create(definition(**changes), "e.toml")
    ours.start(changes.get("name", "e"))


def test_an_experiment_that_was_created_assigns_nobody_until_it_is_started(
    topic: MemoryTopic, ours: Experiments
) -> None:
    change = ours.create(definition(), "e.toml")
    assert change.done == "experiment 'e' is created; penstock experiments start e begins it"
    assert ours.state("e").status == "created"
    assert set(met(topic)) == {""}
    ours.start("e")
    assert ours.state("e").status == "running"
    assert set(met(topic)) == {"", "a", "b"}
    assert [one.kind for one in topic.history()] == [PLAN_KIND, PLAN_KIND, "experiment"]
    assert {one.author for one in topic.history()} == {"penstock experiments"}


def test_the_run_and_its_assignment_begin_at_one_time(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours)
    state = ours.state("e")
    assert state.plan is not None
    assert state.plan.started_at == state.assigned_at
    assert state.plan.started_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=topic.clock + 1)


def test_a_ramp_keeps_users_where_they_are_in_both_entries(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours)
    began = ours.state("e").plan
    before = met(topic)
    change = ours.ramp("e", {"a": 0.5, "b": 0.5})
    assert change.done == "experiment 'e' is ramped: a 50%, b 50%"
    assert change.notes == ()
    moves = set(zip(before, met(topic), strict=True))
    assert moves == {("a", "a"), ("b", "b"), ("", "a"), ("", "b")}
    state = ours.state("e")
    assert state.plan is not None
    assert state.plan.definition.shares() == {"a": 0.5, "b": 0.5}
    assert began is not None
    assert state.plan.started_at == began.started_at, "a ramp stays within its run"
    assert ours.ramp("e", {"b": 0.5}).done == "experiment 'e' has these shares already"
    assert len(topic.log) == 5


def test_a_ramp_says_what_it_does_to_the_analysis(ours: Experiments) -> None:
    started(ours)
    (mixture,) = ours.ramp("e", {"b": 0.5}).notes
    assert mixture.startswith("the arms' shares of each other change within the run")
    crossing, _ = ours.ramp("e", {"a": 0.6, "b": 0.1}).notes
    # a gains 50%: the 40% that were nobody's, and 10% of what b gives up.
    assert crossing.startswith("10.00% of users go from one arm to another")


def test_what_has_ended_assigns_nobody_and_keeps_its_times(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours)
    ours.stop("e")
    state = ours.state("e")
    assert state.status == "stopped"
    assert set(met(topic)) == {""}
    assert state.plan is not None
    assert state.plan.stopped_at == state.assigned_at
    with pytest.raises(DefinitionError, match="'e' is not running"):
        ours.stop("e")


def test_a_restart_is_another_run_and_users_meet_what_they_met(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours)
    ours.ramp("e", {"a": 0.3, "b": 0.3})
    ours.ramp("e", {"a": 0.2})
    before, first = met(topic), ours.state("e").plan
    ours.stop("e")
    ours.start("e")
    again = ours.state("e").plan
    assert met(topic) == before
    assert first is not None
    assert again is not None
    assert again.stopped_at is None
    assert again.started_at is not None
    assert first.started_at is not None
    assert again.started_at > first.started_at


def test_another_salt_deals_anew(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours, variants=arms(0.5, 0.5))
    before = met(topic)
    ours.stop("e")
    change = ours.create(definition(variants=arms(0.5, 0.5), salt="second"), "e.toml")
    assert change.notes == ("an earlier run of this name has ended; its results stay, and a start begins another run",)
    ours.start("e")
    same = sum(one == other for one, other in zip(before, met(topic), strict=True)) / len(USERS)
    assert 0.45 < same < 0.55


def test_another_name_is_another_experiment(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours, variants=arms(0.5, 0.5))
    with pytest.raises(DefinitionError) as caught:
        ours.start("renamed")
    assert str(caught.value) == (
        "there is no experiment 'renamed'; there are: e. One under another name is another experiment: "
        "penstock experiments create FILE"
    )
    started(ours, name="renamed", variants=arms(0.5, 0.5))
    assert {(one, other) for one, other in zip(met(topic), met(topic, "renamed"), strict=True)} == {
        (one, other) for one in "ab" for other in "ab"
    }


def test_a_definition_may_be_mended_until_it_is_started_and_not_while_it_runs(ours: Experiments) -> None:
    ours.create(definition(), "e.toml")
    assert ours.create(definition(), "e.toml").notes == ()
    mended = ours.create(definition(hypothesis="another"), "e.toml")
    assert mended.notes == ("the definition there was, which had not been started, is replaced",)
    ours.start("e")
    with pytest.raises(DefinitionError) as caught:
        ours.create(definition(), "e.toml")
    text = str(caught.value)
    assert text.startswith("e.toml: name: experiment 'e' has been running since 20")
    assert "(penstock experiments stop e)" in text
    assert "(penstock experiments ramp e …)" in text
    with pytest.raises(DefinitionError, match="'e' has been running since"):
        ours.start("e")


# --- A crash between the two writes


def broken_off(topic: MemoryTopic, run: Any) -> None:
    """Run a command whose process dies after its first write."""
    topic.writes_left = 1
    with pytest.raises(BrokenOffError):
        run()
    topic.writes_left = None


def test_a_start_that_broke_off_assigned_nobody_and_starting_again_begins_a_run_of_its_own(
    topic: MemoryTopic, ours: Experiments
) -> None:
    ours.create(definition(), "e.toml")
    broken_off(topic, lambda: ours.start("e"))
    broken = ours.state("e")
    assert broken.status == "half started"
    assert set(met(topic)) == {""}
    with pytest.raises(DefinitionError, match=r"the start of experiment 'e' was broken off: .* start e finishes it"):
        ours.ramp("e", {"a": 0.2})
    with pytest.raises(DefinitionError, match="has been running since"):
        ours.create(definition(), "e.toml")
    change = ours.start("e")
    assert change.notes == ("an earlier start was broken off before anybody was assigned; that run is ended",)
    state = ours.state("e")
    assert state.status == "running"
    assert set(met(topic)) == {"", "a", "b"}
    assert state.plan is not None
    assert broken.plan is not None
    assert state.plan.started_at == state.assigned_at, "time without users does not count as running"
    ended = states_of({(one.kind, one.name): one for one in topic.history()[:-2]})["e"].plan
    assert ended is not None
    assert (ended.started_at, ended.stopped_at is not None) == (broken.plan.started_at, True)


def test_a_start_that_broke_off_can_be_stopped_instead(topic: MemoryTopic, ours: Experiments) -> None:
    ours.create(definition(), "e.toml")
    broken_off(topic, lambda: ours.start("e"))
    ours.stop("e")
    assert ours.state("e").status == "stopped"
    ours.start("e")
    assert ours.state("e").status == "running"


def test_a_restart_that_broke_off_is_told_from_a_stop_that_did(topic: MemoryTopic, ours: Experiments) -> None:
    started(ours)
    ours.stop("e")
    broken_off(topic, lambda: ours.start("e"))
    assert ours.state("e").status == "half started"
    ours.start("e")
    broken_off(topic, lambda: ours.stop("e"))
    assert ours.state("e").status == "half stopped"


def test_finishing_a_start_may_break_off_too(topic: MemoryTopic, ours: Experiments) -> None:
    ours.create(definition(), "e.toml")
    broken_off(topic, lambda: ours.start("e"))
    broken_off(topic, lambda: ours.start("e"))
    assert ours.state("e").status == "stopped"
    ours.start("e")
    assert ours.state("e").status == "running"


def test_a_ramp_that_broke_off_has_moved_its_users_and_again_tells_the_plan(
    topic: MemoryTopic, ours: Experiments
) -> None:
    started(ours)
    broken_off(topic, lambda: ours.ramp("e", {"a": 0.5, "b": 0.5}))
    users = met(topic)
    assert [share for _, _, share in ours.state("e").arms()] == [0.5, 0.5], "shown is what users meet"
    ours.ramp("e", {"a": 0.5, "b": 0.5})
    assert met(topic) == users
    plan = ours.state("e").plan
    assert plan is not None
    assert plan.definition.shares() == {"a": 0.5, "b": 0.5}
    assert len(topic.log) == 5, "the assignment was right already"


def test_a_stop_that_broke_off_assigns_nobody_and_again_ends_the_run_when_it_did(
    topic: MemoryTopic, ours: Experiments
) -> None:
    started(ours)
    broken_off(topic, lambda: ours.stop("e"))
    broken = ours.state("e")
    assert broken.status == "half stopped"
    assert set(met(topic)) == {""}
    for refused in (lambda: ours.start("e"), lambda: ours.ramp("e", {"a": 0.2})):
        with pytest.raises(DefinitionError, match=r"the stop of experiment 'e' was broken off: .* stop e finishes it"):
            refused()
    topic.clock += 86_400_000_000
    ours.stop("e")
    state = ours.state("e")
    assert state.status == "stopped"
    assert state.plan is not None
    assert state.plan.stopped_at == broken.assigned_at


STEPS = st.lists(
    st.tuples(st.sampled_from(["create", "start", "ramp", "stop"]), st.sampled_from([None, 0, 1, 2])), max_size=14
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_breaks_off_wherever_nobody_is_assigned_without_a_run_that_counts_them(
    steps: list[tuple[str, int | None]],
) -> None:
    topic = MemoryTopic()
    ours = over(topic)
    commands: dict[str, Any] = {
        "create": lambda: ours.create(definition(), "e.toml"),
        "start": lambda: ours.start("e"),
        "ramp": lambda: ours.ramp("e", {"a": 0.3, "b": 0.3}),
        "stop": lambda: ours.stop("e"),
    }
    for command, writes in steps:
        topic.writes_left = writes
        try:
            commands[command]()
        except (BrokenOffError, DefinitionError):
            pass
        finally:
            topic.writes_left = None
        state = ours.states().get("e")
        assigning = topic.worker.router.assign_many("e", USERS[:100]) != [None] * 100
        assert assigning == (state is not None and state.status == "running")
        assert state is None or state.status != "unplanned"
    assert topic.refused == 0, "workers took every entry"
    # From any state there is a way on.
    for command in ("create", "stop", "create", "start"):
        try:
            commands[command]()
        except DefinitionError:
            continue
    assert ours.state("e").status == "running"


# --- What is refused, and others' entries


def test_a_clock_that_lags_behind_the_last_writer_does_not_make_workers_deaf(
    topic: MemoryTopic, ours: Experiments
) -> None:
    started(ours)
    topic.clock -= 3_600_000_000
    ours.ramp("e", {"a": 0.5, "b": 0.5})
    assert "" not in met(topic)
    ours.stop("e")
    assert set(met(topic)) == {""}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "flight-dely"}, "e.toml: model: there is no model 'flight-dely' in the store"),
        (
            {"variants": [*arms(0.5, 0.5)[:1], {"name": "b", "version": "9", "share": 0.5}]},
            "e.toml: variants[1].version: model 'flight-delay' has no version '9'; there are: 1, 2",
        ),
        ({"salt": "layer:x"}, "e.toml: salt must not start with 'layer:'"),
        (
            {"layer": "home", "layer_ranges": [[4000, 9000]]},
            "e.toml: layer_ranges: overlap in layer 'home' with those of 'other', which is running, at bucket 4000: "
            "take others, or stop 'other' first",
        ),
    ],
)
def test_a_definition_that_cannot_run_is_refused_with_file_and_key(
    topic: MemoryTopic, ours: Experiments, changes: dict[str, Any], said: str
) -> None:
    started(ours, name="other", layer="home", layer_ranges=[[0, 5000]])
    before = list(topic.log)
    with pytest.raises(DefinitionError) as caught:
        ours.create(definition(**changes), "e.toml")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert topic.log == before


def test_a_layer_that_was_free_at_the_creation_is_looked_at_again_at_the_start(ours: Experiments) -> None:
    ours.create(definition(layer="home"), "e.toml")
    started(ours, name="other", layer="home", layer_ranges=[[0, 5000]])
    with pytest.raises(DefinitionError, match=r"^experiment 'e': layer_ranges: overlap in layer 'home' with those of"):
        ours.start("e")
    ours.stop("other")
    ours.start("e")


def test_an_assignment_by_hand_is_told_and_ended_before_a_run_begins(topic: MemoryTopic, ours: Experiments) -> None:
    hand = Experiment.create("e", "flight-delay", {"a": 1.0}, {"a": "1"})
    topic.put("experiment", "e", hand.to_json())
    assert ours.state("e").status == "unplanned"
    with pytest.raises(DefinitionError, match=r"^e\.toml: name: experiment 'e' is assigned to users by hand"):
        ours.create(definition(), "e.toml")
    with pytest.raises(DefinitionError, match="is assigned to users by hand"):
        ours.start("e")
    assert "it had no run" in ours.stop("e").done
    assert ours.state("e").status == "stopped"
    with pytest.raises(DefinitionError, match="'e' has no plan: create it from a file first"):
        ours.start("e")
    with pytest.raises(DefinitionError, match="'e' is not running"):
        ours.stop("e")
    started(ours)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (PLAN_KIND, "{", "control entry experiment-plan/e: no JSON"),
        (PLAN_KIND, {"definition": {**BODY, "modle": 1}}, "control entry experiment-plan/e: modle: no such key"),
        (PLAN_KIND, {"definition": {**BODY, "name": "f"}}, "control entry experiment-plan/e is of experiment 'f'"),
        ("experiment", {}, "control entry experiment/e: experiment: model is missing"),
    ],
)
def test_an_entry_that_cannot_be_read_is_told_with_what_to_do_and_hides_no_other(
    topic: MemoryTopic, ours: Experiments, kind: str, body: Any, said: str
) -> None:
    started(ours, name="other")
    topic.put(kind, "e", body)
    assert {name: one.status for name, one in ours.states().items()} == {"e": "unreadable", "other": "running"}
    for run in (lambda: ours.create(definition(), "e.toml"), lambda: ours.start("e"), lambda: ours.stop("e")):
        with pytest.raises(DefinitionError) as caught:
            run()
        assert str(caught.value).startswith(said)
        assert str(caught.value).endswith(f"remove it (penstock control remove {kind} e)")
    topic.remove(kind, "e")
    ours.create(definition(), "e.toml")


def test_only_what_runs_can_be_ramped_and_only_by_shares_that_make_sense(ours: Experiments) -> None:
    ours.create(definition(), "e.toml")
    with pytest.raises(DefinitionError, match="'e' is created, only a running one can be ramped"):
        ours.ramp("e", {"a": 0.2})
    ours.start("e")
    with pytest.raises(DefinitionError, match="'e' has no arm 'c'; it has a, b"):
        ours.ramp("e", {"c": 0.2})
    with pytest.raises(DefinitionError, match=r"'e': shares add up to 110\.00%"):
        ours.ramp("e", {"a": 1.0})


def test_a_definition_becomes_an_assignment_with_its_salt_layer_versions_and_shares() -> None:
    found = assignment_of(definition(salt="s", layer="home", layer_ranges=[[0, 5000]], variants=arms(1 / 3, 0.5)))
    assert (found.salt, found.layer, found.layer_ranges, found.status) == ("s", "home", ((0, 5000),), "running")
    assert [(one.version, one.share) for one in found.variants] == [("1", 0.3333), ("2", 0.5)]
    changed = assignment_of(
        definition(salt="s", variants=[*arms(0.4, 0.1), {"name": "c", "version": "1", "share": 0.5}]), found
    )
    was, now = (
        {one.name: {at for lo, hi in one.ranges for at in range(lo, hi)} for one in each.variants}
        for each in (found, changed)
    )
    assert was["a"] < now["a"]
    assert was["b"] > now["b"]
    assert len(now["c"]) == 5000
