"""Named features and outputs of many rows as columns of the prediction log, and columns one after another. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from schemas.byte_columns import BytesColumn
from schemas.records import Column, StringColumn
from schemas.tensors import BYTES, Array, datatype_of, pack_strings, to_tensor

# Outputs with more bytes a row than this (embeddings, masks) go to the sender but not into the log.
LOGGED_OUTPUT_BYTES: Final = 2048
# A feature given by less than one row in so many is no column: made-up names would cost a cell in every row.
SPARSEST: Final = 8


def feature_columns(rows: Sequence[Mapping[str, Any]], expected: int) -> tuple[Column, ...]:
    """Named features of all rows as columns by name: numbers as FP64 (missing: NaN), text as strings (missing: empty).

    They are in order of their names, whatever the senders' was: records of the same columns can be joined.
    """
    if not rows or len(rows) != expected:
        return ()
    columns = []
    given = Counter(name for row in rows for name in row)
    for name, times in sorted(given.items()):
        if times * SPARSEST < len(rows):
            continue
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            texts = ["" if value is None else str(value) for value in values]
            columns.append(Column(name, BYTES, (expected,), b"", pack_strings(texts)))
        else:
            numbers = np.array([np.nan if value is None else value for value in values], "<f8")
            columns.append(Column(name, "FP64", (expected,), numbers.tobytes()))
    return tuple(columns)


def output_columns(outputs: Sequence[Mapping[str, Array]]) -> tuple[Column, ...]:
    """Outputs of pieces, each with those of its rows, where they fit a column: small rows of one shape."""
    return tuple(_output_column(name, [own[name] for own in outputs]) for name in _loggable(outputs))


def joined_columns(parts: Sequence[tuple[Column, ...]]) -> tuple[Column, ...]:
    """The columns of many parts, one part's rows after another's; all parts have the same columns but for the rows."""
    return parts[0] if len(parts) == 1 else tuple(_joined(columns) for columns in zip(*parts, strict=True))


def _joined(columns: Sequence[Column]) -> Column:
    first = columns[0]
    shape = (sum(one.shape[0] for one in columns), *first.shape[1:])
    texts = [one.strings for one in columns if one.strings is not None]
    return Column(
        first.name, first.datatype, shape, b"".join([one.data for one in columns]), _texts(texts) if texts else None
    )


def _texts(columns: Sequence[StringColumn]) -> StringColumn:
    read = [BytesColumn(one.data, np.frombuffer(one.offsets, "<i4").astype(np.int64)) for one in columns]
    return pack_strings(BytesColumn.joined(read))


def _output_column(name: str, arrays: Sequence[Array]) -> Column:
    """An output of all pieces as one column, all of one shape a row; text has one element a row."""
    if datatype_of(arrays[0]) == BYTES:
        texts = [str(text) for array in arrays for text in array.ravel().tolist()]
        return Column(name, BYTES, (len(texts),), b"", pack_strings(texts))
    tensors = [to_tensor(name, array) for array in arrays]
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
    return Column(name, tensors[0].datatype, shape, b"".join(tensor.data for tensor in tensors))


def _loggable(outputs: Sequence[Mapping[str, Array]]) -> list[str]:
    """Outputs that fit a column: small rows of one shape."""
    if not outputs:
        return []
    names = []
    for name, sample in outputs[0].items():
        shapes = {own[name].shape[1:] for own in outputs}
        small = sample.nbytes <= LOGGED_OUTPUT_BYTES * max(1, len(sample))
        if len(shapes) == 1 and small and (datatype_of(sample) != BYTES or sample.size == len(sample)):
            names.append(name)
    return names
