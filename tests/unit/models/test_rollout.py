"""A rollout only moves users in, goes on when it has earned it, and goes back whatever else holds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.rollout import (
    ENDED,
    LOADING,
    MICRO,
    Decision,
    Evidence,
    Guard,
    Rollout,
    RolloutError,
    decide,
    steps_of,
)
from models.routing import BUCKETS, bucket

NOW = 1_900_000_000 * MICRO


def rollout(**changes: Any) -> Rollout:
    plain: dict[str, Any] = {
        "model": "late",
        "candidate": "4",
        "current": "3",
        "salt": "s",
        "started": NOW,
        "since": NOW,
        "steps": (100, 1000, BUCKETS),
        "hold_seconds": 60.0,
        "min_requests": 500,
    }
    return Rollout(**{**plain, **changes})


growing = st.lists(st.integers(1, BUCKETS - 1), unique=True, max_size=6).map(lambda some: (*sorted(some), BUCKETS))
users = st.text(max_size=20)
rollouts = st.builds(
    lambda steps, step, state, salt, hold, more, reason: rollout(
        steps=steps,
        step=min(step, len(steps) - 1),
        state=state,
        salt=salt,
        hold_seconds=hold,
        min_requests=100 + more,
        reason=reason,
    ),
    growing,
    st.integers(LOADING, 6),
    st.sampled_from(["running", "paused", *sorted(ENDED)]),
    st.text(min_size=1, max_size=20),
    st.floats(0, 1e6),
    st.integers(0, 10**6),
    st.text(max_size=20),
)
evidences = st.builds(
    Evidence,
    live=st.sampled_from(["", "3", "4", "5"]),
    requests=st.integers(0, 10**6),
    breach=st.sampled_from(["", "too slow"]),
    trouble=st.sampled_from(["", "all are slow"]),
    ready=st.integers(0, 3),
    waiting=st.sampled_from([(), ("w1",), ("w2", "w1")]),
    failed=st.sampled_from([{}, {"w3": "no memory"}]),
)


@settings(deadline=None)
@given(growing, users, st.text(min_size=1, max_size=20))
def test_a_ramp_only_moves_users_in(steps: tuple[int, ...], user: str, salt: str) -> None:
    one = rollout(steps=steps, salt=salt)
    met = [one.meets(user)]
    for _ in steps:
        one = one.stepped(NOW)
        met.append(one.meets(user))
    assert met == sorted(met)
    assert met[0] is False
    assert met[-1] is True
    if not user:
        assert not any(met[:-1])


@settings(deadline=None)
@given(rollouts, st.lists(users, max_size=20))
def test_many_users_are_sent_where_each_is(one: Rollout, some: list[str]) -> None:
    assert one.meets_many(some) == [one.meets(user) for user in some]


def test_a_step_has_its_share_of_users_and_another_rollout_has_others() -> None:
    some = [f"user {number}" for number in range(20_000)]
    one, other = (rollout(step=1, salt=salt) for salt in ("a", "b"))
    first, second = ({user for user in some if each.meets(user)} for each in (one, other))
    assert 0.09 < len(first) / len(some) < 0.11
    assert len(first & second) < 0.2 * len(first)
    assert all(bucket("a", user) < 1000 for user in first)


@settings(deadline=None)
@given(rollouts)
def test_its_body_is_read_as_it_was_written(one: Rollout) -> None:
    rich = replace(one, guard=Guard(p99_ms=None, min_rows=7), baseline={"rows": 3})
    rich = rich.stepped(NOW, 7, "well") if rich.step < rich.last else rich.ended("aborted", "why", NOW, 7, "well")
    assert Rollout.from_json(rich.to_json()) == rich


@settings(deadline=None)
@given(rollouts)
def test_who_is_in_an_ended_rollout_meets_nobody(one: Rollout) -> None:
    for state in sorted(ENDED):
        over = one.ended(state, "why", NOW)  # type: ignore[arg-type]
        assert not over.is_on
        assert not over.meets("user")
        assert (over.buckets, over.share, over.is_shadowing) == (0, 0.0, False)


@settings(deadline=None)
@given(rollouts, evidences, st.integers(0, 10**8))
def test_a_decision_keeps_to_its_laws(one: Rollout, seen: Evidence, later: int) -> None:
    made = decide(one, seen, one.since + later)
    if not one.is_on:
        assert made.what == "hold"
        return
    foreign = seen.live not in ("", one.current)
    if made.what == "step":
        assert not foreign
        assert not seen.waiting
        assert not seen.failed
        assert seen.ready
        assert one.state == "running"
        if one.step != LOADING:
            assert not seen.breach
            assert not seen.trouble
            assert later / MICRO >= one.hold_seconds
            assert seen.requests >= one.min_requests
        assert one.step < one.last
    if made.what == "done" and seen.live != one.candidate:
        assert one.step == one.last
        assert not seen.breach
        assert not seen.failed
        assert not seen.waiting
    if not foreign and ((seen.breach and one.step != LOADING) or seen.failed):
        assert made.what == "roll back"
    if made.what == "roll back":
        assert foreign or seen.failed or (seen.breach and one.step != LOADING)
    assert made.reason


@pytest.mark.parametrize(
    ("one", "seen", "seconds", "made"),
    [
        (rollout(), Evidence(), 0, Decision("hold", "no worker says that it lives")),
        (rollout(), Evidence(waiting=("w2", "w1"), ready=3), 0, Decision("hold", "not ready yet in w1, w2")),
        (rollout(), Evidence(ready=3), 0, Decision("step", "3 workers have version 4 ready")),
        (rollout(step=0), Evidence(ready=3, requests=900), 20, Decision("hold", "40 s are left of this step")),
        (rollout(step=0), Evidence(ready=3, requests=90), 60, Decision("hold", "90 of 500 requests")),
        (rollout(step=0), Evidence(ready=3, requests=900, trouble="all slow"), 60, Decision("hold", "all slow")),
        (rollout(step=0), Evidence(ready=3, requests=900), 60, Decision("step", "900 requests within the limits")),
        (rollout(step=2), Evidence(ready=3, requests=900), 60, Decision("done", "900 requests within the limits")),
        (rollout(step=0), Evidence(ready=3, breach="slow"), 0, Decision("roll back", "slow")),
        (rollout(step=0, state="paused"), Evidence(ready=3, breach="slow"), 0, Decision("roll back", "slow")),
        (rollout(step=0, state="paused"), Evidence(ready=3, requests=900), 99, Decision("hold", "paused")),
        (rollout(), Evidence(failed={"w1": "bad"}), 0, Decision("roll back", "worker w1 cannot load version 4: bad")),
        (
            rollout(step=0),
            Evidence(live="5", ready=1),
            0,
            Decision("roll back", "version 5 was made live meanwhile, in place of 3"),
        ),
        (rollout(step=0), Evidence(live="4"), 0, Decision("done", "version 4 was made live by somebody else")),
        (rollout(state="aborted"), Evidence(breach="slow"), 0, Decision("hold", "it is over: aborted")),
    ],
)
def test_what_is_decided_and_why(one: Rollout, seen: Evidence, seconds: float, made: Decision) -> None:
    assert decide(one, seen, NOW + int(seconds * MICRO)) == made


def test_a_shadow_answers_nobody_and_is_done_after_its_one_step() -> None:
    one = rollout(mode="shadow", steps=())
    assert not one.is_shadowing
    on = one.stepped(NOW)
    assert on.is_shadowing
    assert not on.meets("user")
    assert decide(on, Evidence(ready=1, requests=900), NOW + 60 * MICRO).what == "done"


def test_what_a_step_saw_is_kept_and_loading_is_no_step() -> None:
    one = rollout().stepped(NOW, 9, "nothing").stepped(NOW + 5, 700, "well", {"rows": 1})
    assert [(step.share, step.requests, step.seen) for step in one.passed] == [(0.01, 700, "well")]
    assert one.baseline == {"rows": 1}
    over = one.ended("rolled back", "slow", NOW + 9, 20)
    assert [step.share for step in over.passed] == [0.01, 0.1]


def body(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {**json.loads(rollout().to_json()), **changes}
    return {key: value for key, value in found.items() if value is not ...}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no", "rollout: no JSON: "),
        ("[]", "rollout: expected an object"),
        (body(candidate=...), "rollout.candidate: it is missing"),
        (body(candidate="3"), "rollout.candidate: '3' is the current version already"),
        (body(salt=""), "rollout.salt: must not be empty"),
        (body(steps=[]), "rollout.steps: the last one must be 10000"),
        (body(steps=[100, 100, BUCKETS]), "rollout.steps[1]: expected 101 to 10000 buckets, got 100"),
        (body(steps=[0, BUCKETS]), "rollout.steps[0]: expected 1 to 10000 buckets, got 0"),
        (body(steps=["1"]), "rollout.steps: expected a list of whole numbers"),
        (body(step=3), "rollout.step: expected -1 to 2, got 3"),
        (body(state="on"), "rollout.state: expected one of running"),
        (body(mode="dark"), "rollout.mode: expected canary or shadow"),
        (body(mode="shadow"), "rollout.steps: a shadow has none"),
        (body(guard={"error_rate": -1}), "rollout.guard.error_rate: expected a number above 0"),
        (body(guard={"errors": 1}), "rollout.guard.errors: no such key"),
        (body(min_requests=5), "rollout.min_requests: expected at least guard.min_rows (100), got 5"),
        (body(hold_seconds=-1), "rollout.hold_seconds: expected 0 or more"),
        (body(more=1), "rollout.more: no such key"),
        (body(passed=[{"share": 1}]), "rollout.passed[0].at: it is missing"),
    ],
)
def test_a_wrong_body_is_refused_by_its_key(text: Any, why: str) -> None:
    with pytest.raises(RolloutError) as caught:
        Rollout.from_json(text if isinstance(text, str) else json.dumps(text))
    assert str(caught.value).startswith(why)


def test_steps_are_shares_that_grow_and_end_with_everybody() -> None:
    assert steps_of([0.01, 0.29]) == (100, 2900, BUCKETS)
    assert steps_of([]) == (BUCKETS,)
    assert steps_of([0.5, 1.0]) == (5000, BUCKETS)
    for wrong in ([0.0], [1.1], [0.5, 0.5], [0.00001]):
        with pytest.raises(RolloutError, match="steps: "):
            steps_of(wrong)
