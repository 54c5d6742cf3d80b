"""By what a batch is scored when not all is well: how many rows still fit, and which rung of the ladder is next.

Pure, with the clock passed in. The order is fixed, from what costs nobody anything to what costs an answer:

1. the version on its device, in full batches
2. the same in batches that fit into its memory (`RowLimit`)
3. the same version on the CPU
4. the fallback that its manifest declares, on its device or on the CPU
5. the last answer that this user got, where its manifest allows it
6. `UNAVAILABLE`
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

# A limit is tried upwards after so long; again soon where that worked, after twice as long where it did not.
PROBE_SECONDS: Final = 30.0
GROWTH_SECONDS: Final = 5.0
LONGEST_PROBE_SECONDS: Final = 3600.0

HALF_BATCH: Final = "half-batch"
CPU: Final = "cpu"
FALLBACK: Final = "fallback"
CACHED: Final = "cached"


class Level(IntEnum):
    """How far a version is degraded, as it is shown in metrics.

    Whether a last answer can stand in for an unavailable version is a matter of each user.
    """

    FULL = 0
    HALF_BATCH = 1
    CPU = 2
    FALLBACK = 3
    UNAVAILABLE = 4


def level_name(degraded: str) -> str:
    """A reply's `degraded` without the name of the fallback, of which there may be many: half-batch, cpu, …"""
    return degraded.partition(":")[0]


def fallback_name(model: str, version: str) -> str:
    """A reply's `degraded` where this version answered in place of the one that was to."""
    return f"{FALLBACK}:{model}/{version}"


class RowLimit:
    """How many rows of a version fit into its device's memory, as far as it has shown.

    It learns from a run that found no memory and whose halves did. Later it tries a little more, since what took the
    memory may have gone.
    """

    def __init__(self, most: int, buckets: Sequence[int] = ()) -> None:
        """`most`: the rows that are ever asked for; `buckets`: the sizes that batches are padded to."""
        self._most = most
        self._buckets = tuple(buckets)
        self._wait = PROBE_SECONDS
        self._at = 0.0
        self.rows: int | None = None

    def allowed(self, now: float) -> int | None:
        """The rows that a batch may have now; None where nothing is known against any number."""
        if self.rows is None or now < self._at:
            return self.rows
        return self._next()

    def ran_out(self, now: float, rows: int, fitted: int) -> None:
        """A run of `rows` rows found no memory, both its halves, of `fitted` rows at most, did."""
        if self.rows is not None and rows > self.rows:
            # Tried upwards in vain: what fitted before still does.
            self._wait = min(2 * self._wait, LONGEST_PROBE_SECONDS)
        else:
            self.rows, self._wait = fitted, PROBE_SECONDS
        self._at = now + self._wait

    def fitted(self, now: float, rows: int) -> None:
        """A run of `rows` rows found its memory."""
        if self.rows is None or rows <= self.rows:
            return
        self.rows = rows
        self._at = now + GROWTH_SECONDS
        if rows >= self._most:
            self.rows = None
            self._wait = PROBE_SECONDS

    def _next(self) -> int:
        rows = self.rows or 0
        larger = next((one for one in self._buckets if one > rows), None)
        return min(self._most, rows + max(1, rows // 4)) if larger is None else larger


class Rung(IntEnum):
    """By what a batch can be scored, best first."""

    DEVICE = 0
    CPU = 1
    FALLBACK = 2
    FALLBACK_CPU = 3


class Readiness(StrEnum):
    """Whether a rung's model is loaded. `ABSENT`: nobody has begun; `FAILED`: it cannot be, for now."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Footing:
    """How a rung stands: whether its model is loaded, and whether its breaker lets work through."""

    readiness: Readiness
    closed: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """The rung to take. None: none can be taken, and with `wait` one will be soon. `load`: rungs to be loaded now."""

    rung: Rung | None
    wait: bool = False
    load: tuple[Rung, ...] = ()


def choose(rungs: Mapping[Rung, Footing], tried: Collection[Rung] = ()) -> Choice:
    """The best rung that is ready, whose breaker is closed, and that was not `tried` with this batch.

    A better one that is only not loaded yet is to be loaded, but no batch waits for it while another rung is ready.
    """
    wait = False
    load: list[Rung] = []
    for rung in sorted(rungs):
        footing = rungs[rung]
        if rung in tried or not footing.closed or footing.readiness is Readiness.FAILED:
            continue
        if footing.readiness is Readiness.READY:
            return Choice(rung, load=tuple(load))
        wait = True
        if footing.readiness is Readiness.ABSENT:
            load.append(rung)
    return Choice(None, wait, tuple(load))


def level_of(choice: Choice, limited: bool) -> Level:
    """What a version's level is while this is its choice; `limited`: its batches are cut to its memory."""
    if choice.rung is None:
        return Level.UNAVAILABLE
    if choice.rung is Rung.DEVICE:
        return Level.HALF_BATCH if limited else Level.FULL
    return Level.CPU if choice.rung is Rung.CPU else Level.FALLBACK
