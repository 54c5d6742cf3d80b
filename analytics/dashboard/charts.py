"""Describes charts for plotly.js as data: lines, bars, and what is written beside them. Pure.

A chart is a `figure` with its title in words and a `div` whose attribute holds the figure as JSON; the page's script
draws it. A colour is the name of a custom property of the style sheet (`--s1`), so that charts follow the theme.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from analytics.report_markup import Markup, element, join

Value = float | int | str | datetime | None
Dash = Literal["solid", "dash", "dot"]
_SERIES: Final = 6


def colour(number: int) -> str:
    """The colour of a series; the first is for what all else is compared with."""
    return f"--s{number % _SERIES}"


@dataclass(frozen=True, slots=True)
class Line:
    """A series; a gap where `y` is None or not a number. `stacked`: filled, on top of those before it."""

    name: str
    x: Sequence[Value]
    y: Sequence[float | None]
    colour: str = "--s1"
    dash: Dash = "solid"
    stacked: bool = False
    markers: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """A group of bars; `y` for each `x`."""

    name: str
    x: Sequence[Value]
    y: Sequence[float | None]
    colour: str = "--s1"


@dataclass(frozen=True, slots=True)
class Level:
    """A line across the chart, named in its legend."""

    y: float
    words: str
    colour: str = "--bad"
    dash: Dash = "dot"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart. `unit` goes behind values; `about` says what is shown and how to read it."""

    key: str
    title: str
    about: str
    series: Sequence[Line | Bars]
    unit: str = ""
    levels: Sequence[Level] = field(default_factory=tuple)
    log: bool = False
    bars: Literal["group", "stack"] = "group"
    zero: bool = True
    percent: bool = False

    def figure(self) -> dict[str, Any]:
        """As plotly.js takes it: {"data", "layout"}."""
        axis: dict[str, Any] = {"ticksuffix": f" {self.unit}" if self.unit else ""}
        if self.log:
            axis |= {"type": "log", "tickmode": "array", "tickvals": _powers(self.series)}
        elif self.zero:
            axis |= {"rangemode": "tozero"}
        if self.percent:
            axis |= {"tickformat": ".0%"}
        lines = [one for one in self.series if isinstance(one, Line) and len(one.x)]
        ends = [min(one.x[0] for one in lines), max(one.x[-1] for one in lines)] if lines else []  # type: ignore[type-var]
        levels = [Line(one.words, ends, [one.y] * 2, one.colour, one.dash) for one in self.levels if ends]
        drawn = [*self.series, *levels]
        layout: dict[str, Any] = {"yaxis": axis, "barmode": self.bars, "showlegend": len(drawn) > 1}
        if any(isinstance(value, str) for one in self.series for value in one.x):
            layout["xaxis"] = {"type": "category", "tickangle": "auto", "automargin": True, "nticks": 30}
        return {"data": [self._trace(one) for one in drawn], "layout": layout}

    def markup(self) -> Markup:
        """The figure for the page."""
        caption = element("figcaption", element("strong", self.title), element("span", self.about))
        words = f"Chart: {self.title}. {self.about}"
        document = json.dumps(self.figure(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        drawn = element(
            "div", class_="chart", id=f"chart-{self.key}", role="img", aria_label=words, data_figure=document
        )
        return element("figure", caption, drawn, class_="charted")

    def _trace(self, one: Line | Bars) -> dict[str, Any]:
        behind = ":.1%" if self.percent else ":,.4~r"
        shown: dict[str, Any] = {
            "name": plain(one.name),
            "x": [_plain_value(value) for value in one.x],
            "y": [_finite(value) for value in one.y],
            "hovertemplate": f"%{{y{behind}}}{f' {self.unit}' if self.unit else ''}",
        }
        if isinstance(one, Bars):
            return {**shown, "type": "bar", "marker": {"color": one.colour}}
        line: dict[str, Any] = {"color": one.colour, "width": 2, "dash": one.dash}
        shown |= {"type": "scatter", "mode": "lines+markers" if one.markers else "lines", "line": line}
        if one.markers:
            shown["marker"] = {"color": one.colour, "size": 5}
        if one.stacked:
            shown |= {"stackgroup": "all", "line": {**line, "width": 1}}
        return shown


def _powers(series: Sequence[Line | Bars]) -> list[float]:
    """What to mark on a scale of powers of ten: these, and 2 and 5 times them where there are few."""
    values = [one for some in series for one in some.y if one is not None and math.isfinite(one) and one > 0]
    if not values:
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    return [step * 10.0**power for power in range(low, high + 1) for step in steps]


def plain(words: str) -> str:
    """Text that plotly.js shows as it is: it takes some HTML in names for markup, and `%{` for a place to fill."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def charts(some: Sequence[Chart], *, wide: bool = False) -> Markup:
    """Charts beside each other, at most two of them where they are `wide`."""
    if not some:
        return join(())
    return element("div", join(one.markup() for one in some), class_="figures charts two" if wide else "figures charts")


def by_step(
    steps: Sequence[datetime], found: Mapping[datetime, float], missing: float | None = 0.0
) -> list[float | None]:
    """A value for each step; `missing` where there is none."""
    return [found.get(one, missing) for one in steps]


def _plain_value(value: Value) -> float | int | str | None:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return plain(value) if isinstance(value, str) else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
