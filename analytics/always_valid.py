"""Tests that may be looked at after every unit, for ever: no plan, no number of looks, no last one.

Both methods bound a normal mixture martingale by Ville's inequality: the chance that it ever exceeds 1 / alpha is at
most alpha. Price: intervals about half as wide again as those of a test that looks once, at the information they are
tuned for. The p-value is the smallest so far and the interval what all intervals so far share, so neither gets worse
by looking on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from analytics.results import Alternative, Interval, Result, StatisticError, check_alternative, check_level
from analytics.sequential_analysis import Look

_LOG_TWO: Final = math.log(2)


@dataclass(frozen=True, slots=True)
class MixtureSprt:
    """The mixture sequential probability ratio test with a normal mixing distribution.

    Johari, Pekelis, Walsh (2015, arXiv 1512.04922): with V = 1 / information the ratio is
    √(V / (V + tau²))·exp(tau²·estimate² / (2V(V + tau²))), the p-value 1 / ratio. `deviation` (tau) is about the size
    of effects that are expected, in the unit of the estimate; it is fixed beforehand and only efficiency depends on it.
    """

    deviation: float
    alpha: float = 0.05

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        if not (math.isfinite(self.deviation) and self.deviation > 0):
            raise StatisticError(f"the mixing deviation must be positive, not {self.deviation}")

    def log_ratio(self, information: float, estimate: float) -> float:
        """The logarithm of the mixture likelihood ratio against no effect."""
        prior = information * self.deviation**2
        return 0.5 * (information * estimate**2 * prior / (1.0 + prior) - math.log1p(prior))

    def half_width(self, information: float) -> float:
        """Of the confidence sequence at this information."""
        prior = information * self.deviation**2
        return math.sqrt((1.0 + prior) / prior * (math.log1p(prior) - 2.0 * math.log(self.alpha)) / information)

    def watch(self, looks: Sequence[Look]) -> Result:
        """Judge all looks so far; valid at any look, whatever made one look. Raises `StatisticError` without one."""
        p_value, interval = 1.0, Interval(-math.inf, math.inf)
        for look in _checked(looks):
            p_value = min(p_value, math.exp(min(0.0, -self.log_ratio(look.information, look.estimate))))
            half = self.half_width(look.information)
            interval = _narrowed(interval, look.estimate - half, look.estimate + half)
        return _result("mixture SPRT", looks[-1], self.alpha, "two-sided", interval, p_value)


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2021, arXiv 2103.06476).

    With m = `rho2` · information / `tuned_for`, in standard errors the half width is, two-sided (version 7, eq. 9),
    √(2(m + 1) / m · log(√(m + 1) / alpha)), and one-sided, where only effects in one direction are mixed over,
    √(2(m + 1) / m · log(1 + √(m + 1) / 2alpha)).

    `tuned_for`: the information at which the interval is to be narrow (that of the planned size is a good choice; fixed
    beforehand). `start`: looks with less information are not used, since the guarantee holds for many units only.
    """

    tuned_for: float
    alpha: float = 0.05
    alternative: Alternative = "two-sided"
    start: float = 0.0

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        check_alternative(self.alternative)
        if not (math.isfinite(self.tuned_for) and self.tuned_for > 0):
            raise StatisticError(f"the information to tune for must be positive, not {self.tuned_for}")

    @property
    def rho2(self) -> float:
        """-2·log(a) + log(1 - 2·log(a)) with a = alpha, one-sided 2·alpha: nearly the narrowest (eq. 161)."""
        # A one-sided alpha of 1/2 or more leaves nothing to tune.
        level = self.alpha if self.alternative == "two-sided" else min(2.0 * self.alpha, 0.5)
        tail = -2.0 * math.log(level)
        return tail + math.log1p(tail)

    def half_width(self, information: float) -> float:
        """How far the sequence reaches from the estimate at this information."""
        mixed = information / self.tuned_for * self.rho2
        root = math.sqrt(mixed + 1.0)
        two_sided = self.alternative == "two-sided"
        log = math.log(root / self.alpha) if two_sided else math.log1p(root / (2.0 * self.alpha))
        return math.sqrt(2.0 * (mixed + 1.0) / mixed * log / information)

    def p_value(self, information: float, estimate: float) -> float:
        """The smallest alpha whose sequence (tuned as this one) excludes 0 at this look."""
        mixed = information / self.tuned_for * self.rho2
        exponent = information * estimate**2 * mixed / (2.0 * (mixed + 1.0))
        if self.alternative == "two-sided":
            return math.exp(min(0.0, 0.5 * math.log1p(mixed) - exponent))
        if (estimate > 0) != (self.alternative == "greater") or exponent == 0:
            return 1.0
        # exp(x) - 1 by its logarithm, which does not overflow.
        log_rise = exponent + math.log(-math.expm1(-exponent))
        return math.exp(min(0.0, 0.5 * math.log1p(mixed) - _LOG_TWO - log_rise))

    def watch(self, looks: Sequence[Look]) -> Result:
        """Judge all looks so far; valid at any look, whatever made one look. Raises `StatisticError` without one."""
        p_value, interval, used = 1.0, Interval(-math.inf, math.inf), 0
        for look in _checked(looks):
            if look.information < self.start:
                continue
            used += 1
            p_value = min(p_value, self.p_value(look.information, look.estimate))
            half = self.half_width(look.information)
            low = -math.inf if self.alternative == "less" else look.estimate - half
            high = math.inf if self.alternative == "greater" else look.estimate + half
            interval = _narrowed(interval, low, high)
        name = "asymptotic confidence sequence"
        if not used:
            reason = f"no look has the information {self.start:g} yet at which the sequence starts"
            last = looks[-1]
            return Result(
                method=name,
                n=last.n,
                alpha=self.alpha,
                alternative=self.alternative,
                scale=last.scale,
                values=last.values,
                estimate=last.estimate,
                reason=reason,
            )
        return _result(name, looks[-1], self.alpha, self.alternative, interval, p_value)


def _checked(looks: Sequence[Look]) -> Sequence[Look]:
    if not looks:
        raise StatisticError("at least one look is needed")
    return looks


def _narrowed(interval: Interval, low: float, high: float) -> Interval:
    """What both share. Where nothing is left (at most alpha of all sequences) the newest stands."""
    found = Interval(low, high)
    return interval.intersect(found) or found


def _result(
    method: str, look: Look, alpha: float, alternative: Alternative, interval: Interval, p_value: float
) -> Result:
    return Result(
        method=method,
        n=look.n,
        alpha=alpha,
        alternative=alternative,
        scale=look.scale,
        values=look.values,
        estimate=look.estimate,
        interval=interval,
        p_value=p_value,
        statistic=look.statistic,
        standard_error=1.0 / math.sqrt(look.information),
    )
