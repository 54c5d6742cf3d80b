"""Puts one variant's looks on one metric to the test that the plan names: intervals, bounds and p-values.

Three procedures, and one for guardrails. `fixed` is read once, at the planned end. `group-sequential` tests every look
from the minimum runtime on and spends alpha by information. `always-valid` tests every look there is. What a test that
is over has found stays, whatever comes later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from scipy import special

from analytics.always_valid import ConfidenceSequence
from analytics.definitions import Guardrail, Metric, Procedure
from analytics.effects import Effect
from analytics.evidence import FEW_EVENTS
from analytics.guardrails import look_of, watch
from analytics.horizon import spending
from analytics.readings import Verdict
from analytics.results import Interval, Result, Scale, StatisticError, UndefinedError
from analytics.sequential import SequentialPlan, bounds
from analytics.sequential_analysis import Look, growing, monitor, repeated_p_value
from analytics.statistics import judge

# A confidence sequence holds for many units: looks with less of the planned information are not used.
LEAST_FRACTION: Final = 0.01
_FAR: Final = 37.0
_EVERYTHING: Final = Interval(-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found of a metric and variant. `fraction` of the planned information, `tuned_for` see `watched`."""

    look: int
    looked_at: datetime
    effect: Effect
    fraction: float | None
    tuned_for: float | None


@dataclass(frozen=True, slots=True)
class Tested:
    """A test's answer. `p_value` is the one that may be corrected for others beside it; None: nothing was tested.

    `upwards`: which side the evidence is on. `statistic`, `lower` and `upper` are on the z scale.
    """

    absolute: Result
    relative: Result
    p_value: float | None = None
    upwards: bool = True
    statistic: float | None = None
    lower: float | None = None
    upper: float | None = None
    alpha_spent: float | None = None

    def verdict(self, metric: Metric, p_adjusted: float | None, alpha: float) -> Verdict:
        """Whether the variant is better, worse, or that is open."""
        if p_adjusted is None or p_adjusted > alpha:
            return "open"
        return "better" if self.upwards == (metric.direction == "increase") else "worse"


def untested(absolute: Result, relative: Result, reason: str) -> Tested:
    """Estimates without a test, and why."""

    def bare(one: Result) -> Result:
        return replace(one, interval=None, p_value=None, statistic=None, reason=reason)

    return Tested(bare(absolute), bare(relative))


def unknown(found: Effect, alpha: float, reason: str) -> Tested:
    """Estimates of a difference that is not tested now."""
    return untested(judge(found, alpha=alpha), judge(found, alpha=alpha, scale="relative"), reason)


def fixed(seen: Sequence[Seen], test: Procedure) -> Tested:
    """The test at the last of `seen`, which is the experiment's end."""
    found = seen[-1].effect
    absolute = judge(found, alpha=test.alpha)
    relative = judge(found, alpha=test.alpha, scale="relative")
    reach = float(-special.ndtri(test.alpha / 2))
    return Tested(
        absolute, relative, absolute.p_value, found.estimate > 0, absolute.statistic, -reach, reach, test.alpha
    )


