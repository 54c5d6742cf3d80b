"""Reads one value of an experiment's definition: shares, effects, durations, names, ranges.

Each reader takes what TOML or JSON gave and raises `Expected` with the words for what should have been there; who calls
knows the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from analytics.definitions import BUCKETS, Effect, Range

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAME: Final = re.compile(r"[\w.\-]+")
_LONGEST: Final = timedelta(days=366)


class Expected(Exception):  # noqa: N818 - it says what was expected, and becomes a DefinitionError
    """What should have been there; `inside` is the place within the value, such as "[2]"."""

    def __init__(self, what: str, inside: str = "", got: Any = None) -> None:
        super().__init__(what)
        self.inside = inside
        self._got = got

    def got(self, whole: Any) -> Any:
        return self._got if self.inside else whole


def shown(value: Any) -> str:
    return repr(value)[:80]


def any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Expected("a text")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Expected("a text that is not empty")
    return value


def name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Expected("a name of letters, digits, '.', '_' and '-'")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Expected("true or false")
    return value


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Expected("a number")
    return float(value)


def _limited(words: str, allowed: Callable[[float], bool]) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not allowed(value):
            raise Expected(words)
        return float(value)

    return read


positive: Final = _limited("a number above 0", lambda value: 0 < value < math.inf)
within: Final = _limited("a number above 0 and below 1", lambda value: 0 < value < 1)
percentile: Final = _limited("a number above 0 and below 100", lambda value: 0 < value < 100)


def count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Expected("a whole number above 0")
    return value


def _percent(text: str) -> float | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    return float(match[1]) / 100 if match else None


def share(value: Any) -> float:
    share = _percent(value) if isinstance(value, str) else value
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise Expected("a share such as 0.5 or '50%'")
    return float(share)


def effect(value: Any) -> Effect:
    if isinstance(value, Mapping) and set(value) == {"size", "relative"}:
        return Effect(positive(value["size"]), boolean(value["relative"]))
    if isinstance(value, str):
        percent = _percent(value)
        if percent:
            return Effect(percent, relative=True)
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return Effect(float(value), relative=False)
    raise Expected("a relative size such as '10%', or an absolute one above 0 such as 0.01")


def duration(value: Any) -> timedelta:
    seconds: float | None = None
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        seconds = float(match[1]) * _SECONDS[match[2]] if match else None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if seconds is None or not 0 <= seconds <= _LONGEST.total_seconds():
        raise Expected("a duration such as '48h'")
    return timedelta(seconds=seconds)


def whole_seconds(value: Any) -> timedelta:
    found = duration(value)
    if found.total_seconds() < 1 or found.total_seconds() % 1:
        raise Expected("a duration of whole seconds such as '1h'")
    return found


def one_of(names: Sequence[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value not in names:
            raise Expected("one of " + ", ".join(names))
        return value

    return read


def ranges(value: Any) -> tuple[Range, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Expected("a list of [lo, hi]")
    for at, one in enumerate(value):
        whole = isinstance(one, Sequence) and len(one) == 2 and all(type(end) is int for end in one)
        if not whole or not 0 <= one[0] < one[1] <= BUCKETS:
            raise Expected(f"[lo, hi) within 0 to {BUCKETS}", f"[{at}]", one)
    return tuple((lo, hi) for lo, hi in value)


def moment(value: Any) -> datetime:
    if type(value) is not int or not 0 <= value < 4_102_444_800_000_000:
        raise Expected("microseconds since the epoch")
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value)
