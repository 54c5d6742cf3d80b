"""Clock times of the data become instants, whatever the clocks do that night."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from penstock.flights.tables import LOCAL_ZONE, minute_of_day, utc_minutes

Clock = tuple[int, int, int, int, int]


def _local(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) // 60


def _utc(local: int, zone: str = LOCAL_ZONE) -> datetime:
    return datetime.fromtimestamp(int(utc_minutes(np.array([local]), zone)[0]) * 60, UTC)


@pytest.mark.parametrize(("clock", "minutes"), [(1, 1), (59, 59), (100, 60), (517, 317), (2359, 1439), (2400, 1440)])
def test_a_clock_time_is_read_as_hours_and_minutes(clock: int, minutes: int) -> None:
    assert minute_of_day(np.array([clock])).tolist() == [minutes]


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ((2013, 1, 1, 5, 15), (2013, 1, 1, 10, 15)),
        ((2013, 7, 1, 5, 15), (2013, 7, 1, 9, 15)),
        ((2013, 3, 10, 1, 59), (2013, 3, 10, 6, 59)),
        ((2013, 3, 10, 3, 0), (2013, 3, 10, 7, 0)),
        ((2013, 11, 3, 0, 59), (2013, 11, 3, 4, 59)),
        ((2013, 11, 3, 2, 0), (2013, 11, 3, 7, 0)),
    ],
)
def test_new_york_keeps_summer_time_from_10_march_to_3_november(local: Clock, utc: Clock) -> None:
    assert _utc(_local(*local)) == datetime.fromtimestamp(_local(*utc) * 60, UTC)


def test_a_skipped_hour_counts_as_if_the_clock_had_not_moved() -> None:
    assert _utc(_local(2013, 3, 10, 2, 30)) == datetime(2013, 3, 10, 7, 30, tzinfo=UTC)


def test_an_hour_that_happens_twice_counts_as_its_first() -> None:
    assert _utc(_local(2013, 11, 3, 1, 30)) == datetime(2013, 11, 3, 5, 30, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["America/New_York", "America/Phoenix", "Pacific/Honolulu", "America/Puerto_Rico"])
def test_every_hour_of_the_year_agrees_with_zoneinfo(zone: str) -> None:
    local = np.arange(_local(2013, 1, 1), _local(2014, 1, 1), 30)
    expected = [
        int(datetime.fromtimestamp(minute * 60, UTC).replace(tzinfo=ZoneInfo(zone)).timestamp()) // 60
        for minute in local.tolist()
    ]
    assert utc_minutes(local, zone).tolist() == expected
