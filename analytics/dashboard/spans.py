"""How much of the past a page shows, and by what steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Span:
    """A choice of the page: `length` of the past in steps of `step`."""

    key: str
    words: str
    length: timedelta
    step: timedelta


SPANS: Final = (
    Span("1h", "hour", timedelta(hours=1), timedelta(minutes=1)),
    Span("6h", "6 hours", timedelta(hours=6), timedelta(minutes=5)),
    Span("24h", "24 hours", timedelta(hours=24), timedelta(minutes=15)),
    Span("7d", "7 days", timedelta(days=7), timedelta(hours=2)),
)


def span(key: str) -> Span:
    """The span of that key; the first for any other."""
    return next((one for one in SPANS if one.key == key), SPANS[0])


@dataclass(frozen=True, slots=True)
class Window:
    """What is shown: from `start` up to `end` (UTC, whole steps). `stale`: nothing has come for a whole span."""

    span: Span
    start: datetime
    end: datetime
    stale: bool

    @property
    def seconds(self) -> int:
        """A step's length."""
        return round(self.span.step.total_seconds())

    def steps(self) -> list[datetime]:
        """The beginning of each step."""
        count = round((self.end - self.start) / self.span.step)
        return [self.start + number * self.span.step for number in range(count)]


def window(chosen: Span, now: datetime, newest: datetime | None) -> Window:
    """The span that ends now or, where nothing came in it, the one that ends with the newest there is.

    A replay that is over is then still to be seen.
    """
    stale = newest is not None and newest < now - chosen.length
    end = newest if stale and newest is not None else now
    step = chosen.step.total_seconds()
    last = datetime.fromtimestamp((end.timestamp() // step + 1) * step, UTC)
    return Window(chosen, last - chosen.length, last, stale)


def moment(at: datetime) -> str:
    """A time as a parameter of a query, text of UTC to the microsecond: drivers round and shift times of their own."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
