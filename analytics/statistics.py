"""Is the treatment different from the control: the tests that look once, at two arms' sufficient statistics.

Which test it is follows from the statistic: `Proportion` the two-proportion z, `Mean` Welch's t, `Ratio` the
delta method, `Covaried` and `CovariedRatio` CUPED, `Strata` post-stratification, `Quantile` the order-statistic z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from scipy import special, stats

from analytics.effects import Effect, Statistic, effect
from analytics.results import (
    Alternative,
    Interval,
    Result,
    Scale,
    StatisticError,
    UndefinedError,
    check_alternative,
    check_level,
    check_scale,
)
from analytics.sufficient import Covaried, CovariedRatio, Mean, Proportion, Quantile, Ratio, Strata

Relative = Literal["fieller", "delta"]
Verdict = Literal["holds", "breached", "undecided"]

_CONSTANT: Final = "every unit of both arms has the same value: there is no variance to test against"
_NAMES: Final = {
    Proportion: "two-proportion z",
    Mean: "Welch t",
    Ratio: "delta-method ratio z",
    Covaried: "CUPED, Welch t",
    CovariedRatio: "CUPED, delta-method ratio z",
    Strata: "post-stratified z",
    Quantile: "quantile z",
}


def compare(
    control: Statistic,
    treatment: Statistic,
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    scale: Scale = "absolute",
    relative: Relative = "fieller",
) -> Result:
    """Test that both arms are alike, and bound their difference.

    Proportions: the test pools the arms' variance, as the null hypothesis says they are alike; the interval does not
    (Wald), as it speaks of arms that may differ. So within a hair of alpha the two may disagree.

    `scale="relative"` bounds (treatment - control) / |control|. The p-value stays that of the absolute test, as
    both ask the same. The interval is Fieller's (1954), which holds however noisy the control's value is and
    contains 0 exactly when the (unpooled) absolute interval does; the delta method's (`relative="delta"`) is
    symmetric, usual elsewhere, and too narrow where the control's value is near 0.

    Raises `StatisticError` for arms of different kinds or parameters out of range. What the data do not say is None
    in the result, with a reason.
    """
    check_level("alpha", alpha)
    check_alternative(alternative)
    check_scale(scale)
    if relative not in ("fieller", "delta"):
        raise StatisticError(f"relative must be fieller or delta, not {relative!r}")
    try:
        found = effect(control, treatment)
    except UndefinedError as error:
        return Result(
            method=_NAMES[type(control)],
            n=(control.n, treatment.n),
            alpha=alpha,
            alternative=alternative,
            scale=scale,
            values=_values(control, treatment),
            reason=str(error),
        )
    return judge(found, alpha=alpha, alternative=alternative, scale=scale, relative=relative)


def judge(
    found: Effect,
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    scale: Scale = "absolute",
    relative: Relative = "fieller",
) -> Result:
    """As `compare`, of an effect that is known already."""
    method = _method(found, scale, relative)
    estimate = found.estimate if scale == "absolute" else _lift(found)
    values = (found.control, found.treatment)
    if found.null_variance <= 0:
        return Result(
            method=method,
            n=found.n,
            alpha=alpha,
            alternative=alternative,
            scale=scale,
            values=values,
            estimate=estimate,
            degrees=found.degrees,
            reason=_CONSTANT if found.estimate == 0 else "neither arm varies: there is no variance to test against",
        )
    statistic = found.estimate / math.sqrt(found.null_variance)
    interval, reason = _interval(found, alpha, alternative, scale, relative)
    return Result(
        method=method,
        n=found.n,
        alpha=alpha,
        alternative=alternative,
        scale=scale,
        values=values,
        estimate=estimate,
        interval=interval,
        p_value=p_value(statistic, found.degrees, alternative),
        statistic=statistic,
        standard_error=_standard_error(found, scale),
        degrees=found.degrees,
        reason=reason,
    )


def p_value(statistic: float, degrees: float, alternative: Alternative) -> float:
    """Of a statistic that is t (infinite degrees: normal) distributed."""
    if math.isinf(degrees):
        upper, lower = float(special.ndtr(-statistic)), float(special.ndtr(statistic))
    else:
        upper, lower = float(stats.t.sf(statistic, degrees)), float(stats.t.cdf(statistic, degrees))
    return {"two-sided": min(1.0, 2 * min(upper, lower)), "greater": upper, "less": lower}[alternative]


def critical(alpha: float, degrees: float, alternative: Alternative) -> float:
    """The quantile that an interval at level 1 - alpha reaches out by."""
    tail = alpha / 2 if alternative == "two-sided" else alpha
    return float(-special.ndtri(tail)) if math.isinf(degrees) else float(stats.t.isf(tail, degrees))


def _values(*arms: Statistic) -> tuple[float, ...] | None:
    """The arms' plain values, where each has one."""
    found = []
    for arm in arms:
        plain = arm.outcome if isinstance(arm, CovariedRatio) else arm
        if isinstance(plain, Strata) or plain.n == 0 or (isinstance(plain, Ratio) and plain.denominator == 0):
            return None
        found.append(plain.value)
    return tuple(found)


def _method(found: Effect, scale: Scale, relative: Relative) -> str:
    interval = "" if scale == "absolute" else f"{'Fieller' if relative == 'fieller' else 'delta-method'} "
    if found.method == "two-proportion z":
        return f"{found.method} (pooled test, unpooled {interval}interval)"
    return f"{found.method} ({interval}interval)" if interval else found.method


def _lift(found: Effect) -> float | None:
    return found.estimate / abs(found.control) if found.control else None


