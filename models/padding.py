"""Many requests into one batch and the batch's answer back to each of them: what goes in padded comes out cropped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import InferenceError
from models.signature import Signature
from models.specs import TensorSpec
from schemas.tensors import Array


@dataclass(frozen=True, slots=True)
class Merged:
    """One batch. `inputs` [padded_rows, ...]; `counts`: rows of each part, `rows` in all.

    `extents`: what each part's dynamic inner axes measured, by symbol; `padded`: what they measure in the batch. Both
    are empty where no part was padded inside, so that nothing is to be cropped but rows.
    """

    inputs: dict[str, Array]
    counts: tuple[int, ...]
    rows: int
    padded_rows: int
    extents: tuple[Mapping[str, int], ...] = ()
    padded: Mapping[str, int] | None = None


def bucket_for(extent: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `extent`, or `extent` itself where none does. `buckets` ascend."""
    at = bisect_left(buckets, extent)
    return buckets[at] if at < len(buckets) else extent


def padded_rows(rows: int, signature: Signature, buckets: Sequence[int]) -> int:
    """Rows the model runs on for a batch of `rows`: a multiple of what it fixes, or the next bucket."""
    fixed = signature.fixed_rows
    return -(-rows // fixed) * fixed if fixed else bucket_for(rows, buckets)


def merge(
    parts: Sequence[Mapping[str, Array]], signature: Signature, buckets: Sequence[int] = (), write: bool = True
) -> Merged:
    """Parts that passed the signature's checks as one batch.

    Rows are padded to the next of `buckets` by copies of the first row: it is valid input, which zeros need not be.
    Dynamic inner axes are padded with `pad_value` to the longest part, or to the axis' buckets. Without `write` the
    inputs are left out: `fill_in` writes them into arrays of the shapes that `shapes_of` tells.
    """
    first = signature.inputs[0].name
    counts = tuple(len(part[first]) for part in parts)
    rows = sum(counts)
    total = padded_rows(rows, signature, buckets)
    extents: tuple[Mapping[str, int], ...] = ()
    padded: dict[str, int] = {}
    if signature.ragged:
        extents = tuple(_extents(part, signature) for part in parts)
        of_axis = {one.axis: one.extents for one in signature.axes}
        padded = {
            symbol: bucket_for(max(one[symbol] for one in extents), of_axis.get(symbol, ())) for symbol in extents[0]
        }
        if all(one == padded for one in extents):
            extents = ()
    inputs = {
        spec.name: _pad(spec, parts, counts, total, signature, padded)
        if extents and spec.name in signature.ragged
        else _stack([part[spec.name] for part in parts], rows, total)
        for spec in (signature.inputs if write else ())
    }
    return Merged(inputs, counts, rows, total, extents, padded if extents else None)


def shapes_of(merged: Merged, parts: Sequence[Mapping[str, Array]], signature: Signature) -> dict[str, tuple[int, ...]]:
    """The shape of each input of a batch."""
    return {
        spec.name: _padded_shape(spec, parts, merged.padded_rows, signature, merged.padded)
        if merged.padded is not None and spec.name in signature.ragged
        else (merged.padded_rows, *parts[0][spec.name].shape[1:])
        for spec in signature.inputs
    }


def fill_in(
    buffers: Mapping[str, Array], parts: Sequence[Mapping[str, Array]], merged: Merged, signature: Signature
) -> None:
    """Write the inputs of a batch that `merge` left out, every element of these arrays."""
    for spec in signature.inputs:
        out = buffers[spec.name]
        if merged.extents and spec.name in signature.ragged:
            _pad_into(out, spec, parts, merged.counts)
        else:
            np.concatenate([part[spec.name] for part in parts], out=out[: merged.rows])
            out[merged.rows :] = out[0]


def split(outputs: Mapping[str, Array], merged: Merged, signature: Signature) -> list[dict[str, Array]]:
    """A batch's outputs as those of each part, views where nothing was cropped.

    Raises `InferenceError` where the model gave no output, or one that has not a row for each row it was given.
    """
    for spec in signature.outputs:
        array = outputs.get(spec.name)
        if array is None or not array.ndim or len(array) != merged.padded_rows:
            got = "nothing" if array is None else f"shape {list(array.shape)}"
            raise InferenceError(f"output {spec.name!r}: expected {merged.padded_rows} rows as in its input, got {got}")
    crops = _crops(outputs, merged, signature)
    answers: list[dict[str, Array]] = []
    at = 0
    for number, count in enumerate(merged.counts):
        end = at + count
        if crops:
            extents = merged.extents[number]
            answers.append(
                {
                    name: array[
                        (slice(at, end), *(slice(extents.get(one)) if one else slice(None) for one in crops[name]))
                    ]
                    for name, array in outputs.items()
                }
            )
        else:
            answers.append({name: array[at:end] for name, array in outputs.items()})
        at = end
    return answers


def _crops(outputs: Mapping[str, Array], merged: Merged, signature: Signature) -> dict[str, tuple[str, ...]]:
    """For each output the symbol to crop each inner axis by ("" for none); empty where nothing is to be cropped."""
    if merged.padded is None:
        return {}
    crops = {name: ("",) * (array.ndim - 1) for name, array in outputs.items()}
    for spec in signature.outputs:
        shape = outputs[spec.name].shape
        if len(shape) != len(spec.shape):
            raise InferenceError(f"output {spec.name!r}: expected shape {spec.shown_shape()}, got {list(shape)}")
        symbols = tuple(one if isinstance(one, str) and one in merged.padded else "" for one in spec.shape[1:])
        for symbol, extent in zip(symbols, shape[1:], strict=True):
            if symbol and extent != merged.padded[symbol]:
                raise InferenceError(
                    f"output {spec.name!r}: expected {symbol} = {merged.padded[symbol]} as in its input, got {extent}"
                )
        crops[spec.name] = symbols
    return crops if any(any(one) for one in crops.values()) else {}


def _extents(part: Mapping[str, Array], signature: Signature) -> dict[str, int]:
    return {symbol: part[name].shape[axis] for name, axes in signature.ragged.items() for axis, symbol in axes}


def _stack(arrays: Sequence[Array], rows: int, total: int) -> Array:
    if rows == total:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    out = np.empty((total, *arrays[0].shape[1:]), arrays[0].dtype)
    np.concatenate(arrays, out=out[:rows])
    out[rows:] = out[0]
    return out


def _pad(
    spec: TensorSpec,
    parts: Sequence[Mapping[str, Array]],
    counts: Sequence[int],
    total: int,
    signature: Signature,
    padded: Mapping[str, int],
) -> Array:
    out = np.empty(_padded_shape(spec, parts, total, signature, padded), spec.dtype)
    _pad_into(out, spec, parts, counts)
    return out


def _padded_shape(
    spec: TensorSpec,
    parts: Sequence[Mapping[str, Array]],
    total: int,
    signature: Signature,
    padded: Mapping[str, int],
) -> tuple[int, ...]:
    shape = list(parts[0][spec.name].shape)
    shape[0] = total
    for axis, symbol in signature.ragged[spec.name]:
        shape[axis] = padded[symbol]
    return tuple(shape)


def _pad_into(out: Array, spec: TensorSpec, parts: Sequence[Mapping[str, Array]], counts: Sequence[int]) -> None:
    out.fill(spec.fill)
    at = 0
    for part, count in zip(parts, counts, strict=True):
        array = part[spec.name]
        out[(slice(at, at + count), *map(slice, array.shape[1:]))] = array
        at += count
    out[at:] = out[0]
