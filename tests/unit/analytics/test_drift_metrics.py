"""Distances between histograms: the values of an independent package and of print, and what they reach without drift.

The numbers of frouros 0.9.0 are of `REFERENCE` and `CURRENT`, by its detectors PSI (10 bins), KSTest and EMD.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from analytics import drift_metrics as metrics
from analytics.drift_axes import CategoryAxis, NumberAxis
from analytics.results import StatisticError

REFERENCE = ((np.arange(1, 1001) * 0.618034) % 1) ** 2
CURRENT = ((np.arange(1, 501) * 0.414214) % 1) ** 1.5


def _tenths() -> tuple[np.ndarray, np.ndarray]:
    before, ends = np.histogram(REFERENCE, 10)
    return before.astype(float), np.histogram(CURRENT, ends)[0].astype(float)


def test_the_stability_index_is_that_of_frouros() -> None:
    assert metrics.population_stability(*_tenths()) == pytest.approx(0.0620844097777132, rel=1e-12)


def test_the_jensen_shannon_divergence_is_that_of_philentropys_manual() -> None:
    # R's philentropy: JSD of 1:10 and 20:29, each by its sum, to base 2. SciPy's manual has the distance in nats.
    assert metrics.jensen_shannon(np.arange(1.0, 11), np.arange(20.0, 30)) ** 2 == pytest.approx(0.03792749, abs=1e-8)
    half = metrics.jensen_shannon(np.array([8.0, 0.0]), np.array([5.0, 5.0]))
    assert half * math.sqrt(math.log(2)) == pytest.approx(0.46450140402245893, rel=1e-12)


def test_the_kolmogorov_smirnov_distance_over_fine_bins_is_that_of_frouros() -> None:
    fine = NumberAxis(
        "x", REFERENCE.min(), REFERENCE.max(), tuple(np.unique(np.concatenate([REFERENCE, CURRENT]))[1:-1])
    )
    counts = [fine.count(values)[: fine.ordered] for values in (REFERENCE, CURRENT)]
    assert metrics.kolmogorov_smirnov(*counts) == pytest.approx(0.108, abs=1e-12)
    # Over ten bins it is this or less.
    assert 0.108 >= metrics.kolmogorov_smirnov(*_tenths()) > 0.09


def test_the_earth_movers_distance_over_fine_bins_is_that_of_frouros() -> None:
    ends = np.linspace(0, 1, 2001)
    axis = NumberAxis("x", 0.0, 1.0, tuple(ends[1:-1]))
    counts = [axis.count(values)[: axis.ordered] for values in (REFERENCE, CURRENT)]
    assert metrics.wasserstein(ends, *counts) == pytest.approx(0.06718760759056536, abs=3e-4)


def test_the_earth_moves_as_far_as_it_is_carried() -> None:
    ends = np.array([0.0, 1.0, 2.0, 3.0])
    first, last = np.array([0.0, 10, 0, 0, 0]), np.array([0.0, 0, 0, 7, 0])
    assert metrics.wasserstein(ends, first, last) == pytest.approx(2)
    assert metrics.wasserstein(ends, first, first) == 0
    # From evenly over [0, 1] to the end at 0: half a unit on average.
    assert metrics.wasserstein(ends, first, np.array([5.0, 0, 0, 0, 0])) == pytest.approx(0.5)


def test_functions_that_cross_within_a_bin_enclose_two_triangles() -> None:
    ends = np.array([0.0, 1.0])
    apart = metrics.wasserstein(ends, np.array([5.0, 5, 0]), np.array([0.0, 5, 5]))
    assert apart == pytest.approx(0.5)
    crossed = metrics.wasserstein(ends, np.array([3.0, 4, 3]), np.array([1.0, 8, 1]))
    assert crossed == pytest.approx(2 * 0.5 * 0.2 * 0.5)


def test_chi_square_is_that_of_the_printed_example() -> None:
    # Agresti, "An Introduction to Categorical Data Analysis" (2007), p. 39, as R's chisq.test prints it.
    found = metrics.chi_square(np.array([762.0, 327, 468]), np.array([484.0, 239, 477]))
    assert found.statistic == pytest.approx(30.07, abs=0.005)
    assert found.degrees == 2
    assert found.p_value == pytest.approx(2.954e-07, rel=1e-3)


def test_rare_bins_are_taken_together_for_chi_square() -> None:
    many = np.concatenate([[1000.0, 1000.0], np.full(50, 1.0)])
    few = np.concatenate([[100.0, 90.0], np.zeros(50)])
    assert metrics.chi_square(many, few).degrees == 1 + 1
    assert metrics.chi_square(np.array([10.0, 0.0]), np.array([9.0, 0.0])) == metrics.ChiSquare(0.0, 0, 1.0)


def test_a_bin_that_is_empty_on_one_side_counts_as_half_a_row() -> None:
    found = metrics.population_stability(np.array([100.0, 0.0]), np.array([40.0, 10.0]))
    p, q = np.array([1.0, 0.005]), np.array([0.8, 0.2])
    assert found == pytest.approx(float(np.sum((q - p) * np.log(q / p))))


@pytest.mark.parametrize("n", [200, 2000])
def test_quantiles_without_drift_are_those_of_simulated_samples(n: int) -> None:
    rng = np.random.default_rng(20130208)
    shares = np.full(10, 0.1)
    m = 4000
    pairs = [(rng.multinomial(m, shares).astype(float), rng.multinomial(n, shares).astype(float)) for _ in range(3000)]
    above = {
        "psi": np.mean(
            [metrics.population_stability(*one) > metrics.population_stability_quiet(n, m, 10) for one in pairs]
        ),
        "js": np.mean([metrics.jensen_shannon(*one) > metrics.jensen_shannon_quiet(n, m, 10) for one in pairs]),
        "ks": np.mean([metrics.kolmogorov_smirnov(*one) > metrics.kolmogorov_smirnov_quiet(n, m) for one in pairs]),
        "chi2": np.mean([found.statistic > found.quiet() for found in (metrics.chi_square(*one) for one in pairs)]),
    }
    # Three standard errors of a share of 5% in 3,000. KS sees ten bins only and stays on the safe side.
    assert above["psi"] == pytest.approx(0.05, abs=0.02)
    assert above["js"] == pytest.approx(0.05, abs=0.012)
    assert above["chi2"] == pytest.approx(0.05, abs=0.012)
    assert 0.01 < above["ks"] <= 0.05


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    with pytest.raises(StatisticError, match="3 and 2 bins"):
        metrics.population_stability(np.ones(3), np.ones(2))
    with pytest.raises(StatisticError, match="the window has 0 rows"):
        metrics.kolmogorov_smirnov(np.ones(2), np.zeros(2))
    with pytest.raises(StatisticError, match="fewer rows than none"):
        metrics.jensen_shannon(np.ones(2), np.array([3.0, -1.0]))
    with pytest.raises(StatisticError, match="finite, ascending ends"):
        metrics.wasserstein(np.array([1.0, 0.0]), np.ones(3), np.ones(3))


def test_a_number_falls_below_above_between_or_is_null() -> None:
    axis = NumberAxis("x", 0.0, 10.0, (2.0, 5.0))
    values = np.array([-1, 0, 2, 2.1, 5, 10, 10.1, np.inf, np.nan, -np.inf])
    assert axis.count(values).tolist() == [2, 2, 2, 1, 2, 1]
    assert axis.labels == ("below 0", "0 to 2", "2 to 5", "5 to 10", "above 10", "null")
    assert len(axis.labels) == axis.bins == 6


def test_a_category_that_the_reference_never_had_is_unseen() -> None:
    axis = CategoryAxis("carrier", ("AA", "UA"))
    assert axis.count(np.array(["UA", "ZZ", "", "AA", "UA"], object)).tolist() == [1, 2, 1, 1]
    assert axis.labels == ("AA", "UA", "unseen", "null")
