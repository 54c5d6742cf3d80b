"""Rows of a file in pieces: what a source of them is, and how pieces are cut and put together."""

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

from producers.errors import BulkInputError
from producers.mixed import joined

Wanted = Mapping[str, Any]  # column -> pyarrow.DataType, or None for "as it is"
BLOCK_BYTES: Final = 4 * 1024 * 1024
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


def names_once(path: Path, names: Iterable[str]) -> None:
    """Raises `BulkInputError` for a column that is there twice: nobody could say which one is meant."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BulkInputError(f"{path}: column {name!r} is there twice")
        seen.add(name)
