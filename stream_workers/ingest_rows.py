"""Turns runs of Kafka records into Arrow tables, a column at a time: what ingest inserts.

Pure. A PredictionBatch is columns already, so its columns are joined as bytes and read as one numpy or Arrow array;
Python's cost is per record and column, never per row. Every number of a map is a float64 (an int64 above 2^53 loses its
last digits there). Times outside 1970 to 2100, which a client's clock can send, are moved to the nearer end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.codes import CODES
from schemas.records import (
    BatchSummary,
    Column,
    Control,
    DeadLetter,
    MicroBatch,
    Outcome,
    PredictionBatch,
    Record,
    StringColumn,
)
from schemas.tensors import BYTES, DATATYPES, TensorError, pack_strings, unpack_bytes

Array = npt.NDArray[Any]
_TIME: Final = pa.timestamp("us", "UTC")
_LOG_TIME: Final = pa.timestamp("ms", "UTC")
_LAST_TIME: Final = 4_102_444_800_000_000  # 2100-01-01, inside what ClickHouse's Date and DateTime64 can hold
_DAY_US: Final = 86_400_000_000
_CODE_NAMES: Final = [*map(str, CODES), *(f"CODE_{index}" for index in range(len(CODES), 256))]
_FIXED: Final[Mapping[str, str]] = {
    "partitions": "<i4",
    "offsets": "<i8",
    "row_numbers": "<i4",
    "sent_at": "<i8",
    "received_at": "<i8",
    "codes": "u1",
    "scores": "<f8",
}


class InvalidRecordError(ValueError):
    """A record that is good Avro and yet no possible record: its columns disagree."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A decoded record and its place: `offset` and `time_ms` (Kafka's timestamp) in its partition of the log.

    `size` is its length on the wire in bytes.
    """

    offset: int
    time_ms: int
    size: int
    record: Record

    @property
    def rows(self) -> int:
        """Rows it becomes in ClickHouse."""
        return self.record.rows if isinstance(self.record, PredictionBatch) else 1


def check(record: Record) -> None:
    """Raise `InvalidRecordError` unless the columns of a PredictionBatch fit its row count; other records pass."""
    if not isinstance(record, PredictionBatch):
        return
    rows = record.rows
    if rows < 0:
        raise InvalidRecordError(f"PredictionBatch of {rows} rows")
    for name, dtype in _FIXED.items():
        data: bytes = getattr(record, name)
        if len(data) != rows * np.dtype(dtype).itemsize:
            raise InvalidRecordError(
                f"PredictionBatch.{name} has {len(data)} bytes where {rows} rows take {rows * np.dtype(dtype).itemsize}"
            )
    for name in ("request_ids", "user_ids", "messages"):
        _check_strings(f"PredictionBatch.{name}", getattr(record, name), rows)
    for column in (*record.features, *record.outputs):
        _check_column(column, rows)
    own = [one.rows for one in record.batches]
    if own and (sum(own) != rows or min(own) < 0):
        raise InvalidRecordError(f"PredictionBatch.batches have {own} rows where there are {rows}")
    # Whether a record has arrived is asked by its offset, and its days are inserted one by one.
    if len({partition_days(one.scored_at) for one in record.batches if one.rows}) > 1:
        raise InvalidRecordError("PredictionBatch.batches are of more than one day in UTC")


def micro_batches(record: PredictionBatch) -> tuple[MicroBatch, ...]:
    """What the rows are of, also where the record, as those of before, is one and does not say so."""
    return record.batches or (MicroBatch(record.batch_id, record.scored_at, record.rows),)


def partition_days(times_us: Any) -> Any:
    """Days since the epoch, in UTC: what `toDate` makes of these times."""
    return times_us // _DAY_US


def build(records: Sequence[LogRecord], log: str, log_partition: int) -> pa.Table:
    """Records of one type, in order, as the rows of their ClickHouse table (see analytics/migrations)."""
    kind = type(records[0].record)
    columns, rows = _BUILD[kind]([one.record for one in records])
    count = len(records) if rows is None else int(rows.sum())
    columns["log"] = _repeated([log], np.array([count]))
    columns["log_partition"] = pa.array(np.full(count, log_partition, np.int32))
    columns["log_offset"] = pa.array(_spread([one.offset for one in records], rows))
    columns["log_time"] = pa.array(
        np.clip(_spread([one.time_ms for one in records], rows), 0, _LAST_TIME // 1000), _LOG_TIME
    )
    return pa.table(columns)


def _predictions(records: Sequence[Any]) -> tuple[dict[str, Any], Array]:
    batches = cast("Sequence[PredictionBatch]", records)
    rows = np.array([batch.rows for batch in batches], np.int64)
    fixed = {
        name: np.frombuffer(b"".join(getattr(batch, name) for batch in batches), dtype)
        for name, dtype in _FIXED.items()
    }

    def same(name: str) -> Any:
        return _repeated([getattr(batch, name) for batch in batches], rows)

    together = [one for batch in batches for one in micro_batches(batch)]
    together_rows = np.array([one.rows for one in together], np.int64)
    numbers, categories = _maps([(batch.rows, batch.features) for batch in batches], listed=False)
    outputs, texts = _maps([(batch.rows, batch.outputs) for batch in batches], listed=True)
    return {
        "request_id": _strings([batch.request_ids for batch in batches]),
        "row_number": pa.array(fixed["row_numbers"].astype(np.uint32)),
        "user_id": _strings([batch.user_ids for batch in batches]),
        "model": same("model"),
        "version": same("version"),
        "experiment": same("experiment"),
        "variant": same("variant"),
        "topic": same("topic"),
        "partition": pa.array(fixed["partitions"]),
        "offset": pa.array(fixed["offsets"]),
        "sent_at": _times(fixed["sent_at"]),
        "received_at": _times(fixed["received_at"]),
        "scored_at": _times(_spread([one.scored_at for one in together], together_rows)),
        "code": pa.DictionaryArray.from_arrays(pa.array(fixed["codes"].astype(np.int16)), _CODE_NAMES),
        "message": _strings([batch.messages for batch in batches]),
        "score": pa.array(fixed["scores"], mask=np.isnan(fixed["scores"])),
        "features": numbers,
        "categories": categories,
        "outputs": outputs,
        "texts": texts,
        "batch_id": _repeated([one.batch_id for one in together], together_rows),
        "worker": same("worker"),
        "device": same("device"),
        "degraded": same("degraded"),
    }, rows


def _summaries(records: Sequence[Any]) -> tuple[dict[str, Any], None]:
    one_each = _fields(records, "batch_id worker device degraded model version experiment variant topic", pa.string())
    one_each |= _fields(
        records, "batches requests rows padded_rows queue_us batch_us infer_us score_count", pa.int64()
    ) | _fields(records, "score_sum score_sum_squares", pa.float64())
    one_each |= _fields(records, "latency_histogram score_histogram", pa.list_(pa.int64()))
    return one_each | {
        "scored_at": _times(np.array([one.scored_at for one in records], np.int64)),
        "errors": pa.array([list(one.errors.items()) for one in records], pa.map_(pa.string(), pa.int64())),
        "feature_histograms": pa.array(
            [list(one.feature_histograms.items()) for one in records], pa.map_(pa.string(), pa.list_(pa.int64()))
        ),
    }, None


def _outcomes(records: Sequence[Any]) -> tuple[dict[str, Any], None]:
    columns = _fields(records, "outcome_id request_id user_id experiment model name", pa.string())
    for name in ("occurred_at", "sent_at"):
        columns[name] = _times(np.array([getattr(one, name) for one in records], np.int64))
    return columns | _fields(records, "value", pa.float64()), None


def _dead_letters(records: Sequence[Any]) -> tuple[dict[str, Any], None]:
    headers = [[(name, value or b"") for name, value in one.headers.items()] for one in records]
    columns = _fields(records, "topic reason detail worker", pa.string()) | _fields(records, "key value", pa.binary())
    return columns | {
        "partition": pa.array([one.partition for one in records], pa.int32()),
        "offset": pa.array([one.offset for one in records], pa.int64()),
        "headers": pa.array(headers, pa.map_(pa.string(), pa.binary())),
        "failed_at": _times(np.array([one.failed_at for one in records], np.int64)),
    }, None


def _controls(records: Sequence[Any]) -> tuple[dict[str, Any], None]:
    columns = _fields(records, "kind name body author", pa.string()) | _fields(records, "revision", pa.int64())
    return columns | {
        "changed_at": _times(np.array([one.changed_at for one in records], np.int64)),
        # A tombstone has no body; a body is JSON and so never empty.
        "deleted": pa.array([not one.body for one in records]),
    }, None


_BUILD: Final[Mapping[type[Record], Callable[[Sequence[Any]], tuple[dict[str, Any], Array | None]]]] = {
    PredictionBatch: _predictions,
    BatchSummary: _summaries,
    Outcome: _outcomes,
    DeadLetter: _dead_letters,
    Control: _controls,
}


def _fields(records: Sequence[Any], names: str, kind: Any) -> dict[str, Any]:
    return {name: pa.array([getattr(one, name) for one in records], kind) for name in names.split()}


def _spread(values: Sequence[int], rows: Array | None) -> Array:
    each = np.array(values, np.int64)
    return each if rows is None else np.repeat(each, rows)


def _times(microseconds: Array) -> Any:
    return pa.array(np.clip(microseconds, 0, _LAST_TIME), _TIME)


def _repeated(values: Sequence[str], rows: Array) -> Any:
    """values[i] rows[i] times, as a dictionary array: ClickHouse takes it for a LowCardinality column as it is."""
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    indices = np.repeat(np.array([places[value] for value in values], np.int32), rows)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(list(places), pa.string()))


def _strings(columns: Sequence[StringColumn]) -> Any:
    """String columns one after the other: their bytes joined, their offsets moved along."""
    ends: list[Array] = [np.zeros(1, np.int32)]
    base = 0
    for column in columns:
        ends.append(np.frombuffer(column.offsets, "<i4")[1:] + np.int32(base))
        base += len(column.data)
    offsets = np.concatenate(ends)
    data = b"".join(column.data for column in columns)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


def _maps(batches: Iterable[tuple[int, Sequence[Column]]], *, listed: bool) -> tuple[Any, Any]:
    """The columns of batches as two map arrays, numbers and texts; `listed` makes each value a list (outputs).

    Batches that follow one another with the same columns are done at once.
    """
    runs: list[tuple[tuple[Any, ...], list[tuple[int, Sequence[Column]]]]] = []
    for rows, columns in batches:
        if rows:
            form = tuple((column.name, column.datatype, column.shape[1:]) for column in columns)
            if not runs or runs[-1][0] != form:
                runs.append((form, []))
            runs[-1][1].append((rows, columns))
    numbers = _MapBuilder(listed=listed, text=False)
    texts = _MapBuilder(listed=listed, text=True)
    for form, members in runs:
        rows = sum(count for count, _ in members)
        by_kind: dict[bool, list[tuple[str, Any]]] = {False: [], True: []}
        for place, (name, datatype, _) in enumerate(form):
            parts = [columns[place] for _, columns in members]
            if datatype == BYTES:
                by_kind[True].append((name, _strings([strings_of(part) for part in parts])))
            else:
                joined = np.frombuffer(b"".join(part.data for part in parts), DATATYPES[datatype])
                by_kind[False].append((name, joined.reshape(rows, -1).astype(np.float64)))
        numbers.add(rows, by_kind[False])
        texts.add(rows, by_kind[True])
    return numbers.finish(), texts.finish()


def strings_of(column: Column) -> StringColumn:
    """A BYTES column's strings, whichever way it carries them."""
    if column.strings is not None:
        return column.strings
    count = int(np.prod(column.shape, dtype=np.int64))
    return pack_strings(unpack_bytes(column.name, column.data, count))


