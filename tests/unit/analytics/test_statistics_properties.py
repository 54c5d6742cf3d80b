"""What must be true of every statistic: parts add up to the whole, arms may be swapped, units do not matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from analytics.effects import effect
from analytics.statistics import compare
from analytics.sufficient import Covaried, Mean, Proportion, Ratio, Strata

Arm = Any
values = st.integers(-40, 40).map(float)
units = st.lists(st.tuples(values, st.integers(1, 20).map(float)), min_size=3, max_size=30)


def mean_of(rows: list[tuple[float, float]]) -> Mean:
    y = np.array([row[0] for row in rows])
    return Mean(len(rows), float(y.sum()), float((y**2).sum()))


def ratio_of(rows: list[tuple[float, float]]) -> Ratio:
    y, x = np.array(rows).reshape(-1, 2).T
    return Ratio(
        len(rows), float(y.sum()), float(x.sum()), float((y**2).sum()), float((x**2).sum()), float((x * y).sum())
    )


def covaried_of(rows: list[tuple[float, float]]) -> Covaried:
    y, x = np.array(rows).reshape(-1, 2).T
    return Covaried(mean_of(rows), Mean(len(rows), float(x.sum()), float((x**2).sum())), float((x * y).sum()))


def proportion_of(rows: list[tuple[float, float]]) -> Proportion:
    return Proportion(len(rows), sum(row[0] > 0 for row in rows))


def strata_of(rows: list[tuple[float, float]]) -> Strata:
    halves = {"low": [row for row in rows if row[1] <= 10], "high": [row for row in rows if row[1] > 10]}
    return Strata.of({name: mean_of(half) for name, half in halves.items() if half})


KINDS: list[Callable[[list[tuple[float, float]]], Arm]] = [mean_of, ratio_of, covaried_of, proportion_of, strata_of]


def same(one: float | None, other: float | None, scale: float = 1.0) -> None:
    assert (one is None) == (other is None)
    if one is not None:
        assert other == pytest.approx(one * scale, rel=1e-9, abs=0)


@pytest.mark.parametrize("kind", KINDS)
@given(rows=units, data=st.data())
def test_two_parts_add_up_to_the_whole(
    kind: Callable[..., Arm], rows: list[tuple[float, float]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(rows) - 1))
    # Sums of integers are exact, so equality is too.
    assert kind(rows[:cut]) + kind(rows[cut:]) == kind(rows)
    assert kind(rows[cut:]) + kind(rows[:cut]) == kind(rows)


@pytest.mark.parametrize("kind", KINDS)
@given(left=units, right=units)
def test_swapping_the_arms_flips_the_sign(
    kind: Callable[..., Arm], left: list[tuple[float, float]], right: list[tuple[float, float]]
) -> None:
    one, other = compare(kind(left), kind(right)), compare(kind(right), kind(left))
    assert one.defined == other.defined
    assert (one.reason is None) == (other.reason is None)
    if not one.defined:
        return
    assert one.estimate == pytest.approx(-other.estimate, abs=1e-12)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-9, abs=1e-300)
    assert one.interval.low == pytest.approx(-other.interval.high, rel=1e-9, abs=1e-9)
    greater = compare(kind(left), kind(right), alternative="greater")
    less = compare(kind(right), kind(left), alternative="less")
    assert greater.p_value == pytest.approx(less.p_value, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("kind", [mean_of, ratio_of, covaried_of])
@given(left=units, right=units, power=st.integers(-20, 20))
def test_another_unit_of_measurement_changes_no_p_value(
    kind: Callable[..., Arm], left: list[tuple[float, float]], right: list[tuple[float, float]], power: int
) -> None:
    # By powers of two, so that nothing is rounded differently.
    scale = 2.0**power
    scaled = [[(y * scale, x) for y, x in rows] for rows in (left, right)]
    one, other = compare(kind(left), kind(right)), compare(kind(scaled[0]), kind(scaled[1]))
    same(one.p_value, other.p_value)
    same(one.estimate, other.estimate, scale)
    relative, scaled_relative = (
        compare(kind(a), kind(b), scale="relative") for a, b in ((left, right), (scaled[0], scaled[1]))
    )
    same(relative.estimate, scaled_relative.estimate)
    same(relative.p_value, scaled_relative.p_value)


@given(left=units, right=units)
def test_the_relative_interval_excludes_zero_just_when_the_absolute_one_does(
    left: list[tuple[float, float]], right: list[tuple[float, float]]
) -> None:
    # Far from 0, so that a relative lift has bounds.
    control, treatment = ([(y + 200.0, x) for y, x in rows] for rows in (left, right))
    absolute = compare(mean_of(control), mean_of(treatment))
    relative = compare(mean_of(control), mean_of(treatment), scale="relative")
    assume(absolute.interval is not None and relative.interval is not None)
    assume(min(abs(absolute.interval.low), abs(absolute.interval.high)) > 1e-9)
    assert (0.0 in absolute.interval) == (0.0 in relative.interval)
    assert relative.estimate in relative.interval


@given(left=units, right=units)
def test_a_p_value_below_alpha_and_an_interval_without_zero_are_the_same(
    left: list[tuple[float, float]], right: list[tuple[float, float]]
) -> None:
    result = compare(mean_of(left), mean_of(right))
    assume(result.defined and abs(result.p_value - result.alpha) > 1e-9)
    assert result.significant == (0.0 not in result.interval)


@given(rows=units, other=units)
def test_one_stratum_is_no_stratum(rows: list[tuple[float, float]], other: list[tuple[float, float]]) -> None:
    plain = compare(mean_of(rows), mean_of(other))
    one = compare(Strata.of({"all": mean_of(rows)}), Strata.of({"all": mean_of(other)}))
    assert one.estimate == pytest.approx(plain.estimate, rel=1e-12, abs=1e-12)
    if plain.defined:
        assert one.standard_error == pytest.approx(plain.standard_error, rel=1e-9)


@given(rows=units, other=units)
def test_a_ratio_with_denominators_of_one_is_a_mean(
    rows: list[tuple[float, float]], other: list[tuple[float, float]]
) -> None:
    left, right = ([(y, 1.0) for y, _ in arm] for arm in (rows, other))
    found, plain = effect(ratio_of(left), ratio_of(right)), effect(mean_of(left), mean_of(right))
    assert found.estimate == pytest.approx(plain.estimate, abs=1e-12)
    assert found.variance == pytest.approx(plain.variance, rel=1e-9, abs=1e-12)
    assert dataclasses.replace(found, method="").control == pytest.approx(plain.control)
