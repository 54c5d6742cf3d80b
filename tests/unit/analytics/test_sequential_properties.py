"""Whatever the looks: alpha is spent exactly, and what is read off at the end agrees with the decision."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analytics.results import Alternative, StatisticError, UndefinedError
from analytics.sequential import SequentialPlan, bounds, classic_bounds, drift_for_power, equal_looks, inflation
from analytics.sequential_analysis import Look, growing, monitor, repeated_p_value, stagewise
from analytics.spending import Spending
from analytics.statistics import compare
from analytics.sufficient import Proportion

SPENDINGS = [
    Spending("obrien-fleming"),
    Spending("pocock"),
    Spending("power", 1.5),
    Spending("hwang-shih-decani", -4.0),
    Spending("hwang-shih-decani", 1.0),
]
spendings = st.sampled_from(SPENDINGS)
alternatives = st.sampled_from(["two-sided", "greater", "less"])


@st.composite
def fractions(draw: st.DrawFn, most: float = 1.0) -> tuple[float, ...]:
    steps = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=8))
    total = np.cumsum(steps)
    return tuple((total / total[-1] * most).tolist())


@given(spending=spendings, one=st.floats(0, 1.5), other=st.floats(0, 1.5), alpha=st.floats(1e-4, 0.5))
def test_spending_only_grows_and_ends_at_alpha(spending: Spending, one: float, other: float, alpha: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= spending.spent(low, alpha) <= spending.spent(high, alpha) * (1 + 1e-12) <= alpha * (1 + 1e-9)
    assert spending.spent(0, alpha) == 0
    assert spending.spent(1, alpha) == alpha
    assert spending.spent(1 - 1e-12, alpha) == pytest.approx(alpha, rel=1e-9)


@settings(max_examples=40)
@given(spending=spendings, looks=fractions(), alpha=st.floats(0.001, 0.3), alternative=alternatives)
def test_bounds_spend_exactly_alpha(
    spending: Spending, looks: tuple[float, ...], alpha: float, alternative: Alternative
) -> None:
    found = bounds(SequentialPlan(spending, alpha, alternative), looks)
    upper, lower = found.crossing()
    assert math.fsum(upper) + math.fsum(lower) == pytest.approx(alpha, abs=1e-9)
    assert np.cumsum(np.add(upper, lower)) == pytest.approx(found.spent, abs=1e-9)


@pytest.mark.parametrize("spending", SPENDINGS, ids=lambda one: one.name)
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_random_walks_cross_the_bounds_as_often_as_alpha_says(spending: Spending, alternative: Alternative) -> None:
    looks = np.array([0.07, 0.2, 0.5, 0.55, 0.8, 1.0])
    plan = SequentialPlan(spending, 0.1, alternative)
    found = bounds(plan, looks.tolist())
    rng = np.random.default_rng(7)
    for drift in (0.0, drift_for_power(found, 0.8)):
        steps = rng.normal(size=(400_000, len(looks))) * np.sqrt(np.diff(looks, prepend=0))
        z = (np.cumsum(steps, axis=1) + drift * looks) / np.sqrt(looks)
        crossed = ((z >= found.upper) | (z <= found.lower)).any(axis=1).mean()
        expected = 0.1 if drift == 0 else 0.8
        assert crossed == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / 400_000))


@given(spending=spendings, looks=fractions(), alternative=alternatives)
@settings(max_examples=25)
def test_another_unit_of_information_changes_nothing(
    spending: Spending, looks: tuple[float, ...], alternative: Alternative
) -> None:
    one = bounds(SequentialPlan(spending, 0.05, alternative), looks)
    other = bounds(SequentialPlan(spending, 0.05, alternative, maximum=4e5), [look * 4e5 for look in looks])
    assert one.upper == pytest.approx(other.upper, rel=1e-9)
    assert one.lower == pytest.approx(other.lower, rel=1e-9)


@given(spending=spendings, looks=fractions(), share=st.floats(0.2, 0.98))
@settings(max_examples=25)
def test_a_final_look_that_falls_short_spends_what_is_left(
    spending: Spending, looks: tuple[float, ...], share: float
) -> None:
    short = [look * share for look in looks]
    plan = SequentialPlan(spending, 0.05)
    open_ended, ended = bounds(plan, short), bounds(plan, short, final=True)
    assert open_ended.spent[-1] < 0.05
    assert ended.spent[-1] == pytest.approx(0.05)
    assert ended.upper[:-1] == open_ended.upper[:-1]
    assert ended.upper[-1] < open_ended.upper[-1]
    assert sum(map(sum, ended.crossing())) == pytest.approx(0.05, abs=1e-9)


def test_a_look_beyond_the_plan_spends_what_is_left_and_no_more() -> None:
    plan = SequentialPlan(Spending("pocock"), 0.05, maximum=100)
    found = bounds(plan, [40, 80, 130])
    assert found.spent == pytest.approx((found.spent[0], found.spent[1], 0.05))
    assert sum(map(sum, found.crossing())) == pytest.approx(0.05, abs=1e-9)
    # After that there is nothing to decide by.
    assert bounds(plan, [40, 80, 130, 170]).upper[-1] == math.inf


def test_the_less_alternative_is_the_mirror_of_greater() -> None:
    looks = (0.3, 0.6, 1.0)
    greater = bounds(SequentialPlan(Spending("pocock"), 0.05, "greater"), looks)
    less = bounds(SequentialPlan(Spending("pocock"), 0.05, "less"), looks)
    assert less.lower == pytest.approx([-one for one in greater.upper])
    assert less.power(-2.5) == pytest.approx(greater.power(2.5))
    assert drift_for_power(less, 0.8) == pytest.approx(-drift_for_power(greater, 0.8))
    one, other = stagewise(greater, 1, 2.6), stagewise(less, 1, -2.6)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.estimate == pytest.approx(-other.estimate)
    assert one.interval.low == pytest.approx(-other.interval.high)


def test_one_look_is_the_ordinary_test() -> None:
    result = compare(Proportion(10_000, 540), Proportion(10_000, 620))
    assert result.information is not None
    look = Look.at(result)
    found = monitor(SequentialPlan(maximum=look.information), [look])
    assert found.bounds.upper == pytest.approx((1.959963984540054,))
    assert found.ended_at == 0
    assert found.result.estimate == pytest.approx(result.estimate)
    assert result.interval is not None
    assert found.result.interval is not None
    assert found.result.interval.low == pytest.approx(result.interval.low)
    assert found.result.interval.high == pytest.approx(result.interval.high)
    assert found.result.p_value == pytest.approx(
        2 * (1 - 0.5 * (1 + math.erf(look.statistic / math.sqrt(2)))), rel=1e-9
    )
    assert inflation(found.bounds, 0.8) == pytest.approx(1.0, abs=1e-5)


@given(
    spending=spendings,
    looks=fractions(),
    alternative=alternatives,
    shocks=st.lists(st.floats(-2.5, 2.5), min_size=8, max_size=8),
    drift=st.floats(-4, 4),
)
@settings(max_examples=60, deadline=None)
def test_decision_p_value_and_interval_agree(
    spending: Spending, looks: tuple[float, ...], alternative: Alternative, shocks: list[float], drift: float
) -> None:
    plan = SequentialPlan(spending, 0.05, alternative)
    steps = np.array(shocks[: len(looks)]) * np.sqrt(np.diff(looks, prepend=0)) + drift * np.diff(looks, prepend=0)
    seen = [Look(look, float(score) / look) for look, score in zip(looks, np.cumsum(steps), strict=True)]
    found = monitor(plan, seen)
    # On a bound to the last digit, rounding decides.
    edges = zip(seen, found.bounds.lower, found.bounds.upper, strict=True)
    assume(all(min(abs(look.statistic - low), abs(look.statistic - high)) > 1e-6 for look, low, high in edges))
    assert found.ended_at is not None
    assert found.result.defined
    assert found.result.significant == (found.crossed is not None)
    assert found.result.interval is not None
    assert (0.0 in found.result.interval) == (found.crossed is None)
    assert found.result.estimate in found.result.interval
    # The repeated interval says the same at every look before, and its p-value at the end.
    for number in range(found.ended_at):
        assert 0.0 in found.repeated[number]
    repeated = repeated_p_value(plan, seen[: found.ended_at + 1])
    assert (repeated <= 0.05 + 1e-6) == (found.crossed is not None)


def test_the_estimate_of_a_test_stopped_early_is_drawn_in() -> None:
    plan = SequentialPlan(Spending("pocock"), 0.05)
    found = monitor(plan, [Look(0.25, 1.0), Look(0.5, 3.6)])
    assert found.ended_at == 1
    assert found.result.estimate is not None
    assert 2.0 < found.result.estimate < 3.6


def test_the_median_unbiased_estimate_is_too_large_half_of_the_time() -> None:
    looks = np.array(equal_looks(4))
    plan = SequentialPlan(Spending("pocock"), 0.05)
    found = bounds(plan, looks.tolist())
    rng = np.random.default_rng(3)
    drift, runs = 2.0, 1500
    z = (np.cumsum(rng.normal(size=(runs, 4)) * 0.5, axis=1) + drift * looks) / np.sqrt(looks)
    estimates, covered = [], 0
    for path in z:
        hits = np.flatnonzero((path >= found.upper) | (path <= found.lower))
        ended = stagewise(found, int(hits[0]) if len(hits) else 3, float(path[hits[0] if len(hits) else 3]))
        estimates.append(ended.estimate)
        covered += drift in ended.interval
    assert np.mean(np.array(estimates) > drift) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(runs))
    assert covered / runs == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / runs))


def test_what_comes_after_the_end_changes_nothing() -> None:
    plan = SequentialPlan(Spending("obrien-fleming"), 0.05)
    seen = [Look(0.4, 1.0), Look(0.7, 3.9), Look(0.9, 0.1)]
    assert monitor(plan, seen).result == monitor(plan, seen[:2]).result
    assert monitor(plan, seen).ended_at == 1


def test_looks_without_more_information_are_left_out() -> None:
    looks = [Look(10.0, 1.0), Look(10.0, 1.0), Look(9.0, 1.2), Look(10.0005, 1.0), Look(20.0, 0.5)]
    assert growing(looks) == (looks[0], looks[4])
    assert growing([]) == ()
    monitor(SequentialPlan(maximum=40), growing(looks))


def test_thirty_looks_take_well_under_a_second() -> None:
    began = time.process_time()
    found = bounds(SequentialPlan(Spending("obrien-fleming"), 0.05, "greater"), equal_looks(30))
    inflation(found, 0.8)
    monitor(SequentialPlan(maximum=40), [Look(look, 0.3) for look in range(1, 31)])
    assert time.process_time() - began < 0.7


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Spending("fancy"), "spending must be one of"),
        (lambda: Spending("pocock", 1.0), "pocock takes no parameter"),
        (lambda: Spending("power"), "power needs a parameter"),
        (lambda: Spending("power", -1.0), "needs a parameter above 0, not -1"),
        (lambda: Spending().spent(-0.1, 0.05), "an information fraction cannot be -0.1"),
        (lambda: SequentialPlan(alpha=1.0), "alpha must lie between 0 and 1"),
        (lambda: SequentialPlan(maximum=0.0), "planned information must be positive"),
        (lambda: SequentialPlan(alternative="both"), "alternative must be one of"),
        (lambda: bounds(SequentialPlan(), []), "at least one look"),
        (lambda: bounds(SequentialPlan(), [0.5, 0.5]), "look 2 has the information 0.5: it must be more than the 0.5"),
        (lambda: bounds(SequentialPlan(), [0.5, 0.5 + 1e-12]), "two looks are closer than can be computed"),
        (lambda: classic_bounds("haybittle", 3), "classic bounds are"),
        (lambda: equal_looks(0), "at least one look"),
        (lambda: drift_for_power(bounds(SequentialPlan(), [1.0]), 0.04), "a power of 0.04 is no more than alpha"),
        (lambda: Look(0.0, 1.0), "information must be positive"),
        (lambda: Look(1.0, math.nan), "estimate must be a number"),
        (lambda: monitor(SequentialPlan(), []), "at least one look"),
    ],
)
def test_wrong_plans_and_looks_are_one_clear_line(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(StatisticError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_look_at_nothing_says_why() -> None:
    with pytest.raises(UndefinedError, match="an arm has no units"):
        Look.at(compare(Proportion(0, 0), Proportion(5, 1)))
