"""Flights in the order in which they were due to leave: what the demo replays and the models are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa

from penstock.flights.features import CATEGORIES, FEATURES, Columns, feature_columns
from penstock.flights.tables import FlightsDataError, Schedule, read_tables, schedule
from schemas.records import FeatureValue

LATE_MINUTES: Final = 15
FIRST_DAY: Final = date(2013, 1, 1)
LAST_DAY: Final = date(2013, 12, 31)
_CHUNK: Final = 8192
_US_PER_MINUTE: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Flight:
    """One flight: a request at `scheduled_departure`, an outcome at `arrived_at`.

    `request_id` is like 2013-04-01-UA-1545-EWR, by New York's date. `tail_number` (the user) is empty where unknown.
    `late`: arrived more than `LATE_MINUTES` after schedule. `late` and `arrived_at` are None where there is no outcome:
    cancelled and diverted flights. Times are aware, in UTC. `values` belong to `FEATURES`, in order.
    """

    request_id: str
    tail_number: str
    scheduled_departure: datetime
    values: tuple[FeatureValue, ...]
    late: bool | None
    arrived_at: datetime | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Every flight of the package with its features, in order of scheduled departure. `features` as `FEATURES`."""

    flights: Schedule
    features: Columns

    def between(self, start: date, days: int) -> slice:
        """Rows whose New York date is in [start, start + days). Raises `FlightsDataError` where there are none."""
        first = _day_number(start)
        if days < 1 or first + days <= _day_number(FIRST_DAY) or start > LAST_DAY:
            raise FlightsDataError(
                f"no flights in the {days} days from {start}: the data runs from {FIRST_DAY} to {LAST_DAY}"
            )
        # Departures of one New York date follow one another, so its rows do too.
        begin, end = np.searchsorted(self.flights.day, [first, first + days])
        return slice(int(begin), int(end))

    def labels(self, rows: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
        """1.0 late, 0.0 in time, NaN without an outcome."""
        delay = self.flights.arrival_delay[rows]
        return np.where(np.isnan(delay), np.nan, delay > LATE_MINUTES)


@cache
def dataset() -> Dataset:
    """All flights; read once a process (about two seconds)."""
    tables = read_tables()
    flights = schedule(tables)
    return Dataset(flights, feature_columns(flights, tables))


def flights(start: date, days: int, data: Dataset | None = None) -> Iterator[Flight]:
    """Flights of `days` New York dates from `start`, in order of scheduled departure.

    Raises `FlightsDataError` where the package is not installed or has none of these dates.
    """
    data = data or dataset()
    rows = data.between(start, days)
    for first in range(rows.start, rows.stop, _CHUNK):
        yield from _chunk(data, slice(first, min(first + _CHUNK, rows.stop)))


def features(flight: Flight) -> Mapping[str, FeatureValue]:
    """A flight's features by name, as a score request carries them; a missing one is None."""
    return dict(zip(FEATURES, flight.values, strict=True))


def feature_table(start: date, days: int, *, outcomes: bool = False, data: Dataset | None = None) -> pa.Table:
    """The same flights as columns: `request_id`, `tail_number`, `scheduled_departure`, then `FEATURES`.

    With `outcomes` also `late` and `arrived_at`. What is missing is null.
    """
    data = data or dataset()
    rows = data.between(start, days)
    table = data.flights
    columns: dict[str, pa.Array] = {
        "request_id": pa.array(table.request_id[rows], pa.string()),
        "tail_number": pa.array(table.tail_number[rows], pa.string()),
        "scheduled_departure": _timestamps(table.departs[rows]),
    }
    for name in FEATURES:
        values = data.features[name][rows]
        columns[name] = pa.array(values, pa.string()) if name in CATEGORIES else pa.array(values, from_pandas=True)
    if outcomes:
        labels = data.labels(rows)
        unknown = np.isnan(labels)
        columns["late"] = pa.array(labels == 1, mask=unknown)
        columns["arrived_at"] = _timestamps(_arrivals(data, rows), unknown)
    return pa.table(columns)


def _chunk(data: Dataset, rows: slice) -> Iterator[Flight]:
    columns: list[list[FeatureValue]] = []
    for name in FEATURES:
        values = data.features[name][rows]
        # NaN is the one value that differs from itself.
        columns.append(values.tolist() if name in CATEGORIES else [v if v == v else None for v in values.tolist()])
    labels = data.labels(rows).tolist()
    return map(
        _flight,
        data.flights.request_id[rows].tolist(),
        data.flights.tail_number[rows].tolist(),
        data.flights.departs[rows].tolist(),
        zip(*columns, strict=True),
        labels,
        _arrivals(data, rows).tolist(),
    )


def _flight(
    request_id: str, tail: str, departs: int, values: tuple[FeatureValue, ...], label: float, arrives: int
) -> Flight:
    known = label == label  # NaN is the one value that differs from itself
    return Flight(
        request_id,
        tail,
        datetime.fromtimestamp(departs * 60, UTC),
        values,
        bool(label) if known else None,
        datetime.fromtimestamp(arrives * 60, UTC) if known else None,
    )


def _arrivals(data: Dataset, rows: slice) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Actual arrivals in minutes since the epoch; of no meaning where there is no outcome."""
    return data.flights.arrives[rows] + np.nan_to_num(data.flights.arrival_delay[rows]).astype(np.int64)


def _timestamps(minutes: Any, mask: Any = None) -> pa.Array:
    return pa.array(minutes * _US_PER_MINUTE, pa.int64(), mask=mask).cast(pa.timestamp("us", "UTC"))


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days
