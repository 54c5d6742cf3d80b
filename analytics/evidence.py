"""From what ClickHouse has summed up of two arms to what is tested: statistic, difference, guardrail distance, chance.

Which statistic it is follows from the metric: a proportion counts units, a mean sums them up, a ratio goes by the delta
method, and each takes CUPED where a covariate is kept; a quantile goes by the order statistics of its bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scipy import special

from analytics import bayes
from analytics.definitions import Effect as Size
from analytics.definitions import Metric
from analytics.effects import Effect, Statistic, effect
from analytics.experiment_sql import BIN_GAMMA
from analytics.experiment_store import BinnedUnits, UnitSums
from analytics.results import StatisticError, UndefinedError
from analytics.sufficient import Covaried, CovariedRatio, Mean, Proportion, Quantile, Ratio, quantile_ranks

# Tests by the normal distribution need some units: with fewer in an arm a look judges nothing.
LEAST_UNITS: Final = 50
# With fewer events, or fewer units without one, the variance of an arm follows its own errors too closely.
FEW_EVENTS: Final = 30


@dataclass(frozen=True, slots=True)
class ArmData:
    """One variant against the control on one metric, as summed up to a look; `bins` of a quantile only."""

    metric: Metric
    control: UnitSums
    variant: UnitSums
    control_bins: BinnedUnits | None = None
    variant_bins: BinnedUnits | None = None

    @property
    def n(self) -> tuple[int, int]:
        """Units of control and variant."""
        return self.control.n, self.variant.n

    def statistics(self) -> tuple[Statistic, Statistic]:
        """What the tests take. Raises `UndefinedError` where a quantile has too few units, `StatisticError`."""
        return (
            statistic(self.metric, self.control, self.control_bins),
            statistic(self.metric, self.variant, self.variant_bins),
        )

    def effect(self) -> Effect:
        """The difference. Raises `UndefinedError` where there is none to be tested: see `enough`.

        In a small arm few units have an event, or by chance none; its own variance would then say that it is known
        well, or exactly. So the variance is at least what it would be if the arms were alike.
        """
        enough(self.n)
        arms = self.statistics()
        found = effect(*arms)
        if found.variance <= 0:
            raise UndefinedError("every unit has the same value: there is no variance to test against")
        if self._is_rare() or any(_constant(one) is not None for one in arms):
            found = replace(found, variance=max(found.variance, alike_variance(found)))
        return found

    def _is_rare(self) -> bool:
        """Whether units have 0 or 1, and hardly any of an arm, or nearly all, have a 1."""
        return self.metric.kind in ("proportion", "mean") and any(
            one.y == one.yy and min(one.y, one.n - one.y) < FEW_EVENTS for one in (self.control, self.variant)
        )


def alike_variance(found: Effect) -> float:
    """Of the difference if both arms had one variance: that of all units together (of a proportion, the pooled one)."""
    control, treatment = found.n
    own = found.control_variance * control**2 + (found.variance - found.control_variance) * treatment**2
    between = control * treatment / (control + treatment) * found.estimate**2
    return (own + between) / (control * treatment)


def enough(n: tuple[int, int]) -> None:
    """Raises `UndefinedError` where an arm has too few units for a test."""
    for units, arm in zip(n, ("control", "variant"), strict=True):
        if units < LEAST_UNITS:
            have = {0: "no units", 1: "one unit"}.get(units, f"{units} units")
            raise UndefinedError(f"the {arm} has {have}, a test needs {LEAST_UNITS}")


def statistic(metric: Metric, sums: UnitSums, bins: BinnedUnits | None = None) -> Statistic:
    """One arm's sums as a test wants them.

    Raises `UndefinedError` where too few units bound a quantile, `StatisticError` for sums that cannot be.
    """
    if metric.kind == "quantile":
        if bins is None:
            raise StatisticError(f"metric {metric.name}: a quantile needs its bins")
        return _quantile(metric, bins)
    if metric.kind == "ratio":
        ratio = Ratio(sums.n, sums.y, sums.x, sums.yy, sums.xx, sums.yx)
        if metric.covariate_window is None:
            return ratio
        before = Ratio(sums.n, sums.c, sums.d, sums.cc, sums.dd, sums.cd)
        return CovariedRatio(ratio, before, sums.yc, sums.yd, sums.xc, sums.xd)
    if metric.covariate_window is not None:
        return Covaried(Mean(sums.n, sums.y, sums.yy), Mean(sums.n, sums.c, sums.cc), sums.yc)
    if metric.kind == "proportion":
        return Proportion(sums.n, round(sums.y))
    return Mean(sums.n, sums.y, sums.yy)


def _quantile(metric: Metric, bins: BinnedUnits) -> Quantile:
    if metric.percentile is None:
        raise StatisticError(f"metric {metric.name}: a quantile needs its percentile")
    n, level = bins.n, metric.percentile / 100
    low, high = quantile_ranks(n, level)
    at = [value_at(bins, rank) for rank in (low, min(n, max(1, math.ceil(n * level))), high)]
    return Quantile(n, level, at[1], at[0], at[2])


def value_at(bins: BinnedUnits, rank: int) -> float:
    """The value at a rank, as if a bin's units were spread evenly (on the logarithmic scale) from edge to edge.

    Where many units share a bin, the order statistics around a quantile would else be one number, and the quantile
    would seem to be known exactly. Units that are all in one bin are taken to be alike.
    """
    middle = bins.at_rank(rank)
    if len(bins.values) == 1 or middle == 0:
        return middle
    before = sum(count for value, count in zip(bins.values, bins.counts, strict=True) if value < middle)
    within = bins.counts[bins.values.index(middle)]
    part = (rank - before - 0.5) / within
    # From bin_value's middle the edges lie (1 + gamma) / 2 up and the same by gamma down.
    outer = abs(middle) * (1 + BIN_GAMMA) / 2
    size = outer / BIN_GAMMA ** (1 - part if middle > 0 else part)
    return math.copysign(size, middle)


def planned_effect(found: Effect, size: Size) -> float:
    """The size of effect that is looked for, in the metric's unit; a relative one is of the control's value.

    Raises `UndefinedError` where that value is 0.
    """
    if not size.relative:
        return size.size
    if found.control == 0:
        raise UndefinedError("the control's value is 0, which has no relative effect")
    return size.size * abs(found.control)


def chance_to_win(data: ArmData, found: Effect) -> float | None:
    """How likely the variant beats the control, given the data and a flat prior; None where that has no answer."""
    upwards = data.metric.direction == "increase"
    control, variant = data.statistics()
    if isinstance(control, Proportion) and isinstance(variant, Proportion):
        return bayes.beta_binomial((control, variant), higher_is_better=upwards)[1].chance_to_win
    if found.variance <= 0:
        return None
    return float(special.ndtr((found.estimate if upwards else -found.estimate) / found.standard_error))


def nothing_differs(data: ArmData, margin: float, alpha: float) -> str | None:
    """Why a guardrail holds although nothing varies, or None where that cannot be said.

    All units of both arms have one value. Had one unit in 1 / margin moved, then in n units none would have done so
    with a probability of (1 - margin)^n: at most alpha, and the guardrail holds, at whatever look. Of a metric of
    0 or 1 (an error) this is exact.
    """
    if min(data.n) < LEAST_UNITS:
        return None
    values = [_constant(one) for one in data.statistics()]
    if values[0] is None or values[1] is None or not math.isclose(values[0], values[1]):
        return None
    share = min(margin, 1.0)
    if share < 1 and data.variant.n * math.log1p(-share) > math.log(alpha):
        return None
    return f"all units of both arms have the value {values[0]:.4g}"


def _constant(one: Statistic) -> float | None:
    """The value that all units have, or None."""
    if isinstance(one, Covaried | CovariedRatio):
        one = one.outcome
    if isinstance(one, Proportion | Mean | Ratio) and one.variance == 0:
        return one.value
    return None


def pairs(
    metric: Metric, control: str, variants: Sequence[str], sums: Sequence[UnitSums], bins: Sequence[BinnedUnits]
) -> list[ArmData]:
    """Each variant beside the control; an arm that has nothing yet has zeros."""
    of = {one.variant: one for one in sums if one.metric == metric.name}
    binned = {one.variant: one for one in bins if one.metric == metric.name}
    empty = UnitSums(metric.name, "")

    def arm(name: str) -> tuple[UnitSums, BinnedUnits | None]:
        if metric.kind != "quantile":
            return of.get(name, replace(empty, variant=name)), None
        spread = binned.get(name, BinnedUnits(metric.name, name, (), ()))
        return of.get(name, replace(empty, variant=name, n=spread.n)), spread

    mine, mine_bins = arm(control)
    found = []
    for name in variants:
        theirs, their_bins = arm(name)
        found.append(ArmData(metric, mine, theirs, mine_bins, their_bins))
    return found