def _standard_error(found: Effect, scale: Scale) -> float | None:
    """Of the estimate; of a relative lift the delta method's: Var(d - lift·c) / c²."""
    if scale == "absolute":
        return found.standard_error
    if not found.control:
        return None
    lift = found.estimate / found.control
    variance = found.variance - 2 * lift * found.covariance + lift**2 * found.control_variance
    return math.sqrt(max(0.0, variance)) / abs(found.control)


def _interval(
    found: Effect, alpha: float, alternative: Alternative, scale: Scale, relative: Relative
) -> tuple[Interval | None, str | None]:
    reach = critical(alpha, found.degrees, alternative)
    if scale == "absolute":
        return _sided(
            found.estimate - reach * found.standard_error, found.estimate + reach * found.standard_error, alternative
        ), None
    lift = _lift(found)
    if lift is None:
        return None, "the control's value is 0: there is nothing to be relative to, compare absolutely"
    if relative == "delta":
        error = _standard_error(found, scale) or 0.0
        return _sided(lift - reach * error, lift + reach * error, alternative), None
    ends = _fieller(found, reach)
    if ends is None:
        return None, "the control's value is not clear of 0: its relative lift has no bounds, compare absolutely"
    return _sided(*ends, alternative), None


def _sided(low: float, high: float, alternative: Alternative) -> Interval:
    if alternative == "greater":
        return Interval(low, math.inf)
    return Interval(-math.inf, high) if alternative == "less" else Interval(low, high)


def _fieller(found: Effect, reach: float) -> tuple[float, float] | None:
    """Fieller's interval for difference by |control|: every lift r for which d - r·c is within reach of 0.

    Solves (d - r·c)² = reach²·(Var d - 2r·Cov(d, c) + r²·Var c) (Fieller 1954; Franz 2007, arXiv 0710.2024). None where
    the control is not significantly different from 0, when the set of such r is unbounded.
    """
    square = reach**2
    a = found.control**2 - square * found.control_variance
    if a <= 0:
        return None
    b = found.estimate * found.control - square * found.covariance
    c = found.estimate**2 - square * found.variance
    root = math.sqrt(max(0.0, b * b - a * c))
    low, high = (b - root) / a, (b + root) / a
    return (low, high) if found.control > 0 else (-high, -low)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """Whether a metric that must not suffer does not: the answer of `non_inferior` and of `guardrails.watch`.

    `result.p_value` is for "not worse than the margin"; `breach_p_value` for the opposite, "worse than the margin".
    """

    result: Result
    margin: float
    breach_p_value: float | None

    @property
    def verdict(self) -> Verdict:
        """`holds`: not worse, shown; `breached`: worse, shown; `undecided`: neither, yet."""
        if self.result.significant:
            return "holds"
        return (
            "breached" if self.breach_p_value is not None and self.breach_p_value <= self.result.alpha else "undecided"
        )


def beyond_margin(found: Effect, margin: float, scale: Scale, *, higher_is_better: bool = True) -> tuple[float, float]:
    """How far the treatment is from the worst that is allowed, and the variance of that.

    Where higher is better, positive distances are harmless: difference + margin, or difference + margin·|control|.
    """
    sign = 1.0 if higher_is_better else -1.0
    if scale == "absolute":
        return found.estimate + sign * margin, found.variance
    # A contrast of the difference and the control's value.
    tilt = sign * margin * math.copysign(1.0, found.control)
    variance = found.variance + 2 * tilt * found.covariance + tilt**2 * found.control_variance
    return found.estimate + tilt * found.control, variance


def non_inferior(
    control: Statistic,
    treatment: Statistic,
    margin: float,
    *,
    alpha: float = 0.05,
    scale: Scale = "absolute",
    higher_is_better: bool = True,
) -> Guardrail:
    """Test a guardrail once: is the treatment worse than the control by less than `margin` (> 0, in the scale's unit)?

    One-sided at `alpha`, which is not part of any multiplicity correction: every guardrail must hold, and that makes
    the whole no more lenient (intersection-union test, Berger 1982). On the relative scale the contrast
    treatment - (1 ∓ margin)·control is tested, which needs no division. Arms keep their own variance: under the
    null hypothesis they differ. Raises `StatisticError` as `compare`, and for a margin that is not positive.
    """
    check_level("alpha", alpha)
    check_scale(scale)
    if not (math.isfinite(margin) and margin > 0):
        raise StatisticError(f"a guardrail's margin must be positive, not {margin}")
    alternative: Alternative = "greater" if higher_is_better else "less"
    plain = compare(control, treatment, alpha=alpha, alternative=alternative, scale=scale)
    values = {one: getattr(plain, one) for one in ("n", "values", "estimate", "interval", "standard_error", "degrees")}
    method = f"non-inferiority by {margin:g} {scale}, {_NAMES[type(control)]}"
    if not plain.defined:
        undefined = Result(
            method=method, alpha=alpha, alternative=alternative, scale=scale, reason=plain.reason, **values
        )
        return Guardrail(undefined, margin, None)
    found = effect(control, treatment)
    distance, variance = beyond_margin(found, margin, scale, higher_is_better=higher_is_better)
    if variance <= 0:
        reason = "neither arm varies: there is no variance to test against"
        undefined = Result(method=method, alpha=alpha, alternative=alternative, scale=scale, reason=reason, **values)
        return Guardrail(undefined, margin, None)
    statistic = distance / math.sqrt(variance)
    result = Result(
        method=method,
        alpha=alpha,
        alternative=alternative,
        scale=scale,
        statistic=statistic,
        p_value=p_value(statistic, found.degrees, alternative),
        reason=plain.reason,
        **values,
    )
    return Guardrail(result, margin, p_value(-statistic, found.degrees, alternative))
