"""The tables of a report's page: metrics with a forest plot in them, guardrails, slices, looks, the definition. Pure.

Tables keep their roles on narrow screens, where the style sheet makes a card of each row; `data-label` is the column's
name on such a card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from analytics import report_numbers as numbers
from analytics import report_words as words
from analytics.readings import ArmReading, PastLook, Reading, SplitReading
from analytics.report_axes import Reach
from analytics.report_figures import ForestAxis, forest_cell
from analytics.report_guardrails import allowed, harm
from analytics.report_markup import Markup, element, join

_MOST_LOOKS: Final = 60


def metrics_table(reading: Reading) -> Markup:
    """Every metric and variant; '' where the reading has none."""
    arms = [one for one in reading.arms if one.role == "metric"]
    if not arms:
        return join(())
    axis = ForestAxis.of_lifts(_ends([_lift_reach(one) for one in arms]))
    definition = reading.plan.definition
    treatments = dict.fromkeys(one.variant for one in arms)
    alone = len(treatments) == 1
    head = [
        _head("Metric"), _head(definition.control, "number name"),
        _head(next(iter(treatments)) if alone else "Variant", "number name"), _head("Difference", "number"),
        _head("Lift", "number"), _head(axis.header(), "plot"), _head("p, adjusted", "number"),
        _head("Chance to win", "number"), _head("Verdict"),
    ]  # fmt: skip
    rows = []
    for one in arms:
        name = [element("strong", one.metric.name)]
        if one.metric.name == definition.metrics[0].name:
            name.append(element("span", "primary", class_="chip"))
        name += [element("small", words.kind(one.metric)), element("small", words.aim(one.metric))]
        rows.append(
            _row(
                element("th", *name, scope="row", role="rowheader"),
                *_values(one, definition.control, alone=alone),
                _difference(one),
                _lift(one),
                _plot(axis, _lift_reach(one), one),
                _cell("p, adjusted", _p(one), "number"),
                _cell("Chance to win", numbers.chance(one.chance_to_win), "number"),
                _verdict(one),
            )
        )
    return _table("Metrics: each variant against the control", head, rows, "metrics")


def guardrails_table(reading: Reading) -> Markup:
    """Every guardrail and variant; '' where the experiment has none."""
    arms = [one for one in reading.arms if one.role == "guardrail"]
    if not arms:
        return join(())
    margins = {one.metric: one for one in reading.plan.definition.guardrails}
    harms = [harm(one, margins.get(one.metric.name)) for one in arms]
    axis = ForestAxis.of_margins(_ends(harms))
    control = reading.plan.definition.control
    alone = len({one.variant for one in arms}) == 1
    head = [
        _head("Guardrail"), _head(control, "number name"),
        _head(arms[0].variant if alone else "Variant", "number name"),
        _head("Difference", "number"), _head("Lift", "number"), _head(axis.header(), "plot"),
        _head("Allowed", "number"), _head("Verdict"),
    ]  # fmt: skip
    rows = [
        _row(
            element(
                "th", element("strong", one.metric.name),
                element("small", words.kind(one.metric)), element("small", words.aim(one.metric)),
                scope="row", role="rowheader",
            ),
            *_values(one, control, alone=alone),
            _difference(one),
            _lift(one),
            _plot(axis, harm, one, limit=1.0),
            _cell("Allowed", allowed(one, margins.get(one.metric.name)), "number"),
            _verdict(one),
        )
        for one, harm in zip(arms, harms, strict=True)
    ]  # fmt: skip
    return _table("Guardrails: what must not get worse", head, rows, "metrics guardrails")


def slices_table(splits: Sequence[SplitReading]) -> Markup:
    """Units by variant in each slice, those out of shape first."""
    arms = list(dict.fromkeys(arm for one in splits for arm in one.units))
    head = [_head("Slice"), *(_head(arm, "number") for arm in arms), _head("p", "number"), _head("")]
    rows = []
    for one in sorted(splits, key=lambda one: not one.mismatch):
        total = sum(one.units.values())
        cells = [
            _cell(arm, f"{units:,} ({100 * units / total:.1f}%)" if total else "0", "number")
            for arm in arms
            for units in [one.units.get(arm, 0)]
        ]
        state = element("span", "✗ mismatch", class_="verdict bad") if one.mismatch else ""
        rows.append(
            _row(
                element("th", words.slice_name(one), scope="row", role="rowheader"),
                *cells, _cell("p", numbers.p_value(one.p_value), "number"), _cell("", state),
            )
        )  # fmt: skip
    return _table("Units by slice", head, rows, "small")


def looks_table(looks: Sequence[PastLook], title: str) -> Markup:
    """The numbers behind the curves, the newest look first."""
    head = [
        _head("Look"), _head("At"), _head("Lift", "number"), _head("Interval", "number"), _head("z", "number"),
        _head("Bounds", "number"), _head("Information", "number"), _head("Alpha spent", "number"),
    ]  # fmt: skip
    rows = []
    for one in list(reversed(looks))[:_MOST_LOOKS]:
        half = numbers.reach(one.low, one.high, one.lift)
        ends = [numbers.lift(end, half) for end in (one.low, one.high) if end is not None]
        edges = [numbers.number(edge, 2, signed=True) for edge in (one.lower, one.upper) if edge is not None]
        rows.append(
            _row(
                element("th", str(one.look), scope="row", role="rowheader"),
                _cell("At", numbers.moment(one.looked_at)),
                _cell("Lift", numbers.lift(one.lift, half), "number"),
                _cell("Interval", " to ".join(ends) or numbers.NONE, "number"),
                _cell("z", numbers.number(one.statistic, 2, signed=True), "number"),
                _cell("Bounds", ", ".join(edges) or numbers.NONE, "number"),
                _cell("Information", numbers.percent(one.fraction, 0), "number"),
                _cell("Alpha spent", numbers.percent(one.alpha_spent, 3), "number"),
            )
        )
    left_out = len(looks) - _MOST_LOOKS
    more = element("p", f"{left_out:,} earlier looks are left out here.", class_="hint") if left_out > 0 else ""
    return join((_table(title, head, rows, "small"), more))


def exposures_table(reading: Reading) -> Markup:
    """Units first seen on each day by variant."""
    variants = list(dict.fromkeys(one.variant for one in reading.exposures))
    head = [_head("Day"), *(_head(one or "met two variants", "number") for one in variants)]
    rows = []
    for day in sorted({one.day for one in reading.exposures}):
        units = {one.variant: one.units for one in reading.exposures if one.day == day}
        cells = [_cell(one or "met two variants", numbers.count(units.get(one, 0)), "number") for one in variants]
        rows.append(_row(element("th", f"{day.day} {day:%b %Y}", scope="row", role="rowheader"), *cells))
    return _table("Units first seen by day", head, rows, "small")


def arms_table(reading: Reading) -> Markup:
    """The arms as they are defined."""
    definition = reading.plan.definition
    head = [_head("Arm"), _head("Model version"), _head("Share of users", "number")]
    rows = [
        _row(
            element(
                "th", arm.name, element("span", "control", class_="chip") if arm.name == definition.control else "",
                scope="row", role="rowheader",
            ),
            _cell("Model version", f"{definition.model} {arm.version}"),
            _cell("Share of users", f"{100 * arm.share:g}%", "number"),
        )
        for arm in definition.variants
    ]  # fmt: skip
    return _table("Arms", head, rows, "small")


def _ends(reaches: Iterable[Reach]) -> list[float]:
    return [end for one in reaches for end in (one.low, one.high, one.estimate) if end is not None]


def _lift_reach(one: ArmReading) -> Reach:
    reach = one.relative.interval
    return Reach(reach.low if reach else None, reach.high if reach else None, one.relative.estimate)


def _values(one: ArmReading, control: str, *, alone: bool) -> tuple[Markup, Markup]:
    """The cells of both arms' values, with the units below."""
    half = numbers.half_width(one.absolute.interval, one.absolute.estimate)
    values = one.absolute.values or (None, None)
    units = one.absolute.n if len(one.absolute.n) == 2 else (None, None)
    cells = []
    for name, label, value, n in zip(
        ("", "" if alone else one.variant), (control, one.variant), values, units, strict=True
    ):
        parts = [element("span", name, class_="arm")] if name else []
        parts.append(element("span", numbers.metric_value(one.metric, value, half), class_="figure"))
        if n is not None:
            parts.append(element("small", f"{n:,} units"))
        cells.append(_cell(label, join(parts), "number"))
    return cells[0], cells[1]


