"""Draws what a look found: lift over looks, statistic against its bounds, alpha spent, exposures by day. Pure SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Final, TypeVar

from analytics import report_numbers as numbers
from analytics.experiment_store import DayUnits
from analytics.readings import PastLook
from analytics.report_axes import Reach, Scale, forest_reach, padded, tick_places, ticks, time_ticks
from analytics.report_bounds import Bound
from analytics.report_frames import WIDE, Frame, Point, dot, polygon, polyline
from analytics.report_markup import Markup, element, join
from analytics.spending import Spending

_T = TypeVar("_T")

_HEIGHT: Final = 240
_LOW_HEIGHT: Final = 200
_PIXELS_A_MARK: Final = 74
# Bounds of early looks are far out and of no interest: the eye wants to see how far the statistic is from the next.
_LEAST_Z: Final = 3.2
_MOST_Z: Final = 6.0
_DOTS: Final = 60
_LEAST_BAR: Final = 2.0
_MOST_BAR: Final = 34.0


def lift_over_looks(looks: Sequence[PastLook], width: int, series: int, margin: float | None = None) -> Markup:
    """The cumulative lift at each look, in the band of its interval. `looks` are of one metric and variant, not empty.

    `series`: the colour's number. `margin`: a guardrail's worst allowed lift, drawn across.
    """
    y = lift_range(looks, margin)
    # The labels of the last look stand to the right of it.
    frame = Frame.of(width, _HEIGHT, _times(looks), y, left=56, right=62)
    xs = [one.looked_at.timestamp() for one in looks]
    marks = ticks(*y)
    digits = max(0, tick_places(marks) - 2)
    bands, lines = [], []
    for known, some in groupby(zip(xs, looks, strict=True), key=lambda pair: pair[1].lift is not None):
        part = list(some)
        if not known:
            continue
        lines.append(polyline([frame.at(x, one.lift or 0.0) for x, one in part], f"line s{series}"))
        upper, lower = _edge(frame, part, upper=True), _edge(frame, part, upper=False)
        bands.append(polygon([*upper, *reversed(lower)], f"band s{series}"))
        bands += [polyline(upper, f"edge s{series}"), polyline(lower, f"edge s{series}")]
    known_looks = [one for one in looks if one.lift is not None]
    dots = [
        dot(frame.at(one.looked_at.timestamp(), one.lift or 0.0), 2.6, f"dot s{series}", _look_words(one))
        for one in _dotted(known_looks)
    ]
    worst = []
    if margin is not None:
        at = frame.y(margin)
        worst = [element("line", class_="margin", x1=frame.x.start, x2=frame.x.end, y1=at, y2=at)]
    last = known_looks[-1:] or looks[-1:]
    return frame.figure(
        f"Lift of {looks[-1].variant} on {looks[-1].metric} at {len(looks)} looks, at last: {_look_words(last[0])}",
        frame.y_axis(marks, lambda one: numbers.percent(one, digits, signed=True)),
        frame.x_axis(_time_marks(looks, frame.x)),
        frame.clipped(*bands, *worst, *lines, _bar(frame, last[0], series) if len(known_looks) == 1 else ""),
        *dots,
        _last_labels(frame, last[0], series),
    )


def lift_range(looks: Sequence[PastLook], margin: float | None = None) -> tuple[float, float]:
    """Holds 0, every lift and the last interval; earlier intervals as far as three times the last one's width."""
    lifts = [one.lift for one in looks if one.lift is not None]
    ends = [(one.low, one.high) for one in looks if one.low is not None and one.high is not None]
    kept = [0.0, *lifts, *([margin] if margin is not None else [])]
    if ends:
        low, high = ends[-1]
        finite = [one for one in (low, high) if math.isfinite(one)]
        kept += finite
        centre = lifts[-1] if lifts else 0.0
        reach = 3 * max((abs(one - centre) for one in finite), default=0.0)
        kept += [min(max(one, centre - reach), centre + reach) for pair in ends for one in pair if math.isfinite(one)]
    return padded(kept)


