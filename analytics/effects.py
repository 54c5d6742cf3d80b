"""From two arms' statistics to what all tests work on: the difference, its variance, and the control's value.

Here it is decided how arms are adjusted (CUPED, post-stratification); `statistics` asks whether the difference is
real once, `sequential` and `always_valid` ask it at every look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from analytics.results import StatisticError, UndefinedError
from analytics.sufficient import Covaried, CovariedRatio, Mean, Proportion, Quantile, Ratio, Strata

Statistic = Proportion | Mean | Ratio | Covaried | CovariedRatio | Strata | Quantile


@dataclass(frozen=True, slots=True)
class Effect:
    """Treatment less control, approximately normal.

    `control`, `treatment`: the arms' (adjusted) values. `variance`: of the difference. `control_variance`: of the
    control's value; `covariance`: of the difference and the control's value (for independent arms the negative of
    `control_variance`): with these a relative lift knows how noisy what it divides by is. `null_variance`: of the
    difference if both arms were alike, where that differs (proportions). `degrees` of freedom of the variance.
    """

    n: tuple[int, int]
    control: float
    treatment: float
    variance: float
    control_variance: float
    covariance: float
    null_variance: float
    degrees: float
    method: str

    @property
    def estimate(self) -> float:
        """The difference."""
        return self.treatment - self.control

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        return math.sqrt(self.variance)

    @property
    def information(self) -> float:
        """One over the variance, the clock of sequential tests. Raises `UndefinedError` at variance 0."""
        if self.variance <= 0:
            raise UndefinedError("every unit has the same value: there is no variance to test against")
        return 1.0 / self.variance


def effect(control: Statistic, treatment: Statistic) -> Effect:
    """Compare two arms measured alike.

    Raises `UndefinedError` where an arm is too small to have a value and a variance, and `StatisticError` where the
    arms are statistics of different kinds.
    """
    if isinstance(control, Proportion) and isinstance(treatment, Proportion):
        return _proportions(control, treatment)
    if isinstance(control, Mean) and isinstance(treatment, Mean):
        return _independent(control, treatment, "Welch t", _satterthwaite(control, treatment))
    if isinstance(control, Ratio) and isinstance(treatment, Ratio):
        return _independent(control, treatment, "delta-method ratio z")
    if isinstance(control, Quantile) and isinstance(treatment, Quantile):
        if control.level != treatment.level:
            raise StatisticError(f"quantiles {control.level:g} and {treatment.level:g} cannot be compared")
        return _independent(control, treatment, f"quantile {control.level:g} z, order-statistic variance")
    if isinstance(control, Covaried) and isinstance(treatment, Covaried):
        return _cuped(control, treatment)
    if isinstance(control, CovariedRatio) and isinstance(treatment, CovariedRatio):
        return _cuped_ratio(control, treatment)
    if isinstance(control, Strata) and isinstance(treatment, Strata):
        return _post_stratified(control, treatment)
    raise StatisticError(f"a {type(control).__name__} cannot be compared with a {type(treatment).__name__}")


def _proportions(control: Proportion, treatment: Proportion) -> Effect:
    """Two proportions: each arm's own variance, and the pooled one for the test of no difference."""
    left, right = control.value, treatment.value
    pooled = (control.successes + treatment.successes) / (control.n + treatment.n)
    control_variance = control.variance / control.n
    return Effect(
        n=(control.n, treatment.n),
        control=left,
        treatment=right,
        variance=control_variance + treatment.variance / treatment.n,
        control_variance=control_variance,
        covariance=-control_variance,
        null_variance=pooled * (1.0 - pooled) * (1.0 / control.n + 1.0 / treatment.n),
        degrees=math.inf,
        method="two-proportion z",
    )


def _independent(
    control: Mean | Ratio | Quantile, treatment: Mean | Ratio | Quantile, method: str, degrees: float = math.inf
) -> Effect:
    control_variance = control.variance / control.n
    variance = control_variance + treatment.variance / treatment.n
    return Effect(
        n=(control.n, treatment.n),
        control=control.value,
        treatment=treatment.value,
        variance=variance,
        control_variance=control_variance,
        covariance=-control_variance,
        null_variance=variance,
        degrees=degrees,
        method=method,
    )


def _satterthwaite(control: Mean, treatment: Mean) -> float:
    """Welch's degrees of freedom (Welch 1947, Satterthwaite 1946); infinite where nothing varies."""
    return _degrees((control.variance / control.n, control.n - 1), (treatment.variance / treatment.n, treatment.n - 1))


def _degrees(*parts: tuple[float, int]) -> float:
    total = sum(variance for variance, _ in parts)
    if total <= 0:
        return math.inf
    # By shares, as the squares of small variances underflow.
    return 1.0 / sum((variance / total) ** 2 / below for variance, below in parts)


def cuped_theta(control: Covaried, treatment: Covaried) -> float:
    """The slope of outcome on covariate within the arms, pooled; 0 where the covariate does not vary."""
    below = (control.n - 1) * control.covariate.variance + (treatment.n - 1) * treatment.covariate.variance
    if below <= 0:
        return 0.0
    return ((control.n - 1) * control.covariance + (treatment.n - 1) * treatment.covariance) / below


