"""What a report says in words, the same on a page and in a terminal: decision, checks, test, methods, SQL. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from analytics import report_numbers as numbers
from analytics.definitions import Definition, Metric, Plan, Procedure
from analytics.experiment_store import CROSSED_ALARM
from analytics.readings import ArmReading, Reading, SplitReading, Verdict
from analytics.results import Result

Tone = Literal["good", "bad", "open"]

UNTRUSTED: Final = "Not to be trusted"
_SPENDINGS: Final = {
    "obrien-fleming": "O'Brien-Fleming",
    "pocock": "Pocock",
    "power": "power family",
    "hwang-shih-decani": "Hwang-Shih-DeCani",
}
_TONES: Final[dict[Verdict, Tone]] = {
    "better": "good", "safe": "good", "worse": "bad", "breached": "bad", "open": "open",
}  # fmt: skip
_SIGNS: Final[dict[Verdict, str]] = {"better": "▲", "worse": "▼", "safe": "✓", "breached": "✗", "open": "○"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be sound before results mean anything. `title` says how it is, `details` by what numbers."""

    tone: Tone
    title: str
    details: tuple[str, ...]

    @property
    def sign(self) -> str:
        """For those who see no colour."""
        return {"good": "✓", "bad": "✗", "open": "○"}[self.tone]


def headline(reading: Reading) -> str:
    """The decision: Ship mlp, Keep going."""
    if reading.decision == "ship" and reading.winner:
        return f"Ship {reading.winner}"
    return reading.decision.capitalize()


def decision_tone(reading: Reading) -> Tone:
    """Good for a winner, bad for harm and for what is broken; that it is too early is neither."""
    if reading.decision == "ship":
        return "good"
    broken = reading.decision == "unhealthy" and why_untrusted(reading) != ""
    return "bad" if broken or reading.decision == "roll back" else "open"


def tone(verdict: Verdict) -> Tone:
    """A verdict's colour."""
    return _TONES[verdict]


def verdict(one: ArmReading) -> str:
    """A verdict with its sign: ▲ better."""
    return f"{_SIGNS[one.verdict]} {one.verdict}"


def split_check(reading: Reading) -> Check:
    """The sample ratio of all units."""
    if not reading.splits:
        return Check("open", "Split not known yet", ("no unit has been counted",))
    whole = reading.splits[0]
    p = f"p {numbers.p_value(whole.p_value)}" if whole.p_value is not None else "too few units to judge"
    details = (*split_words(whole), f"sample ratio: {p}")
    if whole.mismatch:
        return Check("bad", "Sample ratio mismatch", details)
    odd = [one for one in reading.splits[1:] if one.mismatch]
    if odd:
        where = ", ".join(slice_name(one) for one in odd[:3]) + (f" and {len(odd) - 3} more" if len(odd) > 3 else "")
        return Check("bad", f"Split as planned, but not in {where}", details)
    return Check("good", "Split as planned", details)


def split_words(one: SplitReading) -> tuple[str, ...]:
    """A line an arm: logistic 1,564 units, 49.1% (planned 50%)."""
    total, planned = sum(one.units.values()), math.fsum(one.shares.values())
    words = []
    for arm, units in one.units.items():
        share = f", {100 * units / total:.1f}%" if total else ""
        wanted = (
            f" (planned {100 * one.shares[arm] / planned:.3g}%)" if planned and arm in one.shares else " (unplanned)"
        )
        words.append(f"{arm} {units:,} units{share}{wanted}")
    return tuple(words)


def slice_name(one: SplitReading) -> str:
    """partition 3; all units."""
    return "all units" if one.kind == "all" else f"{one.kind} {one.value}"


def crossed_check(reading: Reading) -> Check:
    """Units that met two variants."""
    crossed = reading.crossed
    details = (
        f"{crossed.crossed:,} of {crossed.units:,} units ({100 * crossed.share:.2f}%)",
        "left out of every number",
    )
    if crossed.alarm:
        return Check("bad", "Too many units met two variants", (*details, f"above {CROSSED_ALARM:.0%} is an alarm"))
    if not crossed.units:
        return Check("open", "No units yet", ("nobody has met a variant since the run began",))
    if not crossed.crossed:
        return Check("good", "No unit met two variants", (f"of {crossed.units:,} units",))
    return Check("good", "Few units met two variants", details)


def runtime_check(reading: Reading) -> Check:
    """Whether it has run as long as it has to."""
    least = reading.plan.definition.minimum_runtime
    if reading.plan.started_at is None:
        return Check("open", "Not started", ("`penstock experiments start` starts it",))
    ran = _until(reading) - reading.plan.started_at
    details = (f"{numbers.span_of_time(ran)}, of at least {numbers.span_of_time(least)}",)
    return Check("good", "Ran long enough", details) if ran >= least else Check("open", "Too early to decide", details)


