"""Chances to win and expected losses are those of the closed forms and of draws from the posteriors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from analytics.bayes import beta_binomial, normal
from analytics.results import StatisticError, UndefinedError
from analytics.sufficient import Mean, Proportion


def closed_form(a_control: int, b_control: int, a_treatment: int, b_treatment: int) -> float:
    """P(Beta > Beta) for whole numbers (Miller 2015, "Formulas for Bayesian A/B testing")."""
    terms = (
        math.exp(
            special.betaln(a_control + i, b_control + b_treatment)
            - math.log(b_treatment + i)
            - special.betaln(1 + i, b_treatment)
            - special.betaln(a_control, b_control)
        )
        for i in range(a_treatment)
    )
    return math.fsum(terms)


@pytest.mark.parametrize("arms", [((1000, 50), (1000, 70)), ((20, 0), (25, 3)), ((40_000, 2000), (500, 31))])
def test_two_proportions_as_the_closed_form(arms: tuple[tuple[int, int], tuple[int, int]]) -> None:
    control, treatment = (Proportion(*arm) for arm in arms)
    found = beta_binomial([control, treatment])
    exact = closed_form(
        1 + control.successes,
        1 + control.n - control.successes,
        1 + treatment.successes,
        1 + treatment.n - treatment.successes,
    )
    assert found[1].chance_to_win == pytest.approx(exact, abs=1e-8)
    assert found[1].chance_to_beat_control == found[1].chance_to_win
    assert found[0].chance_to_beat_control is None
    assert found[0].chance_to_win + found[1].chance_to_win == pytest.approx(1.0, abs=1e-8)


def test_means_as_gbstats() -> None:
    found = normal([Mean(1000, 5100.0, 31000.0), Mean(1100, 5900.0, 37500.0)])
    # gbstats 0.8.0: EffectBayesianABTest, absolute, improper prior: chance_to_win and risk.
    assert found[1].chance_to_win == pytest.approx(0.9960696988193841, abs=1e-9)
    assert found[0].expected_loss == pytest.approx(0.2637569012196344, abs=1e-9)
    assert found[1].expected_loss == pytest.approx(0.00012053758327073443, abs=1e-9)


def test_three_arms_as_draws() -> None:
    arms = [Proportion(900, 80), Proportion(1000, 101), Proportion(950, 99)]
    found = beta_binomial(arms)
    rng = np.random.default_rng(4)
    draws = np.stack([rng.beta(1 + arm.successes, 1 + arm.n - arm.successes, 1_000_000) for arm in arms])
    best = np.bincount(draws.argmax(axis=0)) / draws.shape[1]
    assert [one.chance_to_win for one in found] == pytest.approx(best.tolist(), abs=2.5e-3)
    losses = (draws.max(axis=0) - draws).mean(axis=1)
    assert [one.expected_loss for one in found] == pytest.approx(losses.tolist(), abs=5e-5)
    assert sum(one.chance_to_win for one in found) == pytest.approx(1.0, abs=1e-8)


def test_where_fewer_is_better_the_other_arm_wins() -> None:
    arms = [Proportion(1000, 50), Proportion(1000, 70)]
    more, fewer = beta_binomial(arms), beta_binomial(arms, higher_is_better=False)
    assert fewer[0].chance_to_win == pytest.approx(more[1].chance_to_win)
    assert fewer[0].expected_loss == pytest.approx(more[1].expected_loss)


def test_a_prior_draws_the_estimate_to_itself() -> None:
    arms = [Mean(100, 500.0, 3000.0), Mean(100, 520.0, 3200.0)]
    found = normal(arms, prior_mean=0.0, prior_deviation=0.001)
    assert found[0].value == pytest.approx(0.0, abs=1e-3)
    assert found[1].chance_to_win == pytest.approx(0.5, abs=0.01)


def test_an_arm_without_units_is_judged_by_its_prior() -> None:
    found = beta_binomial([Proportion(0, 0), Proportion(0, 0)])
    assert found[0].chance_to_win == pytest.approx(0.5)
    assert found[0].value == 0.5
    assert found[0].interval.low == pytest.approx(0.025)


def test_what_cannot_be_judged_says_why() -> None:
    with pytest.raises(UndefinedError, match="have the same value"):
        normal([Mean(10, 10.0, 10.0), Mean(10, 20.0, 50.0)])
    with pytest.raises(StatisticError, match="at least two arms"):
        beta_binomial([Proportion(1, 1)])
    with pytest.raises(StatisticError, match="prior's counts must be positive"):
        beta_binomial([Proportion(1, 1), Proportion(1, 1)], prior=(0.0, 1.0))
