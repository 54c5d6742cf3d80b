"""Answers beside the rows they belong to: a batch's reply and its id columns as one Arrow table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from producers.errors import BulkError, BulkInputError
from schemas.codes import Code
from schemas.records import ScoreReply
from schemas.tensors import BYTES, DATATYPES, Array, TensorError, from_tensor

ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A model's output as a column: a scalar where nothing is behind the rows (or 1), else a list.

    `inner`: the extents behind the rows; -1 is one that differs between batches (a variable list).
    """

    name: str
    datatype: str
    inner: tuple[int, ...] = ()


def id_types(types: Mapping[str, Any]) -> dict[str, Any]:
    """The id columns' types in the output: dictionaries are spelled out, since each piece of a file has its own."""
    return {name: _spelled_out(kind) for name, kind in types.items()}


def id_columns(table: Any, names: Sequence[str]) -> dict[str, Any]:
    """The id columns of a piece of a file, by name, with the types that `id_types` gives them."""
    columns = {name: table.column(name) for name in names}
    kinds = id_types({name: column.type for name, column in columns.items()})
    return {
        name: column if column.type == kinds[name] else column.cast(kinds[name]) for name, column in columns.items()
    }


def output_schema(ids: Mapping[str, Any], outputs: Sequence[OutputColumn]) -> Any:
    """The output file's Arrow schema: ids, outputs, `error`. Raises `BulkInputError` where a name is there twice."""
    names = [one.name for one in outputs] + [ERROR]
    for name in ids:
        if name in names:
            raise BulkInputError(
                f"column {name!r} of the input has the name of an output column; choose other id columns with --id"
            )
    columns = [*ids.items(), *((one.name, _type(one)) for one in outputs), (ERROR, pa.string())]
    return pa.schema(columns)


def result_table(
    ids: Mapping[str, Any], rows: int, outputs: Sequence[OutputColumn], reply: ScoreReply, local: Mapping[int, str]
) -> Any:
    """The `rows` rows of one answered batch. `local`: errors found before sending, which go before the worker's.

    `ids` may be empty, so it does not say how many rows there are. Raises `BulkError` where the reply does not have
    what the model promised.
    """
    if reply.code is Code.OK:
        errors = {one.row: f"{one.code}: {one.message}" for one in reply.row_errors}
    else:
        errors = dict.fromkeys(range(rows), f"{reply.code}: {reply.message}")
    errors.update({row: f"{Code.INVALID_ARGUMENT}: {text}" for row, text in local.items()})
    bad = np.zeros(rows, bool)
    bad[list(errors)] = True
    texts: list[str | None] = [None] * rows
    for row, text in errors.items():
        texts[row] = text
    arrays = list(ids.values())
    if reply.code is Code.OK and not bad.all():
        found = {one.name: one for one in reply.outputs}
        try:
            arrays += [_array(one, from_tensor(found[one.name]), rows, bad) for one in outputs]
        except KeyError as error:
            raise BulkError(f"{reply.model} {reply.version} answered without its output {error}") from None
        except TensorError as error:
            raise BulkError(f"{reply.model} {reply.version} gave an unreadable answer: {error}") from None
    else:
        arrays += [pa.nulls(rows, _type(one)) for one in outputs]
    arrays.append(pa.array(texts, pa.string()))
    schema = output_schema({name: column.type for name, column in ids.items()}, outputs)
    return pa.Table.from_arrays(arrays, schema=schema)


def _spelled_out(kind: Any) -> Any:
    types = pa.types
    if types.is_dictionary(kind):
        return kind.value_type
    if types.is_struct(kind):
        return pa.struct([one.with_type(_spelled_out(one.type)) for one in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        made = pa.list_ if types.is_list(kind) else pa.large_list
        return made(kind.value_field.with_type(_spelled_out(kind.value_type)))
    return kind


def _scalar(one: OutputColumn) -> bool:
    return one.inner in ((), (1,))


def _value_type(datatype: str) -> Any:
    if datatype == BYTES:
        return pa.string()
    # Half floats are a rarity outside of models: few readers of Parquet know them.
    return pa.float32() if datatype == "FP16" else pa.from_numpy_dtype(DATATYPES[datatype])


def _type(one: OutputColumn) -> Any:
    kind = _value_type(one.datatype)
    if _scalar(one):
        return kind
    for extent in reversed(one.inner):
        kind = pa.list_(kind) if extent < 0 else pa.list_(kind, extent)
    return kind


def _array(one: OutputColumn, values: Array, rows: int, bad: Array) -> Any:
    shape = values.shape
    fits = len(shape) == len(one.inner) + 1 and shape[0] == rows
    if not fits or any(want not in (-1, got) for want, got in zip(one.inner, shape[1:], strict=True)):
        raise BulkError(f"output {one.name!r}: expected shape {[rows, *one.inner]}, got {list(shape)}")
    kind = _value_type(one.datatype)
    flat = values.ravel()
    mask = bad if bad.any() else None
    if _scalar(one):
        return pa.array(flat.astype(np.float32) if one.datatype == "FP16" else flat, kind, mask=mask, from_pandas=False)
    array = pa.array(flat.astype(np.float32) if one.datatype == "FP16" else flat, kind, from_pandas=False)
    for axis in range(len(one.inner) - 1, -1, -1):
        outer = mask if axis == 0 else None
        extent, lists = shape[axis + 1], math.prod(shape[: axis + 1])
        null = pa.array(outer) if outer is not None else None
        if one.inner[axis] < 0:
            offsets = pa.array(np.arange(lists + 1, dtype=np.int32) * extent)
            array = pa.ListArray.from_arrays(offsets, array, mask=null)
        else:
            array = pa.FixedSizeListArray.from_arrays(array, extent, mask=null)
    return array.cast(_type(one))
