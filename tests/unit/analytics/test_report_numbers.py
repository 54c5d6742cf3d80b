"""Numbers and axes of a report: as many digits as mean something, round marks, nothing outside its range."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics import report_numbers as numbers
from analytics.definitions import Effect, Metric, Source
from analytics.report_axes import Scale, forest_reach, padded, tick_places, ticks, time_ticks
from analytics.results import Interval

FINITE = st.floats(-1e9, 1e9, allow_nan=False)
SHARE = Metric("bought", "proportion", Source("purchase"), None, timedelta(days=1), "increase")
MONEY = Metric("revenue", "mean", Source("purchase"), None, timedelta(days=1), "increase")
RIGHT = Metric(
    "correct", "ratio", Source("late", value="correct"), Source("late", value="one"), timedelta(days=1), "increase"
)


def test_a_lift_has_the_digits_that_its_interval_leaves_and_a_true_minus() -> None:
    assert numbers.lift(0.012345, 0.0082) == "+1.23%"
    assert numbers.lift(-0.012345, 0.082) == "−1.2%"
    assert numbers.lift(0.0, 0.01) == "0.0%"
    assert numbers.lift(-0.00001, 0.01) == "0.0%", "nothing is not minus nothing"
    assert numbers.lift(None) == numbers.NONE
    assert numbers.lift(0.00001) == "+0.0010%"


def test_a_share_is_read_in_percent_and_its_difference_in_points() -> None:
    assert numbers.metric_value(SHARE, 0.05284, 0.0056) == "5.28%"
    assert numbers.metric_value(RIGHT, 0.7594, 0.02) == "75.9%"
    assert numbers.difference(SHARE, 0.0040, 0.0056) == "+0.40 pp"
    assert numbers.metric_value(MONEY, 12345.678, 120.0) == "12,346"
    assert numbers.difference(MONEY, -0.5, 0.37) == "−0.50"


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval(0.0041, 0.0205), "+0.41% to +2.05%"),
        (Interval(-math.inf, 0.02), "at most +2.0%"),
        (Interval(-0.004, math.inf), "at least −0.40%"),
        (Interval(-math.inf, math.inf), "no bounds yet"),
        (None, numbers.NONE),
    ],
)
def test_an_interval_says_where_it_has_no_end(interval: Interval | None, said: str) -> None:
    assert numbers.lift_span(interval) == said


@pytest.mark.parametrize(
    ("p", "said"),
    [(0.0432, "0.043"), (0.00456, "0.0046"), (1e-9, "<0.0001"), (0.5, "0.50"), (1.0, "1.00"), (None, "–")],
)
def test_a_p_value_is_never_nought(p: float | None, said: str) -> None:
    assert numbers.p_value(p) == said


def test_a_chance_is_never_quite_certain() -> None:
    assert [numbers.chance(one) for one in (0.0, 0.9722, 1.0, None)] == ["<0.1%", "97.2%", ">99.9%", "–"]


def test_times_and_effects_are_in_words() -> None:
    assert numbers.span_of_time(timedelta(days=9, hours=4, minutes=3)) == "9 days 4 h"
    assert numbers.span_of_time(timedelta(minutes=12, seconds=30)) == "12 min 30 s"
    assert numbers.span_of_time(timedelta()) == "0 s"
    assert [numbers.days_left(one) for one in (None, 0.0, 0.5, 4.23, 120.4)] == [
        "unknown", "reached", "12 h", "4.2 days", "120 days",
    ]  # fmt: skip
    assert numbers.moment(datetime(2026, 11, 4, 9, 5, tzinfo=UTC)) == "4 Nov 2026, 09:05 UTC"
    assert [numbers.effect(one) for one in (Effect(0.1, True), Effect(0.01, False), None)] == [
        "10% of control", "0.01", "–",
    ]  # fmt: skip
    assert [numbers.short_count(one) for one in (950, 12_000, 1_250_000)] == ["950", "12k", "1.25M"]


@given(FINITE, FINITE, st.integers(1, 12))
@example(0.0, 5e-324, 1)
@example(0.0, 3e-308, 1)
def test_ticks_are_round_ascending_within_and_not_too_many(one: float, other: float, most: int) -> None:
    low, high = min(one, other), max(one, other)
    marks = ticks(low, high, most)
    assert len(marks) <= most
    assert list(marks) == sorted(set(marks))
    room = (high - low) * 1e-6
    assert all(low - room <= mark <= high + room for mark in marks)
    if len(marks) > 1:
        step = (marks[1] - marks[0]) / 10 ** math.floor(math.log10(marks[1] - marks[0]) + 1e-9)
        assert any(step == pytest.approx(nice, rel=1e-3) for nice in (1, 2, 5))


def test_ticks_of_a_usual_range() -> None:
    assert ticks(-0.0123, 0.034) == (-0.01, 0.0, 0.01, 0.02, 0.03)
    assert tick_places(ticks(-0.0123, 0.034)) == 2
    assert ticks(1.0, 1.0) == ticks(0.0, math.inf) == ()


@given(FINITE, FINITE, st.floats(allow_nan=False))
def test_a_scale_keeps_order_and_gives_even_infinity_a_place(low: float, high: float, value: float) -> None:
    scale = Scale(min(low, high), max(low, high), 50.0, 500.0)
    assert math.isfinite(scale(value))
    assert 50.0 <= scale.within(value) <= 500.0
    if scale.low < scale.high:
        assert scale(scale.low) == pytest.approx(50.0)
        assert scale(scale.high) == pytest.approx(500.0)


@given(st.lists(st.floats(allow_nan=False), max_size=6))
def test_a_padded_range_holds_what_is_finite_and_is_never_empty(values: list[float]) -> None:
    finite = [one for one in values if math.isfinite(one) and abs(one) < 1e300]
    low, high = padded(finite)
    assert low < high
    assert all(low <= one <= high for one in finite)


def test_one_noisy_metric_does_not_make_dots_of_the_others() -> None:
    assert forest_reach([0.01, 0.02, -0.015, 3.0]) == pytest.approx(6 * 0.0175 * 1.08)
    assert forest_reach([0.01, 0.02]) > 0.02
    assert forest_reach([]) == forest_reach([0.0, math.inf]) == 0.01


@given(st.datetimes(datetime(2001, 2, 1), datetime(2090, 1, 1)), st.floats(0, 2000), st.integers(2, 9))  # noqa: DTZ001
def test_marks_of_time_are_within_and_named_apart(first: datetime, days: float, most: int) -> None:
    first = first.replace(tzinfo=UTC)
    last = first + timedelta(days=days)
    marks = time_ticks(first, last, most)
    assert len(marks) <= most
    assert all(first <= at <= last for at, _ in marks)
    assert len({name for _, name in marks}) == len(marks) or days > 365


def test_marks_of_two_weeks_are_days_at_midnight() -> None:
    first = datetime(2026, 11, 3, 7, 12, tzinfo=UTC)
    marks = time_ticks(first, first + timedelta(days=13.5))
    assert [name for _, name in marks] == ["4 Nov", "7 Nov", "10 Nov", "13 Nov", "16 Nov"]
    assert {at.hour for at, _ in marks} == {0}
