"""Plans: sizes by named formulas, what looking often costs, how long it takes, and what so many units can find."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.always_valid import ConfidenceSequence
from analytics.definitions import Effect, Procedure
from analytics.planning import Wanted, design_bounds, design_name, plan
from analytics.power import Requirement, proportion_power
from analytics.results import StatisticError
from analytics.sequential import inflation

TENTH = Wanted(baseline=0.05, effect=Effect(0.1, relative=True))
OFTEN = Procedure(kind="group-sequential")
ALWAYS = Procedure(kind="always-valid")


def test_both_formulas_are_named_and_the_chosen_one_is_the_size() -> None:
    found = plan(TENTH)
    assert {one.formula: one.arms for one in found.one_look} == {
        "two proportions, unpooled": (31_231, 31_231),
        "two proportions, pooled": (31_234, 31_234),
    }
    assert (found.size.formula, found.size.control) == ("two proportions, unpooled", 31_231)
    assert plan(replace(TENTH, formula="pooled")).size.control == 31_234
    assert found.effect == pytest.approx(0.005)
    assert found.lift == pytest.approx(0.1)
    assert (found.design, found.inflation, found.spent) == ("one look", 1.0, None)


def test_a_tenth_of_1000_a_second_takes_ten_minutes_and_runs_a_day_all_the_same() -> None:
    found = plan(replace(TENTH, rate=1000, share=0.1)).duration
    assert found is not None
    assert (found.needed, found.planned) == (timedelta(seconds=625), timedelta(hours=24))
    assert found.reason == "the minimum runtime of 24 hours, although 0:10:25 would be enough"
    assert plan(TENTH).duration is None


def test_looking_14_times_costs_what_the_design_costs() -> None:
    found = plan(replace(TENTH, test=OFTEN))
    assert found.design == "group sequential, obrien-fleming, 14 looks"
    # The simulations of benchmarks/peeking.py find 80% power at this size.
    assert found.inflation == pytest.approx(1.0424, abs=1e-4)
    assert found.size.arms == (32_556, 32_556)
    assert found.one_look[0].arms == (31_231, 31_231), "beside it, what one look takes"
    assert found.spent == pytest.approx(0.7544, abs=1e-3)
    pocock = plan(replace(TENTH, test=replace(OFTEN, spending="pocock")))
    assert pocock.size.control > found.size.control
    # Without looks on the way it is the test that looks once.
    assert plan(replace(TENTH, test=replace(OFTEN, looks=1))).size.arms == (31_231, 31_231)


def test_an_always_valid_test_has_its_power_at_its_size() -> None:
    found = plan(replace(TENTH, test=ALWAYS))
    assert found.design == "always valid, 14 looks"
    rng = np.random.default_rng(20_130_101)
    runs, looks = 20_000, 14
    fractions = np.arange(1, looks + 1) / looks
    sequence = ConfidenceSequence(tuned_for=1.0)
    reach = np.array([sequence.half_width(one) * math.sqrt(one) for one in fractions])
    drift = (1.9599639845 + 0.8416212336) * math.sqrt(found.inflation)
    steps = rng.normal(drift / looks, math.sqrt(1 / looks), size=(runs, looks))
    statistic = np.cumsum(steps, axis=1) / np.sqrt(fractions)
    crossed = np.abs(statistic) > reach
    assert crossed.any(axis=1).mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / runs))
    ended = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, looks) / looks
    assert found.spent == pytest.approx(ended.mean(), abs=0.01)


def test_an_always_valid_test_costs_less_the_more_often_it_is_looked_at_and_never_more_than_its_last_interval() -> None:
    sequence = ConfidenceSequence(tuned_for=1.0)
    last = ((sequence.half_width(1.0) + 0.8416212336) / (1.9599639845 + 0.8416212336)) ** 2
    factors = []
    for looks in (1, 2, 14, 28, 100):
        found = design_bounds(replace(ALWAYS, looks=looks))
        assert found is not None
        assert found.spent[-1] <= 0.05, "Ville's promise holds for any number of looks"
        factors.append(inflation(found, 0.8))
    assert factors[0] == pytest.approx(last, rel=1e-3)
    assert factors == sorted(factors, reverse=True)
    # arXiv 2606.18366: counting every crossing saves 8 to 20% of what the last point alone asks for.
    assert 0.80 < factors[-1] / factors[0] < 0.92


def test_unequal_arms_keep_their_shares() -> None:
    found = plan(replace(TENTH, shares=(0.8, 0.2)))
    assert found.size.arms[0] == pytest.approx(4 * found.size.arms[1], abs=4)
    assert found.size.total > plan(TENTH).size.total
    assert plan(replace(TENTH, shares=(80, 20))) == replace(found, wanted=replace(TENTH, shares=(80, 20)))


def test_means_and_ratios_go_by_their_deviation() -> None:
    mean = plan(Wanted(metric="mean", deviation=1.0, effect=Effect(0.1, relative=False)))
    # statsmodels 0.15.0: zt_ind_solve_power, effect size 0.1.
    assert (mean.size.arms, mean.lift) == ((1570, 1570), None)
    assert [one.formula for one in mean.one_look] == ["two means, normal"]
    ratio = plan(
        Wanted(metric="ratio", baseline=0.2, deviation=2.0, mean_denominator=5.0, effect=Effect(0.1, relative=True))
    )
    assert ratio.size.arms == plan(replace(mean.wanted, deviation=0.4, effect=Effect(0.02, relative=False))).size.arms
    assert ratio.size.formula == "ratio of sums, delta method"


@settings(max_examples=40, deadline=None)
@given(
    test=st.sampled_from([Procedure(kind="fixed"), OFTEN, ALWAYS]),
    down=st.booleans(),
    share=st.floats(0.1, 0.9),
    lift=st.floats(0.05, 0.5),
)
def test_the_effect_that_the_planned_units_find_is_the_planned_effect(
    test: Procedure, down: bool, share: float, lift: float
) -> None:
    effect = Effect(-lift if down else lift, relative=True)
    for wanted in (
        replace(TENTH, effect=effect, test=test, shares=(1 - share, share)),
        replace(TENTH, effect=effect, test=test, metric="mean", deviation=0.3, shares=(1 - share, share)),
        replace(TENTH, effect=effect, test=test, metric="ratio", deviation=0.3, mean_denominator=-4.0),
    ):
        size = plan(wanted).size
        again = plan(replace(wanted, effect=Effect(-1.0 if down else 1.0, relative=False), units=size.control))
        # Units are whole, and the fewest there are is two.
        assert again.effect == pytest.approx(size.effect, rel=2 / size.control)
        assert again.one_look == ()
        # One unit more in the control are so many in a treatment.
        assert abs(again.size.arms[1] - size.arms[1]) <= 1 + size.arms[1] / size.control + 1


@pytest.mark.parametrize("test", [Procedure(kind="fixed"), OFTEN, ALWAYS])
def test_the_curve_passes_through_the_planned_power_and_rises(test: Procedure) -> None:
    curve = plan(replace(TENTH, test=test, formula="pooled")).curve
    powers = [power for _, power in curve]
    assert powers == sorted(powers)
    assert dict(curve)[curve[len(curve) // 2][0]] == pytest.approx(0.8, abs=2e-4)
    assert curve[-1][0] == pytest.approx(0.01)
    assert powers[0] <= 0.05 + 1e-9


def test_the_curve_of_one_look_is_the_power_of_its_size() -> None:
    found = plan(TENTH)
    for effect, power in found.curve[1:]:
        assert power == pytest.approx(proportion_power(0.05, found.size.arms, Requirement(effect)))


def test_an_answer_is_plain_json() -> None:
    document = json.loads(json.dumps(plan(replace(TENTH, rate=1000, share=0.1, test=OFTEN)).as_dict(), allow_nan=False))
    assert document["one_look"][0] == {
        "formula": "two proportions, unpooled", "arms": [31_231, 31_231], "total": 62_462
    }  # fmt: skip
    assert document["arms"] == [32_556, 32_556]
    assert (document["planned_seconds"], document["needed_seconds"]) == (86_400, 652)
    assert document["expected_total"] == pytest.approx(0.7544 * 65_112, rel=1e-3)
    assert document["curve"][0] == {"effect": 0.0, "power": pytest.approx(0.05)}


def test_designs_have_names() -> None:
    assert design_name(replace(OFTEN, spending="power", spending_parameter=1.5, looks=1)) == (
        "group sequential, power 1.5, 1 look"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"effect": None}, "a plan needs the smallest effect worth finding, or the units there will be"),
        ({"baseline": None}, "a relative effect needs the baseline"),
        ({"baseline": None, "effect": Effect(0.1, relative=False)}, "a proportion needs a baseline"),
        ({"baseline": 1.5}, "a proportion must lie between 0 and 1, not 1.5"),
        ({"baseline": 0.0}, "a baseline of 0 has no relative effect"),
        ({"metric": "mean"}, "a mean needs the standard deviation of a unit's value"),
        ({"metric": "ratio"}, "a ratio needs the standard deviation of a unit's numerator"),
        ({"metric": "ratio", "deviation": 1.0, "mean_denominator": 0.0}, "a mean denominator must be"),
        ({"metric": "ratio", "deviation": 1.0, "mean_denominator": 0.0, "units": 9}, "a mean denominator must be"),
        ({"formula": "exact"}, "formula must be unpooled or pooled, not 'exact'"),
        ({"units": 1}, "a control needs 2 units or more, not 1"),
        ({"baseline": 0.5, "units": 3}, "3 units cannot find any effect on a baseline of 0.5"),
        ({"shares": (1.0,)}, "at least two positive shares"),
        ({"rate": -1.0}, "the rate must be positive"),
        ({"test": Procedure(kind="group-sequential", looks=0)}, "at least one look is needed, not 0"),
        ({"test": Procedure(kind="group-sequential", spending="power")}, "spending power needs a parameter"),
        ({"test": Procedure(kind="fixed", power=0.01)}, "a power of 0.01 is no more than alpha 0.05"),
        ({"test": Procedure(kind="fixed", alpha=2.0)}, "alpha must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_line(change: dict[str, object], says: str) -> None:
    with pytest.raises(StatisticError, match=says) as caught:
        plan(replace(TENTH, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
