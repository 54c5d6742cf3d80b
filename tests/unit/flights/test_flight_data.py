"""The flights: how many there are, when they leave and land, what is known of each."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from penstock.flights.data import dataset, feature_table, features, flights
from penstock.flights.features import FEATURES
from penstock.flights.tables import FlightsDataError, read_tables

APRIL = (date(2013, 4, 1), 30)


def test_the_year_holds_336776_flights_each_with_an_id_of_its_own() -> None:
    table = dataset().flights
    assert len(table) == 336_776
    assert len(set(table.request_id.tolist())) == 336_776


def test_april_holds_28330_flights_of_which_27564_have_an_outcome() -> None:
    april = list(flights(*APRIL))
    assert len(april) == 28_330
    assert sum(flight.late is not None for flight in april) == 27_564
    assert sum(flight.late is True for flight in april) == 7_700
    assert all((flight.late is None) == (flight.arrived_at is None) for flight in april)


def test_flights_come_in_order_of_scheduled_departure() -> None:
    april = list(flights(*APRIL))
    assert all(a.scheduled_departure <= b.scheduled_departure for a, b in pairwise(april))


def test_the_months_add_up_to_the_year_without_overlap() -> None:
    starts = [date(2013, month, 1) for month in range(1, 13)] + [date(2014, 1, 1)]
    rows = [dataset().between(start, (end - start).days) for start, end in pairwise(starts)]
    assert [one.start for one in rows] == [0, *(one.stop for one in rows[:-1])]
    assert rows[-1].stop == 336_776


def test_the_first_flight_of_the_year_is_what_the_file_says() -> None:
    flight = next(flights(date(2013, 1, 1), 1))
    assert flight.request_id == "2013-01-01-UA-1545-EWR"
    assert flight.tail_number == "N14228"
    assert flight.scheduled_departure == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    # Scheduled 8:19 in Houston, 11 minutes behind: 8:30 in winter's central time.
    assert flight.arrived_at == datetime(2013, 1, 1, 14, 30, tzinfo=UTC)
    assert flight.late is False
    known = features(flight)
    assert (known["carrier"], known["origin"], known["destination"]) == ("UA", "EWR", "IAH")
    assert (known["day_of_week"], known["departure_hour"], known["distance"]) == ("Tue", 5.25, 1400.0)
    assert (known["scheduled_minutes"], known["plane_year"], known["seats"]) == (244.0, 1999.0, 149.0)
    # Weather of 4:00 at Newark, and nobody has left before the first flight of the year.
    assert (known["pressure"], known["visibility"], known["recent_delay"]) == (1012.2, 10.0, None)


def test_a_landing_after_the_midnight_that_ends_summer_time_is_in_winter_time() -> None:
    # From JFK to Rochester, 22:45 to 00:03, the night after the clocks went back.
    departure = datetime(2013, 11, 4, 3, 45, tzinfo=UTC)
    known = [features(flight) for flight in flights(date(2013, 11, 3), 1) if flight.scheduled_departure == departure]
    assert [one["scheduled_minutes"] for one in known if one["destination"] == "ROC"] == [78.0]


def test_no_flight_is_scheduled_to_take_less_than_half_an_hour_or_more_than_twelve() -> None:
    minutes = dataset().features["scheduled_minutes"]
    assert minutes.min() >= 30
    assert minutes.max() <= 12 * 60


def test_arrivals_agree_with_the_clock_time_that_the_file_gives() -> None:
    raw = read_tables().flights.slice(0, 2000).to_pylist()
    by_id = {flight.request_id: flight for flight in flights(date(2013, 1, 1), 3)}
    checked = 0
    for row in raw:
        flight = by_id[f"2013-01-{row['day']:02d}-{row['carrier']}-{row['flight']}-{row['origin']}"]
        if row["dest"] in ("MIA", "BOS", "ATL") and flight.arrived_at:
            local = flight.arrived_at - timedelta(hours=5)
            assert local.hour * 100 + local.minute == row["arr_time"] % 2400
            checked += 1
    assert checked > 100


def test_a_flight_without_a_tail_number_has_an_empty_user_and_no_outcome() -> None:
    unknown = [flight for flight in flights(*APRIL) if flight.tail_number == ""]
    assert unknown
    assert all(flight.late is None for flight in unknown)


def test_all_flights_have_all_features_and_never_a_nan() -> None:
    for flight in flights(date(2013, 2, 8), 2):
        known = features(flight)
        assert tuple(known) == FEATURES
        assert all(value == value for value in known.values())


def test_the_table_says_the_same_as_the_flights() -> None:
    rows = feature_table(date(2013, 2, 8), 2, outcomes=True).to_pylist()
    for row, flight in zip(rows, flights(date(2013, 2, 8), 2), strict=True):
        assert {name: row[name] for name in FEATURES} == features(flight)
        assert row["request_id"] == flight.request_id
        assert row["tail_number"] == flight.tail_number
        assert row["scheduled_departure"] == flight.scheduled_departure
        assert (row["late"], row["arrived_at"]) == (flight.late, flight.arrived_at)


def test_a_table_without_outcomes_tells_nothing_of_them() -> None:
    names = feature_table(date(2013, 4, 1), 1).column_names
    assert names == ["request_id", "tail_number", "scheduled_departure", *FEATURES]


def test_februarys_blizzard_is_in_the_features_and_in_the_cancellations() -> None:
    cancelled = Counter(
        flight.scheduled_departure.date() for flight in flights(date(2013, 2, 1), 28) if flight.late is None
    )
    assert cancelled.most_common(1)[0][0] in (date(2013, 2, 8), date(2013, 2, 9))
    overdue = np.asarray(feature_table(date(2013, 2, 8), 1)["overdue_share"].drop_null())
    assert overdue.max() > 0.8


def test_an_impossible_wind_is_taken_for_missing() -> None:
    assert np.nanmax(dataset().features["wind_speed"]) < 60


@pytest.mark.parametrize(("start", "days"), [(date(2012, 12, 1), 31), (date(2014, 1, 1), 1), (date(2013, 4, 1), 0)])
def test_dates_without_flights_are_refused_with_the_dates_there_are(start: date, days: int) -> None:
    with pytest.raises(FlightsDataError, match="the data runs from 2013-01-01 to 2013-12-31"):
        list(flights(start, days))


def test_any_number_of_days_ends_with_the_data() -> None:
    assert dataset().between(date(2013, 12, 31), 10**9).stop == 336_776


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"flights\.csv\.zip"):
        read_tables(tmp_path)
