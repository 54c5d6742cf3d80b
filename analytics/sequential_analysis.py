"""What a group sequential test says at a look: go on or stop, and with what estimate, interval and p-value.

While the test goes on, the interval is the repeated one, which holds at all looks together, whether or not the test
stops when it should. When it has ended, p-value, estimate and interval are adjusted for where it ended: the plain
estimate of a test that stopped early is too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scipy import optimize

from analytics.effects import Effect
from analytics.results import Interval, Result, Scale, StatisticError, UndefinedError
from analytics.sequential import Bounds, SequentialPlan, bounds

Direction = Literal["upper", "lower"]

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Look:
    """All data up to one look: an approximately normal estimate and its information, 1 / standard error²."""

    information: float
    estimate: float
    n: tuple[int, ...] = ()
    values: tuple[float, ...] | None = None
    scale: Scale = "absolute"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.information) and self.information > 0):
            raise StatisticError(f"a look's information must be positive, not {self.information}")
        if not math.isfinite(self.estimate):
            raise StatisticError(f"a look's estimate must be a number, not {self.estimate}")

    @classmethod
    def of(cls, effect: Effect) -> Look:
        """A look at an absolute difference. Raises `UndefinedError` where nothing varies."""
        return cls(effect.information, effect.estimate, effect.n, (effect.control, effect.treatment))

    @classmethod
    def at(cls, result: Result) -> Look:
        """A look at any estimate that has a standard error, a relative lift too. Raises `UndefinedError` otherwise."""
        information = result.information
        if result.estimate is None or information is None:
            raise UndefinedError(result.reason or "there is no estimate with a standard error to look at")
        return cls(information, result.estimate, result.n, result.values, result.scale)

    @property
    def statistic(self) -> float:
        """Z, the estimate by its standard error."""
        return self.estimate * math.sqrt(self.information)


def growing(looks: Sequence[Look], least: float = 1e-4) -> tuple[Look, ...]:
    """The looks that have more information than all before, by a share of at least `least`; the others are left out.

    Information can stand still (nothing new) and even shrink (one very large value raises the variance). Looks are
    chosen by their information alone, whatever they estimate, so that error rates stand.
    """
    kept: list[Look] = []
    for look in looks:
        if not kept or look.information > kept[-1].information * (1.0 + least):
            kept.append(look)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Stagewise:
    """p-value, median-unbiased estimate and interval of a test that ended; both in units of drift."""

    p_value: float
    estimate: float
    interval: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Monitoring:
    """Where a group sequential test stands after its looks.

    `ended_at`: the look (from 0) that ended it, by crossing a bound, by reaching the planned information or by being
    declared final; None while it goes on. `crossed`: which bound, if any. `repeated`: the repeated confidence
    intervals, one a look. `result`: of the ending look, or the latest.
    """

    bounds: Bounds
    ended_at: int | None
    crossed: Direction | None
    repeated: tuple[Interval, ...]
    result: Result


def monitor(plan: SequentialPlan, looks: Sequence[Look], *, final: bool = False) -> Monitoring:
    """Judge a test by all its looks so far; `final` declares the last of them the last.

    What comes after the look that ended the test changes nothing. Raises `StatisticError` where there is no look, or
    one with no more information than the look before (see `growing`).
    """
    if not looks:
        raise StatisticError("at least one look is needed")
    found = bounds(plan, [look.information for look in looks], final=final)
    ended, crossed = _end(found, looks, final)
    repeated = tuple(_repeated(plan, found, number, look) for number, look in enumerate(looks))
    now = len(looks) - 1 if ended is None else ended
    look = looks[now]
    result = Result(
        method=f"group sequential, {plan.spending.name} spending",
        n=look.n,
        alpha=plan.alpha,
        alternative=plan.alternative,
        scale=look.scale,
        values=look.values,
        estimate=look.estimate,
        interval=repeated[now],
        statistic=look.statistic,
        standard_error=1.0 / math.sqrt(look.information),
    )
    if ended is None:
        p_value = repeated_p_value(plan, looks, final=final)
        return Monitoring(
            found, ended, crossed, repeated, result.with_p_value(p_value, "repeated p-value and interval")
        )
    adjusted = stagewise(found, now, look.statistic)
    unit = math.sqrt(plan.maximum)
    result = replace(
        result,
        estimate=adjusted.estimate / unit,
        interval=Interval(adjusted.interval.low / unit, adjusted.interval.high / unit),
    )
    return Monitoring(
        found, ended, crossed, repeated, result.with_p_value(adjusted.p_value, "stagewise p-value and interval")
    )


def stagewise(of: Bounds, look: int, statistic: float) -> Stagewise:
    """Inference for a test that ended at a look (from 0) with this Z, in the stagewise ordering of outcomes.

    An outcome is the more extreme, the earlier a bound was crossed, and at one look the larger Z is (Tsiatis, Rosner,
    Mehta 1984; JT 8.4 and 8.5). The p-value is the probability of an outcome as extreme without an effect, the estimate
    the drift at which the outcome is the median, the interval holds the drifts at which it is not in either tail.
    Estimate and interval are drifts: the mean of Z at the planned information; divide by the square root of that.
    """
    alternative, alpha = of.plan.alternative, of.plan.alpha

    def tails(drift: float) -> tuple[float, float]:
        """Probabilities of at least and of at most this outcome; the smaller one is the exact one."""
        upper = statistic > of.lower[look]
        edges = of.upper if upper else of.lower
        beyond = of.recursion.beyond(look, statistic, drift, upper=upper)
        beyond += math.fsum(of.recursion.beyond(one, edges[one], drift, upper=upper) for one in range(look))
        beyond = min(1.0, beyond)
        return (beyond, 1.0 - beyond) if upper else (1.0 - beyond, beyond)

    def drift_at(above: float) -> float:
        centre, unit = statistic / math.sqrt(of.fractions[look]), 1.0 / math.sqrt(of.fractions[look])
        step = unit
        while tails(centre - step)[0] > above or tails(centre + step)[0] < above:
            step *= 2
            if step > 64 * unit:
                raise UndefinedError(f"a statistic of {statistic:g} at look {look + 1} is beyond what can be adjusted")
        return float(optimize.brentq(lambda drift: tails(drift)[0] - above, centre - step, centre + step, xtol=1e-10))

    at_least, at_most = tails(0.0)
    estimate = drift_at(0.5)
    if alternative == "greater":
        return Stagewise(at_least, estimate, Interval(drift_at(alpha), math.inf))
    if alternative == "less":
        return Stagewise(at_most, estimate, Interval(-math.inf, drift_at(1.0 - alpha)))
    interval = Interval(drift_at(alpha / 2), drift_at(1.0 - alpha / 2))
    return Stagewise(min(1.0, 2.0 * min(at_least, at_most)), estimate, interval)


def repeated_p_value(plan: SequentialPlan, looks: Sequence[Look], *, final: bool = False) -> float:
    """The smallest alpha with which the looks so far would have stopped the test (JT 9.4); at most 1.

    Valid at every look, whatever made one look; as it holds for all looks together it is larger than the stagewise one.
    """
    statistics = [_towards(plan, look.statistic) for look in looks]
    information = [look.information for look in looks]

    def excess(alpha: float) -> float:
        found = bounds(replace(plan, alpha=alpha), information, final=final)
        edges = found.upper if plan.alternative != "less" else tuple(-one for one in found.lower)
        return max(z - edge if math.isfinite(edge) else -1e3 for z, edge in zip(statistics, edges, strict=True))

    if excess(1.0 - 1e-9) < 0:
        return 1.0
    if excess(_TINY) >= 0:
        return _TINY
    exponent = optimize.brentq(lambda power: excess(math.exp(power)), math.log(_TINY), math.log1p(-1e-9), xtol=1e-7)
    return min(1.0, math.exp(float(exponent)))


def _towards(plan: SequentialPlan, statistic: float) -> float:
    """How far Z is in the direction the test looks in."""
    return {"two-sided": abs(statistic), "greater": statistic, "less": -statistic}[plan.alternative]


def _end(found: Bounds, looks: Sequence[Look], final: bool) -> tuple[int | None, Direction | None]:
    for number, look in enumerate(looks):
        if look.statistic >= found.upper[number]:
            return number, "upper"
        if look.statistic <= found.lower[number]:
            return number, "lower"
        if found.fractions[number] >= 1 or (final and number == len(looks) - 1):
            return number, None
    return None, None


def _repeated(plan: SequentialPlan, found: Bounds, number: int, look: Look) -> Interval:
    """The repeated confidence interval: estimate ± bound · standard error (Jennison and Turnbull 1989; JT 9.2)."""
    error = 1.0 / math.sqrt(look.information)
    low = -math.inf if plan.alternative == "less" else look.estimate - found.upper[number] * error
    high = math.inf if plan.alternative == "greater" else look.estimate - found.lower[number] * error
    return Interval(low, high)
