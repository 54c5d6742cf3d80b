"""How many units an experiment needs, how long that takes, and what it could find with fewer.

Every answer names its formula. Sizes are units (what is randomised) an arm; information of the sequential design
counts through its inflation factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from scipy import optimize, special

from analytics.results import (
    Alternative,
    Scale,
    StatisticError,
    check_alternative,
    check_level,
    check_scale,
    check_shares,
)

ProportionFormula = Literal["unpooled", "pooled"]

MINIMUM_RUNTIME: Final = timedelta(hours=24)
_LARGEST: Final = 1e15


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the experiment is to be able to find.

    `effect`: the smallest difference worth finding (MDE), in the metric's unit, not 0; its sign is the direction.
    `shares`: of the arms, control first (parts of any total). `inflation`: of the sequential design, see
    `sequential.inflation`.
    """

    effect: float
    alpha: float = 0.05
    power: float = 0.8
    alternative: Alternative = "two-sided"
    shares: tuple[float, ...] = (1.0, 1.0)
    inflation: float = 1.0

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        check_level("power", self.power)
        check_alternative(self.alternative)
        check_shares(self.shares)
        if not math.isfinite(self.effect) or self.effect == 0:
            raise StatisticError(f"the effect to find must be a number other than 0, not {self.effect}")
        if not (math.isfinite(self.inflation) and self.inflation >= 1):
            raise StatisticError(f"the inflation of a design is at least 1, not {self.inflation}")
        if self.power <= self.alpha:
            raise StatisticError(f"a power of {self.power} is no more than alpha {self.alpha}")
        if (self.alternative == "greater" and self.effect < 0) or (self.alternative == "less" and self.effect > 0):
            raise StatisticError(
                f"an effect of {self.effect} is not what the alternative {self.alternative!r} looks for"
            )

    @property
    def quantiles(self) -> tuple[float, float]:
        """z(alpha) (or of alpha / 2) and z(power)."""
        tail = self.alpha / 2 if self.alternative == "two-sided" else self.alpha
        return float(-special.ndtri(tail)), float(special.ndtri(self.power))


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Units an arm, in the order of the shares (control first), and the formula that says so."""

    arms: tuple[int, ...]
    formula: str
    effect: float
    alpha: float
    power: float
    alternative: Alternative
    inflation: float

    @property
    def total(self) -> int:
        """Units in all arms."""
        return sum(self.arms)

    @property
    def control(self) -> int:
        """Units in the control."""
        return self.arms[0]

    @property
    def smallest_treatment(self) -> int:
        """Units in the smallest treatment, which is what every treatment needs."""
        return min(self.arms[1:])


def absolute_effect(baseline: float, mde: float, scale: Scale) -> float:
    """The effect in the metric's unit: 10% of a baseline of 0.05 is 0.005. Raises for a relative one of 0."""
    check_scale(scale)
    if scale == "relative" and baseline == 0:
        raise StatisticError("a baseline of 0 has no relative effect: give an absolute one")
    return mde * abs(baseline) if scale == "relative" else mde


def proportion_size(baseline: float, need: Requirement, formula: ProportionFormula = "unpooled") -> SampleSize:
    """For two proportions p1 (baseline) and p2 = p1 + effect, with r treatment units for each in the control.

    - unpooled: n1 = (z_a + z_b)²·(p1·q1 + p2·q2 / r) / effect² (Chow, Shao, Wang 2008, "Sample Size Calculations in
      Clinical Research", section 4.2);
    - pooled: n1 = (z_a·√(p·q·(1 + 1 / r)) + z_b·√(p1·q1 + p2·q2 / r))² / effect², p the arms' weighted mean (Fleiss,
      Levin, Paik 2003, "Statistical Methods for Rates and Proportions", chapter 4, no continuity correction).

    The pooled one belongs to the test that `statistics.compare` makes; they differ little. Raises `StatisticError`
    for proportions outside 0 to 1.
    """
    if formula not in ("unpooled", "pooled"):
        raise StatisticError(f"formula must be unpooled or pooled, not {formula!r}")
    _check_proportions(baseline, baseline + need.effect)
    return _size(need, lambda ratio: _proportion_units(baseline, need, ratio, formula), f"two proportions, {formula}")


