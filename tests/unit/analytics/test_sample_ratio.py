"""The sample-ratio check finds broken splits, at one look or at all of them, and where they are broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analytics.results import StatisticError
from analytics.sample_ratio import chi_square, log_evidence, watch, watch_slices


def test_the_published_mismatch() -> None:
    # Kohavi, Tang, Xu (2020), "Trustworthy Online Controlled Experiments", chapter 3: 821,588 and 815,482 users.
    result = chi_square((821_588, 815_482), (1, 1))
    assert f"{result.p_value:.1e}" == "1.8e-06"
    # gbstats 0.8.0, check_srm.
    assert result.p_value == pytest.approx(1.8217928726191858e-06, rel=1e-12)
    assert result.significant
    assert watch([(821_588, 815_482)], (1, 1)).significant


def test_three_unequal_arms_as_gbstats() -> None:
    # gbstats 0.8.0, check_srm([500, 520, 610], [1, 1, 1.2]).
    assert chi_square((500, 520, 610), (1, 1, 1.2)).p_value == pytest.approx(0.8200712861444079, rel=1e-12)


def test_evidence_is_the_ratio_of_two_likelihoods() -> None:
    counts, shares, weight = (37, 80, 51), np.array([0.25, 0.45, 0.3]), 12.0
    mixture = stats.dirichlet_multinomial(weight * shares, sum(counts)).logpmf(counts)
    plain = stats.multinomial(sum(counts), shares).logpmf(counts)
    assert log_evidence(counts, shares.tolist(), weight) == pytest.approx(mixture - plain, rel=1e-9)


def test_evidence_is_a_martingale_when_the_split_is_right() -> None:
    shares, counts = (0.3, 0.7), (40, 75)
    now = math.exp(log_evidence(counts, shares, 10.0))
    nexts = (math.exp(log_evidence(after, shares, 10.0)) for after in ((41, 75), (40, 76)))
    assert sum(share * after for share, after in zip(shares, nexts, strict=True)) == pytest.approx(now, rel=1e-12)


def test_an_alarm_stays() -> None:
    looks = [(500, 500), (1500, 1000), (25_000, 25_000)]
    assert watch(looks[:2], (1, 1)).significant
    assert watch(looks, (1, 1)).p_value == watch(looks[:2], (1, 1)).p_value
    assert not watch([looks[0], looks[2]], (1, 1)).significant


def test_a_lost_percent_is_found_before_two_hundred_thousand_units() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(50):
        treatment = rng.binomial(2000, 0.49, size=100)
        looks = np.cumsum(np.stack([2000 - treatment, treatment], axis=1), axis=0).tolist()
        found.append(watch(looks, (1, 1)).significant)
    assert np.mean(found) > 0.9


def test_the_broken_slice_is_named_and_the_others_are_not() -> None:
    healthy = [(1000, 1010), (2010, 2000), (3050, 3020)]
    broken = [(1000, 900), (2000, 1750), (3100, 2600)]
    total = [tuple(np.add(one, np.multiply(3, other))) for one, other in zip(broken, healthy, strict=True)]
    found = watch_slices(
        {"all": total, "worker 1": healthy, "worker 2": healthy, "worker 3": healthy, "worker 4": broken}, (1, 1)
    )
    assert [name for name, result in found.items() if result.significant] == ["worker 4"]
    assert found["worker 4"].method.endswith("holm over 5 slices")


def test_no_units_and_few_units_are_no_alarm() -> None:
    empty = chi_square((0, 0), (1, 1))
    assert empty.reason == "0 units are too few to judge arms of 50.0%, 50.0%"
    assert empty.values is None
    assert not chi_square((9, 0), (1, 1)).defined
    assert chi_square((10, 0), (1, 1)).significant
    assert watch([(0, 0)], (1, 1)).p_value == 1.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: chi_square((1, 2, 3), (1, 1)), "3 arms have units, 2 have a share"),
        (lambda: chi_square((1, -2), (1, 1)), "-2 is no count of units"),
        (lambda: chi_square((1, 2), (1, 0)), "at least two positive shares"),
        (lambda: watch([(5, 5), (4, 9)], (1, 1)), "look 2 has fewer units"),
        (lambda: watch([], (1, 1)), "at least one look"),
        (lambda: log_evidence((1, 2), (1, 1), 0.0), "concentration must be positive"),
    ],
)
def test_wrong_counts_are_one_clear_line(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(StatisticError, match=says):
        make()
