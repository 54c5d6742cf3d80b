"""No feature of a flight knows what happens to it, or to any other flight, after its scheduled departure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from penstock.flights.features import FEATURES, feature_columns, overdue_share, recent_delay
from penstock.flights.tables import Schedule, Tables, read_tables, schedule
from schemas.tensors import Array

SHORT = slice(0, 4000)


@pytest.fixture(scope="module")
def tables() -> Tables:
    """The first four thousand flights of the file, with the whole weather."""
    whole = read_tables()
    return replace(whole, flights=whole.flights.slice(SHORT.start, SHORT.stop))


@pytest.fixture(scope="module")
def year(tables: Tables) -> Schedule:
    return schedule(tables)


def _same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype != object))


@pytest.mark.parametrize("delay", [-40.0, -1.0, 0.0, 1.0, 600.0, np.nan])
def test_a_flights_features_do_not_change_with_its_own_delay(tables: Tables, year: Schedule, delay: float) -> None:
    before = feature_columns(year, tables)
    for row in range(1, len(year), 397):
        departure, arrival = year.departure_delay.copy(), year.arrival_delay.copy()
        departure[row] = arrival[row] = delay
        after = feature_columns(replace(year, departure_delay=departure, arrival_delay=arrival), tables)
        for name in FEATURES:
            assert _same(before[name][row : row + 1], after[name][row : row + 1]), (name, row)


def test_a_flights_features_do_not_change_with_anything_after_its_scheduled_departure(
    tables: Tables, year: Schedule
) -> None:
    before = feature_columns(year, tables)
    for row in range(500, len(year), 700):
        now = year.departs[row]
        departure = year.departure_delay.copy()
        # What has left by now has left. All else never does, or leaves at once.
        ahead = ~(year.departs + np.nan_to_num(departure, nan=1e9) < now)
        for other in (np.nan, 5.0):
            changed = departure.copy()
            changed[ahead] = np.where(year.departs[ahead] + 5 >= now, other, np.nan)
            after = feature_columns(replace(year, departure_delay=changed, arrival_delay=changed), tables)
            for name in FEATURES:
                assert _same(before[name][row : row + 1], after[name][row : row + 1]), (name, row)


def test_a_flights_features_do_not_change_with_the_weather_from_its_hour_on(tables: Tables, year: Schedule) -> None:
    before = feature_columns(year, tables)
    row = 1500
    hour = year.departs[row] // 60 * 3600
    seconds = tables.weather["time_hour"].cast(pa.int64()).to_numpy()
    weather = tables.weather.filter(pa.array(seconds < hour))
    after = feature_columns(year, replace(tables, weather=weather))
    for name in FEATURES:
        assert _same(before[name][row : row + 1], after[name][row : row + 1]), name
    # The same with one hour less does change it: the features do look at the hour before.
    gone = feature_columns(year, replace(tables, weather=tables.weather.filter(pa.array(seconds < hour - 3600))))
    assert np.isnan(gone["visibility"][row])
    assert not np.isnan(before["visibility"][row])


def _at(origin: list[str], departs: list[int], delay: list[float]) -> tuple[Array, Array, Array]:
    return np.array(origin, object), np.array(departs), np.array(delay)


def test_recent_delay_is_the_mean_of_departures_in_the_two_hours_before() -> None:
    # Left at 60 (too long ago for 181), 100, 160, 181 (not before 181).
    flights = _at(["EWR"] * 5, [60, 90, 120, 171, 181], [0.0, 10.0, 40.0, 10.0, 0.0])
    assert recent_delay(*flights)[4] == 25.0


def test_recent_delay_leaves_out_other_airports_cancelled_flights_and_the_flight_itself() -> None:
    flights = _at(["EWR", "JFK", "EWR", "EWR"], [60, 60, 70, 100], [8.0, 99.0, np.nan, -5.0])
    assert recent_delay(*flights)[3] == 8.0
    assert np.isnan(recent_delay(*flights)[1])


def test_overdue_share_counts_what_was_due_and_has_not_left() -> None:
    # At 200, due between 80 and 185: 80 (left at 200: not before 200), 100 (left), 120 (cancelled), 185 is too fresh.
    flights = _at(["EWR"] * 6, [79, 80, 100, 120, 185, 200], [np.nan, 120.0, 5.0, np.nan, 90.0, 0.0])
    assert overdue_share(*flights)[5] == pytest.approx(2 / 3)


def test_overdue_share_is_unknown_where_nothing_was_due() -> None:
    assert np.isnan(overdue_share(*_at(["EWR", "EWR"], [10, 20], [0.0, 0.0]))).all()


def test_both_agree_with_a_plain_loop_over_the_first_days(year: Schedule) -> None:
    recent = recent_delay(year.origin, year.departs, year.departure_delay)
    overdue = overdue_share(year.origin, year.departs, year.departure_delay)
    actual = year.departs + year.departure_delay
    for row in range(0, len(year), 53):
        now = year.departs[row]
        others = (year.origin == year.origin[row]) & (np.arange(len(year)) != row)
        left = others & (actual >= now - 120) & (actual < now)
        due = others & (year.departs >= now - 120) & (year.departs < now - 15)
        waiting = due & ~(actual < now)
        expected = year.departure_delay[left].mean() if left.any() else np.nan
        np.testing.assert_allclose(recent[row], expected, rtol=1e-12)
        np.testing.assert_allclose(overdue[row], waiting.sum() / due.sum() if due.any() else np.nan)
