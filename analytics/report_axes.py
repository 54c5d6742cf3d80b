"""Axes: from values to pixels, round numbers to mark, and what range shows the data. Pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final

# Of a forest plot: an interval that reaches farther than this many times the middle one is cut, with an arrow.
_WIDEST: Final = 6.0
_STEPS: Final = (
    *(timedelta(seconds=one) for one in (1, 2, 5, 10, 30)),
    *(timedelta(minutes=one) for one in (1, 2, 5, 10, 30)),
    *(timedelta(hours=one) for one in (1, 2, 3, 6, 12)),
    *(timedelta(days=one) for one in (1, 2, 3, 4, 7, 14, 28, 56, 112, 224, 448, 896)),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps `low`..`high` to `start`..`end` (pixels, or percent). A range of no width maps to the middle.

    What lies beyond is mapped beyond, by at most one length of the range, so that infinity has a place too.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value is."""
        if self.high <= self.low:
            return (self.start + self.end) / 2
        span = self.high - self.low
        share = (min(max(value, self.low - span), self.high + span) - self.low) / span
        return self.start + share * (self.end - self.start)

    def within(self, value: float) -> float:
        """The same, held at the ends."""
        return self(min(max(value, self.low), self.high))

    def holds(self, value: float) -> bool:
        """Whether it lies within."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Reach:
    """An interval and its estimate in the unit of an axis; None where there is none."""

    low: float | None
    high: float | None
    estimate: float | None


def ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten within low..high, at most `most` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low or most < 1:
        return ()
    apart = (high - low) / most
    if apart < sys.float_info.min:  # numbers so small have no digits left to be round in
        return ()
    power = math.floor(math.log10(apart))
    for step in (one * 10.0**exponent for exponent in range(power, power + 3) for one in (1.0, 2.0, 5.0)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            # Through the power of ten, so that 3 steps of 0.1 are 0.3.
            return tuple(_tidy(number * step, step) for number in range(first, last + 1))
    return ()


def tick_places(marks: Sequence[float]) -> int:
    """Digits after the point that tell the marks apart."""
    if len(marks) < 2:
        return 0 if not marks or marks[0] == int(marks[0]) else 2
    return max(0, -math.floor(math.log10(abs(marks[1] - marks[0])) + 1e-9))


def padded(values: Iterable[float], *, share: float = 0.06, include: Iterable[float] = ()) -> tuple[float, float]:
    """A range that holds all finite values with some room; around one value one of its own size; (-1, 1) for none."""
    finite = [one for one in (*values, *include) if math.isfinite(one)]
    if not finite:
        return -1.0, 1.0
    low, high = min(finite), max(finite)
    room = (high - low) * share if high > low else abs(high) or 1.0
    return low - room, high + room


def forest_reach(ends: Iterable[float]) -> float:
    """How far a forest plot's axis reaches on either side of 0.

    Far enough for all ends, but not beyond six times the middle one: one noisy metric must not make dots of all others.
    """
    finite = sorted(abs(one) for one in ends if math.isfinite(one) and one != 0)
    if not finite:
        return 0.01
    return min(finite[-1], _WIDEST * median(finite)) * 1.08


def time_ticks(first: datetime, last: datetime, most: int = 6) -> tuple[tuple[datetime, str], ...]:
    """Whole days, hours or minutes (UTC) within the range, with what to write below each; at most `most`."""
    first, last = first.astimezone(UTC), last.astimezone(UTC)
    origin = datetime(2001, 1, 1, tzinfo=UTC)  # a Monday, so that marks a week apart are Mondays
    for step in _STEPS:
        number = -((origin - first) // step)
        at = origin + number * step
        if at + most * step > last:
            marks = []
            while at <= last:
                marks.append(at)
                at += step
            return tuple((one, _clock(one, step, dated=last - first >= timedelta(days=1))) for one in marks)
    return ()


def _clock(at: datetime, step: timedelta, *, dated: bool) -> str:
    if step >= timedelta(days=1) or (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at.day} {at:%b}"
    clock = f"{at:%H:%M:%S}" if step < timedelta(minutes=1) else f"{at:%H:%M}"
    return f"{at.day} {at:%b} {clock}" if dated else clock


def _tidy(value: float, step: float) -> float:
    return round(value, max(0, -math.floor(math.log10(step)) + 1)) + 0.0
