"""Plans an experiment: units an arm, what a sequential test adds to them, how long it takes and what it would find.

Puts `analytics.power` (sizes of a test that looks once) and `analytics.sequential` (what looking often costs) together.
Each treatment is planned against the control by itself; alpha is not divided among several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Literal, get_args

from analytics.always_valid import ConfidenceSequence
from analytics.definitions import Effect, Procedure
from analytics.power import (
    MINIMUM_RUNTIME,
    Duration,
    ProportionFormula,
    Requirement,
    SampleSize,
    absolute_effect,
    duration,
    mean_curve,
    mean_mde,
    mean_size,
    proportion_curve,
    proportion_mde,
    proportion_size,
    ratio_size,
)
from analytics.recursion import Recursion
from analytics.results import StatisticError, check_shares
from analytics.sequential import Bounds, SequentialPlan, bounds, drift_for_power, equal_looks, inflation
from analytics.spending import Spending

PlannedKind = Literal["proportion", "mean", "ratio"]

ONE_LOOK: Final = Procedure(kind="fixed")
FORMULAS: Final[tuple[ProportionFormula, ...]] = get_args(ProportionFormula)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the experiment should be able to find, and in how much traffic.

    `baseline`: the control's value. `effect`: the smallest one worth finding; a negative size looks downwards.
    `deviation`: of a unit's value; of a ratio, of a unit's numerator less ratio times denominator, and
    `mean_denominator` is a unit's. `shares` of the arms, control first, as parts of any total. `units` of the control:
    then the effect that these can find is the answer, and of `effect` only the sign counts. `rate`: new units a second,
    of which `share` (0 to 1) enters the experiment. A test of kind `always-valid` is planned for `test.looks` looks.
    `ripening`: how long the last user's outcomes take to come in.
    """

    baseline: float | None = None
    effect: Effect | None = None
    metric: PlannedKind = "proportion"
    deviation: float | None = None
    mean_denominator: float = 1.0
    shares: tuple[float, ...] = (0.5, 0.5)
    formula: ProportionFormula = "unpooled"
    test: Procedure = ONE_LOOK
    units: int | None = None
    rate: float | None = None
    share: float = 1.0
    minimum_runtime: timedelta = MINIMUM_RUNTIME
    ripening: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Planned:
    """The answer.

    `effect` is in the metric's unit, `lift` the same as a share of the baseline (None without one). `one_look` holds
    the sizes of a test that looks once by every formula there is for the metric (none where the units were given);
    `size` is that of the chosen formula and `design`, which takes `inflation` times as many units. `spent` is the part
    of them that is used up on average where the effect is as planned, since a sequential test ends early; None for one
    look. `curve`: (effect, power) from no effect to twice the planned one.
    """

    wanted: Wanted
    effect: float
    lift: float | None
    one_look: tuple[SampleSize, ...]
    size: SampleSize
    design: str
    inflation: float
    spent: float | None
    duration: Duration | None
    curve: tuple[tuple[float, float], ...]

    @property
    def complete(self) -> timedelta | None:
        """When the last user's outcomes are in, from the start on; None without a rate."""
        return None if self.duration is None else self.duration.planned + self.wanted.ripening

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values, durations in seconds."""
        asked, time = self.wanted, self.duration
        return {
            "metric": asked.metric,
            "baseline": asked.baseline,
            "effect": self.effect,
            "lift": self.lift,
            "alpha": asked.test.alpha,
            "power": asked.test.power,
            "alternative": self.size.alternative,
            "formula": self.size.formula,
            "one_look": [{"formula": one.formula, "arms": list(one.arms), "total": one.total} for one in self.one_look],
            "design": self.design,
            "inflation": self.inflation,
            "arms": list(self.size.arms),
            "total": self.size.total,
            "expected_total": None if self.spent is None else round(self.spent * self.size.total),
            "needed_seconds": time and time.needed.total_seconds(),
            "planned_seconds": time and time.planned.total_seconds(),
            "duration_reason": time and time.reason,
            "complete_seconds": self.complete and self.complete.total_seconds(),
            "curve": [{"effect": effect, "power": power} for effect, power in self.curve],
        }


def plan(wanted: Wanted) -> Planned:
    """Size, design, duration and power curve. Raises `StatisticError` in one line for what cannot be planned."""
    found = design_bounds(wanted.test)
    factor = 1.0 if found is None else max(1.0, inflation(found, wanted.test.power))
    if wanted.units is None:
        if wanted.effect is None:
            raise StatisticError("a plan needs the smallest effect worth finding, or the units there will be")
        need = _need(wanted, wanted.effect, factor)
        one_look = _sizes(wanted, replace(need, inflation=1.0))
        size = _sizes(wanted, need)[_index(wanted)]
    else:
        one_look, size = (), _given(wanted, wanted.units, factor)
        need = _need(wanted, Effect(size.effect, relative=False), factor)
    return Planned(
        wanted=wanted,
        effect=size.effect,
        lift=size.effect / abs(wanted.baseline) if wanted.baseline else None,
        one_look=one_look,
        size=size,
        design=design_name(wanted.test),
        inflation=factor,
        spent=None if found is None else found.expected_fraction(drift_for_power(found, wanted.test.power)),
        duration=None
        if wanted.rate is None
        else duration(size, wanted.rate, wanted.share, minimum=wanted.minimum_runtime),
        curve=_curve(wanted, need, size, found),
    )


def design_bounds(test: Procedure) -> Bounds | None:
    """The bounds of equally spaced looks; None for a test that looks once.

    An always-valid test (`ConfidenceSequence`, tuned for the planned size) stops where its interval leaves 0 out, which
    in standard errors is a bound at every fraction of that size like any other. So its power follows from the same
    recursion (Armitage, McPherson, Rowe 1969). Sizing it by its interval at the end alone would take 1.91 times the
    units of one look instead of 1.76 at 14 looks, alpha 0.05 and power 0.8: most crossings come earlier (the point of
    arXiv 2606.18366, which approximates in closed form what is integrated here).
    """
    if test.looks < 1:
        raise StatisticError(f"at least one look is needed, not {test.looks}")
    fractions = equal_looks(test.looks)
    if test.kind == "group-sequential":
        spending = Spending(test.spending, test.spending_parameter)
        return bounds(SequentialPlan(spending, test.alpha), fractions)
    if test.kind == "fixed":
        return None
    sequence = ConfidenceSequence(tuned_for=1.0, alpha=test.alpha)
    reach = [sequence.half_width(one) * math.sqrt(one) for one in fractions]
    recursion = Recursion(fractions)
    for bound in reach[:-1]:
        recursion.proceed(-bound, bound)
    crossing = [2 * recursion.beyond(look, bound) for look, bound in enumerate(reach)]
    return Bounds(
        plan=SequentialPlan(alpha=test.alpha),
        fractions=fractions,
        lower=tuple(-one for one in reach),
        upper=tuple(reach),
        spent=tuple(math.fsum(crossing[: look + 1]) for look in range(len(reach))),
        nominal=tuple(math.erfc(one / math.sqrt(2)) for one in reach),
        recursion=recursion,
    )


def design_name(test: Procedure) -> str:
    """For people: `group sequential, obrien-fleming, 14 looks`."""
    if test.kind == "fixed":
        return "one look"
    looks = f"{test.looks} look{'s' if test.looks > 1 else ''}"
    if test.kind == "always-valid":
        return f"always valid, {looks}"
    return f"group sequential, {Spending(test.spending, test.spending_parameter).name}, {looks}"


def _need(wanted: Wanted, effect: Effect, factor: float) -> Requirement:
    if effect.relative and wanted.baseline is None:
        raise StatisticError("a relative effect needs the baseline it is relative to")
    size = absolute_effect(wanted.baseline or 0.0, effect.size, "relative" if effect.relative else "absolute")
    return Requirement(size, alpha=wanted.test.alpha, power=wanted.test.power, shares=wanted.shares, inflation=factor)


def _sizes(wanted: Wanted, need: Requirement) -> tuple[SampleSize, ...]:
    """By every formula that the metric has."""
    if wanted.metric == "proportion":
        return tuple(proportion_size(_proportion(wanted), need, one) for one in FORMULAS)
    if wanted.metric == "mean":
        return (mean_size(_deviation(wanted), need),)
    return (ratio_size(_deviation(wanted) ** 2, wanted.mean_denominator, need),)


def _index(wanted: Wanted) -> int:
    """Where the chosen formula is among `_sizes`."""
    if wanted.formula not in FORMULAS:
        raise StatisticError(f"formula must be {' or '.join(FORMULAS)}, not {wanted.formula!r}")
    return FORMULAS.index(wanted.formula) if wanted.metric == "proportion" else 0


def _given(wanted: Wanted, units: int, factor: float) -> SampleSize:
    """So many units in the control, the others by their shares, and the effect that these can find."""
    if units < 2:
        raise StatisticError(f"a control needs 2 units or more, not {units}")
    up = wanted.effect is None or wanted.effect.size > 0
    if wanted.metric == "proportion":
        baseline = _proportion(wanted)
        # Half of the way to the end of the scale: any effect that a proportion can have, of the right sign.
        guess = (1 - baseline) / 2 if up else -baseline / 2
        need = _need(wanted, Effect(guess, relative=False), factor)
        found = proportion_mde(baseline, units, need, wanted.formula)
        name = f"two proportions, {FORMULAS[_index(wanted)]}"
    else:
        need = _need(wanted, Effect(1.0 if up else -1.0, relative=False), factor)
        found = mean_mde(_unit_deviation(wanted), units, need)
        name = "two means, normal" if wanted.metric == "mean" else "ratio of sums, delta method"
    shares = check_shares(wanted.shares)
    arms = tuple(max(1, math.floor(units * one / shares[0] + 1e-9)) for one in shares)
    return SampleSize(arms, name, found, need.alpha, need.power, need.alternative, factor)


def _proportion(wanted: Wanted) -> float:
    if wanted.baseline is None:
        raise StatisticError("a proportion needs a baseline, the control's share")
    return wanted.baseline


def _deviation(wanted: Wanted) -> float:
    if wanted.deviation is None:
        of = "of a unit's value" if wanted.metric == "mean" else "of a unit's numerator less ratio times denominator"
        raise StatisticError(f"a {wanted.metric} needs the standard deviation {of}")
    return wanted.deviation


def _unit_deviation(wanted: Wanted) -> float:
    """The deviation of a unit's part in the estimate; of a ratio by the delta method."""
    deviation = _deviation(wanted)
    if wanted.metric == "mean":
        return deviation
    if wanted.mean_denominator == 0:
        raise StatisticError("a mean denominator must be a number other than 0")
    return deviation / abs(wanted.mean_denominator)


def _curve(
    wanted: Wanted, need: Requirement, size: SampleSize, found: Bounds | None
) -> tuple[tuple[float, float], ...]:
    """Of one look by its formula; of a sequential test by its bounds: its power at other effects is another."""
    control, treatment = size.control, size.smallest_treatment
    error: Callable[[float], float]
    if wanted.metric == "proportion":
        baseline = _proportion(wanted)
        curve = proportion_curve(baseline, size.arms, need)

        def error(effect: float) -> float:
            other = baseline + effect
            return math.sqrt(baseline * (1 - baseline) / control + other * (1 - other) / treatment)

    else:
        deviation = _unit_deviation(wanted)
        curve = mean_curve(deviation, size.arms, need)

        def error(effect: float) -> float:  # noqa: ARG001 - means vary alike whatever the effect
            return deviation * math.sqrt(1 / control + 1 / treatment)

    if found is None:
        return curve
    return tuple((effect, found.power(abs(effect) / error(effect))) for effect, _ in curve)
