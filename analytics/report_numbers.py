"""Writes numbers as people read them: so many digits as the uncertainty leaves, a sign on every change. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from analytics.definitions import Effect, Metric
from analytics.results import Interval

MINUS: Final = "−"
NONE: Final = "–"
_MOST_PLACES: Final = 6


def is_share(metric: Metric) -> bool:
    """Whether its value is a part of a whole, so that people read it in percent: a proportion, right calls by all."""
    if metric.kind == "proportion":
        return True
    below = metric.denominator
    return metric.kind == "ratio" and below is not None and (metric.source.value, below.value) == ("correct", "one")


def places(half: float | None, value: float | None = None, significant: int = 2) -> int:
    """Digits after the point, so that half an interval's width has `significant` digits; without one the value four."""
    if half is not None and math.isfinite(half) and half > 0:
        return _clamped(significant - 1 - math.floor(math.log10(half)))
    if value is not None and math.isfinite(value) and value != 0:
        return _clamped(3 - math.floor(math.log10(abs(value))))
    return 2


def half_width(interval: Interval | None, estimate: float | None) -> float | None:
    """How far an interval reaches from its estimate, on the finite side; None where it has none."""
    return None if interval is None else reach(interval.low, interval.high, estimate)


def reach(low: float | None, high: float | None, estimate: float | None) -> float | None:
    """The same of an interval that is two ends."""
    if estimate is None:
        return None
    return max((abs(end - estimate) for end in (low, high) if end is not None and math.isfinite(end)), default=None)


def number(value: float | None, digits: int, *, signed: bool = False) -> str:
    """1,234.57; with a true minus, and a plus where `signed`. Never minus nothing."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    shown = f"{abs(value):,.{digits}f}"
    if not shown.strip("0.,"):
        return shown
    return (MINUS if value < 0 else "+" if signed else "") + shown


def percent(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """0.0123 is 1.23%."""
    return NONE if value is None or math.isnan(value) else number(100 * value, digits, signed=signed) + "%"


def lift(value: float | None, half: float | None = None) -> str:
    """A relative change: +1.23%. `half` is the interval's half width, which says how many digits mean something."""
    return percent(value, _lift_places(half, value), signed=True)


def metric_value(metric: Metric, value: float | None, half: float | None = None) -> str:
    """An arm's own value; `half` is the half width of what it is compared by."""
    if is_share(metric):
        return percent(value, _lift_places(half, value))
    return number(value, places(half, value))


def difference(metric: Metric, value: float | None, half: float | None = None) -> str:
    """Of two arms' values, in the metric's unit; of two percentages in percentage points."""
    if is_share(metric) and value is not None:
        return number(100 * value, _lift_places(half, value), signed=True) + " pp"
    return number(value, places(half, value), signed=True)


def lift_span(interval: Interval | None) -> str:
    """+0.41% to +2.05%; an end that is infinite is said as such."""
    if interval is None:
        return NONE
    digits = _lift_places(_span_half(interval), None)
    return _span(interval, lambda one: percent(one, digits, signed=True))


def difference_span(metric: Metric, interval: Interval | None) -> str:
    """The same in the metric's unit."""
    if interval is None:
        return NONE
    half = _span_half(interval)
    return _span(interval, lambda one: difference(metric, one, half))


def effect(one: Effect | None) -> str:
    """1% of the control's value, or 0.01."""
    if one is None:
        return NONE
    return f"{100 * one.size:g}% of control" if one.relative else f"{one.size:g}"


def p_value(value: float | None) -> str:
    """0.043, <0.0001; two significant digits, and enough of them near the usual levels."""
    if value is None or math.isnan(value):
        return NONE
    if value < 0.0001:
        return "<0.0001"
    if value > 0.9995:
        return "1.00"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def chance(value: float | None) -> str:
    """97.2%; never quite none and never quite all."""
    if value is None or math.isnan(value):
        return NONE
    if value > 0.999:
        return ">99.9%"
    return "<0.1%" if value < 0.001 else f"{100 * value:.1f}%"


def count(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def short_count(value: float) -> str:
    """12k, 1.2M: for an axis."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:g}"


def moment(at: datetime) -> str:
    """14 Nov 2026, 10:00 UTC."""
    at = at.astimezone(UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def span_of_time(time: timedelta) -> str:
    """Its two largest units: 9 days 4 h, 12 min 30 s."""
    seconds = max(0, round(time.total_seconds()))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [
        *([f"{days} day{'s' if days != 1 else ''}"] if days else []),
        *([f"{hours} h"] if hours else []),
        *([f"{minutes} min"] if minutes and not days else []),
        *([f"{left} s"] if left and not days and not hours else []),
    ]
    return " ".join(parts[:2]) or "0 s"


def days_left(days: float | None) -> str:
    """Until the planned size: 4.2 days, 3.5 h, reached."""
    if days is None:
        return "unknown"
    if days <= 0:
        return "reached"
    if days < 1:
        return span_of_time(timedelta(days=days))
    return f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"


def _lift_places(half: float | None, value: float | None) -> int:
    """Of a percentage: at least one, as 8% and 8.4% are not the same news."""
    if half is None or not math.isfinite(half) or half <= 0:
        small = value is not None and 0 < abs(value) < 1e-3
        return _clamped(-1 - math.floor(math.log10(abs(value or 1.0)))) if small else 2
    return max(1, places(100 * half))


def _span_half(interval: Interval) -> float | None:
    return interval.width / 2 if math.isfinite(interval.width) else half_width(interval, 0.0)


def _span(interval: Interval, write: Callable[[float], str]) -> str:
    if math.isinf(interval.low) and math.isinf(interval.high):
        return "no bounds yet"
    if math.isinf(interval.low):
        return f"at most {write(interval.high)}"
    if math.isinf(interval.high):
        return f"at least {write(interval.low)}"
    return f"{write(interval.low)} to {write(interval.high)}"


def _clamped(digits: int) -> int:
    return min(_MOST_PLACES, max(0, digits))
