"""Reads rows of a Parquet file as a model takes them, for measuring one version against another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import ArtifactError, InvalidInputError
from models.manifest import digest_of
from models.quantization import Sample
from models.signature import Signature
from models.specs import ANY, TensorSpec
from schemas.tensors import BYTES, Array


def read_sample(path: Path, signature: Signature, label: str | None = None, rows: int = 10_000) -> Sample:
    """The first `rows` rows: a column for each feature, or for each input where the model names no features.

    `label` names a column of 0 and 1, or true and false; missing ones are not known. Rows that the model does not take
    are left out. Raises `ArtifactError` where the file cannot be read or lacks a column, `InvalidInputError` where a
    column cannot be what the model wants.
    """
    names = [one.name for one in signature.features] or [one.name for one in signature.inputs]
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            optional = {one.name for one in signature.features if not one.required}
            wanted = [*names, *([label] if label else [])]
            if missing := [one for one in wanted if one not in there and one not in optional]:
                raise ArtifactError(f"{path}: it has no column {missing[0]!r}; there are {', '.join(there)}")
            read, count = [], 0
            for batch in file.iter_batches(min(rows, 65_536), columns=[one for one in wanted if one in there]):
                read.append(batch.slice(0, rows - count))
                count += read[-1].num_rows
                if count >= rows:
                    break
            table = pa.Table.from_batches(read, None if read else file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: it cannot be read as Parquet: {error}") from None
    labels = None if label is None else _numbers(table[label])
    if signature.features:
        columns = {one: _feature(table[one]) for one in names if one in table.column_names}
        made = signature.assemble_columns(columns, table.num_rows)
        inputs: Mapping[str, Array] = made.inputs
        good = made.good
    else:
        inputs = {one.name: _tensor(one, table[one.name], path) for one in signature.inputs}
        signature.check_arrays(inputs)
        good = np.flatnonzero(~signature.nan_rows(inputs))
        inputs = {name: array[good] for name, array in inputs.items()}
    source = {"file": path.name, "sha256": digest_of(path)[0]}
    return Sample(inputs, len(good), None if labels is None else labels[good], source)


def _feature(column: pa.ChunkedArray) -> Array:
    """Numbers with NaN for what is missing; texts and truth values as they are."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _numbers(column)
    return np.array(column.to_pylist(), object)


def _numbers(column: pa.ChunkedArray) -> Array:
    try:
        found: Any = pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise ArtifactError(f"a column of {column.type} holds no numbers: {error}") from None
    return np.asarray(found, np.float64)


def _tensor(spec: TensorSpec, column: pa.ChunkedArray, path: Path) -> Array:
    """A column of lists, or of one value a row, as [rows, ...]."""
    values = column.to_pylist()
    inner = [one for one in spec.shape[1:] if isinstance(one, int) and one != ANY]
    try:
        array = np.array(values, object if spec.datatype == BYTES else spec.dtype)
        if array.ndim == 2 and len(inner) == len(spec.shape) - 1:
            array = array.reshape(len(values), *inner)
        if array.ndim == 1 and inner == [1]:
            array = array[:, None]
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: column {spec.name!r} is no {spec.datatype} {spec.shown_shape()}: {error}"
        ) from None
    if array.ndim != len(spec.shape):
        raise InvalidInputError(f"column {spec.name!r}", spec.shown_shape(), f"{array.ndim - 1} axes a row")
    return array
