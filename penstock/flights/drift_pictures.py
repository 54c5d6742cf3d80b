"""Draws what drifted in 2013, in SVG: a heat map of features by day, and lines of performance. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby
from typing import Final

from analytics.report_markup import Markup, element, raw

_FONT: Final = "system-ui, sans-serif"
_INK: Final = "#24292f"
_PALE: Final = "#57606a"
_GRID: Final = "#d8dee4"
# From quiet to loud; light to dark also without colour.
_STEPS: Final = ((0.5, "#eef2f6"), (1.0, "#c9d7e6"), (2.0, "#f2b36b"), (4.0, "#d9692b"), (math.inf, "#8f1d14"))
_LINES: Final = ("#1f6feb", "#d29922", "#8250df", "#1a7f37")


def heat_map(title: str, rows: Sequence[str], days: Sequence[date], values: Mapping[tuple[str, date], float]) -> str:
    """A cell for each row and day, by value: 1 is the threshold. A day without a value is blank."""
    left, top, wide, high = 140, 52, 2.2, 16
    right, bottom = left + wide * len(days), top + high * len(rows)
    parts = [_text(16, 26, title, 15), *_months(days, left, wide, top, bottom)]
    for at, name in enumerate(rows):
        parts.append(_text(left - 8, top + high * at + 12, name, 11, "end"))
        colours = [_colour(values.get((name, moment), math.nan)) for moment in days]
        start = 0
        for colour, run in groupby(colours):  # neighbours of one colour are one rectangle
            long = len(list(run))
            if colour is not None:
                parts.append(_rect(left + wide * start, top + high * at + 1, wide * long, high - 2, colour))
            start += long
    x = float(left)
    for (_, colour), words in zip(
        _STEPS, ("below half", "below the threshold", "above it", "twice", "four times"), strict=True
    ):
        parts += [_rect(x, bottom + 26, 12, 12, colour), _text(x + 17, bottom + 36, words, 11)]
        x += 40 + 6.4 * len(words)
    return _svg(right + 20, bottom + 50, parts)


def _colour(value: float) -> str | None:
    return None if math.isnan(value) else next(colour for limit, colour in _STEPS if value <= limit)


def lines(
    title: str, unit: str, days: Sequence[date], series: Mapping[str, Sequence[float]], marks: Mapping[date, str]
) -> str:
    """A line for each series over days, NaN left out; `marks` are vertical lines with a word."""
    left, top, wide, height = 60, 60, 2.2, 200
    right, bottom = left + wide * len(days), top + height
    known = [value for values in series.values() for value in values if not math.isnan(value)] or [0.0, 1.0]
    low, high = math.floor(min(known) * 20) / 20, math.ceil(max(known) * 20) / 20

    def y(value: float) -> float:
        return bottom - height * (value - low) / (high - low)

    parts = [_text(16, 26, title, 15), *_months(days, left, wide, top, bottom)]
    for step in range(round((high - low) / 0.05) + 1):
        value = low + 0.05 * step
        parts.append(_line(left, y(value), right, y(value), _GRID))
        parts.append(_text(left - 6, y(value) + 4, f"{value:.2f}", 11, "end"))
    for moment, word in marks.items():
        x = left + wide * (moment - days[0]).days
        parts += [_line(x, top, x, bottom, _PALE, "3 3"), _text(x + 3, top - 4, word, 10)]
    for colour, (name, values) in zip(_LINES, series.items(), strict=False):
        points = [(left + wide * (at + 0.5), y(value)) for at, value in enumerate(values) if not math.isnan(value)]
        path = " ".join(f"{x:.1f},{up:.1f}" for x, up in points)
        parts.append(element("polyline", points=path, fill="none", stroke=colour, stroke_width=1.6))
        at = list(series).index(name)
        parts += [
            _rect(left + 170 * at, bottom + 26, 12, 4, colour),
            _text(left + 170 * at + 17, bottom + 32, name, 11),
        ]
    parts.append(_text(16, 44, unit, 11))
    return _svg(right + 20, bottom + 46, parts)


def _months(days: Sequence[date], left: float, wide: float, top: float, bottom: float) -> list[Markup]:
    found = []
    for at, day in enumerate(days):
        if day.day == 1:
            x = left + wide * at
            found += [_line(x, top, x, bottom, _GRID), _text(x + 2, bottom + 14, f"{day:%b}", 11)]
    return found


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    back = element("rect", width="100%", height="100%", fill="#ffffff")
    view = f"0 0 {width:.0f} {height:.0f}"
    drawn = element(
        "svg", back, *parts, xmlns="http://www.w3.org/2000/svg", view_box=view, width=round(width),
        height=round(height), font_family=_FONT, role="img",
    )  # fmt: skip
    return raw(drawn) + "\n"


def _text(x: float, y: float, words: str, size: int, anchor: str = "start") -> Markup:
    return element("text", words, x=float(x), y=float(y), font_size=size, text_anchor=anchor, fill=_INK)


def _rect(x: float, y: float, width: float, height: float, fill: str) -> Markup:
    return element("rect", x=float(x), y=float(y), width=float(width), height=float(height), fill=fill)


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, dashes: str | None = None) -> Markup:
    ends = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return element("line", **ends, stroke=stroke, stroke_dasharray=dashes)


def smooth(values: Sequence[float], days: int) -> list[float]:
    """The mean of each value and those of `days` - 1 days before, where half of them are known."""
    found = []
    for at in range(len(values)):
        some = [one for one in values[max(0, at - days + 1) : at + 1] if not math.isnan(one)]
        found.append(sum(some) / len(some) if 2 * len(some) >= days else math.nan)
    return found


def span(first: date, days: int) -> list[date]:
    """Days in a row."""
    return [first + timedelta(days=at) for at in range(days)]
