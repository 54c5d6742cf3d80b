"""Arms that are empty, tiny or constant get a defined answer; impossible sums get one clear line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from analytics.results import Interval, StatisticError
from analytics.statistics import compare, non_inferior
from analytics.sufficient import Covaried, Mean, Proportion, Quantile, Ratio, Strata, quantile_ranks

EMPTY = {
    "proportion": Proportion(0, 0),
    "mean": Mean(0, 0.0, 0.0),
    "ratio": Ratio(0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "covaried": Covaried(Mean(0, 0.0, 0.0), Mean(0, 0.0, 0.0), 0.0),
    "quantile": Quantile(0, 0.5, 0.0, 0.0, 0.0),
}
FULL = {
    "proportion": Proportion(100, 40),
    "mean": Mean(100, 250.0, 700.0),
    "ratio": Ratio(100, 250.0, 500.0, 700.0, 2600.0, 1300.0),
    "covaried": Covaried(Mean(100, 250.0, 700.0), Mean(100, 200.0, 500.0), 550.0),
    "quantile": Quantile(100, 0.5, 3.0, 2.0, 4.0),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_arm_is_an_answer_with_a_reason(kind: str) -> None:
    for arms in ((EMPTY[kind], FULL[kind]), (FULL[kind], EMPTY[kind]), (EMPTY[kind], EMPTY[kind])):
        result = compare(*arms)
        assert not result.defined
        assert not result.significant
        assert result.reason is not None
        assert "no units" in result.reason
        assert result.p_value is result.interval is result.estimate is None


def test_one_unit_has_no_variance() -> None:
    result = compare(Mean(1, 3.0, 9.0), FULL["mean"])
    assert result.reason == "an arm has one unit, and one has no variance"
    assert result.values == (3.0, 2.5)
    assert compare(Ratio(1, 1.0, 2.0, 1.0, 4.0, 2.0), FULL["ratio"]).reason == result.reason


@pytest.mark.parametrize("successes", [0, 100])
def test_proportions_that_are_all_alike_have_nothing_to_test(successes: int) -> None:
    result = compare(Proportion(100, successes), Proportion(100, successes))
    assert result.estimate == 0
    assert result.p_value is None
    assert result.reason == "every unit of both arms has the same value: there is no variance to test against"


def test_all_against_none_is_significant() -> None:
    result = compare(Proportion(100, 0), Proportion(100, 100))
    assert result.significant
    assert result.interval == Interval(1.0, 1.0)


def test_equal_values_that_sum_with_rounding_errors_have_no_variance() -> None:
    total = squares = 0.0
    for _ in range(100_000):
        total += 0.1
        squares += 0.1 * 0.1
    tenths = Mean(100_000, total, squares)
    assert tenths.variance == 0
    result = compare(tenths, tenths)
    assert result.p_value is None
    assert result.reason is not None


def test_constant_arms_that_differ_are_told_apart_without_a_p_value() -> None:
    result = compare(Mean(10, 10.0, 10.0), Mean(10, 20.0, 40.0))
    assert result.estimate == 1.0
    assert result.reason == "neither arm varies: there is no variance to test against"


def test_one_constant_arm_is_no_hindrance() -> None:
    result = compare(Mean(100, 0.0, 0.0), FULL["mean"])
    assert result.significant
    assert result.degrees == pytest.approx(99)


def test_lift_on_a_control_of_zero_has_no_value_but_the_test_stands() -> None:
    result = compare(Proportion(1000, 0), Proportion(1000, 20), scale="relative")
    assert result.estimate is None
    assert result.interval is None
    assert result.significant
    assert result.reason is not None
    assert "compare absolutely" in result.reason


def test_lift_on_a_control_not_clear_of_zero_has_no_bounds() -> None:
    result = compare(Mean(100, 1.0, 100.0), Mean(100, 60.0, 140.0), scale="relative")
    assert result.estimate == pytest.approx(59)
    assert result.interval is None
    assert result.reason == "the control's value is not clear of 0: its relative lift has no bounds, compare absolutely"


def test_a_denominator_of_zero_is_a_reason() -> None:
    assert compare(Ratio(5, 3.0, 0.0, 3.0, 0.0, 0.0), FULL["ratio"]).reason == "an arm's denominator adds up to 0"


def test_a_covariate_that_does_not_vary_changes_nothing() -> None:
    plain = compare(Mean(100, 250.0, 700.0), Mean(100, 270.0, 800.0))
    flat = Mean(100, 0.0, 0.0)
    adjusted = compare(Covaried(Mean(100, 250.0, 700.0), flat, 0.0), Covaried(Mean(100, 270.0, 800.0), flat, 0.0))
    assert adjusted.estimate == plain.estimate
    assert adjusted.p_value == pytest.approx(plain.p_value, rel=1e-12)


def test_a_stratum_in_one_arm_only_is_named() -> None:
    control = Strata.of({"AA": Mean(50, 100.0, 250.0), "UA": Mean(50, 120.0, 330.0)})
    treatment = Strata.of({"AA": Mean(50, 110.0, 280.0)})
    assert compare(control, treatment).reason == "the stratum UA has units in one arm only: merge it with another"
    assert compare(Strata(()), Strata(())).reason == "an arm has no units"


def test_too_few_values_do_not_bound_a_quantile() -> None:
    with pytest.raises(StatisticError, match=r"20 values are too few to bound their quantile 0\.99"):
        quantile_ranks(20, 0.99)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Proportion(10, 11), "11 successes of 10 units"),
        (lambda: Proportion(-1, 0), "n is a count of units, not -1"),
        (lambda: Mean(3, math.nan, 1.0), "must be a finite number, not nan"),
        (lambda: Mean(3, 30.0, 1.0), "cannot have the sum 30.0"),
        (lambda: Mean(3, 1e200, 1e300), "cannot have the sum 1e"),
        (lambda: Mean(0, 1.0, 1.0), "no units, but sums"),
        (lambda: Ratio(2, 1.0, 1.0, 1.0, 1.0, 9.0), "cross product 9.0"),
        (lambda: Ratio(2, 1.0, 1.0, 1.0, 1.0, 1e200), "cross product 1e"),
        (lambda: Covaried(Mean(2, 1.0, 1.0), Mean(3, 1.0, 1.0), 1.0), "3 units, but 2 outcomes"),
        (lambda: Strata((("a", Proportion(1, 1)), ("a", Proportion(1, 1)))), "a name occurs twice"),
        (lambda: Strata((("a", Proportion(1, 1)), ("b", Mean(1, 1.0, 1.0)))), "of one kind"),
        (lambda: Quantile(10, 1.5, 1.0, 1.0, 1.0), "level must lie between 0 and 1"),
        (lambda: compare(Proportion(2, 1), Mean(2, 1.0, 1.0)), "a Proportion cannot be compared with a Mean"),
        (lambda: compare(Proportion(2, 1), Proportion(2, 1), alpha=5), "alpha must lie between 0 and 1, not 5"),
        (lambda: compare(Proportion(2, 1), Proportion(2, 1), scale="percent"), "scale must be one of"),
        (lambda: non_inferior(Proportion(2, 1), Proportion(2, 1), 0.0), "margin must be positive"),
    ],
)
def test_impossible_input_is_one_clear_line(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(StatisticError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_result_is_json() -> None:
    document = json.loads(
        json.dumps(compare(FULL["mean"], FULL["mean"], alternative="greater").as_dict(), allow_nan=False)
    )
    assert document["method"] == "Welch t"
    assert document["high"] is None
    assert document["n"] == [100, 100]


def test_sums_may_be_numpys() -> None:
    plain, numpys = Mean(5, 3.0, 9.0), Mean(np.int64(5), np.float64(3), np.float64(9))  # type: ignore[arg-type] # as a client may return them
    assert json.dumps(compare(numpys, numpys).as_dict()) == json.dumps(compare(plain, plain).as_dict())


def test_a_guardrail_holds_is_breached_or_undecided() -> None:
    control = Proportion(20_000, 2000)
    assert non_inferior(control, Proportion(20_000, 2010), 0.02, scale="relative").verdict == "undecided"
    assert non_inferior(control, Proportion(20_000, 2010), 0.10, scale="relative").verdict == "holds"
    assert non_inferior(control, Proportion(20_000, 1500), 0.05, scale="relative").verdict == "breached"
    # Errors, where fewer are better.
    assert (
        non_inferior(control, Proportion(20_000, 2600), 0.05, scale="relative", higher_is_better=False).verdict
        == "breached"
    )
    assert (
        non_inferior(control, Proportion(20_000, 1500), 0.05, scale="relative", higher_is_better=False).verdict
        == "holds"
    )


def test_a_guardrail_without_data_is_undecided() -> None:
    guardrail = non_inferior(Proportion(0, 0), Proportion(10, 5), 0.01)
    assert guardrail.verdict == "undecided"
    assert guardrail.result.reason == "an arm has no units"


def test_an_absolute_margin_shifts_the_test() -> None:
    control, treatment = Mean(1000, 5000.0, 26000.0), Mean(1000, 4950.0, 25500.0)
    guardrail = non_inferior(control, treatment, 0.1)
    assert guardrail.result.interval is not None
    # The one-sided bound and the p-value speak with one voice.
    assert (guardrail.result.interval.low > -0.1) == guardrail.result.significant
    assert guardrail.breach_p_value == pytest.approx(1 - guardrail.result.p_value)


def test_a_stratum_without_units_anywhere_is_left_out() -> None:
    parts = {"AA": Mean(50, 100.0, 250.0), "UA": Mean(50, 120.0, 330.0)}
    plain = compare(Strata.of(parts), Strata.of(parts))
    assert compare(Strata.of({**parts, "XX": Mean(0, 0.0, 0.0)}), Strata.of(parts)) == plain
