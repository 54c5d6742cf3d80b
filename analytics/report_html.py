"""A look at an experiment as a page of HTML that stands alone: it opens from a file, without network or script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Final

from analytics import report_numbers as numbers
from analytics import report_tables as tables
from analytics import report_words as words
from analytics.readings import ArmReading, PastLook, Reading
from analytics.report_bounds import bounds_ahead, one_sided, spending_of
from analytics.report_figures import (
    alpha_spent,
    exposures_by_day,
    lift_over_looks,
    statistic_against_bounds,
)
from analytics.report_frames import NARROW, WIDE
from analytics.report_guardrails import worst
from analytics.report_markup import Markup, element, join, raw

# The page may load nothing at all, from nowhere: what a browser enforces need not be believed.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTHS: Final = (WIDE, NARROW)
_ICONS: Final = {"good": "✓", "bad": "✗", "open": "…"}


def page(reading: Reading) -> str:
    """The whole document."""
    definition = reading.plan.definition
    head = (
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", f"{definition.name}: {words.headline(reading).lower()}"),
        element("style", raw(_style())),
    )
    body = element("main", content(reading))
    return f"<!doctype html>\n{element('html', element('head', *head), element('body', body), lang='en')}\n"


def content(reading: Reading) -> Markup:
    """What is within the document's `main`, for a page that has a head and a style sheet (report.css) of its own."""
    return join((
        _title(reading),
        _decision(reading),
        _health(reading),
        _results(reading),
        _about(reading),
        _repeat(reading),
    ))  # fmt: skip


@cache
def _style() -> str:
    return files("analytics").joinpath("report.css").read_text("utf-8")


def _title(reading: Reading) -> Markup:
    definition = reading.plan.definition
    facts = [f"model {definition.model}", words.looked(reading)]
    if reading.plan.started_at is not None:
        facts.append(f"started {numbers.moment(reading.plan.started_at)}")
    if reading.plan.stopped_at is not None:
        facts.append(f"stopped {numbers.moment(reading.plan.stopped_at)}")
    return element(
        "header",
        element("p", "Experiment report", class_="eyebrow"),
        element("h1", definition.name),
        element("p", definition.hypothesis, class_="lead"),
        element("p", join(element("span", one) for one in facts), class_="facts"),
    )


def _decision(reading: Reading) -> Markup:
    tone = words.decision_tone(reading)
    return element(
        "section",
        element("div", _ICONS[tone], class_="icon", aria_hidden="true"),
        element(
            "div", element("h2", words.headline(reading), id="decision"), element("p", reading.reason), class_="said"
        ),
        element("dl", *_tiles(reading), class_="tiles"),
        class_=f"decision {tone}",
        aria_labelledby="decision",
    )


def _tiles(reading: Reading) -> Iterator[Markup]:
    grey = "untrusted" if words.why_untrusted(reading) else ""
    for one in words.primary(reading)[:3]:
        half = numbers.half_width(one.relative.interval, one.relative.estimate)
        name = f"Lift, {one.metric.name}" if len(words.primary(reading)) == 1 else f"{one.variant}, {one.metric.name}"
        span = numbers.lift_span(one.relative.interval)
        yield _tile(name, numbers.lift(one.relative.estimate, half), span, class_=grey)
    yield _tile("Units", numbers.count(reading.crossed.units), _needed(reading))
    yield _tile(
        "Power now", numbers.chance(reading.power) if reading.power is not None else "unknown", _planned(reading)
    )
    yield _tile("Time left", numbers.days_left(reading.days_left), "to the planned size, at the present rate")


def _tile(name: str, value: str, about: str, class_: str = "") -> Markup:
    about = about if about != numbers.NONE else ""
    return element(
        "div",
        element("dt", name),
        element("dd", element("strong", value), element("small", about)),
        class_=class_ or None,
    )


def _needed(reading: Reading) -> str:
    return f"of {reading.needed:,} planned" if reading.needed is not None else "planned size unknown"


def _planned(reading: Reading) -> str:
    definition = reading.plan.definition
    effect = definition.metrics[0].mde
    planned = f"{100 * definition.test.power:g}% planned"
    return (
        f"{planned}, for an effect of {numbers.effect(effect)}" if effect else f"{planned}; no effect was planned for"
    )


