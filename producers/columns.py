"""File columns as a model wants them: Arrow columns to wire tensors, a column at a time, with an error for a bad row.

A missing number travels as NaN and a missing text as "", where the model takes that; where it does not, and for what
cannot travel at all (a word where a number should be), the row's error stays here and goes before the worker's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from producers.errors import BulkInputError
from schemas.records import Tensor
from schemas.tensors import BYTES, DATATYPES, Array

_NUMBER: Final = r"^[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[nN]a[nN]|[iI]nf|[iI]nfinity)$"


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """A named feature, read from the column of its name. A missing column is refused unless `required` is off.

    `nullable`: whether a row may have nothing there.
    """

    name: str
    text: bool = False
    required: bool = True
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class TensorColumns:
    """An input tensor, read from one list column, one scalar column, or several scalar columns side by side.

    `inner`: the extents behind the rows, where the model fixes them; () takes them from the columns. `nullable`:
    whether a floating point number may be missing, which makes it NaN, or a text, which makes it "".
    """

    input: str
    datatype: str
    columns: tuple[str, ...]
    inner: tuple[int, ...] = ()
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns make a request, and which go along to the output (`ids`; None: all the others)."""

    features: tuple[FeatureColumn, ...] = ()
    tensors: tuple[TensorColumns, ...] = ()
    ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """Rows as they travel, and what is wrong with a row."""

    inputs: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]
    errors: dict[int, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout matched with a file's columns. `wanted`: what to read, with the type it should have if it may choose."""

    layout: Layout
    ids: tuple[str, ...]
    wanted: Mapping[str, Any]


def plan(layout: Layout, schema: Mapping[str, Any], path: Path) -> Plan:
    """Match a layout with a file. Raises `BulkInputError` naming what is missing, and what there is."""
    needed = [one.name for one in layout.features if one.required]
    needed += [name for one in layout.tensors for name in one.columns]
    needed += layout.ids or ()
    missing = [name for name in dict.fromkeys(needed) if name not in schema]
    if missing:
        raise BulkInputError(
            f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, schema))}"
        )
    wanted: dict[str, Any] = {}
    for feature in layout.features:
        if feature.name in schema:
            _check(path, feature.name, schema[feature.name], text=feature.text)
            wanted[feature.name] = pa.string() if feature.text else pa.float64()
    for tensor in layout.tensors:
        for name in tensor.columns:
            kind = schema[name]
            if _is_list(kind) and len(tensor.columns) > 1:
                raise BulkInputError(
                    f"{path}: column {name!r} is {kind}; input {tensor.input!r} wants single values here"
                )
            _check(path, name, kind.value_type if _is_list(kind) else kind, text=tensor.datatype == BYTES)
            wanted[name] = _wish(kind, tensor.datatype)
    ids = layout.ids if layout.ids is not None else tuple(name for name in schema if name not in wanted)
    if len(set(ids)) != len(ids):
        raise BulkInputError(f"id columns {', '.join(map(repr, ids))}: one is named twice")
    return Plan(layout, ids, {**wanted, **{name: wanted.get(name) for name in ids}})


def to_wire(layout: Layout, table: Any, rows: int) -> Wire:
    """A table's `rows` rows as a request's tensors. Raises `BulkInputError` where a whole column does not fit."""
    errors: dict[int, str] = {}
    # Once for all of them: a table makes the list of its names anew each time that it is asked.
    found = dict(zip(table.column_names, table.columns, strict=True))
    with np.errstate(over="ignore"):  # beyond its range is infinity, which the worker judges
        columns = tuple(_feature(one, _in_one(found.get(one.name)), rows, errors) for one in layout.features)
        inputs = tuple(
            _tensor(one, [_in_one(found[name]) for name in one.columns], rows, errors) for one in layout.tensors
        )
    return Wire(inputs, columns, errors)


