"""What a campaign of swaps comes to, from made-up answers: each promise is seen broken by what breaks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.swap_figures import (
    SECOND,
    Event,
    Readiness,
    Scored,
    Window,
    fates,
    latency_figures,
    moved_back,
    p99_ms,
    scored_unready,
    swap_seconds,
)
from benchmarks.swap_load import Answers
from benchmarks.swap_report import Run, report
from benchmarks.swap_versions import FLIGHTS, MADE, SPOILT, Versions, artifacts
from benchmarks.swap_worker import BEGAN, LOADING, READY
from models.errors import ModelError
from models.loading import LoadedModel
from models.registry import Registry


def notes(*given: tuple[int, str, str, int]) -> list[dict[str, Any]]:
    """Worker w's notes: (pid, what, version, at)."""
    return [
        {"worker": "w", "pid": pid, "what": what, "model": "" if what == BEGAN else "m", "version": version, "at": at}
        for pid, what, version, at in given
    ]


TWO_LIVES = notes((1, BEGAN, "", 0), (1, LOADING, "1", 5), (1, READY, "1", 10), (2, BEGAN, "", 20), (2, READY, "2", 30))


def test_a_version_is_ready_from_its_load_until_its_process_is_gone() -> None:
    readiness = Readiness(notes((2, LOADING, "2", 21)) + TWO_LIVES, "m")
    moments = [("1", 9), ("1", 10), ("1", 19), ("1", 20), ("2", 29), ("2", 30)]
    assert [readiness.was_ready("w", version, at) for version, at in moments] == [False, True, True, False, False, True]
    assert not readiness.was_ready("another", "1", 10)
    assert readiness.loads == [("1", 5 / SECOND), ("2", 9 / SECOND)]
    log = [
        Scored("w", "1", 12, np.array([0, 1])),
        Scored("w", "1", 25, np.array([2])),
        Scored("w", "2", 31, np.array([3])),
    ]
    assert scored_unready(log, readiness) == 1


def test_each_request_has_one_fate_or_is_counted() -> None:
    log = [Scored("w", "1", 0, np.array([0, 1, 1])), Scored("w", "1", 0, np.array([1, 3]))]
    assert fates(log, 5) == (2, 2)


def test_a_user_who_goes_on_is_none_who_goes_back() -> None:
    users = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3])
    places = np.array([0, 0, 1, 0, 1, -1, 1, 0, 1])
    assert moved_back(users, places) == {2}


def test_a_swap_takes_until_the_last_answer_of_before() -> None:
    answered, versions = np.array([5, 15, 25, 35, 95]), np.array([0, 1, 0, 1, 0])
    assert swap_seconds(answered, versions, 0, 10, 90) == 15 / SECOND
    assert swap_seconds(answered, versions, 0, 30, 90) == 0.0


def test_p99_counts_what_was_due_and_what_never_came() -> None:
    due = np.arange(0, 200_000, 1000)
    answered = due + 2000
    assert p99_ms(due, answered, [Window(0, 100_000)]) == 2.0
    answered[[3, 4]] = due[[3, 4]] + 50_000
    assert p99_ms(due, answered, [Window(0, 100_000)]) == 50.0
    assert p99_ms(due, answered, [Window(0, 100_000), Window(100_000, 200_000)]) == 50.0
    answered[[150, 151]] = 0
    assert p99_ms(due, answered, [Window(100_000, 200_000)]) == float("inf")


def test_windows_are_compared_with_those_before_them() -> None:
    due = np.arange(0, 8 * SECOND, 10_000)
    answered = due + np.where(due < 4 * SECOND, 3000, np.where(due < 6 * SECOND, 4000, 6000))
    found = latency_figures(due, answered, [6 * SECOND], [2 * SECOND], 2 * SECOND)
    assert (found["ratio"]["median"], found["pooled"]["ratio"]) == (1.5, 1.5)
    assert found["ratio_where_nothing_happened"]["median"] == 1.0


