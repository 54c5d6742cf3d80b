"""Sample sizes follow their named formulas, and an experiment of that size has that power."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.power import (
    Requirement,
    absolute_effect,
    duration,
    mean_curve,
    mean_mde,
    mean_power,
    mean_size,
    proportion_curve,
    proportion_mde,
    proportion_power,
    proportion_size,
    ratio_size,
)
from analytics.results import StatisticError
from analytics.sequential import SequentialPlan, bounds, equal_looks, inflation

TEN_PERCENT = Requirement(absolute_effect(0.05, 0.1, "relative"))


def test_five_percent_and_a_tenth_of_it_need_31231_or_31234_units() -> None:
    unpooled, pooled = proportion_size(0.05, TEN_PERCENT), proportion_size(0.05, TEN_PERCENT, "pooled")
    assert unpooled.arms == (31_231, 31_231)
    assert unpooled.formula == "two proportions, unpooled"
    assert pooled.arms == (31_234, 31_234)
    assert pooled.formula == "two proportions, pooled"
    assert pooled.total == 62_468


@pytest.mark.parametrize(
    ("baseline", "effect", "power", "ratio"), [(0.05, 0.005, 0.8, 1.0), (0.1, 0.02, 0.9, 2.0), (0.4, -0.03, 0.9, 0.25)]
)
def test_the_pooled_size_just_reaches_its_power(baseline: float, effect: float, power: float, ratio: float) -> None:
    need = Requirement(effect, power=power, shares=(1.0, ratio))
    size = proportion_size(baseline, need, "pooled")
    reached = proportion_power(baseline, size.arms, need)
    assert power <= reached < power + 1e-3
    fewer = tuple(int(0.99 * one) for one in size.arms)
    assert proportion_power(baseline, fewer, need) < power


@pytest.mark.parametrize(
    ("baseline", "effect", "arms", "power"),
    [
        # statsmodels 0.15.0: power_proportions_2indep, alpha 0.05.
        (0.05, 0.005, (31_234, 31_234), 0.8000080167256324),
        (0.10, 0.01, (16_000, 8_000), 0.6675591065390999),
    ],
)
def test_power_as_statsmodels(baseline: float, effect: float, arms: tuple[int, int], power: float) -> None:
    assert proportion_power(baseline, arms, Requirement(effect)) == pytest.approx(power, abs=1e-4)


def test_means_as_statsmodels() -> None:
    # statsmodels 0.15.0: zt_ind_solve_power, effect size 0.1.
    assert mean_size(1.0, Requirement(0.1)).arms == (1570, 1570)
    need = Requirement(0.1, power=0.9, alternative="greater", shares=(2.0, 1.0))
    assert mean_size(1.0, need).arms == (2570, 1285)


def test_cuped_and_unequal_deviations_change_the_size() -> None:
    plain = mean_size(2.0, Requirement(0.1))
    adjusted = mean_size(2.0 * (1 - 0.6**2) ** 0.5, Requirement(0.1))
    assert adjusted.control == pytest.approx(plain.control * 0.64, abs=1)
    assert mean_size(2.0, Requirement(0.1), treatment_deviation=4.0).control == pytest.approx(
        plain.control * 2.5, abs=2
    )


def test_a_ratio_needs_what_a_mean_of_its_residuals_needs() -> None:
    assert ratio_size(4.0, 5.0, Requirement(0.02)).arms == mean_size(0.4, Requirement(0.02)).arms


def test_unequal_arms_keep_their_shares_and_cost_more() -> None:
    even = proportion_size(0.05, TEN_PERCENT)
    uneven = proportion_size(0.05, Requirement(0.005, shares=(0.9, 0.1)))
    assert uneven.arms[0] == pytest.approx(9 * uneven.arms[1], abs=9)
    assert uneven.total > even.total
    three = proportion_size(0.05, Requirement(0.005, shares=(1, 1, 2)))
    assert three.arms[:2] == even.arms
    assert three.arms[2] == pytest.approx(2 * even.control, abs=2)
    assert three.smallest_treatment == even.control


@given(shares=st.lists(st.floats(0.05, 1.0), min_size=2, max_size=4), baseline=st.floats(0.01, 0.9))
def test_every_treatment_gets_its_power(shares: list[float], baseline: float) -> None:
    need = Requirement(0.02, shares=tuple(shares))
    size = proportion_size(baseline, need, "pooled")
    for treatment in size.arms[1:]:
        assert proportion_power(baseline, (size.control, treatment), need) >= 0.8 - 1e-6


def test_the_smallest_effect_found_is_the_one_planned_for() -> None:
    for formula in ("unpooled", "pooled"):
        size = proportion_size(0.05, TEN_PERCENT, formula)
        assert proportion_mde(0.05, size.control, TEN_PERCENT, formula) == pytest.approx(0.005, rel=1e-4)
    down = Requirement(-0.005)
    assert proportion_mde(0.05, proportion_size(0.05, down).control, down) == pytest.approx(-0.005, rel=1e-4)
    assert mean_mde(1.0, 1570, Requirement(0.5)) == pytest.approx(0.1, rel=1e-3)


def test_a_sequential_design_costs_its_inflation() -> None:
    factor = inflation(bounds(SequentialPlan(), equal_looks(14)), 0.8)
    need = Requirement(0.005, inflation=factor)
    size = proportion_size(0.05, need)
    assert size.control == pytest.approx(31_231 * factor, abs=1)
    assert size.inflation == factor
    # The curve counts it too: at the planned effect the planned power.
    curve = proportion_curve(0.05, size.arms, need, points=5)
    assert [effect for effect, _ in curve] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01])
    assert curve[0][1] == 0.05
    assert curve[2][1] == pytest.approx(0.8, abs=1e-3)
    assert [power for _, power in curve] == sorted(power for _, power in curve)


def test_a_curve_ends_where_proportions_do() -> None:
    curve = proportion_curve(0.6, (100, 100), Requirement(0.3), points=9)
    assert curve[-1][0] == pytest.approx(0.4)
    assert curve[-1][1] > 0.999
    down = proportion_curve(0.05, (1000, 1000), Requirement(-0.04), points=3)
    assert down[-1][0] == pytest.approx(-0.05)


def test_the_curve_of_means_passes_through_the_planned_power() -> None:
    need = Requirement(-0.1)
    curve = mean_curve(1.0, mean_size(1.0, need).arms, need, points=3)
    assert curve[1] == (-0.1, pytest.approx(0.8, abs=1e-3))
    with pytest.raises(StatisticError, match="at least two points"):
        mean_curve(1.0, (10, 10), need, points=1)


def test_mean_power_is_that_of_its_size() -> None:
    need = Requirement(0.1, alternative="greater")
    assert mean_power(1.0, mean_size(1.0, need).arms, need) == pytest.approx(0.8, abs=1e-3)


def test_the_minimum_runtime_overrides_a_short_need() -> None:
    size = proportion_size(0.05, TEN_PERCENT)
    short = duration(size, units_per_second=1000, share=0.1)
    assert short.needed == timedelta(seconds=625)
    assert short.planned == timedelta(hours=24)
    assert short.reason == "the minimum runtime of 24 hours, although 0:10:25 would be enough"
    long = duration(size, units_per_second=0.1)
    assert long.needed == long.planned == timedelta(seconds=624_620)
    assert long.reason == "62462 units at 0.1 a second"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Requirement(0.0), "the effect to find must be a number other than 0"),
        (lambda: Requirement(0.1, power=1.0), "power must lie between 0 and 1"),
        (lambda: Requirement(0.1, power=0.04), "a power of 0.04 is no more than alpha"),
        (lambda: Requirement(-0.1, alternative="greater"), "is not what the alternative 'greater' looks for"),
        (lambda: Requirement(0.1, inflation=0.9), "inflation of a design is at least 1"),
        (lambda: Requirement(0.1, shares=(1.0,)), "at least two positive shares"),
        (lambda: absolute_effect(0.0, 0.1, "relative"), "a baseline of 0 has no relative effect"),
        (lambda: proportion_size(0.97, Requirement(0.05)), "a proportion must lie between 0 and 1, not 1.02"),
        (lambda: proportion_size(0.5, TEN_PERCENT, "exact"), "formula must be unpooled or pooled"),
        (lambda: proportion_size(0.5, Requirement(1e-12)), "it is too small to be found"),
        (lambda: mean_size(0.0, Requirement(1.0)), "a standard deviation must be positive"),
        (lambda: ratio_size(1.0, 0.0, Requirement(1.0)), "a mean denominator must be a number other than 0"),
        (lambda: proportion_mde(0.5, 3, Requirement(0.1)), "3 units cannot find any effect"),
        (lambda: duration(proportion_size(0.5, Requirement(0.1)), 0.0), "the rate must be positive"),
        (lambda: duration(proportion_size(0.5, Requirement(0.1)), 1.0, 1.5), "the share must lie above 0"),
        (lambda: duration(proportion_size(0.5, Requirement(0.1)), 1e-12), "take .* seconds"),
    ],
)
def test_wrong_plans_are_one_clear_line(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(StatisticError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)
