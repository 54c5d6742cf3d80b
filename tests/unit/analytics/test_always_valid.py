"""Always-valid tests: the published formulas, the duality of p-value and interval, and Ville's promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.always_valid import ConfidenceSequence, MixtureSprt
from analytics.effects import effect
from analytics.results import Alternative, StatisticError
from analytics.sequential_analysis import Look
from analytics.sufficient import Mean, Proportion


def test_confidence_sequence_as_gbstats() -> None:
    look = Look.of(effect(Mean(1000, 5100.0, 31000.0), Mean(1100, 5900.0, 37500.0)))
    # gbstats tunes in units; a unit here carries information / n.
    result = ConfidenceSequence(tuned_for=look.information / 2100 * 5000).watch([look])
    # gbstats 0.8.0: SequentialTwoSidedTTest, sequential_tuning_parameter=5000.
    assert result.p_value == pytest.approx(0.13750247356983117, rel=1e-9)
    assert result.interval is not None
    assert result.interval.low == pytest.approx(-0.04520022802772661, rel=1e-9)
    assert result.interval.high == pytest.approx(0.572472955300454, rel=1e-9)


def test_confidence_sequence_of_proportions_as_gbstats() -> None:
    look = Look.of(effect(Proportion(10_100, 540), Proportion(10_000, 620)))
    result = ConfidenceSequence(tuned_for=look.information / 20_100 * 20_000).watch([look])
    # gbstats 0.8.0: SequentialTwoSidedTTest, sequential_tuning_parameter=20000; it takes the variance with n - 1.
    assert result.p_value == pytest.approx(0.15076663453449954, rel=1e-3)
    assert result.interval is not None
    assert result.interval.high == pytest.approx(0.01852137054367178, rel=1e-3)


def test_the_two_methods_are_one_with_the_same_mixture() -> None:
    sequence = ConfidenceSequence(tuned_for=500.0)
    sprt = MixtureSprt(math.sqrt(sequence.rho2 / 500.0))
    for information in (3.0, 100.0, 4e4):
        assert sequence.half_width(information) == pytest.approx(sprt.half_width(information), rel=1e-12)
        assert sequence.p_value(information, 0.1) == pytest.approx(
            math.exp(min(0.0, -sprt.log_ratio(information, 0.1))), rel=1e-9
        )


@given(
    information=st.floats(0.1, 1e6),
    z=st.floats(-9, 9),
    alpha=st.floats(0.001, 0.2),
    alternative=st.sampled_from(["two-sided", "greater", "less"]),
)
def test_the_interval_excludes_zero_just_when_the_p_value_says_so(
    information: float, z: float, alpha: float, alternative: Alternative
) -> None:
    look = Look(information, z / math.sqrt(information))
    for result in (
        ConfidenceSequence(tuned_for=1000.0, alpha=alpha, alternative=alternative).watch([look]),
        MixtureSprt(0.03, alpha).watch([look]),
    ):
        assert result.p_value is not None
        assert result.interval is not None
        if abs(result.p_value - alpha) > 1e-9:
            assert result.significant == (0.0 not in result.interval)


def test_looking_on_makes_neither_p_value_nor_interval_worse() -> None:
    looks = [Look(100.0, 0.1), Look(200.0, 0.35), Look(300.0, 0.05), Look(400.0, 0.2)]
    for method in (MixtureSprt(0.2), ConfidenceSequence(tuned_for=200.0)):
        results = [method.watch(looks[:seen]) for seen in range(1, 5)]
        p_values = [result.p_value for result in results]
        widths = [result.interval.width for result in results if result.interval]
        assert p_values == sorted(p_values, reverse=True)
        assert widths == sorted(widths, reverse=True)
        assert results[-1].estimate == 0.2


def test_the_sequence_is_nearly_the_narrowest_where_it_is_tuned() -> None:
    widths = [ConfidenceSequence(tuned_for=tuned).half_width(1000.0) for tuned in (100.0, 400.0, 1000.0, 2500.0, 1e4)]
    assert min(widths) == widths[2]
    # And the price of looking at will: against 1.96 standard errors.
    assert widths[2] * math.sqrt(1000.0) / 1.96 == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_looking_after_every_step_is_wrong_no_more_often_than_alpha(alternative: Alternative) -> None:
    rng = np.random.default_rng(5)
    steps, runs, alpha = 2000, 4000, 0.05
    information = np.arange(1, steps + 1, dtype=float)
    estimates = np.cumsum(rng.normal(size=(runs, steps)), axis=1) / information
    sequence = ConfidenceSequence(tuned_for=500.0, alpha=alpha, alternative=alternative)
    reach = np.array([sequence.half_width(one) for one in information])
    out = estimates > reach if alternative == "greater" else np.abs(estimates) > reach
    wrong = out.any(axis=1).mean()
    assert 0.005 < wrong <= alpha
    sprt = np.array([MixtureSprt(0.1, alpha).half_width(one) for one in information])
    assert 0.005 < (np.abs(estimates) > sprt).any(axis=1).mean() <= alpha


def test_a_sequence_that_has_not_started_says_so() -> None:
    result = ConfidenceSequence(tuned_for=100.0, start=50.0).watch([Look(10.0, 3.0)])
    assert not result.defined
    assert result.reason == "no look has the information 50 yet at which the sequence starts"
    assert ConfidenceSequence(tuned_for=100.0, start=50.0).watch([Look(10.0, 3.0), Look(60.0, 3.0)]).significant


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MixtureSprt(0.0), "mixing deviation must be positive"),
        (lambda: ConfidenceSequence(0.0), "information to tune for must be positive"),
        (lambda: MixtureSprt(1.0).watch([]), "at least one look"),
    ],
)
def test_wrong_settings_are_one_clear_line(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(StatisticError, match=says):
        make()