def group_sequential(seen: Sequence[Seen], test: Procedure, *, final: bool, alone: bool) -> Tested:
    """The test by looks with a fraction. `final`: the last is the last; `alone`: no other test is corrected for.

    A test that is alone ends with the look that crosses a bound, and its estimate, interval and p-value are adjusted
    for that. Beside others it goes on to the experiment's end, since crossing its own bound is not enough, with
    repeated interval and p-value. Raises `StatisticError` where no look has a fraction.
    """
    fractions = {one.fraction: one for one in seen if one.fraction}
    # By fractions, which is what bounds depend on; the answer is put into the metric's unit at the end.
    looks = growing([Look(part, _drift(one.effect, part)) for part, one in fractions.items()])
    if not looks:
        raise StatisticError("no look has a part of the planned information")
    plan = SequentialPlan(spending(test), test.alpha)
    if alone:
        found = monitor(plan, looks, final=final)
        at = len(looks) - 1 if found.ended_at is None else found.ended_at
        edges, result = found.bounds, found.result
        upwards = (found.crossed or _side(looks[at])) == "upper"
        if found.crossed is None and result.p_value is not None:
            # Adjusted p-value and bound agree but for rounding; what decides is the bound.
            result = replace(result, p_value=max(result.p_value, math.nextafter(test.alpha, 1.0)))
    else:
        at = len(looks) - 1
        edges = bounds(plan, [one.information for one in looks], final=final)
        farthest = max(range(len(looks)), key=lambda one: _beyond(looks[one].statistic, edges.upper[one]))
        upwards = _side(looks[farthest]) == "upper"
        half = edges.upper[at] / math.sqrt(looks[at].information)
        result = Result(
            method=f"group sequential, {plan.spending.name} spending, repeated p-value and interval",
            n=(),
            alpha=test.alpha,
            estimate=looks[at].estimate,
            interval=Interval(looks[at].estimate - half, looks[at].estimate + half),
            p_value=repeated_p_value(plan, looks, final=final),
            statistic=looks[at].statistic,
        )
    chosen = fractions[looks[at].information]
    absolute = _in_units(result, chosen.effect, looks[at].information)
    return Tested(
        absolute,
        lifted(chosen.effect, absolute),
        absolute.p_value,
        upwards,
        looks[at].statistic,
        edges.lower[at],
        edges.upper[at],
        edges.spent[at],
    )


def _drift(found: Effect, fraction: float) -> float:
    return found.estimate / found.standard_error / math.sqrt(fraction)


def _in_units(result: Result, found: Effect, fraction: float) -> Result:
    """An answer in units of drift (the mean of Z at the planned information) in those of the metric."""
    unit = found.standard_error * math.sqrt(fraction)
    interval = result.interval
    return replace(
        result,
        n=found.n,
        values=(found.control, found.treatment),
        estimate=None if result.estimate is None else result.estimate * unit,
        interval=None if interval is None else Interval(interval.low * unit, interval.high * unit),
        standard_error=found.standard_error,
    )


def always_valid(seen: Sequence[Seen], test: Procedure) -> Tested:
    """The test by all looks; `tuned_for` of the first of them is used. Raises `StatisticError` where none has it."""
    tuned_for = next((one.tuned_for for one in seen if one.tuned_for), None)
    if tuned_for is None:
        raise StatisticError("no look says what the confidence sequence is tuned for")
    sequence = ConfidenceSequence(tuned_for, test.alpha, start=LEAST_FRACTION * tuned_for)
    absolute = sequence.watch([Look.of(one.effect) for one in seen])
    if absolute.interval is None:
        return unknown(
            seen[-1].effect, test.alpha, f"less than {LEAST_FRACTION:.0%} of the planned information is there"
        )
    used = [one for one in seen if one.effect.information >= sequence.start]
    relative = _EVERYTHING
    for one in used:
        wide = _fieller(one.effect, *(2 * [sequence.half_width(one.effect.information) / one.effect.standard_error]))
        relative = relative.intersect(wide) or wide
    strongest = min(used, key=lambda one: sequence.p_value(one.effect.information, one.effect.estimate))
    last = seen[-1].effect
    reach = sequence.half_width(last.information) / last.standard_error
    return Tested(
        absolute,
        replace(lifted(last, absolute), interval=relative),
        absolute.p_value,
        strongest.effect.estimate > 0,
        last.estimate / last.standard_error,
        -reach,
        reach,
    )


