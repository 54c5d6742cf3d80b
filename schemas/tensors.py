"""Tensors between numpy and the wire: the datatypes of the Open Inference Protocol, little-endian, C order.

Source: Open Inference Protocol v2, "Tensor Data Types" (KServe).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.byte_columns import BytesColumn
from schemas.records import StringColumn, Tensor

Array = npt.NDArray[Any]

DATATYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
BYTES: Final = "BYTES"
_NAMES: Final = {dtype: name for name, dtype in DATATYPES.items()}


class TensorError(ValueError):
    """A tensor whose datatype, shape and data do not fit together."""


def datatype_of(array: Array) -> str:
    """The wire datatype of a numpy array; `BYTES` for text, bytes and objects."""
    known = _NAMES.get(array.dtype)
    if known is not None:
        return known
    if array.dtype.kind in "OUS":
        return BYTES
    try:
        return _NAMES[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
    except KeyError:
        raise TensorError(
            f"numpy dtype {array.dtype} has no wire datatype; use one of {', '.join(DATATYPES)}"
        ) from None


def to_tensor(name: str, array: Array) -> Tensor:
    """An array of any shape as a `Tensor`."""
    datatype = datatype_of(array)
    if datatype == BYTES:
        return Tensor(name, BYTES, array.shape, pack_bytes(array.ravel().tolist()))
    return Tensor(name, datatype, array.shape, np.ascontiguousarray(array, DATATYPES[datatype]).tobytes())


def from_tensor(tensor: Tensor) -> Array:
    """A `Tensor` as a read-only array (BYTES: of str objects). Raises `TensorError` naming what does not fit."""
    if any(extent < 0 for extent in tensor.shape):
        raise TensorError(f"tensor {tensor.name!r}: negative extent in shape {list(tensor.shape)}")
    count = math.prod(tensor.shape)
    if tensor.datatype == BYTES:
        texts = unpack_bytes(tensor.name, tensor.data, count)
        array = np.empty(count, object)
        array[:] = texts
        return _shaped(tensor, array)
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        raise TensorError(f"tensor {tensor.name!r}: unknown datatype {tensor.datatype!r}")
    if len(tensor.data) != count * dtype.itemsize:
        raise TensorError(
            f"tensor {tensor.name!r}: {tensor.datatype} of shape {list(tensor.shape)} takes "
            f"{count * dtype.itemsize} bytes, got {len(tensor.data)}"
        )
    return _shaped(tensor, np.frombuffer(tensor.data, dtype))


def _shaped(tensor: Tensor, flat: Array) -> Array:
    try:
        return flat.reshape(tensor.shape)
    except ValueError:  # more axes than numpy has, or an empty tensor whose other extents are astronomic
        shape = str(list(tensor.shape[:8])) if len(tensor.shape) > 8 else str(list(tensor.shape))
        raise TensorError(f"tensor {tensor.name!r}: no array has the shape {shape}") from None


def pack_bytes(elements: Iterable[str | bytes]) -> bytes:
    """BYTES elements, each behind its 4-byte little-endian length."""
    parts: list[bytes] = []
    for element in elements:
        raw = element if isinstance(element, bytes) else str(element).encode()
        parts.append(len(raw).to_bytes(4, "little"))
        parts.append(raw)
    return b"".join(parts)


def unpack_bytes(name: str, data: bytes, count: int) -> list[str]:
    """The `count` UTF-8 strings of a BYTES tensor. Raises `TensorError` where lengths or text are wrong."""
    # `count` comes from the sender: believe it only as far as the data could hold it.
    if count * 4 > len(data):
        raise TensorError(f"tensor {name!r}: {count} BYTES elements need at least {count * 4} bytes, got {len(data)}")
    texts: list[str] = []
    at = 0
    try:
        for _ in range(count):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            if at + 4 > len(data) or end > len(data):
                raise TensorError(f"tensor {name!r}: element {len(texts)} runs past the end of its data")
            texts.append(str(data[at + 4 : end], "utf-8"))
            at = end
    except UnicodeDecodeError:
        raise TensorError(f"tensor {name!r}: element {len(texts)} is not UTF-8") from None
    if at != len(data):
        raise TensorError(f"tensor {name!r}: {len(data) - at} bytes too many for {count} elements")
    return texts


def pack_strings(texts: Sequence[str | bytes]) -> StringColumn:
    """Strings as a `StringColumn`."""
    if not isinstance(texts, BytesColumn):
        texts = BytesColumn.of(text if isinstance(text, bytes) else text.encode() for text in texts)
    return StringColumn((texts.bounds - texts.bounds[0]).astype("<i4").tobytes(), texts.content())


def unpack_strings(column: StringColumn) -> list[str]:
    """The strings of a `StringColumn`."""
    ends = np.frombuffer(column.offsets, "<i4").tolist()
    return [column.data[a:b].decode() for a, b in pairwise(ends)]