def pack_texts(texts: Any) -> bytes:
    """An Arrow string array without nulls as the data of a BYTES tensor."""
    texts = texts.cast(pa.large_string())
    rows = len(texts)
    _, offsets_buffer, data_buffer = texts.buffers()
    ends = np.frombuffer(offsets_buffer, np.int64, rows + 1, texts.offset * 8) if rows else np.zeros(1, np.int64)
    if data_buffer is None or not rows:
        return b"\0\0\0\0" * rows
    data = np.frombuffer(data_buffer, np.uint8)[ends[0] : ends[-1]]
    prefixes = (ends[:-1] - ends[0] + 4 * np.arange(rows))[:, None] + np.arange(4)
    out = np.empty(len(data) + 4 * rows, np.uint8)
    is_text = np.ones(len(out), bool)
    is_text[prefixes] = False
    out[prefixes] = np.diff(ends).astype("<u4").view(np.uint8).reshape(rows, 4)
    out[is_text] = data
    return out.tobytes()


def number_of(text: str) -> float | str | None:
    """The number that a text is, by the rule of number columns: None for no text, the text itself where it is none."""
    trimmed = text.strip()
    if not trimmed:
        return None
    return float(trimmed) if re.match(_NUMBER, trimmed) else text


def _wish(kind: Any, datatype: str) -> Any:
    if not _is_list(kind):
        return pa.string() if datatype == BYTES else pa.float64()
    # A list of 1 and 2 in the first lines does not say that no 1.5 will come.
    whole = pa.types.is_integer(kind.value_type) and DATATYPES.get(datatype, np.dtype("f8")).kind == "f"
    return pa.list_(pa.float64()) if whole else kind


def _in_one(column: Any) -> Any:
    """A table's column as one array of plain values; None where the table has none."""
    if column is None:
        return None
    if column.num_chunks == 1:
        array = column.chunk(0)
    else:
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _feature(feature: FeatureColumn, column: Any, rows: int, errors: dict[int, str]) -> Tensor:
    if feature.text:
        texts = pa.nulls(rows, pa.string()) if column is None else column.cast(pa.string())
        return Tensor(feature.name, BYTES, (rows,), pack_texts(_filled(feature.name, texts, errors, feature.nullable)))
    values = (
        np.full(rows, np.nan)
        if column is None
        else _floats(feature.name, column, errors, "" if feature.nullable else "a number")
    )
    single = values.dtype == np.float32
    return Tensor(
        feature.name, "FP32" if single else "FP64", (rows,), values.astype("<f4" if single else "<f8").tobytes()
    )


def _filled(name: str, texts: Any, errors: dict[int, str], nullable: bool) -> Any:
    """Text without nulls: nothing is ""."""
    if not nullable:
        _nothing(name, texts, "text", errors)
    return texts.fill_null("")


def _nothing(name: str, column: Any, expected: str, errors: dict[int, str]) -> None:
    """An error for each row that has nothing where something must be."""
    if column.null_count:
        for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            errors.setdefault(int(row), f"column {name!r}: expected {expected}, got nothing")


def _tensor(spec: TensorColumns, columns: list[Any], rows: int, errors: dict[int, str]) -> Tensor:
    if len(columns) == 1 and _is_list(columns[0].type):
        return _list_tensor(spec, columns[0], rows, errors)
    if spec.datatype == BYTES:
        named = zip(spec.columns, columns, strict=True)
        texts = [_filled(name, one.cast(pa.string()), errors, spec.nullable) for name, one in named]
        if len(columns) > 1:
            parts = [one.to_pylist() for one in texts]
            texts = [pa.array([text for row in zip(*parts, strict=True) for text in row], pa.string())]
        data = pack_texts(texts[0])
    else:
        values = [_values(name, one, spec, errors) for name, one in zip(spec.columns, columns, strict=True)]
        data = np.stack(values).T.tobytes() if values else b""
    shape = spec.inner or (() if len(columns) == 1 else (len(columns),))
    if math.prod(shape) != len(columns):
        raise BulkInputError(
            f"input {spec.input!r} wants {math.prod(shape)} values a row (shape {[-1, *shape]}), "
            f"got {len(columns)} column(s): {', '.join(map(repr, spec.columns))}"
        )
    return Tensor(spec.input, spec.datatype, (rows, *shape), data)