def checks(reading: Reading) -> tuple[Check, Check, Check]:
    """Split, multiple exposures, runtime."""
    return split_check(reading), crossed_check(reading), runtime_check(reading)


def why_untrusted(reading: Reading) -> str:
    """One sentence on why results must not be used, '' where they may or where there are none."""
    if reading.trusted or not (
        reading.splits or reading.crossed.units or any(sum(one.absolute.n) for one in reading.arms)
    ):
        return ""
    odd = [one for one in reading.splits if one.mismatch]
    if odd:
        where = "" if odd[0] is reading.splits[0] else f" in {slice_name(odd[0])}"
        cause = f"the units do not split as planned{where}, so something other than chance decides who is counted"
    elif reading.crossed.alarm:
        cause = "too many units met two variants, so the arms are not what their names say"
    else:
        cause = "the split of the units is not known, so it cannot be held to the plan"
    return f"{UNTRUSTED}: {cause}. Mend that, then start a new run; no number below says anything about the models."


def primary(reading: Reading) -> tuple[ArmReading, ...]:
    """The first metric's arms."""
    metrics = [one for one in reading.arms if one.role == "metric"] or list(reading.arms)
    return tuple(one for one in metrics if one.metric.name == metrics[0].metric.name) if metrics else ()


def aim(metric: Metric) -> str:
    """higher is better."""
    return "higher is better" if metric.direction == "increase" else "lower is better"


def kind(metric: Metric) -> str:
    """What it counts: correct / one of arr_delay_15 over aircraft."""
    source = metric.source.outcome or metric.source.prediction
    if metric.kind == "quantile":
        return f"quantile {metric.percentile:g}%, {source}" if metric.percentile is not None else f"quantile, {source}"
    return f"{metric.kind}, {source}" + (f" ({metric.source.value})" if metric.source.value != "value" else "")


def reason(*results: Result) -> str:
    """Why something is missing in these results, '' where nothing is."""
    return next((one.reason for one in results if one.reason), "")


def test(procedure: Procedure) -> str:
    """The test in a line."""
    level = f"alpha {100 * procedure.alpha:g}%, power {100 * procedure.power:g}%"
    if procedure.kind == "group-sequential":
        parameter = f" {procedure.spending_parameter:g}" if procedure.spending_parameter is not None else ""
        return (
            f"group sequential, {_SPENDINGS[procedure.spending]}{parameter} spending, "
            f"{procedure.looks} planned looks, {level}"
        )
    return f"{'always valid' if procedure.kind == 'always-valid' else 'one look at the planned size'}, {level}"


def looked(reading: Reading) -> str:
    """look 9, 14 Nov 2026, 10:00 UTC."""
    return f"look {reading.number}, {numbers.moment(reading.looked_at)}" if reading.number else "no look yet"


def first_possible(plan: Plan) -> datetime | None:
    """When the first unit can count: its slot, window and maturity delay have passed. None before the start."""
    if plan.started_at is None:
        return None
    definition = plan.definition
    ahead = min(one.window for one in definition.metrics) + definition.maturity_delay + definition.slot
    return plan.started_at + ahead


def nothing_yet(reading: Reading) -> str:
    """What to do where no arm has a unit that counts."""
    first = first_possible(reading.plan)
    name = reading.plan.definition.name
    if first is None:
        return f"The experiment has not been started: `penstock experiments start {name}` starts it."
    if reading.looked_at < first:
        return (
            f"No unit counts yet. One counts when its window and the maturity delay have passed, the first at "
            f"{numbers.moment(first)}; look again then."
        )
    return (
        "No unit counts yet although the first could. See that requests name the experiment, in the view `exposures`, "
        "and that outcomes arrive, in the table `outcomes`."
    )


def no_history(reading: Reading) -> str:
    """What to do where there is no curve to draw."""
    name = reading.plan.definition.name
    return f"No look has been written down: `penstock experiments watch {name}` looks and keeps what it finds."


def power_now(reading: Reading) -> str:
    """63% now, planned 80%."""
    wanted = reading.plan.definition.test.power
    return f"{numbers.chance(reading.power)} of {100 * wanted:g}%" if reading.power is not None else "unknown"