def statistic_against_bounds(
    looks: Sequence[PastLook], ahead: Sequence[Bound], width: int, series: int, *, rises: bool
) -> Markup:
    """Z against the information's share of the planned one (without shares, against the look's number).

    The shaded areas are where the test ends. `ahead`: bounds of looks to come. `rises`: whether up is better.
    """
    by_share = all(one.fraction is not None for one in looks)
    past = [(one.fraction or 0.0) if by_share else float(one.look) for one in looks]
    reach = _z_reach(looks, ahead)
    last_x = max([*past, *(one.fraction for one in ahead)])
    if ahead or (by_share and last_x > 0.5):
        last_x = max(last_x, 1.0)
    frame = Frame.of(width, _HEIGHT, (0.0, max(last_x, 1e-9) * 1.02), (-reach, reach), left=34)
    shown = [
        Bound(x, -math.inf if one.lower is None else one.lower, math.inf if one.upper is None else one.upper)
        for x, one in zip(past, looks, strict=True)
        if one.lower is not None or one.upper is not None
    ]
    path = [frame.at(x, one.statistic) for x, one in zip(past, looks, strict=True) if one.statistic is not None]
    dots = [
        dot(frame.at(x, one.statistic), 5 if one is looks[-1] else 2.6,
            f"{'now' if one is looks[-1] else 'dot'} s{series}", _z_words(one))
        for x, one in _dotted(list(zip(past, looks, strict=True)))
        if one.statistic is not None
    ]  # fmt: skip
    words = ("better", "worse") if rises else ("worse", "better")
    has_upper = any(math.isfinite(one.upper) for one in (*shown, *ahead))
    has_lower = any(math.isfinite(one.lower) for one in (*shown, *ahead))
    corner = frame.x.start + 8
    if by_share:
        marks = [(one, f"{100 * one:g}%") for one in ticks(0, last_x, 6 if width >= WIDE else 4)]
    else:
        marks = [(one, f"look {one:g}") for one in ticks(1, last_x, 5) if one == int(one)]
    return frame.figure(
        f"Z statistic of {looks[-1].variant} on {looks[-1].metric} against its bounds; now {_z_words(looks[-1])}",
        frame.clipped(*_regions(frame, shown, ahead)),
        frame.y_axis(ticks(-reach, reach, 7), lambda one: numbers.number(one, 0, signed=True)),
        frame.x_axis(marks),
        frame.clipped(*_bounds(frame, shown, ahead, by_share=by_share)),
        frame.clipped(polyline(path, f"line s{series}")),
        *dots,
        element("text", words[0], class_="region", x=corner, y=frame.y.end + 15) if has_upper else "",
        element("text", words[1], class_="region", x=corner, y=frame.y.start - 8) if has_lower else "",
    )


def alpha_spent(
    looks: Sequence[PastLook], alpha: float, spending: Spending, sides: int, width: int, series: int
) -> Markup:
    """How much of alpha the looks so far have used, on the curve that the plan allows; each of `sides` has its part."""
    past = [one for one in looks if one.fraction is not None and one.alpha_spent is not None]
    last_x = max([1.0, *(one.fraction or 0.0 for one in past)])
    frame = Frame.of(width, _LOW_HEIGHT, (0.0, last_x * 1.02), (0.0, alpha * 1.08), left=50)
    each = alpha / sides
    curve = [frame.at(x, sides * spending.spent(x, each)) for x in (last_x * step / 80 for step in range(81))]
    dots = [
        dot(frame.at(one.fraction or 0.0, one.alpha_spent or 0.0), 5 if one is past[-1] else 2.6,
            f"{'now' if one is past[-1] else 'dot'} s{series}", _spent_words(one))
        for one in _dotted(past)
    ]  # fmt: skip
    marks = ticks(0, alpha * 1.04, 5)
    return frame.figure(
        f"Alpha spent of {alpha:g}; {_spent_words(past[-1]) if past else 'none yet'}",
        frame.y_axis(marks, lambda one: numbers.percent(one, max(0, tick_places(marks) - 2))),
        frame.x_axis([(one, f"{100 * one:g}%") for one in ticks(0, last_x, 6 if width >= WIDE else 4)]),
        polyline(curve, "planned"),
        *dots,
    )


