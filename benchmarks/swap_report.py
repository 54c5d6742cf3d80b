"""A campaign of swaps as a document: every promise with its figure, and what the figures are made of. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.swap_figures import (
    SECOND,
    Event,
    Promise,
    Readiness,
    Scored,
    fates,
    latency_figures,
    moved_back,
    scored_unready,
    spread_of,
    swap_seconds,
)
from benchmarks.swap_load import Answers
from schemas.codes import Code
from schemas.tensors import Array

# p99 while a version is swapped is no worse than this multiple of the steady one.
MOST_SLOWER: Final = 2.0
# Memory after the last swap is that after so many, within this share.
EARLY_SWAPS: Final = 5
MEMORY_WITHIN: Final = 0.10
# Things that change the version of everybody at once, and step by step.
_AT_ONCE: Final = ("swap", "rollback", "kill")
_RAMP: Final = "ramp"


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of one campaign. `expected`: what even and odd versions answer to each row of the workload.

    `quiet`: moments in the middle of stretches in which nothing was done. `memory`: bytes of each worker after each of
    the swaps that came first.
    """

    model: str
    answers: Answers
    log: Sequence[Scored]
    readiness: Readiness
    expected: Sequence[Array]
    events: Sequence[Event]
    quiet: Sequence[int]
    memory: Sequence[Sequence[int]]


def report(run: Run, timed: int, window: int) -> dict[str, Any]:
    """The document; the first `timed` swaps are those that p99 is taken of, in windows of `window` microseconds."""
    answers = run.answers
    swaps = [one.at for one in run.events if one.kind == "swap"][:timed]
    latency = latency_figures(answers.due, answers.answered, swaps, run.quiet, window)
    return {
        "model": run.model,
        "requests": len(answers.due),
        "promises": [one.to_json() for one in promises(run, latency)],
        "done": dict(Counter(one.kind for one in run.events)),
        "codes": _counted(answers.code, answers.codes),
        "degraded": _counted(answers.degraded, answers.levels),
        "second_replies": int(np.maximum(answers.replies - 1, 0).sum()),
        "latency": latency,
        "times": times(run),
        "longest_wait_seconds": longest_waits(run),
        "users_moved_back_outside_ramps": len(moved_back_in(run, _AT_ONCE)),
        "memory_mib": [[round(size / 2**20, 1) for size in sizes] for sizes in run.memory],
        "events": [
            {"kind": one.kind, "from": one.before, "to": one.after, "seconds": _seconds(one), **one.about}
            for one in run.events
        ],
    }


def promises(run: Run, latency: Mapping[str, Any]) -> list[Promise]:
    """What was promised. Nothing that was not done is promised."""
    answers, done = run.answers, {one.kind for one in run.events}
    missing, twice = fates(run.log, len(answers.due))
    ok = answers.codes.index(Code.OK) if Code.OK in answers.codes else -2
    failed = int(((answers.answered > 0) & (answers.code != ok)).sum())
    found = [
        Promise.most("requests without an answer", int((answers.answered == 0).sum()), 0),
        Promise.most("requests that failed", failed, 0),
        Promise.most("answers that are not those of the version they name", wrong_answers(run), 0),
        Promise.most("requests that are not in the prediction log", missing, 0),
        Promise.most("requests that are there more than once", twice, 0),
        Promise.most("requests scored by a version that was not ready", scored_unready(run.log, run.readiness), 0),
    ]
    if _RAMP in done:
        found.append(Promise.most("users moved back in a ramp", len(moved_back_in(run, (_RAMP,))), 0))
    if latency["ratio"]:
        what = "p99 in a swap, as a multiple of the p99 before it"
        found.append(Promise.most(f"{what}: median", latency["ratio"]["median"], MOST_SLOWER))
        found.append(Promise.most(f"{what}: all together", latency["pooled"]["ratio"], MOST_SLOWER))
    if len(run.memory) > EARLY_SWAPS:
        what = f"memory after {len(run.memory)} swaps, as a multiple of that after {EARLY_SWAPS}"
        found.append(Promise.most(what, memory_growth(run.memory), 1 + MEMORY_WITHIN))
    return found


def memory_growth(memory: Sequence[Sequence[int]]) -> float:
    """The worst worker's memory after the last swap as a multiple of that after the first few."""
    return max(late / early for early, late in zip(memory[EARLY_SWAPS - 1], memory[-1], strict=True))


def wrong_answers(run: Run) -> int:
    """Answers whose score is not what the version that they name makes of their row."""
    wrong, answers, rows = 0, run.answers, run.answers.row()
    for at, version in enumerate(answers.versions):
        if version:
            mine = answers.version == at
            want = run.expected[int(version) % len(run.expected)][rows[mine]]
            wrong += int((~np.isclose(answers.score[mine], want, rtol=1e-3, atol=1e-5)).sum())
    return wrong


def moved_back_in(run: Run, kinds: Sequence[str]) -> set[tuple[int, int]]:
    """(event, user) where a user met the new version and then again the one before, until the next event."""
    answers, found = run.answers, set()
    users = answers.user()
    for number, event in enumerate(run.events):
        if event.kind in kinds:
            places = np.full(len(users), -1)
            for place, version in enumerate((event.before, event.after)):
                if version in answers.versions:
                    places[answers.version == answers.versions.index(version)] = place
            mine = (answers.due >= event.at) & (answers.due < _end(run, number))
            found |= {(number, user) for user in moved_back(users[mine], places[mine])}
    return found


def times(run: Run) -> dict[str, Any]:
    """Seconds from load to ready in a worker, and from a change's being written to the last answer of before.

    `write`: from the command to the entry's being on control, whose revision is the time of that.
    """
    answers, written = run.answers, []
    found: dict[str, list[float]] = {"swap": [], "rollback": []}
    for number, event in enumerate(run.events):
        if event.kind in found and event.before in answers.versions:
            old, at = answers.versions.index(event.before), int(event.about["written_at"])
            took = swap_seconds(answers.answered, answers.version, old, at, _end(run, number))
            found[event.kind].append(took)
            written.append((at - event.at) / SECOND)
    return {
        "load_to_ready_seconds": spread_of([seconds for _, seconds in run.readiness.loads]),
        "swap_seconds": spread_of(found["swap"]),
        "rollback_seconds": spread_of(found["rollback"]),
        "write_seconds": spread_of(written),
    }


def longest_waits(run: Run) -> dict[str, float]:
    """By kind of event: the longest that a request waited that was due within one."""
    answers, found = run.answers, {}
    waits = np.where(answers.answered > 0, (answers.answered - answers.due) / SECOND, np.inf)
    for number, event in enumerate(run.events):
        mine = waits[(answers.due >= event.at) & (answers.due < _end(run, number))]
        if len(mine):
            found[event.kind] = round(max(float(mine.max()), found.get(event.kind, 0.0)), 3)
    return found


def _end(run: Run, number: int) -> int:
    """When the next event began."""
    after = run.events[number + 1 :]
    return after[0].at if after else int(run.answers.due[-1]) + 1


def _seconds(event: Event) -> float:
    return round((event.until - event.at) / SECOND, 3)


def _counted(places: Array, words: Sequence[str]) -> dict[str, int]:
    return {word: int((places == at).sum()) for at, word in enumerate(words) if word}