def answers(**other: Any) -> Answers:
    """Six requests of two users; version 1, and from the fourth on version 2."""
    n = 6
    own: dict[str, Any] = {
        "due": np.arange(n) * SECOND,
        "sent": np.arange(n) * SECOND,
        "answered": np.arange(n) * SECOND + 1000,
        "replies": np.ones(n, np.int64),
        "code": np.zeros(n, np.int16),
        "version": np.array([0, 0, 0, 1, 1, 1], np.int16),
        "degraded": np.zeros(n, np.int16),
        "score": np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]),
        "codes": ["OK", "UNAVAILABLE"],
        "versions": ["1", "2"],
        "levels": [""],
    }
    return Answers("run", 2, **{**own, **other})


def broken(given: Answers, log: list[Scored] | None = None) -> set[str]:
    """What a campaign with one ramp breaks that was answered so."""
    lines = notes(
        (1, BEGAN, "", -9), (1, LOADING, "1", -8), (1, READY, "1", -7), (1, LOADING, "2", 1), (1, READY, "2", 2)
    )
    scored = [Scored("w", "1", 10, np.array([0, 1, 2])), Scored("w", "2", 4 * SECOND, np.array([3, 4, 5]))]
    expected = (np.full(4096, 2.0), np.full(4096, 1.0))
    run = Run("m", given, log or scored, Readiness(lines, "m"), expected, [Event("ramp", 0, 1, "1", "2")], [], [])
    found = report(run, 0, SECOND)
    json.dumps(found)
    return {one["promise"] for one in found["promises"] if not one["holds"]}


def test_nothing_is_broken_where_all_went_well() -> None:
    assert broken(answers()) == set()


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("requests without an answer", {"answered": np.array([1, 1, 1, 1, 0, 1])}),
        ("requests that failed", {"code": np.array([0, 0, 1, 0, 0, 0])}),
        ("answers that are not those of the version they name", {"score": np.array([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])}),
        # User 1 meets version 2 with the second request, and version 1 with the fourth.
        (
            "users moved back in a ramp",
            {"version": np.array([0, 1, 0, 0, 1, 1]), "score": np.array([1.0, 2.0, 1.0, 1.0, 2.0, 2.0])},
        ),
    ],
)
def test_a_broken_promise_is_named(what: str, other: dict[str, Any]) -> None:
    assert broken(answers(**other)) == {what}


def test_the_log_is_held_to_its_promises() -> None:
    twice = [Scored("w", "1", 10, np.array([0, 1, 2, 2])), Scored("w", "2", 1, np.array([3, 4]))]
    assert broken(answers(), twice) == {
        "requests that are not in the prediction log",
        "requests that are there more than once",
        "requests scored by a version that was not ready",
    }


@pytest.mark.parametrize("model", [FLIGHTS, MADE])
def test_versions_differ_in_bytes_and_by_turns_in_answers(model: str, tmp_path: Path) -> None:
    made, store = artifacts(model), Registry(tmp_path / "store", tmp_path / "cache")
    versions = Versions(store, made.make)
    assert [versions.add() for _ in range(3)] == ["1", "2", "3"]
    files = {store.manifest(model, one).files[0].sha256 for one in ("1", "2", "3")}
    assert len(files) == 3
    inputs = {one.name: one.sample(4) for one in made.manifests[0].signature.inputs}
    even, odd = made.expected(inputs, tmp_path)
    assert not np.allclose(even, odd)
    for version, want in (("2", even), ("3", odd)):
        found = LoadedModel.load(store, model, version, "cpu").run([inputs])[0]
        assert np.allclose(next(iter(found.values())).reshape(4, -1)[:, 0], want)


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_version_does_not_load(how: str, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store", tmp_path / "cache")
    versions = Versions(store, artifacts(MADE).make)
    good, bad = versions.add(), versions.add_spoilt(how)
    assert LoadedModel.load(store, MADE, good, "cpu").warm_up
    with pytest.raises(ModelError):
        LoadedModel.load(store, MADE, bad, "cpu")