def exposures_by_day(exposures: Sequence[DayUnits], variants: Sequence[str], width: int) -> Markup:
    """Units first seen on each day, a bar a variant; lines where there are too many days for bars. Not empty."""
    days = _all_days(exposures)
    units = {(one.day, one.variant): one.units for one in exposures}
    most = max([1, *units.values()])
    frame = Frame.of(width, _LOW_HEIGHT, (-0.5, len(days) - 0.5), (0.0, most * 1.06), left=46)
    slot = (frame.x.end - frame.x.start) / len(days)
    bar = min(_MOST_BAR, slot * 0.8 / len(variants))
    parts: list[str] = []
    for number, variant in enumerate(variants):
        counts = [units.get((day, variant), 0) for day in days]
        if bar < _LEAST_BAR:
            parts.append(polyline([frame.at(at, count) for at, count in enumerate(counts)], f"line s{number % 6}"))
            continue
        for at, count in enumerate(counts):
            left = frame.x(at) + (number - len(variants) / 2) * bar
            words = element("title", f"{days[at]:%d %b %Y}, {variant or 'met two variants'}: {count:,} units")
            top = frame.y(count)
            parts.append(
                element("rect", words, class_=f"bar s{number % 6}", x=left, y=top, width=max(bar - 1, 1.0),
                        height=max(frame.y.start - top, 0.0))
            )  # fmt: skip
    every = max(1, math.ceil(len(days) * 58 / (frame.x.end - frame.x.start)))
    marks = [(float(at), f"{day.day} {day:%b}") for at, day in enumerate(days) if at % every == 0]
    return frame.figure(
        f"Units first seen on each of {len(days)} days by variant",
        frame.y_axis([one for one in ticks(0, most * 1.06, 5) if one == int(one)], numbers.short_count),
        *parts,
        frame.x_axis(marks),
    )


@dataclass(frozen=True, slots=True)
class ForestAxis:
    """What all intervals of a table share: 0 in the middle, `reach` on either side, and the marks with their names."""

    reach: float
    marks: tuple[tuple[float, str], ...]

    @classmethod
    def of_lifts(cls, ends: Sequence[float]) -> ForestAxis:
        """Of relative lifts, at round ones."""
        reach = forest_reach(ends)
        marks = ticks(-reach, reach, 4)
        digits = max(0, tick_places(marks) - 2)
        return cls(reach, tuple((one, numbers.percent(one, digits, signed=True)) for one in marks))

    @classmethod
    def of_margins(cls, ends: Sequence[float]) -> ForestAxis:
        """Of harm in units of what is allowed: 1 is a guardrail's margin, whatever its metric."""
        # Farther out the limit would be too near to 0 to tell on which side of it an interval ends.
        return cls(min(max(1.3, forest_reach(ends)), 4.0), ((0.0, "0"), (1.0, "limit")))

    @property
    def scale(self) -> Scale:
        """To percent of the cell's width, with room for the labels of the ends."""
        return Scale(-self.reach, self.reach, 12, 88)

    def header(self) -> Markup:
        """The axis, for the head of the column."""
        labels = [
            element("text", name, class_="tick", x=_share(self.scale(mark)), y="100%", dy="-6", text_anchor="middle")
            for mark, name in self.marks
        ]
        return element("svg", *labels, class_="forest head", aria_hidden="true")


