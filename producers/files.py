"""Files of any size, read in pieces: Parquet, CSV and JSON lines as Arrow tables, with the rows that could not be read.

CSV has no types: every column is read as the text it is. In JSON lines a column not asked for as a certain type has
the type that the first lines show.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from producers.errors import BulkInputError

Wanted = Mapping[str, Any]  # column -> pyarrow.DataType, or None for "as it is"
BLOCK_BYTES: Final = 4 * 1024 * 1024
PIECE_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a file. `errors`: what is wrong with a row, by its index here. `position`: bytes read."""

    table: Any  # pyarrow.Table
    position: int
    errors: dict[int, str] = field(default_factory=dict)


class Source(ABC):
    """A file of rows. `schema`: its columns and their Arrow types; `rows`: how many, None where only reading tells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stat = path.stat()
        self.size = stat.st_size
        self.modified_ns = stat.st_mtime_ns
        self.schema: dict[str, Any] = {}
        self.rows: int | None = None

    def types(self, wanted: Wanted) -> dict[str, Any]:
        """The Arrow types that `pieces(wanted)` will have."""
        return {name: self.schema[name] for name in wanted}

    @abstractmethod
    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        """The columns of `wanted`, row by row in order, from row `skip` on. Raises `BulkInputError`."""


def open_source(path: Path) -> Source:
    """The file as a source, by the end of its name. Raises `BulkInputError` where it cannot be read."""
    kinds: dict[str, type[Source]] = {
        ".parquet": Parquet,
        ".pq": Parquet,
        ".csv": Csv,
        ".jsonl": _json(),
        ".ndjson": _json(),
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise BulkInputError(f"{path}: cannot tell its format from its name; use one of {', '.join(kinds)}")
    try:
        if not path.is_file():
            raise BulkInputError(f"{path}: no such file")
        source = kind(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    return source


def unreadable(path: Path, error: Exception) -> BulkInputError:
    """One line for a file that cannot be read."""
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return BulkInputError(f"{path}: {' '.join(detail.split())[:300]}")


def rechunk(pieces: Iterator[Piece], rows: int) -> Iterator[Piece]:
    """The same rows in pieces of exactly `rows`, the last one of what is left."""
    held: list[Piece] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += piece.table.num_rows
        if count < rows:
            continue
        whole = _join(held)
        start = 0
        while count - start >= rows:
            yield _slice(whole, start, rows)
            start += rows
        held = [_slice(whole, start, count - start)] if count > start else []
        count -= start
    if count:
        yield _join(held)


def _join(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    errors: dict[int, str] = {}
    at = 0
    for one in pieces:
        errors.update({at + row: text for row, text in one.errors.items()})
        at += one.table.num_rows
    return Piece(pa.concat_tables([one.table for one in pieces]), pieces[-1].position, errors)


def _slice(piece: Piece, start: int, rows: int) -> Piece:
    errors = {row - start: text for row, text in piece.errors.items() if start <= row < start + rows}
    return Piece(piece.table.slice(start, rows), piece.position, errors)


class Parquet(Source):
    """Apache Parquet; row groups before the first wanted row are not read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with pq.ParquetFile(path) as file:
            self.schema = _columns(path, file.schema_arrow)
            self.rows = file.metadata.num_rows
            self._groups = [file.metadata.row_group(one).num_rows for one in range(file.metadata.num_row_groups)]

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        first, start = 0, 0
        while first < len(self._groups) and start + self._groups[first] <= skip:
            start += self._groups[first]
            first += 1
        total = max(self.rows or 0, 1)
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                groups = list(range(first, len(self._groups)))
                for batch in file.iter_batches(PIECE_ROWS, row_groups=groups, columns=list(wanted)):
                    drop = min(max(0, skip - start), batch.num_rows)
                    start += batch.num_rows
                    if drop < batch.num_rows:
                        table = pa.Table.from_batches([batch.slice(drop)]).select(list(wanted))
                        yield Piece(table, self.size * start // total)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from None


class Csv(Source):
    """Comma-separated values with a header line; quoted values may hold newlines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with pa_csv.open_csv(path, parse_options=_CSV) as reader:
            self.schema = _columns(path, pa.schema([(name, pa.string()) for name in reader.schema.names]))

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        convert = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted), strings_can_be_null=False
        )
        read = pa_csv.ReadOptions(block_size=BLOCK_BYTES)
        start = 0
        try:
            with pa.OSFile(str(self.path)) as file:
                for batch in pa_csv.open_csv(file, read_options=read, parse_options=_CSV, convert_options=convert):
                    drop = min(max(0, skip - start), batch.num_rows)
                    start += batch.num_rows
                    if drop < batch.num_rows:
                        position = min(file.tell(), self.size)
                        yield Piece(pa.Table.from_batches([batch.slice(drop)]), position)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise unreadable(self.path, error) from None


_CSV: Final = pa_csv.ParseOptions(newlines_in_values=True)


def _columns(path: Path, schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in schema:
        if one.name in found:
            raise BulkInputError(f"{path}: column {one.name!r} is there twice")
        found[one.name] = one.type
    return found


def _json() -> type[Source]:
    from producers.jsonlines import JsonLines  # it is a Source itself

    return JsonLines