def notes(reading: Reading) -> tuple[tuple[str, str], ...]:
    """How to read the numbers: a term and what is behind it, only of what this report shows."""
    definition = reading.plan.definition
    level = f"{100 * definition.test.alpha:g}%"
    found = [("Interval", _interval_note(definition.test, level))]
    if len([one for one in reading.arms if one.role == "metric"]) > 1:
        found.append((
            "p, adjusted",
            f"Corrected for all metrics and arms that are asked at once; compare it with alpha, {level}, itself.",
        ))  # fmt: skip
    if any(one.chance_to_win is not None for one in reading.arms):
        found.append((
            "Chance to win",
            "The posterior probability that the variant beats the control. It stands beside the test and decides "
            "nothing; whoever stops as soon as it looks good is wrong more often than it says.",
        ))  # fmt: skip
    found.append((
        "Split",
        "Units by variant against the planned shares, by a test that may be looked at every day. A mismatch means that "
        "assignment or logging is broken, and then no result counts.",
    ))  # fmt: skip
    found += _metric_notes(definition)
    if definition.guardrails:
        found.append((
            "Guardrails",
            "Each must be shown to be less bad than its margin (non-inferiority), at every look, and outside the "
            "correction for several metrics. A breach says roll back at once.",
        ))  # fmt: skip
    methods = dict.fromkeys(f"{one.metric.name}: {one.absolute.method}" for one in reading.arms)
    if methods:
        found.append(("Tests", "; ".join(methods) + "."))
    return tuple(found)


def sql(reading: Reading) -> tuple[tuple[str, str], ...]:
    """Questions that give the report's numbers again: what each answers, and the statement."""
    definition = reading.plan.definition
    where = f"WHERE experiment = {_literal(definition.name)}"
    if reading.plan.started_at is not None:
        started = reading.plan.started_at.strftime("%Y-%m-%d %H:%M:%S.%f")
        where += f"\n    AND started_at = toDateTime64('{started}', 6, 'UTC')"
    order = f"if(variant = {_literal(definition.control)}, 0, 1), variant"
    return (
        (
            "The arms' sums and values, as of the last look",
            f"SELECT metric, variant, units, value, sum_y, sum_x, sum_yy\nFROM experiment_metrics\n{where}\n"
            f"ORDER BY metric, {order}",
        ),
        (
            "The split, unit by unit",
            f"SELECT variant, crossed, count() AS units\nFROM experiment_units\n{where}\n"
            "GROUP BY variant, crossed ORDER BY variant",
        ),
        (
            "What each day added up to",
            f"SELECT day, metric, variant, units, value\nFROM experiment_timeseries\n{where}\n"
            f"ORDER BY day, metric, {order}",
        ),
    )


def command(reading: Reading) -> str:
    """The command that draws this look again."""
    return f"penstock experiments report {reading.plan.definition.name} --look {reading.number} --html report.html"


def _until(reading: Reading) -> datetime:
    return min(reading.looked_at, reading.plan.stopped_at or reading.looked_at)


def _interval_note(test: Procedure, level: str) -> str:
    if test.kind == "group-sequential":
        return (
            f"Made for all looks together: in at most {level} of experiments any of them misses the true difference, "
            "so looking often costs nothing. Once the test has ended, estimate, interval and p-value are adjusted for "
            "where it ended, since the plain estimate of a test that stopped early is too large."
        )
    if test.kind == "always-valid":
        return (
            f"A confidence sequence: in at most {level} of experiments does it ever miss the true difference, however "
            "often and whenever somebody looks. The price is a wider interval than that of a test that looks once."
        )
    return (
        f"Valid at one look, the one that was planned: in {level} of experiments it misses the true difference. "
        "Looking earlier and stopping when it looks good is wrong far more often."
    )


def _metric_notes(definition: Definition) -> list[tuple[str, str]]:
    found = []
    ratios = [one.name for one in definition.metrics if one.kind == "ratio"]
    if ratios:
        found.append((
            "Ratios",
            f"{', '.join(ratios)}: sums over units, with the delta method's variance, so that events of one unit are "
            "not taken for independent of one another.",
        ))  # fmt: skip
    before = [one.name for one in definition.metrics if one.covariate_window is not None]
    if before:
        found.append((
            "CUPED",
            f"{', '.join(before)}: the units' own numbers from before the exposure take out what has nothing to do "
            "with the variant.",
        ))  # fmt: skip
    capped = [one for one in definition.metrics if one.cap_value is not None or one.cap_percentile is not None]
    for one in capped:
        cap = f"{one.cap_value:g}" if one.cap_value is not None else f"the {one.cap_percentile:g}th percentile"
        found.append(("Winsorised", f"{one.name}: a unit's number above {cap} counts as that."))
    found.append((
        "Who counts",
        "Units from their first exposure on, once their window and the maturity delay "
        f"({numbers.span_of_time(definition.maturity_delay)}) have passed; units that met two variants never.",
    ))  # fmt: skip
    return found


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
