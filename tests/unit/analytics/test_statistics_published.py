"""The tests of two arms give the numbers that others' packages give.

Literals without a comment of their own were computed with the named package and version in an environment apart.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analytics.effects import effect
from analytics.statistics import compare
from analytics.sufficient import Covaried, Mean, Proportion, Quantile, Ratio, Strata, design_effect, quantile_ranks

CONTROL = np.array([3.1, 2.4, 5.6, 4.4, 3.9, 2.8, 6.1, 4.0])
TREATMENT = np.array([5.0, 4.9, 7.2, 3.3, 6.4, 8.1, 5.8, 4.7, 6.9, 5.5])
CONTROL_BEFORE = np.array([1.2, 0.7, 2.9, 2.0, 1.6, 0.9, 3.3, 1.8])
TREATMENT_BEFORE = np.array([1.9, 1.7, 3.5, 0.6, 2.6, 4.0, 2.2, 1.4, 3.1, 2.0])
CONTROL_STRATUM = np.array([0, 0, 1, 1, 0, 0, 1, 1])
TREATMENT_STRATUM = np.array([0, 0, 1, 0, 1, 1, 1, 0, 1, 0])


def mean(values: np.ndarray) -> Mean:
    return Mean(len(values), float(values.sum()), float((values**2).sum()))


def covaried(values: np.ndarray, before: np.ndarray) -> Covaried:
    return Covaried(mean(values), mean(before), float((values * before).sum()))


def test_two_proportions_as_statsmodels() -> None:
    result = compare(Proportion(10_100, 540), Proportion(10_000, 620))
    # statsmodels 0.15.0: proportions_ztest (pooled), confint_proportions_2indep(method="wald").
    assert result.statistic == pytest.approx(2.5943324370880014, rel=1e-12)
    assert result.p_value == pytest.approx(0.009477479857666693, rel=1e-12)
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((0.0020857540372723254, 0.014983552893420744))
    one_sided = compare(Proportion(10_100, 540), Proportion(10_000, 620), alternative="greater")
    assert one_sided.p_value == pytest.approx(0.004738739928833347, rel=1e-12)


def test_welch_as_statsmodels() -> None:
    result = compare(mean(CONTROL), mean(TREATMENT))
    # statsmodels 0.15.0: CompareMeans.ttest_ind and tconfint_diff, usevar="unequal".
    assert result.statistic == pytest.approx(2.717527510899927, rel=1e-12)
    assert result.p_value == pytest.approx(0.015484138688601247, rel=1e-10)
    assert result.degrees == pytest.approx(15.58421701158307, rel=1e-12)
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((0.38024667641236753, 3.1047533235876337))


def test_one_sided_interval_as_gbstats() -> None:
    result = compare(Mean(1000, 5100.0, 31000.0), Mean(1100, 5900.0, 37500.0), alternative="greater")
    # gbstats 0.8.0: OneSidedTreatmentGreaterTTest, absolute.
    assert result.p_value == pytest.approx(0.003960259301736935, rel=1e-9)
    assert result.interval is not None
    assert result.interval.low == pytest.approx(0.1004175340943067, rel=1e-9)
    assert result.interval.high == float("inf")


@pytest.mark.parametrize(
    ("control", "treatment", "estimate", "error"),
    [
        # gbstats 0.8.0: TwoSidedTTest, difference_type="relative": estimate and standard error.
        (Mean(1000, 5100.0, 31000.0), Mean(1100, 5900.0, 37500.0), 0.051693404634581115, 0.019965010899908337),
        (
            Ratio(500, 1200.0, 6100.0, 5200.0, 98000.0, 20100.0),
            Ratio(520, 1390.0, 6300.0, 6300.0, 101000.0, 22400.0),
            0.12156084656084655,
            0.04263939431298171,
        ),
    ],
)
def test_relative_lift_by_the_delta_method_as_gbstats(
    control: Mean | Ratio, treatment: Mean | Ratio, estimate: float, error: float
) -> None:
    result = compare(control, treatment, scale="relative", relative="delta")
    assert result.estimate == pytest.approx(estimate, rel=1e-12)
    assert result.standard_error == pytest.approx(error, rel=1e-9)


def test_ratio_as_gbstats() -> None:
    result = compare(
        Ratio(500, 1200.0, 6100.0, 5200.0, 98000.0, 20100.0), Ratio(520, 1390.0, 6300.0, 6300.0, 101000.0, 22400.0)
    )
    # gbstats 0.8.0: TwoSidedTTest over RatioStatistic; its p-value is a t's with some 1,000 degrees.
    assert result.estimate == pytest.approx(0.023913609159510796, rel=1e-12)
    assert result.standard_error == pytest.approx(0.007926499114933094, rel=1e-12)
    assert result.p_value == pytest.approx(0.002617206240715486, rel=0.05)


def test_cuped_estimate_is_the_regression_coefficient() -> None:
    result = compare(covaried(CONTROL, CONTROL_BEFORE), covaried(TREATMENT, TREATMENT_BEFORE))
    # statsmodels 0.15.0: OLS of outcome on a constant, treatment and covariate: the treatment's coefficient.
    assert result.estimate == pytest.approx(1.0487091503267978, rel=1e-12)


def test_cuped_variance_as_gbstats() -> None:
    found = effect(covaried(CONTROL, CONTROL_BEFORE), covaried(TREATMENT, TREATMENT_BEFORE))
    # gbstats 0.8.0: RegressionAdjustedStatistic.variance by n of both arms, with theta = 1.387581699346406.
    assert found.standard_error == pytest.approx(0.06044370141732925, rel=1e-9)
    assert found.variance < effect(mean(CONTROL), mean(TREATMENT)).variance / 50


def test_post_stratification_as_a_regression_with_interactions() -> None:
    def arm(values: np.ndarray, strata: np.ndarray) -> Strata:
        return Strata.of({name: mean(values[strata == code]) for code, name in enumerate(("short", "long"))})

    result = compare(arm(CONTROL, CONTROL_STRATUM), arm(TREATMENT, TREATMENT_STRATUM))
    # statsmodels 0.15.0: OLS on treatment, centred stratum and their product, cov_type="HC2".
    assert result.estimate == pytest.approx(1.7425000000000002, rel=1e-12)
    assert result.standard_error == pytest.approx(0.3970490104088746, rel=1e-12)
    assert result.p_value == pytest.approx(1.1406852544314764e-05, rel=1e-9)


def test_quantiles_as_gbstats() -> None:
    result = compare(Quantile(5000, 0.9, 310.0, 304.0, 317.0), Quantile(5200, 0.9, 322.0, 315.0, 330.0))
    # gbstats 0.8.0: TwoSidedTTest over QuantileStatistic, which counts n - 1.
    assert result.estimate == 12.0
    assert result.standard_error == pytest.approx(5.063228701397593, rel=2e-4)


def test_design_effect_of_clustered_events_as_gbstats() -> None:
    below = Ratio(500, 5490.0, 6100.0, 80000.0, 98000.0, 88200.0)
    # gbstats 0.8.0: QuantileClusteredStatistic.get_cluster_variance by that of independent events.
    assert design_effect(below, 0.9) == pytest.approx(1.131589225810443, rel=1e-9)


def test_quantile_ranks_hold_the_quantile_as_often_as_they_say() -> None:
    low, high = quantile_ranks(1000, 0.9)
    rng = np.random.default_rng(1)
    values = np.sort(rng.random((4000, 1000)), axis=1)
    covered = np.mean((values[:, low - 1] <= 0.9) & (values[:, high - 1] >= 0.9))
    assert 0.945 <= covered <= 0.975


def test_fieller_interval_as_published() -> None:
    # Franz 2007 (arXiv 0710.2024): the ratio r's bounds solve (b - r·a)² = z²·(Vb + r²·Va) for independent means.
    result = compare(Mean(1000, 5100.0, 31000.0), Mean(1100, 5900.0, 37500.0), scale="relative")
    found = effect(Mean(1000, 5100.0, 31000.0), Mean(1100, 5900.0, 37500.0))
    assert result.interval is not None
    square = stats.t.isf(0.025, found.degrees) ** 2
    treatment_variance = found.variance - found.control_variance
    for end in (result.interval.low, result.interval.high):
        ratio = 1 + end
        distance = (found.treatment - ratio * found.control) ** 2
        assert distance == pytest.approx(square * (treatment_variance + ratio**2 * found.control_variance), rel=1e-9)