def mean_size(deviation: float, need: Requirement, treatment_deviation: float | None = None) -> SampleSize:
    """For two means: n1 = (z_a + z_b)²·(sd1² + sd2² / r) / effect² (Chow, Shao, Wang 2008, section 3.2, normal).

    `deviation`: the standard deviation of a unit's value (the treatment's too, unless given). With CUPED that of the
    adjusted value: sd·√(1 - correlation²). Raises `StatisticError` for a deviation that is not positive.
    """
    other = deviation if treatment_deviation is None else treatment_deviation
    for one in (deviation, other):
        if not (math.isfinite(one) and one > 0):
            raise StatisticError(f"a standard deviation must be positive, not {one}")
    return _size(need, lambda ratio: _mean_units(deviation**2, other**2, need, ratio), "two means, normal")


def ratio_size(residual_variance: float, mean_denominator: float, need: Requirement) -> SampleSize:
    """For a ratio metric: as two means with the delta method's variance of a unit, residual / mean denominator².

    `residual_variance`: of a unit's numerator - ratio · denominator (`Ratio.residual_variance`). Raises
    `StatisticError` for a variance that is not positive or a mean denominator of 0.
    """
    if not (math.isfinite(residual_variance) and residual_variance > 0):
        raise StatisticError(f"a residual variance must be positive, not {residual_variance}")
    if not math.isfinite(mean_denominator) or mean_denominator == 0:
        raise StatisticError(f"a mean denominator must be a number other than 0, not {mean_denominator}")
    variance = residual_variance / mean_denominator**2
    return _size(need, lambda ratio: _mean_units(variance, variance, need, ratio), "ratio of sums, delta method")


def proportion_power(baseline: float, arms: Sequence[int], need: Requirement) -> float:
    """The power of the two-proportion z test (pooled) with so many units, control first; the smallest treatment counts.

    `need.power` is not looked at; with an inflation the arms count for as much less.
    """
    treatment = baseline + need.effect
    _check_proportions(baseline, treatment)
    n1, n2 = _pair(arms, need)
    pooled = (n1 * baseline + n2 * treatment) / (n1 + n2)
    null = math.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    error = math.sqrt(baseline * (1 - baseline) / n1 + treatment * (1 - treatment) / n2)
    return _power(need, null, error)


def mean_power(deviation: float, arms: Sequence[int], need: Requirement) -> float:
    """The power of a z test of two means with so many units; for a ratio metric take √(variance of a unit)."""
    n1, n2 = _pair(arms, need)
    error = deviation * math.sqrt(1 / n1 + 1 / n2)
    return _power(need, error, error)


def proportion_mde(baseline: float, control: int, need: Requirement, formula: ProportionFormula = "unpooled") -> float:
    """The smallest absolute effect, in the direction of `need.effect`, that `control` units can find.

    Raises `StatisticError` where even the largest possible effect is out of reach.
    """
    sign = math.copysign(1.0, need.effect)
    room = 1 - baseline if sign > 0 else baseline

    def miss(size: float) -> float:
        wanted = _with_effect(need, sign * size)
        return max(_units(wanted, lambda ratio: _proportion_units(baseline, wanted, ratio, formula))) - control

    if miss(room * (1 - 1e-12)) > 0:
        raise StatisticError(f"{control} units cannot find any effect on a baseline of {baseline}")
    return sign * float(optimize.brentq(miss, room * 1e-9, room * (1 - 1e-12), xtol=1e-15))


def mean_mde(deviation: float, control: int, need: Requirement) -> float:
    """The smallest absolute effect, in the direction of `need.effect`, that `control` units can find."""
    at_one = max(_units(need, lambda ratio: _mean_units(deviation**2, deviation**2, need, ratio)))
    return need.effect * math.sqrt(at_one / control)


def proportion_curve(
    baseline: float, arms: Sequence[int], need: Requirement, points: int = 25
) -> tuple[tuple[float, float], ...]:
    """(effect, power) at evenly spaced effects from none to twice the wanted, or as far as a proportion can go."""
    room = (1.0 - baseline if need.effect > 0 else baseline) * (1 - 1e-9)
    largest = math.copysign(min(2.0 * abs(need.effect), room), need.effect)
    return _curve(lambda at: proportion_power(baseline, arms, at), need, largest, points)


def mean_curve(
    deviation: float, arms: Sequence[int], need: Requirement, points: int = 25
) -> tuple[tuple[float, float], ...]:
    """(effect, power) of two means (or ratios, see `mean_power`) from no effect to twice the wanted."""
    return _curve(lambda at: mean_power(deviation, arms, at), need, 2.0 * need.effect, points)