def forest_cell(axis: ForestAxis, reach: Reach, tone: str, words: str, limit: float | None = None) -> Markup:
    """An interval on the shared axis, in percent of the cell, so that it fits any; an arrow where it goes on beyond.

    `tone`: good, bad or open. `limit`: where a dashed line stands.
    """
    scale, middle = axis.scale, "50%"
    parts = []
    for mark, _ in axis.marks:
        at = _share(scale(mark))
        if mark != limit:
            parts.append(element("line", class_="zero" if mark == 0 else "grid", x1=at, x2=at, y1="0", y2="100%"))
    if limit is not None and scale.holds(limit):
        at = _share(scale(limit))
        parts.append(element("line", class_="margin", x1=at, x2=at, y1="0", y2="100%"))
    if reach.low is not None and reach.high is not None:
        left, right = scale.within(reach.low), scale.within(reach.high)
        parts.append(element("line", class_=f"reach {tone}", x1=_share(left), x2=_share(right), y1=middle, y2=middle))
        parts.append(_end(left, tone, beyond=reach.low < scale.low, sign=-1))
        parts.append(_end(right, tone, beyond=reach.high > scale.high, sign=1))
    if reach.estimate is not None and scale.holds(reach.estimate):
        parts.append(element("circle", class_=f"point {tone}", cx=_share(scale(reach.estimate)), cy=middle, r=5))
    return element("svg", element("title", words), *parts, class_="forest", role="img", aria_label=words)


def _end(at: float, tone: str, *, beyond: bool, sign: int) -> Markup:
    if not beyond:
        tick = element("line", class_=f"reach {tone}", x1=0, x2=0, y1=-5, y2=5)
    else:
        tick = element("path", class_=f"arrow {tone}", d=f"M{-sign * 1} -5 L{sign * 7} 0 L{-sign * 1} 5 Z")
    return element("svg", tick, x=_share(at), y="50%", class_="loose")


def _share(value: float) -> str:
    return f"{value:.2f}%"


def _times(looks: Sequence[PastLook]) -> tuple[float, float]:
    first, last = looks[0].looked_at.timestamp(), looks[-1].looked_at.timestamp()
    # A lone look stands in the middle.
    room = 0.015 * (last - first) or 1.0
    return first - room, last + room


def _time_marks(looks: Sequence[PastLook], x: Scale) -> Iterator[tuple[float, str]]:
    first, last = (datetime.fromtimestamp(end, UTC) for end in (x.low, x.high))
    if looks[0].looked_at == looks[-1].looked_at:
        yield looks[0].looked_at.timestamp(), f"look {looks[0].look}, {numbers.moment(looks[0].looked_at)}"
        return
    for at, words in time_ticks(first, last, max(2, int((x.end - x.start) / _PIXELS_A_MARK))):
        yield at.timestamp(), words


def _edge(frame: Frame, part: Sequence[tuple[float, PastLook]], *, upper: bool) -> list[Point]:
    """The band's edge over looks that have one; an infinite one leaves the area."""
    points = []
    for x, one in part:
        end = one.high if upper else one.low
        if one.low is not None and one.high is not None and end is not None:
            points.append(frame.at(x, end))
    return points


def _bar(frame: Frame, one: PastLook, series: int) -> Markup:
    if one.low is None or one.high is None:
        return join(())
    x = frame.x(one.looked_at.timestamp())
    return element("line", class_=f"line s{series}", x1=x, x2=x, y1=frame.y(one.low), y2=frame.y(one.high))


def _last_labels(frame: Frame, one: PastLook, series: int) -> Markup:
    """The last lift and the ends of its interval, beside the curve; an end too near to the lift is left out."""
    if one.lift is None:
        return join(())
    half = numbers.reach(one.low, one.high, one.lift)
    labels = [(frame.y(one.lift), numbers.lift(one.lift, half), f"value s{series}")]
    for end in (one.low, one.high):
        if end is not None and math.isfinite(end):
            at = frame.y(end)
            if abs(at - labels[0][0]) >= 13 and frame.y.holds(end):
                labels.append((at, numbers.lift(end, half), "tick"))
    return join(element("text", words, class_=class_, x=frame.x.end + 7, y=at + 4) for at, words, class_ in labels)


