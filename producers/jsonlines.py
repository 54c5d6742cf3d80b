"""JSON lines in blocks: Arrow reads a block at once; only a block that it refuses is read line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.json as pa_json

from producers.columns import number_of
from producers.errors import BulkInputError
from producers.mixed import as_text
from producers.pieces import BLOCK_BYTES, LONGEST_ROW, UNREADABLE, Piece, Source, Wanted, after, open_bytes, unreadable

_INT64: Final = range(-(2**63), 2**63)
# A lone surrogate (\\ud800) is valid in JSON and nowhere else.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class JsonLines(Source):
    """One JSON object in UTF-8 a line; blank lines count for nothing, a missing key is a null.

    Where a number is wanted, text that is one counts as it, and where text is wanted, a number is the text that it is,
    as in CSV and in text columns of Parquet.

    A line that is no object, or a value that does not fit a column with a wanted type, is an error of its row. A value
    that does not fit a column read "as it is" makes that column text from there on: such columns are ids, and an id is
    not thrown away. Objects in them are text from the beginning, since no two need have the same keys.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with open_bytes(path) as (file, _):
            block = next(_blocks(file), b"")
        if not block.strip():
            raise BulkInputError(f"{path}: is empty")
        self.schema = self._probe(block)

    def types(self, wanted: Wanted) -> dict[str, Any]:
        return {name: self._type(name, kind) for name, kind in wanted.items()}

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        types = self.types(wanted)
        start = line = 0
        try:
            with open_bytes(self.path) as (file, tell):
                for block in _blocks(file):
                    rows = _rows(block)
                    if start + rows > skip:
                        piece = after(self._read(block, types, wanted, rows, tell(), line), skip - start)
                        if piece is not None:
                            yield piece
                    start += rows
                    line += block.count(b"\n")
        except UNREADABLE as error:
            raise unreadable(self.path, error) from None

    def _probe(self, block: bytes) -> dict[str, Any]:
        """Names and types that the first block shows; text where Arrow would see a time, or nothing at all."""
        try:
            schema = _arrow(block, None).schema
        except (pa.ArrowException, UnicodeDecodeError):
            schema = None
        # Arrow makes a float of a whole number that needs more than 64 bits, and an id must keep its digits.
        if schema is None or any(pa.types.is_floating(one.type) for one in schema):
            # Not all lines need be good; the good ones still tell the columns.
            good = [row for line in block.split(b"\n") if (row := _loads(line)[0]) is not None]
            if not good:
                raise BulkInputError(f"{self.path}: no line of it is a JSON object")
            names = dict.fromkeys(name for row in good for name in row)
            guessed = {name: _guess([row.get(name) for row in good]) for name in names}
            found = {} if schema is None else {one.name: one.type for one in schema}
            schema = pa.schema(
                [
                    (name, found[name] if name in found and not pa.types.is_floating(found[name]) else kind)
                    for name, kind in guessed.items()
                ]
            )
        return {one.name: pa.string() if _vague(one.type) else one.type for one in schema}

    def _type(self, name: str, kind: Any) -> Any:
        found = self.schema[name]
        # Arrow's reader takes no boolean for a number.
        return found if kind is None or (pa.types.is_boolean(found) and pa.types.is_floating(kind)) else kind

    def _read(self, block: bytes, types: dict[str, Any], wanted: Wanted, rows: int, position: int, line: int) -> Piece:
        try:
            # Arrow's reader looks for no UTF-8, and without columns it counts no rows.
            block.decode()
            table = _arrow(block, types)
            if types and table.num_rows == rows:
                return Piece(table.select(list(types)), rows, position)
        except (pa.ArrowException, UnicodeDecodeError):
            pass
        found: list[dict[str, Any]] = []
        errors: dict[int, str] = {}
        for number, text in enumerate(block.split(b"\n"), start=line + 1):
            if text.strip():
                values, problem = _loads(text)
                if values is None:
                    errors[len(found)] = f"line {number}: {problem}"
                found.append(values or {})
        columns = {}
        for name, kind in types.items():
            cells = [row.get(name) for row in found]
            fitted = [_fit(cell, kind) for cell in cells]
            unfit = {row: problem for row, (_, problem) in enumerate(fitted) if problem}
            columns[name] = pa.array([value for value, _ in fitted], kind)
            if unfit and wanted[name] is None:
                spelled = as_text(columns[name]).to_pylist()
                texts = [_spelled(cells[row]) if row in unfit else spelled[row] for row in range(len(cells))]
                columns[name] = pa.array(texts, pa.string())
                continue
            for row, problem in unfit.items():
                errors.setdefault(row, f"column {name!r}: {problem}")
        return Piece(pa.table(columns), rows, position, errors)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Blocks that end where a line ends. A line that is too long is cut off, which makes it no JSON object."""
    rest = b""
    while data := file.read(BLOCK_BYTES):
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            rest = (rest + data)[: LONGEST_ROW + 1]
            continue
        first = data.find(b"\n") if len(rest) > LONGEST_ROW else 0
        yield rest + data[first:cut]
        rest = data[cut:]
    if rest.strip():
        yield rest


def _rows(block: bytes) -> int:
    return sum(1 for line in block.split(b"\n") if line.strip())


def _arrow(block: bytes, types: dict[str, Any] | None) -> Any:
    return pa_json.read_json(
        pa.BufferReader(block),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pa_json.ParseOptions(
            explicit_schema=pa.schema(list(types.items())) if types is not None else None,
            unexpected_field_behavior="infer" if types is None else "ignore",
        ),
    )


def _loads(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The line's object, or None and why it is none."""
    if len(line) > LONGEST_ROW:
        return None, f"longer than {LONGEST_ROW} bytes"
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 (byte 0x{line[error.start]:02x})"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    return (value, "") if isinstance(value, dict) else (None, "not a JSON object")