def _curve(
    power: Callable[[Requirement], float], need: Requirement, largest: float, points: int
) -> tuple[tuple[float, float], ...]:
    if points < 2:
        raise StatisticError(f"a curve needs at least two points, not {points}")
    effects = [largest * point / (points - 1) for point in range(points)]
    # At no effect the power is alpha.
    return tuple((one, power(_with_effect(need, one)) if one else need.alpha) for one in effects)


@dataclass(frozen=True, slots=True)
class Duration:
    """How long an experiment runs: `needed` by its size, `planned` no less than the minimum runtime."""

    needed: timedelta
    planned: timedelta
    reason: str


def duration(
    size: SampleSize, units_per_second: float, share: float = 1.0, minimum: timedelta = MINIMUM_RUNTIME
) -> Duration:
    """How long it takes to see so many units, when `share` of `units_per_second` new units enters the experiment.

    Never shorter than `minimum`, as users of an hour are not the users of a day. Raises `StatisticError` for a rate
    that is not positive or a share outside 0 to 1.
    """
    if not (math.isfinite(units_per_second) and units_per_second > 0):
        raise StatisticError(f"the rate must be positive, not {units_per_second}")
    if not 0 < share <= 1:
        raise StatisticError(f"the share must lie above 0 and at most at 1, not {share}")
    seconds = size.total / (units_per_second * share)
    if seconds > timedelta.max.total_seconds() / 2:
        raise StatisticError(f"{size.total} units at {units_per_second * share:g} a second take {seconds:.1e} seconds")
    needed = timedelta(seconds=math.ceil(seconds))
    if needed < minimum:
        return Duration(needed, minimum, f"the minimum runtime of {_hours(minimum)}, although {needed} would be enough")
    return Duration(needed, needed, f"{size.total} units at {units_per_second * share:g} a second")


def _hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:g} hours"


def _check_proportions(*values: float) -> None:
    for one in values:
        if not 0 < one < 1:
            raise StatisticError(f"a proportion must lie between 0 and 1, not {one:g}")


def _with_effect(need: Requirement, effect: float) -> Requirement:
    return Requirement(effect, need.alpha, need.power, need.alternative, need.shares, need.inflation)


def _proportion_units(baseline: float, need: Requirement, ratio: float, formula: ProportionFormula) -> float:
    reach, beyond = need.quantiles
    other = baseline + need.effect
    own = baseline * (1 - baseline) + other * (1 - other) / ratio
    if formula == "unpooled":
        return (reach + beyond) ** 2 * own / need.effect**2
    pooled = (baseline + ratio * other) / (1 + ratio)
    null = pooled * (1 - pooled) * (1 + 1 / ratio)
    return (reach * math.sqrt(null) + beyond * math.sqrt(own)) ** 2 / need.effect**2


def _mean_units(variance: float, other: float, need: Requirement, ratio: float) -> float:
    reach, beyond = need.quantiles
    return (reach + beyond) ** 2 * (variance + other / ratio) / need.effect**2


def _units(need: Requirement, control: Callable[[float], float]) -> list[float]:
    """Units of the control that each treatment's share asks for (`control` takes treatment units to one of control)."""
    shares = check_shares(need.shares)
    return [control(one / shares[0]) * need.inflation for one in shares[1:]]


def _size(need: Requirement, control: Callable[[float], float], formula: str) -> SampleSize:
    largest = max(_units(need, control))
    shares = check_shares(need.shares)
    if not largest * sum(shares) / shares[0] < _LARGEST:
        raise StatisticError(f"an effect of {need.effect:g} needs {largest:.1e} units: it is too small to be found")
    arms = tuple(_ceil(largest * one / shares[0]) for one in shares)
    return SampleSize(arms, formula, need.effect, need.alpha, need.power, need.alternative, need.inflation)


def _ceil(units: float) -> int:
    # A number of units that is whole but for rounding is not rounded up.
    return max(2, math.ceil(units * (1 - 1e-12)))


def _pair(arms: Sequence[int], need: Requirement) -> tuple[float, float]:
    if len(arms) < 2 or min(arms) < 1:
        raise StatisticError(f"a control and a treatment need units, not {list(arms)}")
    return arms[0] / need.inflation, min(arms[1:]) / need.inflation


def _power(need: Requirement, null: float, error: float) -> float:
    reach, _ = need.quantiles
    effect = abs(need.effect)
    near = float(special.ndtr((effect - reach * null) / error))
    far = float(special.ndtr((-effect - reach * null) / error)) if need.alternative == "two-sided" else 0.0
    return near + far