def _z_reach(looks: Sequence[PastLook], ahead: Sequence[Bound]) -> float:
    statistics = [abs(one.statistic) for one in looks if one.statistic is not None and math.isfinite(one.statistic)]
    edges = [
        abs(edge)
        for edge in (
            *(edge for one in looks[-1:] for edge in (one.lower, one.upper) if edge is not None),
            *(edge for one in ahead for edge in (one.lower, one.upper)),
        )
        if math.isfinite(edge)
    ]
    nearest = min(edges, default=0.0)
    return max(_LEAST_Z, *statistics, min(max(edges, default=0.0) + 0.6, _MOST_Z), nearest + 0.6) * 1.06


def _regions(frame: Frame, past: Sequence[Bound], ahead: Sequence[Bound]) -> Iterator[Markup]:
    points = [*past, *ahead]
    if len(points) == 1:
        points = [Bound(frame.x.low, points[0].lower, points[0].upper), points[0]]
    if not points:
        return
    for edge, far in (("upper", frame.y.high), ("lower", frame.y.low)):
        line = [frame.at(one.fraction, getattr(one, edge)) for one in points]
        yield polygon([(line[0][0], frame.y(far)), *line, (line[-1][0], frame.y(far))], "stop")


def _dotted(looks: Sequence[_T]) -> Sequence[_T]:
    """Those of the looks that get a dot: where there are many, a dot each would hide the line."""
    return looks if len(looks) <= _DOTS else looks[-1:]


def _bounds(frame: Frame, past: Sequence[Bound], ahead: Sequence[Bound], *, by_share: bool) -> Iterator[Markup]:
    for edge in ("upper", "lower"):
        line = [frame.at(one.fraction, getattr(one, edge)) for one in past]
        yield polyline(line, "bound")
        yield polyline([*line[-1:], *(frame.at(one.fraction, getattr(one, edge)) for one in ahead)], "bound ahead")
        for one in (*_dotted(past), *ahead):
            if frame.y.holds(getattr(one, edge)):
                where = f"{one.fraction:.0%} of the information" if by_share else f"look {one.fraction:g}"
                words = f"bound {numbers.number(getattr(one, edge), 2, signed=True)} at {where}"
                yield dot(frame.at(one.fraction, getattr(one, edge)), 1.8, "knot", words)


def _look_words(one: PastLook) -> str:
    if one.lift is None:
        return f"look {one.look}, {numbers.moment(one.looked_at)}: no lift"
    words = f"look {one.look}, {numbers.moment(one.looked_at)}: {numbers.lift(one.lift)}"
    if one.low is None or one.high is None:
        return words
    half = numbers.reach(one.low, one.high, one.lift)
    return f"{words}, {numbers.lift(one.low, half)} to {numbers.lift(one.high, half)}"


def _z_words(one: PastLook) -> str:
    words = f"look {one.look}: z {numbers.number(one.statistic, 2, signed=True)}"
    edges = [numbers.number(edge, 2, signed=True) for edge in (one.lower, one.upper) if edge is not None]
    words += f", bounds {' and '.join(edges)}" if edges else ""
    return words + (f", {one.fraction:.0%} of the planned information" if one.fraction is not None else "")


def _spent_words(one: PastLook) -> str:
    return f"look {one.look}: {numbers.percent(one.alpha_spent, 3)} at {one.fraction or 0.0:.0%} of the information"


def _all_days(exposures: Sequence[DayUnits]) -> list[date]:
    first, last = min(one.day for one in exposures), max(one.day for one in exposures)
    return [first + timedelta(days=at) for at in range((last - first).days + 1)]
