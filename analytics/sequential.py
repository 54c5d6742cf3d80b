"""Group sequential tests: look as often as you like, and be wrong no more often than alpha says.

A plan fixes alpha, the spending function and the information at which the experiment ends. Each look's bound follows
from the information it has in fact: looks need be neither equal nor foreseen. A look beyond the planned information
(over-running) spends what is left of alpha; so does a look that is declared the last although it falls short
(under-running), which may be declared for any reason but what the looks before have shown.
Sources: Lan and DeMets (1983); Jennison and Turnbull (2000), "Group Sequential Methods", "JT" below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from scipy import optimize, special

from analytics.recursion import Recursion
from analytics.results import Alternative, StatisticError, check_alternative, check_level
from analytics.spending import Spending

Classic = Literal["obrien-fleming", "pocock"]

_SHAPES: Final = {"obrien-fleming": 0.0, "pocock": 0.5}


@dataclass(frozen=True, slots=True)
class SequentialPlan:
    """What is fixed before the first look.

    `maximum`: the information (1 / variance of the estimate) at which the experiment is planned to end, in the same
    unit as the looks' information. 1 when looks are given as fractions.
    """

    spending: Spending = field(default_factory=Spending)
    alpha: float = 0.05
    alternative: Alternative = "two-sided"
    maximum: float = 1.0

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        check_alternative(self.alternative)
        if not (math.isfinite(self.maximum) and self.maximum > 0):
            raise StatisticError(f"the planned information must be positive, not {self.maximum}")

    @property
    def sides(self) -> int:
        """2 or 1."""
        return 2 if self.alternative == "two-sided" else 1


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """When to stop: at look k as soon as Z <= `lower[k]` or Z >= `upper[k]`; infinite where there is no bound.

    `fractions` of the planned information; `spent`: alpha used up to and with each look, both sides together;
    `nominal`: the p-value (one- or two-sided, as the plan) a look must reach by itself.
    """

    plan: SequentialPlan
    fractions: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    spent: tuple[float, ...]
    nominal: tuple[float, ...]
    recursion: Recursion = field(repr=False)

    def crossing(self, drift: float = 0.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Probabilities to cross the upper and the lower bound first at each look.

        `drift`: the mean of Z at the planned information (JT 3.1: theta·√I_max).
        """
        upper, lower = [], []
        for look in range(len(self.fractions)):
            upper.append(self.recursion.beyond(look, self.upper[look], drift))
            lower.append(self.recursion.beyond(look, self.lower[look], drift, upper=False))
        return tuple(upper), tuple(lower)

    def power(self, drift: float) -> float:
        """The probability to stop by crossing a bound, either one, at a drift."""
        upper, lower = self.crossing(drift)
        return min(1.0, math.fsum(upper) + math.fsum(lower))

    def expected_fraction(self, drift: float = 0.0) -> float:
        """The expected information at the end, as a fraction of the planned."""
        upper, lower = self.crossing(drift)
        saved = (
            (self.fractions[-1] - fraction) * (up + down)
            for fraction, up, down in zip(self.fractions, upper, lower, strict=True)
        )
        return self.fractions[-1] - math.fsum(saved)


def bounds(plan: SequentialPlan, information: Sequence[float], *, final: bool = False) -> Bounds:
    """The bounds at looks with this information (cumulative, increasing, in the unit of `plan.maximum`).

    Each side of a two-sided test spends alpha / 2 by the function, and its crossing counts only paths that have
    crossed neither side before. `final`: the last look is the last one, whatever its information. A look after all
    of alpha has been spent has no bound. Raises `StatisticError` for information that does not increase.
    """
    if not information:
        raise StatisticError("at least one look is needed")
    fractions = tuple(one / plan.maximum for one in information)
    recursion = Recursion(fractions)
    each = plan.alpha / plan.sides
    lower, upper, spent = [], [], []
    before = 0.0
    for look, fraction in enumerate(fractions):
        last = look == len(fractions) - 1
        now = each if final and last else plan.spending.spent(fraction, each)
        bound = recursion.solve(look, now - before, upper=plan.alternative != "less")
        upper.append(math.inf if plan.alternative == "less" else bound)
        lower.append(-math.inf if plan.alternative == "greater" else -bound)
        spent.append(now * plan.sides)
        if not last:
            recursion.proceed(lower[-1], upper[-1])
        before = now
    return Bounds(
        plan=plan,
        fractions=fractions,
        lower=tuple(lower),
        upper=tuple(upper),
        spent=tuple(spent),
        nominal=_nominal(plan.sides, lower, upper),
        recursion=recursion,
    )


