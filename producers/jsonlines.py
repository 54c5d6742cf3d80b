"""JSON lines in blocks: Arrow reads a block at once; only a block that it refuses is read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.json as pa_json

from producers.errors import BulkInputError
from producers.files import BLOCK_BYTES, Piece, Source, Wanted, unreadable

_INT64: Final = range(-(2**63), 2**63)


class JsonLines(Source):
    """One JSON object a line; blank lines count for nothing, a missing key is a null.

    A line that is no object, or a value that does not fit a column with a wanted type, is an error of its row. A value
    that does not fit a column read "as it is" cannot be kept and ends the reading.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            block = next(_blocks(file), (b"", 0))[0]
        if not block.strip():
            raise BulkInputError(f"{path}: is empty")
        self.schema = self._probe(block)

    def types(self, wanted: Wanted) -> dict[str, Any]:
        return {name: self._type(name, kind) for name, kind in wanted.items()}

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        types = self.types(wanted)
        start = line = 0
        try:
            with self.path.open("rb") as file:
                for block, position in _blocks(file):
                    rows = _rows(block)
                    if start + rows > skip:
                        piece = self._read(block, types, wanted, rows, position, line)
                        drop = max(0, skip - start)
                        errors = {row - drop: text for row, text in piece.errors.items() if row >= drop}
                        yield Piece(piece.table.slice(drop), position, errors)
                    start += rows
                    line += block.count(b"\n")
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _probe(self, block: bytes) -> dict[str, Any]:
        """Names and types that the first block shows; text where Arrow would see a time, or nothing at all."""
        try:
            schema = _arrow(block, None).schema
        except (pa.ArrowException, UnicodeDecodeError):
            # Not all lines are good; the good ones still tell the columns.
            good = [row for line in block.split(b"\n") if (row := _loads(line)[0]) is not None]
            if not good:
                raise BulkInputError(f"{self.path}: no line of it is a JSON object") from None
            names = dict.fromkeys(name for row in good for name in row)
            schema = pa.schema([(name, _guess([row.get(name) for row in good])) for name in names])
        return {one.name: pa.string() if _vague(one.type) else one.type for one in schema}

    def _type(self, name: str, kind: Any) -> Any:
        found = self.schema[name]
        # Arrow's reader takes no boolean for a number.
        return found if kind is None or (pa.types.is_boolean(found) and pa.types.is_floating(kind)) else kind

    def _read(self, block: bytes, types: dict[str, Any], wanted: Wanted, rows: int, position: int, line: int) -> Piece:
        try:
            table = _arrow(block, types)
            if table.num_rows == rows:
                return Piece(table.select(list(types)), position)
        except (pa.ArrowException, UnicodeDecodeError):
            pass
        columns: dict[str, list[Any]] = {name: [] for name in types}
        errors: dict[int, str] = {}
        row = 0
        for number, text in enumerate(block.split(b"\n"), start=line + 1):
            if not text.strip():
                continue
            values, problem = _loads(text)
            if values is None:
                errors[row] = f"line {number}: {problem}"
            for name, kind in types.items():
                value, problem = _fit((values or {}).get(name), kind)
                if problem and wanted[name] is None:
                    raise BulkInputError(
                        f"{self.path} line {number}: column {name!r}: {problem}, as in the first lines"
                    )
                if problem:
                    errors.setdefault(row, f"column {name!r}: {problem}")
                columns[name].append(value)
            row += 1
        return Piece(pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()}), position, errors)


def _blocks(file: Any) -> Iterator[tuple[bytes, int]]:
    """Blocks that end where a line ends, and how many bytes have been read with each."""
    rest = b""
    position = 0
    while data := file.read(BLOCK_BYTES):
        position += len(data)
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            rest += data
            continue
        yield rest + data[:cut], position
        rest = data[cut:]
    if rest.strip():
        yield rest, position


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
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    return (value, "") if isinstance(value, dict) else (None, "not a JSON object")


def _vague(kind: Any) -> bool:
    return bool(pa.types.is_null(kind) or pa.types.is_temporal(kind))


def _guess(values: list[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value in _INT64 for value in values if value is not None):
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    if kinds == {list}:
        return pa.list_(pa.float64())
    return pa.string()


def _fit(value: Any, kind: Any) -> tuple[Any, str]:
    """The value as the Arrow type takes it, or None and what is wrong with it."""
    if value is None:
        return None, ""
    shown = json.dumps(value)[:60]
    if pa.types.is_floating(kind):
        small = isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)
        return (float(value), "") if small else (None, f"expected a number, got {shown}")
    if pa.types.is_boolean(kind):
        return (value, "") if isinstance(value, bool) else (None, f"expected true or false, got {shown}")
    if pa.types.is_string(kind):
        # A lone surrogate (\ud800) is valid in JSON and nowhere else.
        text = isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)
        return (value, "") if text else (None, f"expected text, got {shown}")
    if pa.types.is_integer(kind):
        whole = isinstance(value, int) and not isinstance(value, bool) and value in _INT64
        return (value, "") if whole else (None, f"expected a whole number, got {shown}")
    try:
        return pa.array([value], kind)[0].as_py(), ""
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None, f"expected {kind}, got {shown}"
