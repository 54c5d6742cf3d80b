"""A look at an experiment for a terminal: the decision, whether to trust it, and tables with intervals as bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analytics import report_numbers as numbers
from analytics import report_words as words
from analytics.readings import ArmReading, Reading
from analytics.report_axes import Reach, Scale, forest_reach
from analytics.report_figures import ForestAxis
from analytics.report_guardrails import allowed, harm

_BAR: Final = 23
_STYLES: Final[dict[words.Tone, str]] = {"good": "green", "bad": "red", "open": "default"}


def report(reading: Reading) -> Group:
    """What rich prints; it fits into 80 columns. Without colours nothing is lost: signs and words say it all."""
    return Group(*_parts(reading))


def bar(shown: Reach, reach: float, limit: float | None = None, width: int = _BAR) -> str:
    """An interval in `width` characters (odd, so that 0 is in the middle), from -reach to reach.

    ◂ and ▸ stand where it goes on beyond; `limit` is where a ╎ stands.
    """
    low, high, estimate = shown.low, shown.high, shown.estimate
    scale = Scale(-reach, reach, 0, width - 1)

    def at(value: float) -> int:
        return round(scale.within(value))

    cells = ["·"] * width
    cells[width // 2] = "┊"
    if limit is not None and scale.holds(limit):
        cells[at(limit)] = "╎"
    if low is not None and high is not None:
        left, right = at(low), at(high)
        for place in range(left, right + 1):
            cells[place] = "┿" if place == width // 2 else "━"
        cells[left] = "◂" if low < -reach else "┣"
        cells[right] = "▸" if high > reach else "┫"
    if estimate is not None and scale.holds(estimate):
        cells[at(estimate)] = "●"
    return "".join(cells)


def _parts(reading: Reading) -> Iterator[RenderableType]:
    definition = reading.plan.definition
    yield Text.assemble((definition.name, "bold"), ("  " + words.looked(reading), "dim"))
    style = _STYLES[words.decision_tone(reading)]
    yield Text.assemble((words.headline(reading).upper(), f"bold {style}"), "  ", reading.reason)
    yield Text()
    for check in words.checks(reading):
        style = _STYLES[check.tone]
        yield Text.assemble((f"{check.sign} {check.title}", style), (": " + "; ".join(check.details), "dim"))
    yield Text()
    if why := words.why_untrusted(reading):
        yield Text(f"✗ {why}", style="bold red")
        yield Text()
    if not any(sum(one.absolute.n) for one in reading.arms):
        yield Text(words.nothing_yet(reading))
        return
    metrics = [one for one in reading.arms if one.role == "metric"]
    guardrails = [one for one in reading.arms if one.role == "guardrail"]
    if metrics:
        shown = [_lift(one) for one in metrics]
        reach = forest_reach(_ends(shown))
        yield _table(reading, "Metrics", "p", [
            (one, bar(part, reach), _p(one)) for one, part in zip(metrics, shown, strict=True)
        ])  # fmt: skip
    if guardrails:
        margins = {one.metric: one for one in definition.guardrails}
        shown = [harm(one, margins.get(one.metric.name)) for one in guardrails]
        reach = ForestAxis.of_margins(_ends(shown)).reach
        yield _table(reading, "Guardrails, against what they allow (╎)", "allowed", [
            (one, bar(part, reach, 1.0), allowed(one, margins.get(one.metric.name)).removeprefix("less than "))
            for one, part in zip(guardrails, shown, strict=True)
        ])  # fmt: skip
    yield from _missing(reading.arms)
    yield Text()
    yield Text.assemble(("Power  ", "dim"), words.power_now(reading), ("    Time left  ", "dim"), _left(reading))
    yield Text.assemble(("Test   ", "dim"), words.test(definition.test))


def _table(reading: Reading, title: str, last: str, rows: Sequence[tuple[ArmReading, str, str]]) -> Table:
    """Rows are an arm, its bar, and what goes into the column `last`."""
    trusted = reading.trusted
    table = Table(
        title=title if trusted else f"{title} ({words.UNTRUSTED.lower()})",
        title_justify="left",
        title_style="bold" if trusted else "bold red",
        style="" if trusted else "dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    variants = list(dict.fromkeys(one.variant for one, _, _ in rows))
    table.add_column("metric", overflow="fold")
    table.add_column(reading.plan.definition.control, justify="right", overflow="fold")
    table.add_column(variants[0] if len(variants) == 1 else "variant", justify="right", overflow="fold")
    table.add_column("lift and interval", no_wrap=True)
    table.add_column(last, justify="right")
    table.add_column("verdict", no_wrap=True)
    for one, drawn, end in rows:
        half = numbers.half_width(one.absolute.interval, one.absolute.estimate)
        control, treatment = one.absolute.values or (None, None)
        interval = one.relative.interval
        lift = numbers.lift(one.relative.estimate, numbers.half_width(interval, one.relative.estimate))
        span = numbers.lift_span(interval)
        style = _STYLES[words.tone(one.verdict)]
        table.add_row(
            Text(one.metric.name if len(variants) == 1 else f"{one.metric.name}\n{one.variant}"),
            Text(numbers.metric_value(one.metric, control, half)),
            Text(numbers.metric_value(one.metric, treatment, half)),
            Text.assemble((lift, "bold"), "" if span == numbers.NONE else f"  {span}", "\n", (drawn, style)),
            Text(end),
            Text(words.verdict(one), style=style),
            style=None if trusted else "dim",
        )
    return table


def _p(one: ArmReading) -> str:
    return numbers.p_value(one.p_adjusted if one.p_adjusted is not None else one.absolute.p_value)


def _lift(one: ArmReading) -> Reach:
    interval = one.relative.interval
    return Reach(interval.low if interval else None, interval.high if interval else None, one.relative.estimate)


def _ends(shown: Sequence[Reach]) -> list[float]:
    return [end for one in shown for end in (one.low, one.high, one.estimate) if end is not None]


def _missing(arms: Sequence[ArmReading]) -> Iterator[Text]:
    """Why a number is not there, a line for each that is not."""
    for one in arms:
        if why := words.reason(one.relative, one.absolute):
            yield Text.assemble((f"{one.metric.name}, {one.variant}: ", "bold"), why)


def _left(reading: Reading) -> str:
    needed = f", {reading.crossed.units:,} of {reading.needed:,} units" if reading.needed is not None else ""
    return numbers.days_left(reading.days_left) + needed