def classic_bounds(kind: Classic, looks: int, *, alpha: float = 0.05, alternative: Alternative = "two-sided") -> Bounds:
    """O'Brien and Fleming's (1979) or Pocock's (1977) own bounds for equally spaced looks (JT tables 2.3 and 2.1).

    These fix the number of looks; prefer a spending function, which does not.
    """
    if kind not in _SHAPES:
        raise StatisticError(f"classic bounds are {' or '.join(_SHAPES)}, not {kind!r}")
    return shaped_bounds(_SHAPES[kind], equal_looks(looks), alpha=alpha, alternative=alternative)


def shaped_bounds(
    shape: float, fractions: Sequence[float], *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Bounds:
    """Wang and Tsiatis' (1987) bounds: C·t^(shape - 1/2) at fractions t, C such that all looks together spend alpha.

    Shape 0 is O'Brien and Fleming's, 1/2 Pocock's. The fractions must be known beforehand; their last is 1.
    """
    plan = SequentialPlan(alpha=alpha, alternative=alternative)
    each = alpha / plan.sides

    def walk(constant: float) -> tuple[Recursion, list[float]]:
        reach = [constant * fraction ** (shape - 0.5) for fraction in fractions]
        recursion = Recursion(fractions)
        for bound in reach[:-1]:
            recursion.proceed(
                -math.inf if alternative == "greater" else -bound, math.inf if alternative == "less" else bound
            )
        return recursion, reach

    def spent(constant: float) -> list[float]:
        recursion, reach = walk(constant)
        upper = alternative != "less"
        return [recursion.beyond(look, bound if upper else -bound, upper=upper) for look, bound in enumerate(reach)]

    start = float(-special.ndtri(each))
    constant = start
    if len(fractions) > 1:
        constant = float(optimize.brentq(lambda one: math.fsum(spent(one)) - each, start * 0.5, start + 8, xtol=1e-10))
    recursion, reach = walk(constant)
    crossing = spent(constant)
    upper = [math.inf if alternative == "less" else bound for bound in reach]
    lower = [-math.inf if alternative == "greater" else -bound for bound in reach]
    return Bounds(
        plan=plan,
        fractions=tuple(fractions),
        lower=tuple(lower),
        upper=tuple(upper),
        spent=tuple(math.fsum(crossing[: look + 1]) * plan.sides for look in range(len(fractions))),
        nominal=_nominal(plan.sides, lower, upper),
        recursion=recursion,
    )


def fixed_drift(alpha: float, power: float, alternative: Alternative = "two-sided") -> float:
    """The mean of Z that a test with one look needs for its power: z(alpha) + z(power), the far side neglected."""
    tail = alpha / 2 if alternative == "two-sided" else alpha
    return float(special.ndtri(check_level("power", power)) - special.ndtri(check_level("alpha", tail)))


def drift_for_power(of: Bounds, power: float) -> float:
    """The mean of Z at the planned information for which these bounds have this power (JT 3.1).

    Negative for the alternative `less`. Raises `StatisticError` for a power not between alpha and 1.
    """
    check_level("power", power)
    if power <= of.plan.alpha:
        raise StatisticError(f"a power of {power} is no more than alpha {of.plan.alpha}")
    sign = -1.0 if of.plan.alternative == "less" else 1.0
    found = optimize.brentq(lambda drift: of.power(sign * drift) - power, 0.0, 12.0, xtol=1e-10)
    return sign * float(found)


def inflation(of: Bounds, power: float) -> float:
    """By how much the planned information must exceed that of a test with one look for the same power (JT, R).

    (drift / (z(alpha) + z(power)))², at least 1.
    """
    return (drift_for_power(of, power) / fixed_drift(of.plan.alpha, power, of.plan.alternative)) ** 2


def equal_looks(looks: int) -> tuple[float, ...]:
    """Fractions of so many equally spaced looks."""
    if looks < 1:
        raise StatisticError(f"at least one look is needed, not {looks}")
    return tuple(look / looks for look in range(1, looks + 1))


def _nominal(sides: int, lower: Sequence[float], upper: Sequence[float]) -> tuple[float, ...]:
    edges = (min(up, -low) for low, up in zip(lower, upper, strict=True))
    return tuple(min(1.0, sides * float(special.ndtr(-edge))) for edge in edges)
