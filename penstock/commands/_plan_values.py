"""How the options of `penstock plan` are read and its figures are written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from penstock import console

_TIME: Final = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(us|ms|s|m|h)?", re.IGNORECASE)
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def seconds(option: str, text: str) -> float:
    """A time such as 50ms, 1.5s or 0.05 (seconds)."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        console.fail(f"{option}: expected a time such as 50ms or 1.5s, got {text!r}")
    return float(match[1]) * _SECONDS[(match[2] or "").lower()]


def service_points(option: str, text: str) -> tuple[tuple[int, float], ...]:
    """Rows and times such as 1:50ms,32:60ms."""
    points = []
    for one in text.split(","):
        rows, colon, time = one.strip().partition(":")
        if not colon or not rows.strip().isdigit():
            console.fail(f"{option}: expected ROWS:TIME,... such as 1:50ms,32:60ms, got {one.strip()!r}")
        points.append((int(rows), seconds(option, time)))
    return tuple(points)


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers such as 1000,1e6."""
    found = []
    for one in text.split(","):
        try:
            value = float(one)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            console.fail(f"{option}: expected numbers of more than 0, such as 1000,1e6, got {one.strip()!r}")
        found.append(value)
    return tuple(found)


def whole(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers such as 1,8,32."""
    found = numbers(option, text)
    for one in found:
        if one != int(one):
            console.fail(f"{option}: expected whole numbers such as 1,8,32, got {one:g}")
    return tuple(int(one) for one in found)


def size(count: float) -> str:
    """Bytes in decimal units, three digits of them."""
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            value = count / of
            return f"{value:,.{max(0, 2 - int(math.log10(value)))}f} {unit}"
    return f"{count:.0f} B"


def counted(count: int, what: str) -> str:
    """`1 device`, `2,000 devices`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def milliseconds(time: float) -> str:
    """Seconds as milliseconds or seconds, three digits of them."""
    if not math.isfinite(time):
        return "never"
    return f"{time:,.3g} s" if time >= 1 else f"{time * 1e3:.3g} ms"


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    """What cannot be planned, and a model that cannot be had, are the caller's to mend."""
    from models.errors import ModelError

    try:
        yield
    except ModelError as error:
        console.fail(str(error))
