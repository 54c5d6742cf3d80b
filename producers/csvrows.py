"""CSV in blocks of whole rows: Arrow reads a block at once; only a block that it refuses is read row by row.

The grammar is that of RFC 4180 and, for what that leaves open, of Arrow's reader: a quote counts where it begins a
field, what follows a closing quote belongs to the field, and \\r\\n, \\n and \\r end a row outside of quotes. One
pattern holds it, for cutting blocks and for reading rows.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.csv as pa_csv

from producers.errors import BulkInputError
from producers.pieces import (
    BLOCK_BYTES,
    LONGEST_ROW,
    UNREADABLE,
    Piece,
    Source,
    Wanted,
    after,
    names_once,
    open_bytes,
    unreadable,
)

_QUOTED: Final = rb'"(?:[^"]++|"")*+"'
_FIELD: Final = rb"(?:" + _QUOTED + rb'[^,\r\n]*+|[^",\r\n][^,\r\n]*+|)'
_CELLS: Final = _FIELD + rb"(?:," + _FIELD + rb")*+"
_ROW: Final = re.compile(_CELLS + rb"(?:\r\n|\n|\r)")
# For cutting: a \r at the very end may be half of a \r\n whose other half has not been read yet.
_ROWS: Final = re.compile(rb"(?:" + _CELLS + rb"(?:\r\n|\n|\r(?!\Z)))*+")
_PARTS: Final = re.compile(rb"(" + _QUOTED + rb")?+([^,\r\n]*+)(,|\r\n|\n|\r)")
_NEWLINE: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole rows that begin in `line`, or, where there is a `problem`, one line that is no row."""

    data: bytes
    line: int
    position: int
    problem: str = ""


class Csv(Source):
    """Comma-separated values in UTF-8 with a header line. Quoted values may hold newlines; empty lines do not count.

    A row of another width than the header, text that is no UTF-8, and a line with a quote that is never closed are
    errors of their row.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with closing(self._blocks()) as blocks:
            header = next(blocks, None)
        if header is None:
            raise BulkInputError(f"{path}: is empty")
        names = self._names(header)
        names_once(path, names)
        self.schema = dict.fromkeys(names, pa.string())

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        start = 0
        blocks = self._blocks()
        next(blocks)
        try:
            for block in blocks:
                whole = self._read(block, list(wanted))
                piece = after(whole, skip - start)
                start += whole.rows
                if piece is not None:
                    yield piece
        except UNREADABLE as error:
            raise unreadable(self.path, error) from None

    def _names(self, header: _Block) -> list[str]:
        if header.problem:
            raise BulkInputError(f"{self.path} line {header.line}: {header.problem}")
        try:
            return [one.decode() for one in _fields(header.data)]
        except UnicodeDecodeError as error:
            raise BulkInputError(f"{self.path} line {header.line}: {_not_utf8(error)}; convert the file") from None

    def _blocks(self) -> Generator[_Block]:
        """The header line as a block of its own, then the others."""
        with open_bytes(self.path) as (file, tell):
            line = 1
            headed = False
            for data, problem in _cut_up(file):
                while not headed and not problem and (first := _ROW.match(data)) is not None:
                    headed = first[0].strip(b"\r\n") != b""
                    if headed:
                        yield _Block(first[0], line, tell())
                    data = data[first.end() :]
                    line += _lines(first[0])
                headed |= problem != ""
                if data:
                    yield _Block(data, line, tell(), problem)
                line += _lines(data)

    def _read(self, block: _Block, wanted: list[str]) -> Piece:
        if not block.problem:
            try:
                return self._read_at_once(block, wanted)
            except (pa.ArrowException, UnicodeDecodeError):
                pass
        return self._read_by_row(block, wanted)

    def _read_at_once(self, block: _Block, wanted: list[str]) -> Piece:
        names = list(self.schema)
        # Asked for no columns, Arrow gives all of them; one is enough to count the rows.
        read = wanted or names[:1]
        table = pa_csv.read_csv(
            pa.BufferReader(block.data),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block.data) + 1),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(read, pa.string()), include_columns=read, strings_can_be_null=False
            ),
        )
        return Piece(table.select(wanted), table.num_rows, block.position)

    def _read_by_row(self, block: _Block, wanted: list[str]) -> Piece:
        names = list(self.schema)
        places = {name: names.index(name) for name in wanted}
        columns: dict[str, list[str | None]] = {name: [] for name in wanted}
        errors: dict[int, str] = {}
        rows = 0
        line = block.line
        for raw in [block.data] if block.problem else (match[0] for match in _ROW.finditer(block.data)):
            here, line = line, line + _lines(raw)
            if not raw.strip(b"\r\n"):
                continue
            fields = [] if block.problem else _fields(raw)
            whole = len(fields) == len(names)
            if not whole:
                errors[rows] = f"line {here}: " + (
                    block.problem or f"expected {len(names)} columns as in the header, got {len(fields)}"
                )
            for name, at in places.items():
                text = None
                try:
                    text = fields[at].decode() if whole else None
                except UnicodeDecodeError as error:
                    errors.setdefault(rows, f"line {here}, column {name!r}: {_not_utf8(error)}")
                columns[name].append(text)
            rows += 1
        table = pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
        return Piece(table, rows, block.position, errors)


def _cut_up(file: IO[bytes]) -> Iterator[tuple[bytes, str]]:
    """Whole rows, as many as were read at once; or a line that begins a row without an end, and what is wrong there."""
    rest = file.read(len(_BOM)).removeprefix(_BOM)
    final = False
    while not final:
        data = file.read(BLOCK_BYTES)
        final = not data
        rest += data
        if final and rest and not rest.endswith(b"\n"):
            rest += b"\n"
        while rest:
            end = _end_of_rows(rest)
            if end:
                yield rest[:end], ""
                rest = rest[end:]
            if not rest or not (final or len(rest) > LONGEST_ROW):
                break
            newline = _NEWLINE.search(rest)
            if newline is None:
                # Not even the line ends: what is left of it is of no use.
                rest = _after_line(file)
                yield b"?\n", f"longer than {LONGEST_ROW} bytes"
            else:
                yield rest[: newline.end()], "a quote is opened here and not closed"
                rest = rest[newline.end() :]


def _after_line(file: IO[bytes]) -> bytes:
    while data := file.read(BLOCK_BYTES):
        newline = _NEWLINE.search(data)
        if newline is not None:
            return data[newline.end() :]
    return b""


def _end_of_rows(data: bytes) -> int:
    """Where the last whole row ends."""
    if b'"' in data:
        found = _ROWS.match(data)
        return found.end() if found is not None else 0
    return max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1


def _fields(row: bytes) -> list[bytes]:
    """The values of one row that the pattern accepts."""
    return [quoted[1:-1].replace(b'""', b'"') + tail for quoted, tail, _ in _PARTS.findall(row)]


def _lines(data: bytes) -> int:
    return len(_NEWLINE.findall(data)) if b"\r" in data else data.count(b"\n")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x})"
