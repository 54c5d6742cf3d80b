"""How likely each arm is the best, and what choosing it would cost on average if it were not.

Beside the tests, not in place of them: these numbers follow from the data and a prior, say nothing about how often
one is wrong, and stopping as soon as one of them looks good is wrong more often than they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analytics.results import Interval, StatisticError, UndefinedError, check_level
from analytics.sufficient import Mean, Proportion, Ratio

Floats = NDArray[np.float64]

# A standard normal variable's density at nodes that hold all but 1e-16 of it: 40 panels of 12.
_EDGES: Final = np.linspace(-8.5, 8.5, 41)
_NODES, _WEIGHTS = special.roots_legendre(12)
_HALF: Final = (_EDGES[1] - _EDGES[0]) / 2
_Z: Final[Floats] = ((_EDGES[1:] + _EDGES[:-1])[:, None] / 2 + _HALF * _NODES).ravel()
_MASS: Final[Floats] = np.tile(_HALF * _WEIGHTS, 40) * np.exp(-0.5 * _Z**2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True, slots=True)
class Choice:
    """One arm, as if it were chosen for good.

    `chance_to_win`: probability that it is the best of all arms. `chance_to_beat_control`: that it is better than the
    first (None for the first). `expected_loss`: by how much the best arm is better than this one, on average, in the
    metric's unit. `value`, `interval`: the posterior's mean and central interval.
    """

    chance_to_win: float
    chance_to_beat_control: float | None
    expected_loss: float
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class _Posterior:
    """A distribution by its quantiles at normal deviates and its distribution function; both take arrays."""

    mean: float
    at_deviates: Callable[[Floats], Floats]
    below: Callable[[Floats], Floats]


def beta_binomial(
    arms: Sequence[Proportion],
    *,
    prior: tuple[float, float] = (1.0, 1.0),
    higher_is_better: bool = True,
    level: float = 0.95,
) -> tuple[Choice, ...]:
    """Proportions with a Beta prior (successes, failures; uniform by default): posterior Beta(a + s, b + n - s).

    Integrals over the posteriors are numerical, exact to about 1e-9. An arm without units is judged by its prior.
    Raises `StatisticError` for fewer than two arms or a prior that is not positive.
    """
    for one in prior:
        if not (math.isfinite(one) and one > 0):
            raise StatisticError(f"a prior's counts must be positive, not {one}")
    return _choose(
        [_beta(prior[0] + arm.successes, prior[1] + arm.n - arm.successes) for arm in arms], higher_is_better, level
    )


def normal(
    arms: Sequence[Mean | Ratio],
    *,
    prior_mean: float = 0.0,
    prior_deviation: float = math.inf,
    higher_is_better: bool = True,
    level: float = 0.95,
) -> tuple[Choice, ...]:
    """Means or ratios with a normal prior (flat by default) and the estimate's own variance as known.

    Raises `UndefinedError` for an arm with fewer than two units or nothing that varies, `StatisticError` as above.
    """
    if not prior_deviation > 0:
        raise StatisticError(f"a prior's deviation must be positive, not {prior_deviation}")
    found = []
    for arm in arms:
        variance = arm.variance / arm.n if arm.n else 0.0
        if variance <= 0:
            raise UndefinedError("an arm's units all have the same value: there is no variance to judge it by")
        precision = 1.0 / variance + 1.0 / prior_deviation**2
        mean = (arm.value / variance + prior_mean / prior_deviation**2) / precision
        found.append(_normal(mean, 1.0 / math.sqrt(precision)))
    return _choose(found, higher_is_better, level)


def _beta(a: float, b: float) -> _Posterior:
    def at_deviates(z: Floats) -> Floats:
        # From the nearer end, as a quantile near 1 has no digits left.
        low = special.betaincinv(a, b, special.ndtr(np.minimum(z, 0.0)))
        high = 1.0 - special.betaincinv(b, a, special.ndtr(-np.maximum(z, 0.0)))
        found: Floats = np.where(z <= 0, low, high)
        return found

    def below(x: Floats) -> Floats:
        found: Floats = special.betainc(a, b, np.clip(x, 0.0, 1.0))
        return found

    return _Posterior(a / (a + b), at_deviates, below)


def _normal(mean: float, deviation: float) -> _Posterior:
    def below(x: Floats) -> Floats:
        found: Floats = special.ndtr((x - mean) / deviation)
        return found

    return _Posterior(mean, lambda z: mean + deviation * z, below)


def _choose(posteriors: Sequence[_Posterior], higher_is_better: bool, level: float) -> tuple[Choice, ...]:
    if len(posteriors) < 2:
        raise StatisticError(f"at least two arms are needed, not {len(posteriors)}")
    check_level("level", level)
    reach = float(-special.ndtri((1.0 - level) / 2))
    best = _mean_of_best(posteriors, higher_is_better)
    choices = []
    for number, one in enumerate(posteriors):
        others = [other for at, other in enumerate(posteriors) if at != number]
        beats = None if number == 0 else _chance(one, posteriors[:1], higher_is_better)
        ends = one.at_deviates(np.array([-reach, reach]))
        loss = best - one.mean if higher_is_better else one.mean - best
        choices.append(
            Choice(
                chance_to_win=_chance(one, others, higher_is_better),
                chance_to_beat_control=beats,
                expected_loss=max(0.0, loss),
                value=one.mean,
                interval=Interval(float(ends[0]), float(ends[1])),
            )
        )
    return tuple(choices)


def _chance(one: _Posterior, others: Sequence[_Posterior], higher_is_better: bool) -> float:
    """P(one is better than all others) = E over one of the product of the others' distribution functions."""
    points = one.at_deviates(_Z)
    product = np.ones_like(points)
    for other in others:
        product *= other.below(points) if higher_is_better else 1.0 - other.below(points)
    return min(1.0, float(_MASS @ product))


def _mean_of_best(posteriors: Sequence[_Posterior], higher_is_better: bool) -> float:
    """E[max] = sum over arms of E[value where it is the best]."""
    total = 0.0
    for number, one in enumerate(posteriors):
        points = one.at_deviates(_Z)
        product = np.ones_like(points)
        for at, other in enumerate(posteriors):
            if at != number:
                product *= other.below(points) if higher_is_better else 1.0 - other.below(points)
        # Around one centre, so that the loss keeps its digits where values are large.
        total += float(_MASS @ ((points - posteriors[0].mean) * product))
    return posteriors[0].mean + total