def guarded(seen: Sequence[Seen], metric: Metric, guardrail: Guardrail, test: Procedure) -> tuple[Tested, Verdict]:
    """A guardrail by all looks, whatever test the plan has, as a breach must be seen at once.

    Both verdicts are one-sided at alpha and safe to be looked at every day; a breach stays one. The intervals are those
    of `always_valid` for the difference, `p_value` is for "not worse than the margin". Raises `StatisticError` where no
    look says what it is tuned for.
    """
    upwards = metric.direction == "increase"
    scale: Scale = "relative" if guardrail.margin.relative else "absolute"
    tuned_for = next((one.tuned_for for one in seen if one.tuned_for), None)
    if tuned_for is None:
        raise StatisticError("no look says what the guardrail is tuned for")
    shown = always_valid(seen, test)
    looks: list[Look] = []
    for one in seen:
        try:
            look = look_of(one.effect, guardrail.margin.size, scale=scale, higher_is_better=upwards)
        except UndefinedError:
            continue
        counted = metric.kind in ("proportion", "mean")
        least = at_margin(one.effect, guardrail.margin.size, scale, upwards) if counted else 0.0
        known = 1 / max(1 / look.information, least)
        if not looks:
            # What it is tuned for was reckoned by the same variance.
            tuned_for *= known / look.information
        looks.append(replace(look, information=known))
    if not looks:
        return shown, "open"
    found = watch(looks, guardrail.margin.size, tuned_for, alpha=test.alpha, higher_is_better=upwards)
    breached = found.breach_p_value is not None and found.breach_p_value <= test.alpha
    method = f"non-inferiority by {guardrail.margin.size:g} {scale}, asymptotic confidence sequence"

    def named(result: Result) -> Result:
        return replace(result, p_value=found.result.p_value, method=method)

    tested = replace(shown, absolute=named(shown.absolute), relative=named(shown.relative))
    verdict: Verdict = "breached" if breached else "safe" if found.result.significant else "open"
    return replace(tested, p_value=found.result.p_value), verdict


def at_margin(found: Effect, margin: float, scale: Scale, upwards: bool) -> float:
    """The variance of a difference of shares if the variant were as bad as the margin allows; 0: its own will do.

    Where few units of the variant have an event (or have none) its own is too small to say that the margin holds
    (Farrington and Manning 1990).
    """
    n, events = found.n[1], found.n[1] * found.treatment
    if min(events, n - events) >= FEW_EVENTS:
        return 0.0
    worst = found.control + (-1 if upwards else 1) * margin * (found.control if scale == "relative" else 1)
    worst = min(max(worst, 0.0), 1.0)
    return worst * (1 - worst) / n + found.control_variance


def lifted(found: Effect, absolute: Result) -> Result:
    """An absolute answer as a relative one: Fieller's interval with the reach, in standard errors, of the absolute one.

    So both exclude 0 together. None where the control's value is 0 or too near it.
    """
    base = judge(replace(found, degrees=math.inf), alpha=absolute.alpha, scale="relative")
    estimate = None
    if absolute.estimate is not None and found.control != 0:
        estimate = absolute.estimate / abs(found.control)
    interval, reason = None, base.reason
    if absolute.interval is not None and found.control != 0:
        low, high = absolute.interval.low, absolute.interval.high
        error = found.standard_error
        interval = _fieller(found, (found.estimate - low) / error, (high - found.estimate) / error)
        if interval != _EVERYTHING:
            reason = None
    return replace(
        base,
        method=absolute.method,
        n=absolute.n,
        estimate=estimate,
        interval=interval,
        p_value=absolute.p_value,
        statistic=absolute.statistic,
        reason=reason,
    )


def _fieller(found: Effect, below: float, above: float) -> Interval:
    """Fieller's interval that reaches `below` and `above` standard errors out; everything where there is no end."""
    ends: list[float] = []
    pick: Sequence[tuple[float, Callable[[Interval], float], float]] = (
        (below, lambda one: one.low, -math.inf),
        (above, lambda one: one.high, math.inf),
    )
    for reach, end, none in pick:
        interval = None
        if reach < _FAR:
            level = 2 * float(special.ndtr(-max(reach, 1e-9)))
            interval = judge(replace(found, degrees=math.inf), alpha=level, scale="relative").interval
        ends.append(none if interval is None else end(interval))
    return Interval(min(ends), max(ends))


def _side(look: Look) -> str:
    return "upper" if look.statistic > 0 else "lower"


def _beyond(statistic: float, bound: float) -> float:
    return abs(statistic) - bound if math.isfinite(bound) else -math.inf