def _cuped(control: Covaried, treatment: Covaried) -> Effect:
    """CUPED (Deng, Xu, Kohavi, Walker 2013): subtract theta · (covariate - its mean over both arms).

    theta is the slope within arms, so that a treatment effect does not leak into it. The mean over both arms is
    itself random; it cancels in the difference, and for a relative lift its variance is counted in the control's.
    """
    theta = cuped_theta(control, treatment)
    n = control.n + treatment.n
    shares = (control.n / n, treatment.n / n)
    centre = shares[0] * control.covariate.value + shares[1] * treatment.covariate.value
    values, variances, covariate_variances, leftovers = [], [], [], []
    for arm in (control, treatment):
        values.append(arm.value - theta * (arm.covariate.value - centre))
        variances.append(arm.adjusted_variance(theta) / arm.n)
        covariate_variances.append(arm.covariate.variance / arm.n)
        # What the covariate still says of the adjusted outcome in this arm: zero if the arms' slopes agree.
        leftovers.append((arm.covariance - theta * arm.covariate.variance) / arm.n)
    centre_variance = shares[0] ** 2 * covariate_variances[0] + shares[1] ** 2 * covariate_variances[1]
    control_variance = variances[0] + theta**2 * centre_variance + 2 * theta * shares[0] * leftovers[0]
    return Effect(
        n=(control.n, treatment.n),
        control=values[0],
        treatment=values[1],
        variance=variances[0] + variances[1],
        control_variance=max(0.0, control_variance),
        covariance=-variances[0] + theta * (shares[1] * leftovers[1] - shares[0] * leftovers[0]),
        null_variance=variances[0] + variances[1],
        degrees=_degrees((variances[0], control.n - 1), (variances[1], treatment.n - 1)),
        method="CUPED, Welch t",
    )


def _cuped_ratio(control: CovariedRatio, treatment: CovariedRatio) -> Effect:
    """CUPED of ratios by their linear parts; without it where an arm has nothing from before to divide by."""
    if control.covariate.denominator == 0 or treatment.covariate.denominator == 0:
        return _independent(control.outcome, treatment.outcome, "delta-method ratio z")
    found = _cuped(control.linear(), treatment.linear())
    return replace(found, degrees=math.inf, method="CUPED, delta-method ratio z")


def _post_stratified(control: Strata, treatment: Strata) -> Effect:
    """Post-stratification (Miratrix, Sekhon, Yu 2013): strata compared within, weighed by their share of all units.

    The weights are taken as given. Of a ratio metric, numerator and denominator are stratified and then divided.
    """
    left, right = ({name: part for name, part in arm.parts if part.n} for arm in (control, treatment))
    for name in sorted(left.keys() ^ right.keys()):
        raise UndefinedError(f"the stratum {name} has units in one arm only: merge it with another")
    if not left:
        raise UndefinedError("an arm has no units")
    total = control.n + treatment.n
    weights = {name: (left[name].n + right[name].n) / total for name in left}
    values, variances = [], []
    for arm in (left, right):
        value, variance = _stratified_arm(arm, weights)
        values.append(value)
        variances.append(variance)
    return Effect(
        n=(control.n, treatment.n),
        control=values[0],
        treatment=values[1],
        variance=variances[0] + variances[1],
        control_variance=variances[0],
        covariance=-variances[0],
        null_variance=variances[0] + variances[1],
        degrees=math.inf,
        method="post-stratified z",
    )


def _stratified_arm(arm: dict[str, Proportion | Mean | Ratio], weights: dict[str, float]) -> tuple[float, float]:
    """An arm's weighted value and the variance of it."""
    ratios = {name: part for name, part in arm.items() if isinstance(part, Ratio)}
    if not ratios:
        value = math.fsum(weights[name] * part.value for name, part in arm.items())
        variance = math.fsum(weights[name] ** 2 * _unit_variance(name, part) / part.n for name, part in arm.items())
        return value, variance
    below = math.fsum(weights[name] * part.denominator / part.n for name, part in ratios.items())
    if below == 0:
        raise UndefinedError("an arm's denominator adds up to 0")
    value = math.fsum(weights[name] * part.numerator / part.n for name, part in ratios.items()) / below
    residuals = (weights[name] ** 2 * _residual_variance(name, part, value) / part.n for name, part in ratios.items())
    return value, math.fsum(residuals) / below**2


def _unit_variance(name: str, part: Proportion | Mean | Ratio) -> float:
    # A proportion is the mean of 0 and 1: in a small stratum p(1 - p) without n / (n - 1) is too small.
    if part.n < 2:
        raise UndefinedError(f"the stratum {name} has one unit in an arm: merge it with another")
    return part.variance * part.n / (part.n - 1) if isinstance(part, Proportion) else part.variance


def _residual_variance(name: str, part: Ratio, ratio: float) -> float:
    if part.n < 2:
        raise UndefinedError(f"the stratum {name} has one unit in an arm: merge it with another")
    return part.residual_variance(ratio)
