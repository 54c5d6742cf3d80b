"""A reading survives the way from one process to another, whatever is in it; a document that is none says where."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.definitions import Plan
from analytics.experiment_store import Crossed, DayUnits
from analytics.reading_json import (
    ReadingError,
    reading_from_document,
    reading_from_json,
    reading_to_document,
    reading_to_json,
)
from analytics.readings import ArmReading, Decision, PastLook, Reading, Role, SplitReading, Verdict
from analytics.results import Interval, Result
from benchmarks.simulated_reading import STARTED, definition, simulated_reading

PLAN = Plan(definition()).start(STARTED)
NUMBERS = st.floats(allow_nan=False)
MAYBE = st.none() | NUMBERS
TEXTS = st.text(max_size=20)
COUNTS = st.integers(0, 10**12)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
INTERVALS = st.tuples(NUMBERS, NUMBERS).map(lambda ends: Interval(min(ends), max(ends)))
RESULTS = st.builds(
    Result,
    method=TEXTS,
    n=st.lists(COUNTS, max_size=3).map(tuple),
    alpha=st.floats(0.001, 0.5),
    alternative=st.sampled_from(["two-sided", "greater", "less"]),
    scale=st.sampled_from(["absolute", "relative"]),
    values=st.none() | st.lists(NUMBERS, max_size=3).map(tuple),
    estimate=MAYBE,
    interval=st.none() | INTERVALS,
    p_value=MAYBE,
    statistic=MAYBE,
    standard_error=MAYBE,
    degrees=NUMBERS,
    reason=st.none() | TEXTS,
)
OPTIONAL = dict.fromkeys(("p_adjusted", "margin", "statistic", "lower", "upper", "fraction", "alpha_spent"), MAYBE)
ARMS = st.builds(
    ArmReading,
    metric=st.sampled_from(PLAN.definition.metrics),
    role=st.sampled_from(get_args(Role)),
    control=TEXTS,
    variant=TEXTS,
    absolute=RESULTS,
    relative=RESULTS,
    verdict=st.sampled_from(get_args(Verdict)),
    chance_to_win=MAYBE,
    **OPTIONAL,
)
PAST = st.builds(
    PastLook,
    look=COUNTS,
    looked_at=MOMENTS,
    metric=TEXTS,
    variant=TEXTS,
    **dict.fromkeys(("lift", "low", "high", "statistic", "lower", "upper", "fraction", "alpha_spent"), MAYBE),
)
SPLITS = st.builds(
    SplitReading,
    kind=TEXTS,
    value=TEXTS,
    units=st.dictionaries(TEXTS, COUNTS, max_size=3),
    shares=st.dictionaries(TEXTS, NUMBERS, max_size=3),
    p_value=MAYBE,
    mismatch=st.booleans(),
)


def several(of: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=3).map(tuple)


READINGS = st.builds(
    Reading,
    plan=st.just(PLAN),
    number=COUNTS,
    looked_at=MOMENTS,
    arms=several(ARMS),
    splits=several(SPLITS),
    crossed=st.builds(Crossed, COUNTS, COUNTS),
    exposures=several(st.builds(DayUnits, st.dates(date(2000, 1, 1)), TEXTS, COUNTS)),
    history=several(PAST),
    decision=st.sampled_from(get_args(Decision)),
    reason=TEXTS,
    winner=TEXTS,
    power=MAYBE,
    days_left=MAYBE,
    needed=st.none() | COUNTS,
)


@settings(max_examples=60)
@given(READINGS)
def test_what_was_found_is_what_is_drawn(reading: Reading) -> None:
    again = reading_from_json(reading_to_json(reading))
    assert again == reading
    assert again.trusted == reading.trusted


def test_a_simulated_reading_comes_back_with_its_bounds_and_bands() -> None:
    reading = simulated_reading(9)
    assert reading_from_json(reading_to_json(reading)) == reading
    assert reading_to_document(reading)["trusted"] is True


def test_every_field_is_in_the_document() -> None:
    reading = simulated_reading(2)
    document = reading_to_document(reading)
    assert set(document) == {one.name for one in fields(Reading)} | {"format", "trusted"}
    assert set(document["arms"][0]) == {one.name for one in fields(ArmReading)}
    assert document["arms"][0]["metric"] == "bought"


def test_numpys_numbers_are_numbers_and_infinity_is_a_word() -> None:
    reading = simulated_reading(2)
    odd = replace(
        reading, power=np.float64(0.5), needed=np.int64(7), days_left=math.inf, crossed=Crossed(np.int64(3), 0)
    )
    document = json.loads(reading_to_json(odd))
    assert (document["power"], document["needed"], document["days_left"]) == (0.5, 7, "inf")
    assert reading_from_document(document).days_left == math.inf


def test_an_arm_on_a_metric_of_another_plan_is_refused() -> None:
    reading = simulated_reading(2)
    stranger = replace(reading.arms[0], metric=replace(reading.arms[0].metric, window=timedelta(days=9)))
    with pytest.raises(ReadingError, match="arms: 'bought' is not a metric of the plan"):
        reading_to_document(replace(reading, arms=(stranger,)))


def broken(path: list[Any], value: Any) -> dict[str, Any]:
    document = reading_to_document(simulated_reading(2))
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["format"], 2, "format: expected a reading of format 1, got 2"),
        (["number"], "one", "number: expected a whole number, got 'one'"),
        (["number"], True, "number: expected a whole number, got True"),
        (["looked_at"], "2026-11-02", r"looked_at: expected a time with its zone such as .*, got '2026-11-02'"),
        (["decision"], "wait", "decision: expected one of ship, roll back, keep going, no difference, unhealthy"),
        (["arms"], None, "arms: expected a list, got None"),
        (["arms", 0, "metric"], "sales", r"arms\[0\].metric: experiment 'search-ranking' has no metric 'sales'"),
        (["arms", 0, "absolute", "n"], 5, r"arms\[0\].absolute.n: expected a list, got 5"),
        (["arms", 0, "absolute", "interval"], {"low": 2, "high": 1}, r"arms\[0\].absolute.interval: an interval from"),
        (["arms", 1, "p_adjusted"], "small", r"arms\[1\].p_adjusted: expected a number, got 'small'"),
        (["splits", 0, "units"], [], r"splits\[0\].units: expected an object, got \[\]"),
        (["crossed"], 4, "crossed: expected an object, got 4"),
        (["exposures", 0, "day"], 3, r"exposures\[0\].day: expected a day"),
        (["plan", "definition", "metrics"], [], "plan: metrics: expected one or more"),
        (["plan"], None, "plan: definition: expected a table, got None"),
    ],
)
def test_a_document_that_is_no_reading_says_where(path: list[Any], value: Any, said: str) -> None:
    with pytest.raises(ReadingError, match=said) as caught:
        reading_from_document(broken(path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [("{", "no JSON"), ("[]", "format: expected a reading"), ("null", "format")])
def test_text_that_is_no_reading_is_refused(text: str, said: str) -> None:
    with pytest.raises(ReadingError, match=said):
        reading_from_json(text)
