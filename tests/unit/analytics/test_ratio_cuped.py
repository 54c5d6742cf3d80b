"""CUPED of ratio metrics: the estimate and variance of the delta method in four sums, and what it is worth."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from experiment_world import definition

from analytics.effects import effect
from analytics.evidence import chance_to_win, nothing_differs, pairs, statistic
from analytics.experiment_store import UnitSums
from analytics.results import StatisticError
from analytics.statistics import compare
from analytics.sufficient import CovariedRatio, Ratio

RATE = {
    "name": "rate",
    "kind": "ratio",
    "numerator": {"outcome": "bought"},
    "denominator": {"prediction": "rows"},
    "window": "2h",
    "covariate_window": "3h",
}


def users(rng: np.random.Generator, n: int, lift: float = 0.0) -> np.ndarray:
    """Rows y, x, c, d of n users: each has a rate of its own that holds before and after, and a tenth is new."""
    rate = rng.beta(2, 6, n)
    x, d = 1 + rng.poisson(8, n), rng.poisson(8, n)
    d[rng.random(n) < 0.1] = 0
    return np.array([rng.binomial(x, np.clip(rate * (1 + lift), 0, 1)), x, rng.binomial(d, rate), d], dtype=float)


def covaried_ratio(rows: np.ndarray) -> CovariedRatio:
    y, x, c, d = rows

    def ratio(above: np.ndarray, below: np.ndarray) -> Ratio:
        squares = [float((one * other).sum()) for one, other in ((above, above), (below, below), (above, below))]
        return Ratio(len(above), float(above.sum()), float(below.sum()), *squares)

    products = [float((one * other).sum()) for one, other in ((y, c), (y, d), (x, c), (x, d))]
    return CovariedRatio(ratio(y, x), ratio(c, d), *products)


def delta_method(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and S of an arm and their covariance: the gradient of (y/x, c/d) at the means around the means' covariance."""
    y, x, c, d = rows.mean(axis=1)
    gradient = np.array([[1 / x, -y / x**2, 0, 0], [0, 0, 1 / d, -c / d**2]])
    return np.array([y / x, c / d]), gradient @ (np.cov(rows) / rows.shape[1]) @ gradient.T


def test_estimate_and_variance_are_those_of_the_delta_method_in_four_means() -> None:
    rng = np.random.default_rng(3)
    control, treatment = users(rng, 700), users(rng, 500, 0.1)
    (left, left_covariance), (right, right_covariance) = delta_method(control), delta_method(treatment)
    # The slope within arms, each arm weighed by its units, as for means.
    slopes = 699 * 700 * left_covariance + 499 * 500 * right_covariance
    theta = slopes[0, 1] / slopes[1, 1]
    contrast = np.array([1, -theta])
    found = effect(covaried_ratio(control), covaried_ratio(treatment))
    assert found.method == "CUPED, delta-method ratio z"
    assert found.estimate == pytest.approx(float(contrast @ (right - left)), rel=1e-10)
    variance = float(contrast @ (left_covariance + right_covariance) @ contrast)
    assert found.variance == found.null_variance == pytest.approx(variance, rel=1e-10)
    assert math.isinf(found.degrees)
    plain = effect(covaried_ratio(control).outcome, covaried_ratio(treatment).outcome)
    assert found.variance < 0.85 * plain.variance


def test_it_is_wrong_as_often_as_it_says_and_its_variance_is_the_estimates() -> None:
    rng = np.random.default_rng(4)
    found = [effect(*(covaried_ratio(users(rng, 400)) for _ in range(2))) for _ in range(1500)]
    z = np.array([one.estimate / one.standard_error for one in found])
    # Three standard deviations of what 1,500 runs show of 5%, and of a variance.
    assert abs(np.mean(np.abs(z) > 1.959964) - 0.05) < 0.017
    spread = np.var([one.estimate for one in found])
    assert spread == pytest.approx(np.mean([one.variance for one in found]), rel=3 * math.sqrt(2 / 1500))


def test_parts_add_up_to_the_whole() -> None:
    rows = users(np.random.default_rng(5), 300)
    whole, sum_of_parts = covaried_ratio(rows), covaried_ratio(rows[:, :100]) + covaried_ratio(rows[:, 100:])
    for one in fields(CovariedRatio):
        mine, theirs = getattr(whole, one.name), getattr(sum_of_parts, one.name)
        for name in [each.name for each in fields(Ratio)] if isinstance(mine, Ratio) else []:
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name))
        assert isinstance(mine, Ratio) or mine == pytest.approx(theirs)
    assert (whole.n, whole.value) == (300, whole.outcome.value)
    with pytest.raises(StatisticError, match="299 units, but 300 outcomes"):
        CovariedRatio(whole.outcome, Ratio(299, 1.0, 1.0, 1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 0.0)


def test_where_an_arm_has_no_before_the_ratio_is_compared_as_it_is() -> None:
    rng = np.random.default_rng(6)
    control, treatment = users(rng, 200), users(rng, 200)
    control[2:] = 0
    arms = covaried_ratio(control), covaried_ratio(treatment)
    assert effect(*arms) == effect(arms[0].outcome, arms[1].outcome)
    # All new: no slope, and nothing to divide by.
    assert compare(arms[0], arms[0]).estimate == 0.0
    nobody = covaried_ratio(np.zeros((4, 0)))
    assert compare(nobody, nobody).reason == "an arm has no units"


def test_a_ratio_metric_with_a_covariate_window_is_tested_so() -> None:
    rng = np.random.default_rng(7)
    metric = definition(RATE).metrics[0]
    arms = {"a": users(rng, 400), "b": users(rng, 400, 0.5)}
    sums = []
    for arm, rows in arms.items():
        of = dict(zip("yxcd", rows, strict=True))
        pairs_of = ("yy", "xx", "cc", "dd", "yx", "yc", "yd", "xc", "xd", "cd")
        products = {one: float((of[one[0]] * of[one[1]]).sum()) for one in pairs_of}
        totals = {name: float(column.sum()) for name, column in of.items()}
        sums.append(UnitSums("rate", arm, 400, int(totals["y"]), **totals, **products))
    assert statistic(metric, sums[0]) == covaried_ratio(arms["a"])
    (data,) = pairs(metric, "a", ["b"], sums, [])
    assert data.effect() == effect(covaried_ratio(arms["a"]), covaried_ratio(arms["b"]))
    assert (chance_to_win(data, data.effect()) or 0) > 0.95
    assert nothing_differs(data, 0.01, 0.05) is None