def _difference(one: ArmReading) -> Markup:
    half = numbers.half_width(one.absolute.interval, one.absolute.estimate)
    figure = numbers.difference(one.metric, one.absolute.estimate, half)
    return _cell(
        "Difference",
        join(
            (
                element("span", figure, class_="figure"),
                _span(numbers.difference_span(one.metric, one.absolute.interval)),
            )
        ),
        "number",
    )


def _lift(one: ArmReading) -> Markup:
    half = numbers.half_width(one.relative.interval, one.relative.estimate)
    parts = [element("strong", numbers.lift(one.relative.estimate, half), class_="figure")]
    parts.append(_span(numbers.lift_span(one.relative.interval)))
    if why := words.reason(one.relative, one.absolute):
        parts.append(element("small", why, class_="reason"))
    return _cell("Lift", join(parts), "number")


def _span(written: str) -> Markup:
    return element("small", written) if written != numbers.NONE else join(())


def _plot(axis: ForestAxis, reach: Reach, one: ArmReading, limit: float | None = None) -> Markup:
    interval = one.relative.interval
    half = numbers.half_width(interval, one.relative.estimate)
    said = f"{one.metric.name}, {one.variant}: {numbers.lift(one.relative.estimate, half)}"
    said += f" ({numbers.lift_span(interval)})" if interval else ""
    return element("td", forest_cell(axis, reach, words.tone(one.verdict), said, limit), class_="plot", role="cell")


def _p(one: ArmReading) -> Markup:
    if one.p_adjusted is not None or one.absolute.p_value is None:
        return element("span", numbers.p_value(one.p_adjusted), class_="figure")
    return join(
        (element("span", numbers.p_value(one.absolute.p_value), class_="figure"), element("small", "not adjusted"))
    )


def _verdict(one: ArmReading) -> Markup:
    return _cell("Verdict", element("span", words.verdict(one), class_=f"verdict {words.tone(one.verdict)}"))


def _table(caption: str, head: Sequence[Markup], rows: Sequence[Markup], class_: str) -> Markup:
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head, role="row"), role="rowgroup"),
        element("tbody", *rows, role="rowgroup"),
        class_=class_,
        role="table",
    )


def _row(*cells: Markup) -> Markup:
    return element("tr", *cells, role="row")


def _head(content: str, class_: str | None = None) -> Markup:
    label = "Lift on an axis" if class_ == "plot" else None
    return element("th", content, scope="col", role="columnheader", class_=class_, aria_label=label)


def _cell(label: str, content: str, class_: str | None = None) -> Markup:
    return element("td", content, class_=class_, role="cell", data_label=label)
