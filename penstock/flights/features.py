"""Turns flights into the features of the delay models: only what is known at a flight's scheduled departure.

Two rules keep the future out. Weather is the observation of the hour before the hour of departure: the one labelled
with hour h is taken near its end, so a flight scheduled at h:15 could not know it. `recent_delay` and `overdue_share`
look only at departures that have already happened at the scheduled time, and never at the flight itself, which may
leave early.

Month and temperature are left out on purpose: models that have seen a winter would learn that warm days are rare ones,
and carry that into summer.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from penstock.flights.tables import Floats, Ints, Schedule, Tables, Texts, floats, ints, texts

CATEGORIES: Final = ("carrier", "origin", "destination", "day_of_week")
ALWAYS: Final = ("departure_hour", "distance", "scheduled_minutes")
WEATHER: Final = ("wind_speed", "precipitation", "visibility", "pressure")
OPTIONAL: Final = ("plane_year", "seats", *WEATHER, "recent_delay", "overdue_share")
NUMERIC: Final = (*ALWAYS, *OPTIONAL)
FEATURES: Final = (*CATEGORIES, *NUMERIC)
UNITS: Final = {
    "departure_hour": "hours since midnight, New York time",
    "distance": "miles",
    "scheduled_minutes": "minutes from scheduled departure to scheduled arrival",
    "plane_year": "year of manufacture",
    "seats": "seats",
    "wind_speed": "miles per hour",
    "precipitation": "inches in the hour",
    "visibility": "miles",
    "pressure": "millibars",
    "recent_delay": "mean departure delay in minutes at the origin over the two hours before",
    "overdue_share": "share of the origin's flights scheduled 15 to 120 minutes before that have not left",
}

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
RECENT_MINUTES: Final = 120
OVERDUE_MINUTES: Final = 15
# The data holds one wind of 1,048 mph (Newark, 12 February): a slip of transcription, taken for missing.
MAX_WIND_MPH: Final = 200.0
_WEATHER_COLUMNS: Final = dict(zip(WEATHER, ("wind_speed", "precip", "visib", "pressure"), strict=True))

Columns = dict[str, np.ndarray[Any, Any]]


def feature_columns(flights: Schedule, tables: Tables) -> Columns:
    """Features of every flight as columns named and ordered as `FEATURES`: categories as str, numbers as float64.

    `flights` must be the whole schedule: the last two look at the flights before. A missing number is NaN.
    """
    planes = _planes(flights.tail_number, tables.planes)
    columns: Columns = {
        "carrier": flights.carrier,
        "origin": flights.origin,
        "destination": flights.destination,
        # The epoch was a Thursday.
        "day_of_week": np.array(WEEKDAYS, object)[(flights.day + 3) % 7],
        "departure_hour": flights.minute / 60.0,
        "distance": flights.distance,
        "scheduled_minutes": (flights.arrives - flights.departs).astype(np.float64),
        **planes,
        **_weather_before(flights.origin, flights.departs, tables.weather),
        "recent_delay": recent_delay(flights.origin, flights.departs, flights.departure_delay),
        "overdue_share": overdue_share(flights.origin, flights.departs, flights.departure_delay),
    }
    return {name: columns[name] for name in FEATURES}


def recent_delay(origin: Texts, departs: Ints, delay: Floats) -> Floats:
    """Mean departure delay of the other flights that left the same origin in the `RECENT_MINUTES` before `departs`.

    A departure counts from the minute after it happened. NaN where there was none.
    """
    result = np.full(len(departs), np.nan)
    left = ~np.isnan(delay)
    minutes = np.where(left, delay, 0).astype(np.int64)
    actual = departs + minutes
    for airport in set(origin.tolist()):
        here = np.flatnonzero(origin == airport)
        gone = here[left[here]]
        gone = gone[np.argsort(actual[gone], kind="stable")]
        times = actual[gone]
        # Whole minutes and integer sums: taking the flight's own delay out again leaves no rounding behind.
        sums = np.concatenate(([0], np.cumsum(minutes[gone])))
        first = np.searchsorted(times, departs[here] - RECENT_MINUTES, "left")
        last = np.searchsorted(times, departs[here], "left")
        own = left[here] & (actual[here] < departs[here]) & (actual[here] >= departs[here] - RECENT_MINUTES)
        total = sums[last] - sums[first] - np.where(own, minutes[here], 0)
        count = last - first - own
        result[here] = np.divide(total, count, out=np.full(len(here), np.nan), where=count > 0)
    return result


def overdue_share(origin: Texts, departs: Ints, delay: Floats) -> Floats:
    """Share of the flights scheduled from the same origin between `RECENT_MINUTES` and `OVERDUE_MINUTES` before
    `departs` that had not left by then, cancelled ones among them: nobody may have told yet.

    `departs` ascends. NaN where no flight was due.
    """
    result = np.full(len(departs), np.nan)
    never = np.iinfo(np.int64).max
    actual = np.where(np.isnan(delay), never, departs + np.nan_to_num(delay).astype(np.int64))
    for airport in set(origin.tolist()):
        here = np.flatnonzero(origin == airport)
        now, gone = departs[here], actual[here]
        first = np.searchsorted(now, now - RECENT_MINUTES, "left")
        last = np.searchsorted(now, now - OVERDUE_MINUTES, "left")
        due = last - first
        waiting = np.zeros(len(here), np.int64)
        # One pass for each place in the window, all flights at once: windows hold some sixty flights.
        for place in range(int(due.max(initial=0))):
            inside = place < due
            waiting += inside & (gone[np.minimum(first + place, len(here) - 1)] >= now)
        result[here] = np.divide(waiting, due, out=np.full(len(here), np.nan), where=due > 0)
    return result


def _planes(tails: Texts, planes: pa.Table) -> Columns:
    row_of = {tail: row for row, tail in enumerate(texts(planes["tailnum"]).tolist())}
    rows = np.array([row_of.get(tail, -1) for tail in tails.tolist()], np.int64)
    return {
        "plane_year": _take(floats(planes["year"]), rows),
        "seats": _take(floats(planes["seats"]), rows),
    }


def _weather_before(origin: Texts, departs: Ints, weather: pa.Table) -> Columns:
    hours = ints(weather["time_hour"].cast(pa.int64())) // 3600
    wanted = departs // 60 - 1
    start = int(min(hours.min(), wanted.min()))
    places = texts(weather["origin"])
    rows = np.full(len(departs), -1, np.int64)
    for airport in set(origin.tolist()):
        table = np.full(int(max(hours.max(), wanted.max())) - start + 1, -1, np.int64)
        there = np.flatnonzero(places == airport)
        table[hours[there] - start] = there
        here = origin == airport
        rows[here] = table[wanted[here] - start]
    columns: Columns = {name: _take(floats(weather[source]), rows) for name, source in _WEATHER_COLUMNS.items()}
    wind = columns["wind_speed"]
    columns["wind_speed"] = np.where(wind > MAX_WIND_MPH, np.nan, wind)
    return columns


def _take(values: Floats, rows: Ints) -> Floats:
    return np.where(rows >= 0, values[rows], np.nan)