def _health(reading: Reading) -> Markup:
    badges = [
        element(
            "li",
            element("span", one.sign, class_="icon", aria_hidden="true"),
            element("div", element("strong", one.title), *(element("span", part) for part in one.details)),
            class_=f"check {one.tone}",
        )
        for one in words.checks(reading)
    ]
    parts = [element("h2", "Can it be trusted?", id="health"), element("ul", *badges, class_="checks")]
    if len(reading.splits) > 1:
        odd = sum(one.mismatch for one in reading.splits[1:])
        about = f"{odd} out of shape" if odd else "all in shape"
        parts.append(
            _details(f"The split in {len(reading.splits) - 1} slices: {about}", tables.slices_table(reading.splits))
        )
    return element("section", *parts, aria_labelledby="health")


def _results(reading: Reading) -> Markup:
    """Everything that means nothing while the split is broken."""
    why = words.why_untrusted(reading)
    parts = [_metrics(reading), _guardrails(reading), _curves(reading)]
    if not why:
        return element("div", *parts, class_="results")
    return join((
        element("p", element("span", "✗", aria_hidden="true"), element("span", why), class_="warning", role="alert"),
        element("div", *parts, class_="results untrusted", data_label=words.UNTRUSTED),
    ))  # fmt: skip


def _metrics(reading: Reading) -> Markup:
    table = tables.metrics_table(reading)
    if not table or not any(sum(one.absolute.n) for one in reading.arms):
        table = join((table, element("p", words.nothing_yet(reading), class_="empty")))
    return element("section", _heading(reading, "Metrics", "metrics"), table, aria_labelledby="metrics")


def _guardrails(reading: Reading) -> Markup:
    table = tables.guardrails_table(reading)
    if not table:
        return join(())
    return element("section", _heading(reading, "Guardrails", "guardrails"), table, aria_labelledby="guardrails")


def _curves(reading: Reading) -> Markup:
    """The first metric's curves beside the exposures, then the other metrics', then the numbers behind them."""
    heading = _heading(reading, "Look by look", "looks")
    main = [one.metric.name for one in words.primary(reading)[:1]]
    first: list[Markup] = []
    others: list[Markup] = []
    behind: list[Markup] = []
    for (metric, variant), looks, arm in _series(reading):
        figures = first if metric in main else others
        figures.append(_lift_figure(reading, metric, variant, looks, arm))
        if metric in main:
            first += _sequential_figures(reading, metric, variant, looks, arm)
        title = f"{metric}, {variant}"
        behind += [element("h4", title), tables.looks_table(looks, f"Looks at {title}")]
    if not reading.history:
        first.append(_figure("Lift by look", element("p", words.no_history(reading), class_="empty")))
    parts = [heading, element("div", *first, _exposures(reading), class_="figures")]
    if others:
        parts += [element("h3", "The other metrics"), element("div", *others, class_="figures many")]
    if reading.exposures:
        behind += [element("h4", "New units by day"), tables.exposures_table(reading)]
    more = _details("All of it in numbers", join(behind)) if behind else ""
    return element("section", *parts, more, aria_labelledby="looks")


def _series(reading: Reading) -> Iterator[tuple[tuple[str, str], list[PastLook], ArmReading | None]]:
    """The looks of each metric and variant in order, in the order of the arms."""
    order = {(one.metric.name, one.variant): at for at, one in reversed(list(enumerate(reading.arms)))}
    arms = {(one.metric.name, one.variant): one for one in reversed(reading.arms)}

    def key(one: PastLook) -> tuple[int, str, str]:
        return order.get((one.metric, one.variant), len(order)), one.metric, one.variant

    for (_, metric, variant), looks in groupby(sorted(reading.history, key=lambda one: (*key(one), one.look)), key):
        yield (metric, variant), list(looks), arms.get((metric, variant))


def _lift_figure(
    reading: Reading, metric: str, variant: str, looks: Sequence[PastLook], arm: ArmReading | None
) -> Markup:
    series = _colour(reading, variant)
    guardrails = {one.metric: one for one in reading.plan.definition.guardrails}
    margin = worst(arm, guardrails.get(metric)) if arm is not None and arm.role == "guardrail" else None
    if all(one.lift is None for one in looks):
        why = words.reason(arm.relative, arm.absolute) if arm is not None else ""
        return _figure(f"Lift on {metric}, {variant}", element("p", why or "No look has a lift yet.", class_="empty"))
    about = f"Lift of {variant} over {reading.plan.definition.control} so far, and its interval."
    if len(looks) == 1:
        about += " One look: a curve begins with the next."
    if margin is not None:
        about += " Dashed: the margin of the guardrail."
    drawn = [lift_over_looks(looks, width, series, margin) for width in _WIDTHS]
    return _figure(f"Lift on {metric}, {variant}", *drawn, about=about)