def _list_tensor(spec: TensorColumns, column: Any, rows: int, errors: dict[int, str]) -> Tensor:
    name = spec.columns[0]
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    present = lengths[lengths >= 0]
    width = math.prod(spec.inner) if spec.inner else int(present[0]) if len(present) else 1
    bad = np.flatnonzero(lengths != width)
    for row in bad:
        got = "nothing" if lengths[row] < 0 else f"{lengths[row]}"
        errors.setdefault(int(row), f"column {name!r}: expected {width} values, got {got}")
    if len(bad):
        keep = np.ones(rows, bool)
        keep[bad] = False
        column = column.filter(pa.array(keep))
    flat = column.flatten()
    shape = (rows, *(spec.inner or (width,)))
    good = np.setdiff1d(np.arange(rows), bad) if len(bad) else np.arange(rows)
    inside: dict[int, str] = {}
    if spec.datatype == BYTES:
        texts: list[str] = [""] * (rows * width)
        filled = _filled(name, flat.cast(pa.string()), inside, spec.nullable).to_pylist()
        for row, at in zip(good.tolist(), range(0, len(flat), max(width, 1)), strict=False):
            texts[row * width : (row + 1) * width] = filled[at : at + width]
        _move(inside, good, width, errors)
        return Tensor(spec.input, BYTES, shape, pack_texts(pa.array(texts, pa.string())))
    values = _values(name, flat, spec, inside)
    _move(inside, good, width, errors)
    if len(bad):
        whole = np.zeros((rows, width), DATATYPES[spec.datatype])
        whole[good] = values.reshape(len(good), width)
        values = whole
    return Tensor(spec.input, spec.datatype, shape, values.tobytes())


def _move(inside: dict[int, str], good: Array, width: int, errors: dict[int, str]) -> None:
    """What is wrong with an element of the good rows' lists, as an error of its row."""
    for at, text in inside.items():
        errors.setdefault(int(good[at // width]), text)


def _floats(name: str, column: Any, errors: dict[int, str], expected: str) -> Array:
    """The column as float32 where it is that, else float64; NaN where there is nothing, or nothing readable.

    `expected`: what to say of a row with nothing; "" where it may have that.
    """
    kind = column.type
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        pass  # as most are
    elif _is_text(kind):
        column = _parse(name, column, errors)
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_null(kind) or pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        column = column.cast(pa.float64())
    if expected:
        _nothing(name, column, expected, errors)
    values: Array = column.to_numpy(zero_copy_only=False)
    return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)


def _parse(name: str, column: Any, errors: dict[int, str]) -> Any:
    trimmed = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    trimmed = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.large_string()), trimmed)
    try:
        return trimmed.cast(pa.float64())
    except pa.ArrowInvalid:
        readable = pc.match_substring_regex(trimmed, _NUMBER).fill_null(True)
    for row in np.flatnonzero(~readable.to_numpy(zero_copy_only=False)):
        errors.setdefault(int(row), f"column {name!r}: expected a number, got {trimmed[int(row)].as_py()[:60]!r}")
    return pc.if_else(readable, trimmed, pa.scalar(None, pa.large_string())).cast(pa.float64())


def _values(name: str, column: Any, spec: TensorColumns, errors: dict[int, str]) -> Array:
    """The column's values for a tensor of `spec`; what such a tensor cannot hold is an error of its row."""
    dtype = DATATYPES[spec.datatype]
    if dtype.kind == "f":
        return _floats(name, column, errors, "" if spec.nullable else "a number").astype(dtype, copy=False)
    exact = pa.types.is_integer(column.type) and not column.null_count
    values: Array = column.to_numpy(zero_copy_only=False) if exact else _floats(name, column, errors, spec.datatype)
    # 2.0**63 is the first float beyond int64: comparing below the upper bound plus one is exact for floats too.
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    fits = (values >= low) & (values < high + 1 if values.dtype.kind == "f" else values <= high)
    if values.dtype.kind == "f":
        fits &= values == np.trunc(values)
    for row in np.flatnonzero(~fits):
        got = "NaN" if values[row] != values[row] else f"{values[row]}"
        errors.setdefault(int(row), f"column {name!r}: expected {spec.datatype}, got {got}")
    return np.where(fits, values, 0).astype(dtype)


def _check(path: Path, name: str, kind: Any, *, text: bool) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    if not (number or _is_text(kind) or types.is_null(kind)):
        raise BulkInputError(f"{path}: column {name!r} is {kind}; the model wants {'text' if text else 'numbers'}")


def _is_text(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
