"""Files of any size, read in pieces: Parquet, CSV and JSON lines as Arrow tables, with the rows that could not be read.

CSV has no types: every column is read as the text it is. In JSON lines a column not asked for as a certain type has
the type that the first lines show, and is text from where a value does not fit that.
"""

from __future__ import annotations

import gzip
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from producers.errors import BulkInputError
from producers.mixed import joined

Wanted = Mapping[str, Any]  # column -> pyarrow.DataType, or None for "as it is"
BLOCK_BYTES: Final = 4 * 1024 * 1024
PIECE_ROWS: Final = 65_536
# Twice what a Kafka record takes: a longer row can only be a mistake, and must not be held in memory to its end.
LONGEST_ROW: Final = 16 * 1024 * 1024
# What a damaged file raises while it is read.
UNREADABLE: Final = (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a file. `errors`: what is wrong with a row, by its index here. `position`: bytes read.

    `rows` is said apart from the table, since a table without columns does not know how many rows it has.
    """

    table: Any  # pyarrow.Table
    rows: int
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
    if not path.is_file():
        odd = "is a folder, not a file" if path.is_dir() else "is no regular file, and cannot be read twice"
        raise BulkInputError(f"{path}: {odd if path.exists() else 'no such file'}")
    kinds = _kinds()
    kind = next((kinds[end] for end in kinds if path.name.lower().endswith(end)), None)
    if kind is None:
        raise BulkInputError(f"{path}: cannot tell its format from its name; use one of {', '.join(kinds)}")
    try:
        return kind(path)
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> BulkInputError:
    """One line for a file that cannot be read."""
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return BulkInputError(f"{path}: {' '.join(detail.split())[:300]}")


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """A text file's bytes, unpacked where its name ends in .gz, and how many bytes of the file have been read."""
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.open(raw, "rb") as unpacked:
                yield cast("IO[bytes]", unpacked), raw.tell
        else:
            yield raw, raw.tell


def rechunk(pieces: Iterator[Piece], rows: int) -> Iterator[Piece]:
    """The same rows in pieces of exactly `rows`, the last one of what is left."""
    held: list[Piece] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += piece.rows
        if count < rows:
            continue
        whole = _join(held)
        start = 0
        while count - start >= rows:
            yield part_of(whole, start, rows)
            start += rows
        held = [part_of(whole, start, count - start)] if count > start else []
        count -= start
    if count:
        yield _join(held)


def part_of(piece: Piece, start: int, rows: int) -> Piece:
    """`rows` rows of a piece, from row `start` on."""
    errors = {row - start: text for row, text in piece.errors.items() if start <= row < start + rows}
    return Piece(piece.table.slice(start, rows), rows, piece.position, errors)


def after(piece: Piece, skip: int) -> Piece | None:
    """The piece without its first `skip` rows; None where nothing is left."""
    drop = max(0, skip)
    return part_of(piece, drop, piece.rows - drop) if drop < piece.rows else None


def _join(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    errors: dict[int, str] = {}
    at = 0
    for one in pieces:
        errors.update({at + row: text for row, text in one.errors.items()})
        at += one.rows
    return Piece(joined([one.table for one in pieces]), at, pieces[-1].position, errors)


class Parquet(Source):
    """Apache Parquet; row groups before the first wanted row are not read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with pq.ParquetFile(path) as file:
            names_once(path, file.schema_arrow.names)
            self.schema = {one.name: one.type for one in file.schema_arrow}
            self.rows = file.metadata.num_rows
            self._groups = [file.metadata.row_group(one).num_rows for one in range(file.metadata.num_row_groups)]

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        first, start = 0, 0
        while first < len(self._groups) and start + self._groups[first] <= skip:
            start += self._groups[first]
            first += 1
        total = max(self.rows or 0, 1)
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file:
                groups = list(range(first, len(self._groups)))
                for batch in file.iter_batches(PIECE_ROWS, row_groups=groups, columns=list(wanted)):
                    end = start + batch.num_rows
                    table, errors = _readable(pa.Table.from_batches([batch]).select(list(wanted)))
                    piece = after(Piece(table, batch.num_rows, self.size * end // total, errors), skip - start)
                    start = end
                    if piece is not None:
                        yield piece
        except UNREADABLE as error:
            raise unreadable(self.path, error) from None


def names_once(path: Path, names: Iterable[str]) -> None:
    """Raises `BulkInputError` for a column that is there twice: nobody could say which one is meant."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BulkInputError(f"{path}: column {name!r} is there twice")
        seen.add(name)


def _readable(table: Any) -> tuple[Any, dict[int, str]]:
    """The table without values that are not what their type says (text that is no UTF-8), and those as errors."""
    errors: dict[int, str] = {}
    for at, name in enumerate(table.column_names):
        column = table.column(at)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if pa.types.is_dictionary(column.type):
                column = pc.cast(column, column.type.value_type)
            places: list[int | None] = list(range(table.num_rows))
            for row in range(table.num_rows):
                try:
                    column.slice(row, 1).combine_chunks().validate(full=True)
                except pa.ArrowInvalid as error:
                    places[row] = None
                    errors.setdefault(row, f"column {name!r}: cannot be read: {str(error).splitlines()[0]}")
            table = table.set_column(at, name, column.take(pa.array(places, pa.int64())))
    return table, errors


def _kinds() -> dict[str, type[Source]]:
    from producers.csvrows import Csv  # they are sources themselves
    from producers.jsonlines import JsonLines

    texts: dict[str, type[Source]] = {".csv": Csv, ".jsonl": JsonLines, ".ndjson": JsonLines}
    return {".parquet": Parquet, ".pq": Parquet, **texts, **{f"{end}.gz": kind for end, kind in texts.items()}}