def _sequential_figures(
    reading: Reading, metric: str, variant: str, looks: Sequence[PastLook], arm: ArmReading | None
) -> Iterator[Markup]:
    """The statistic against its bounds and the alpha spent, as far as the test has such things."""
    test = reading.plan.definition.test
    series = _colour(reading, variant)
    rises = arm is None or arm.metric.direction == "increase"
    bounded = any(edge is not None for one in looks for edge in (one.lower, one.upper))
    if bounded and any(one.statistic is not None for one in looks):
        ahead = bounds_ahead(test, looks)
        by = "the share of the planned information" if looks[-1].fraction is not None else "its number"
        about = f"z at each look against {by}. The test ends in the shaded areas."
        about += " Dashed: the looks to come." if ahead else ""
        drawn = [statistic_against_bounds(looks, ahead, width, series, rises=rises) for width in _WIDTHS]
        yield _figure(f"Boundary: {metric}, {variant}", *drawn, about=about)
    if test.kind == "group-sequential" and any(one.alpha_spent is not None for one in looks):
        sides = 1 if one_sided(looks) else 2
        drawn = [alpha_spent(looks, test.alpha, spending_of(test), sides, width, series) for width in _WIDTHS]
        spent = next(one.alpha_spent for one in reversed(looks) if one.alpha_spent is not None)
        used = numbers.percent(spent, 3) if spent >= 5e-6 else "Less than 0.001%"
        about = f"{used} of {100 * test.alpha:g}% is spent, at the pace that the dashed plan allows."
        yield _figure(f"Alpha spent: {metric}, {variant}", *drawn, about=about)


def _exposures(reading: Reading) -> Markup:
    title = "New units by day"
    if not any(one.units for one in reading.exposures):
        nobody = "Nobody has met a variant yet: bars appear with the first prediction that names the experiment."
        return _figure(title, element("p", nobody, class_="empty"))
    seen = {one.variant for one in reading.exposures if one.units}
    variants = [arm.name for arm in reading.plan.definition.variants]
    variants += sorted(seen - {*variants, ""}) + ([""] if "" in seen else [])
    legend = element(
        "ul",
        *(
            element("li", element("span", class_=f"swatch s{at % 6}", aria_hidden="true"), one or "met two variants")
            for at, one in enumerate(variants)
        ),
        class_="legend",
    )
    drawn = [exposures_by_day(reading.exposures, variants, width) for width in _WIDTHS]
    return _figure(title, legend, *drawn, about="By the day (UTC) on which a unit first met a variant.")


def _about(reading: Reading) -> Markup:
    definition = reading.plan.definition
    rows = [
        ("Hypothesis", definition.hypothesis),
        ("Test", words.test(definition.test)),
        ("Unit", definition.unit),
        ("Runtime", f"at least {numbers.span_of_time(definition.minimum_runtime)}"),
        ("Effect to find", numbers.effect(definition.metrics[0].mde)),
    ]
    if definition.layer:
        rows.append(("Layer", definition.layer))
    notes = words.notes(reading)
    return element(
        "section",
        element("h2", "What was planned", id="plan"),
        element("div", _list(rows), tables.arms_table(reading), class_="columns"),
        element("h3", "How to read it"),
        _list(notes),
        aria_labelledby="plan",
    )


def _repeat(reading: Reading) -> Markup:
    parts = [
        element("p", "This page again, from the same look:"),
        element("pre", element("code", words.command(reading))),
    ]
    for about, statement in words.sql(reading):
        parts += [element("p", f"{about}:"), element("pre", element("code", statement), tabindex="0")]
    return element(
        "section",
        element("h2", "How to repeat it", id="repeat"),
        element("p", "Ask with ", element("code", 'penstock sql "…"'), ", or the ClickHouse that holds the tables."),
        *parts,
        aria_labelledby="repeat",
    )


def _heading(reading: Reading, title: str, anchor: str) -> Markup:
    mark = "" if not words.why_untrusted(reading) else element("span", words.UNTRUSTED.lower(), class_="chip bad")
    return element("h2", title, mark, id=anchor)


def _figure(title: str, *content: str, about: str = "") -> Markup:
    caption = element("figcaption", element("strong", title), element("span", about) if about else "")
    return element("figure", caption, *content)


def _details(title: str, content: Markup) -> Markup:
    return element("details", element("summary", title), content)


def _list(rows: Sequence[tuple[str, str]]) -> Markup:
    return element("dl", *(join((element("dt", name), element("dd", value))) for name, value in rows), class_="list")


def _colour(reading: Reading, variant: str) -> int:
    names = [arm.name for arm in reading.plan.definition.variants]
    return names.index(variant) % 6 if variant in names else 0
