"""What a campaign of swaps came to, from its answers, its prediction log and its witnesses. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.swap_worker import BEGAN, LOADING, READY
from schemas.tensors import Array

SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done: `at`, microseconds since the epoch; `before` and `after`: versions that are to serve.

    `until`: when it was known to be over. `about`: whatever else is to be told of it.
    """

    kind: str
    at: int
    until: int
    before: str
    after: str
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Promise:
    """A figure, the limit it is held to, and whether it holds."""

    what: str
    figure: float
    limit: float
    holds: bool

    @classmethod
    def most(cls, what: str, figure: float, limit: float) -> Promise:
        """Held where the figure is at most the limit; one that is not a number is not."""
        return cls(what, figure, limit, bool(figure <= limit))

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {"promise": self.what, "figure": round(self.figure, 4), "limit": self.limit, "holds": self.holds}


# -- who was ready


class Readiness:
    """Which versions of one model each worker had ready and when, by its witness: a restart forgets them all."""

    def __init__(self, lines: Iterable[Mapping[str, Any]], model: str) -> None:
        self._lives: dict[str, list[tuple[int, dict[str, list[int]]]]] = {}
        self._loading: dict[tuple[int, str], int] = {}
        self.loads: list[tuple[str, float]] = []
        for line in sorted(lines, key=lambda one: int(one["at"])):
            worker, version, at = line["worker"], line["version"], int(line["at"])
            lives = self._lives.setdefault(worker, [])
            if line["what"] == BEGAN:
                lives.append((at, {}))
            elif line["model"] == model and line["what"] == LOADING:
                self._loading[(line["pid"], version)] = at
            elif line["model"] == model and line["what"] == READY:
                lives[-1][1].setdefault(version, []).append(at)
                self.loads.append((version, (at - self._loading[(line["pid"], version)]) / SECOND))

    def was_ready(self, worker: str, version: str, at: int) -> bool:
        """Whether the worker's process of that moment had loaded the version before."""
        lives = self._lives.get(worker, [])
        which = bisect_right([began for began, _ in lives], at) - 1
        return which >= 0 and any(ready <= at for ready in lives[which][1].get(version, ()))


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch of the prediction log: who scored it with what and when (microseconds), and its requests' numbers."""

    worker: str
    version: str
    at: int
    numbers: Array


def scored_unready(log: Iterable[Scored], readiness: Readiness) -> int:
    """Requests that a version scored that was not ready where it did."""
    return sum(len(one.numbers) for one in log if not readiness.was_ready(one.worker, one.version, one.at))


def fates(log: Iterable[Scored], requests: int) -> tuple[int, int]:
    """Of `requests` requests of one row: how many are not in the log, and how many rows too many are."""
    counts = np.zeros(requests, np.int64)
    for one in log:
        np.add.at(counts, one.numbers, 1)
    return int((counts == 0).sum()), int(np.maximum(counts - 1, 0).sum())


# -- who met what


def moved_back(users: Array, places: Array) -> set[int]:
    """Users [n] whose versions go back: `places` [n] is where each one's answer stands in the order of versions.

    Both in the order in which requests were due. Answers of no known place (-1) are left out.
    """
    found: set[int] = set()
    highest: dict[int, int] = {}
    for user, place in zip(users.tolist(), places.tolist(), strict=True):
        if place < 0:
            continue
        if place < highest.get(user, place):
            found.add(user)
        highest[user] = max(place, highest.get(user, place))
    return found


def swap_seconds(answered: Array, versions: Array, old: int, at: int, until: int) -> float:
    """From the change's being asked for to the last answer by the version before; 0 where none came after it."""
    chosen = (answered >= at) & (answered < until) & (versions == old)
    return float(answered[chosen].max() - at) / SECOND if chosen.any() else 0.0


# -- how long they waited


@dataclass(frozen=True, slots=True)
class Window:
    """Requests due from `begin` until `end`, microseconds since the epoch."""

    begin: int
    end: int

    def of(self, due: Array) -> Array:
        """Which requests are in it."""
        found: Array = (due >= self.begin) & (due < self.end)
        return found


def p99_ms(due: Array, answered: Array, windows: Sequence[Window]) -> float:
    """The latency of 99% of all requests of the windows together, in milliseconds; without an answer it is infinite."""
    chosen = np.zeros(len(due), bool)
    for window in windows:
        chosen |= window.of(due)
    waits = np.where(answered[chosen] > 0, (answered[chosen] - due[chosen]) / 1e3, np.inf)
    return float(np.quantile(waits, 0.99, method="higher")) if len(waits) else float("nan")


@dataclass(frozen=True, slots=True)
class Pair:
    """p99 (milliseconds) in a window, and in the one of the same length right before it."""

    before: float
    p99: float

    @property
    def ratio(self) -> float:
        """The one as a multiple of the other."""
        return self.p99 / self.before


def pairs_of(due: Array, answered: Array, moments: Sequence[int], length: int) -> list[Pair]:
    """For each moment: the window that begins there, and the one that ends there."""
    return [
        Pair(
            p99_ms(due, answered, [Window(at - length, at)]),
            p99_ms(due, answered, [Window(at, at + length)]),
        )
        for at in moments
    ]


def spread_of(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, smallest, largest."""
    if not values:
        return {}
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "count": len(values),
    }


def latency_figures(
    due: Array, answered: Array, swaps: Sequence[int], quiet: Sequence[int], length: int
) -> dict[str, Any]:
    """p99 in a window from each swap on beside the window before it, and the same where nothing happened (`quiet`).

    The ratio of two quiet windows shows what the machine alone does to such a ratio; the pooled figures take all
    windows of a kind together.
    """
    pairs, still = (pairs_of(due, answered, moments, length) for moments in (swaps, quiet))
    during = p99_ms(due, answered, [Window(at, at + length) for at in swaps])
    steady = p99_ms(due, answered, [Window(at - length, at) for at in swaps])
    return {
        "window_seconds": length / SECOND,
        "requests_a_window": [int(Window(at, at + length).of(due).sum()) for at in swaps[:1]],
        "steady_p99_ms": spread_of([one.before for one in pairs]),
        "swap_p99_ms": spread_of([one.p99 for one in pairs]),
        "ratio": spread_of([one.ratio for one in pairs]),
        "ratio_where_nothing_happened": spread_of([one.ratio for one in still]),
        "pooled": {
            "steady_p99_ms": round(steady, 2),
            "swap_p99_ms": round(during, 2),
            "ratio": round(during / steady, 3) if steady else float("nan"),
        },
        "ratios": [round(one.ratio, 3) for one in pairs],
    }