def _vague(kind: Any) -> bool:
    return bool(pa.types.is_null(kind) or pa.types.is_temporal(kind) or pa.types.is_struct(kind))


def _spelled(value: Any) -> str:
    """A value as text, itself where it is text."""
    whole = isinstance(value, str) and not _SURROGATE.search(value)
    return value if whole else json.dumps(value)


def _guess(values: list[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value in _INT64 for value in values if value is not None):
        return pa.int64()
    if kinds and kinds <= {int, float} and all(value in _INT64 for value in values if type(value) is int):
        return pa.float64()
    if list in kinds:
        # Where something else is among them: what is wanted as lists has its errors, what is an id becomes text.
        try:
            return pa.infer_type([value for value in values if isinstance(value, list)])
        except (pa.ArrowException, OverflowError):
            return pa.list_(pa.float64())
    return pa.string()


def _fit(value: Any, kind: Any) -> tuple[Any, str]:
    """The value as the Arrow type takes it, or None and what is wrong with it."""
    if value is None:
        return None, ""
    shown = json.dumps(value)[:60]
    if pa.types.is_floating(kind):
        number = number_of(value) if isinstance(value, str) else value
        if number is None:
            return None, ""
        small = isinstance(number, float) or (isinstance(number, int) and abs(number) < 10**300)
        return (float(number), "") if small else (None, f"expected a number, got {shown}")
    if pa.types.is_boolean(kind):
        return (value, "") if isinstance(value, bool) else (None, f"expected true or false, got {shown}")
    if pa.types.is_string(kind):
        plain = isinstance(value, str | int | float) and not (isinstance(value, str) and _SURROGATE.search(value))
        return (_spelled(value), "") if plain else (None, f"expected text, got {shown}")
    if pa.types.is_integer(kind):
        whole = isinstance(value, int) and not isinstance(value, bool) and value in _INT64
        return (value, "") if whole else (None, f"expected a whole number, got {shown}")
    try:
        return pa.array([value], kind)[0].as_py(), ""
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None, f"expected {kind}, got {shown}"