class _MapBuilder:
    """Grows one map column, row-major, from blocks of columns."""

    def __init__(self, *, listed: bool, text: bool) -> None:
        self._listed = listed
        self._text = text
        self._names: dict[str, int] = {}
        self._keys: list[Array] = []
        self._entries: list[Array] = []  # entries of each row
        self._lengths: list[Array] = []  # values of each entry, where values are lists
        self._values: list[Any] = []

    def add(self, rows: int, columns: Sequence[tuple[str, Any]]) -> None:
        """`rows` rows more: numbers as [rows, inner] arrays, texts as string arrays of rows * inner."""
        widths = [len(values) // rows if self._text else values.shape[1] for _, values in columns]
        names = [name for name, _ in columns]
        if not self._listed:  # a vector feature is a key for each of its elements
            names = [
                name if width == 1 else f"{name}[{index}]"
                for name, width in zip(names, widths, strict=True)
                for index in range(width)
            ]
        places = np.array([self._names.setdefault(name, len(self._names)) for name in names], np.int32)
        self._keys.append(np.tile(places, rows))
        self._entries.append(np.full(rows, len(names), np.int32))
        self._lengths.append(np.tile(np.array(widths, np.int32), rows))
        if not columns:
            return
        if self._text:
            starts = np.concatenate([[0], np.cumsum([rows * width for width in widths])])[:-1]
            order = np.hstack(
                [
                    start + np.arange(rows * width).reshape(rows, width)
                    for start, width in zip(starts, widths, strict=True)
                ]
            )
            self._values.append(pa.concat_arrays([values for _, values in columns]).take(pa.array(order.ravel())))
        else:
            self._values.append(np.hstack([values for _, values in columns]).ravel())

    def finish(self) -> Any:
        """The column as a map array."""
        keys = pa.DictionaryArray.from_arrays(pa.array(_joined(self._keys)), pa.array(list(self._names), pa.string()))
        values: Any
        if self._text:
            values = pa.concat_arrays(self._values) if self._values else pa.array([], pa.string())
        else:
            values = pa.array(np.concatenate(self._values) if self._values else np.zeros(0))
        if self._listed:
            values = pa.ListArray.from_arrays(pa.array(_offsets(self._lengths)), values)
        elif self._text:
            values = values.dictionary_encode()
        return pa.MapArray.from_arrays(pa.array(_offsets(self._entries)), keys, values)


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _offsets(counts: Sequence[Array]) -> Array:
    each = _joined(counts)
    offsets = np.zeros(len(each) + 1, np.int32)
    np.cumsum(each, out=offsets[1:])
    return offsets


def _check_strings(name: str, column: StringColumn, count: int) -> None:
    if len(column.offsets) != 4 * (count + 1):
        raise InvalidRecordError(
            f"{name} has {len(column.offsets)} bytes of offsets where {count} strings take {4 * (count + 1)}"
        )
    offsets = np.frombuffer(column.offsets, "<i4")
    if offsets[0] != 0 or offsets[-1] != len(column.data) or (np.diff(offsets) < 0).any():
        raise InvalidRecordError(f"{name} has offsets that do not run from 0 up to its {len(column.data)} bytes")
    try:
        column.data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRecordError(f"{name} is not UTF-8 at byte {error.start}") from None
    starts = offsets[offsets < len(column.data)]
    # 10xxxxxx is the inside of a character: a string that starts there cuts one in two.
    if ((np.frombuffer(column.data, "u1")[starts] & 0xC0) == 0x80).any():
        raise InvalidRecordError(f"{name} has a string that starts inside a character")


def _check_column(column: Column, rows: int) -> None:
    name = f"column {column.name!r}"
    if not column.shape or column.shape[0] != rows or min(column.shape) < 0:
        raise InvalidRecordError(f"{name} has shape {list(column.shape)} in a PredictionBatch of {rows} rows")
    count = int(np.prod(column.shape, dtype=np.int64))
    if column.datatype == BYTES:
        try:
            _check_strings(name, strings_of(column), count)
        except TensorError as error:
            raise InvalidRecordError(str(error)) from None
        return
    dtype = DATATYPES.get(column.datatype)
    if dtype is None:
        raise InvalidRecordError(f"{name} has the unknown datatype {column.datatype!r}")
    if len(column.data) != count * dtype.itemsize:
        raise InvalidRecordError(
            f"{name} has {len(column.data)} bytes where {column.datatype} of {list(column.shape)} takes "
            f"{count * dtype.itemsize}"
        )
