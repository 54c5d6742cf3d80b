"""Tables to a file of the format that the end of its name says: Parquet, CSV or JSON lines.

What a format has no place for is refused before anything is scored. JSON has no NaN: it becomes null there. Times and
decimals are text in CSV and JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from producers.errors import BulkInputError

ROW_GROUP: Final = 131_072
_PARQUET: Final = (".parquet", ".pq")
_LINES: Final = (".jsonl", ".ndjson")
_ENDS: Final = (*_PARQUET, ".csv", *_LINES)


class Writer(Protocol):
    """Takes tables of one schema, one after the other."""

    def write_table(self, table: Any, row_group_size: int = ROW_GROUP) -> None: ...


def check_output(path: Path, schema: Any) -> None:
    """Raises `BulkInputError` where the path's format is none we write, or has no place for one of the columns."""
    end = path.suffix.lower()
    if end not in _ENDS:
        raise BulkInputError(f"{path}: cannot tell from its name which format to write; use one of {', '.join(_ENDS)}")
    if end in _PARQUET:
        return
    plain = _plain if end == ".csv" else _json
    for one in schema:
        if not plain(one.type):
            name = "CSV" if end == ".csv" else "JSON"
            others = "a .parquet" if end in _LINES or not _json(one.type) else "a .parquet or .jsonl"
            raise BulkInputError(
                f"{path}: column {one.name!r} is {one.type}, which {name} cannot hold; write {others} file"
            )


@contextmanager
def open_writer(path: Path, file: IO[bytes], schema: Any) -> Iterator[Writer]:
    """A writer into `file` of the format of `path`, which `check_output` has passed."""
    end = path.suffix.lower()
    if end in _LINES:
        yield _JsonLines(file)
        return
    if end == ".csv":
        with pa_csv.CSVWriter(file, schema) as rows:
            yield _Csv(rows)
        return
    with pq.ParquetWriter(file, schema, compression="zstd") as groups:
        yield groups


class _Csv:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write_table(self, table: Any, row_group_size: int = ROW_GROUP) -> None:
        del row_group_size
        self._writer.write_table(table)


class _JsonLines:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write_table(self, table: Any, row_group_size: int = ROW_GROUP) -> None:
        del row_group_size
        for at, one in enumerate(table.schema):
            if pa.types.is_temporal(one.type) or pa.types.is_decimal(one.type):
                table = table.set_column(at, one.name, table.column(at).cast(pa.string()))
        for batch in table.to_batches(4096):
            self._file.write("".join(map(_line, batch.to_pylist())).encode())


def _line(row: dict[str, Any]) -> str:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(row), ensure_ascii=False)
    return text + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _plain(kind: Any) -> bool:
    types = pa.types
    return _simple(kind) or bool(types.is_decimal(kind) or types.is_temporal(kind))


def _simple(kind: Any) -> bool:
    types = pa.types
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_floating(kind)
    return bool(text or number or types.is_boolean(kind) or types.is_null(kind))


def _json(kind: Any) -> bool:
    return _plain(kind) or _nested(kind)


def _nested(kind: Any) -> bool:
    """Lists and objects, of what JSON has itself."""
    types = pa.types
    if types.is_struct(kind):
        return all(_nested(one.type) for one in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _nested(kind.value_type)
    return _simple(kind)
