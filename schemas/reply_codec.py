"""Replies of a whole micro-batch to bytes: what they share is encoded once, ids and data go in as a matrix.

fastavro is the reference: a property test holds both equal byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.byte_columns import BytesColumn, as_column
from schemas.codec import Codec
from schemas.codes import INDEX, Code
from schemas.records import ScoreReply
from schemas.tensors import DATATYPES, Array, datatype_of, to_tensor


def varint(value: int) -> bytes:
    """An Avro int or long (zigzag, then 7 bits a byte; Avro specification, "Binary Encoding")."""
    left = (value << 1) ^ (value >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append((left & 0x7F) | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


# The end of the outputs, and no row errors.
_END: Final = b"\0\0"
# A matrix has a fixed cost, that of joining the parts of about this many replies.
FEWEST: Final = 10
_LENGTHS: Final = [varint(length) for length in range(256)]
Ints = npt.NDArray[np.int64]


def varints(values: Ints) -> BytesColumn:
    """`varint` of each of n values."""
    if not len(values):
        return BytesColumn.of(())
    low, high = int(values.min()), int(values.max())
    first, width = varint(low), len(varint(high))
    if low == high:
        return BytesColumn.uniform(first * len(values), len(values))
    # Lengths grow with the distance from 0, so on one side of it the ends are the shortest and the longest.
    if low < 0 or len(first) != width:
        return BytesColumn.of(map(varint, values.tolist()))
    groups = (values.astype(np.uint64) << np.uint64(1))[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    octets = (groups & np.uint64(0x7F)).astype(np.uint8)
    octets[:, :-1] |= 0x80
    return BytesColumn.uniform(octets.tobytes(), len(values))


@lru_cache(256)
def _named(code: int, model: str, version: str, variant: str) -> bytes:
    """A reply without a message, from `code` to `variant`."""
    return varint(code) + _text("") + _text(model) + _text(version) + _text(variant)


@lru_cache(256)
def _described(name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """An output up to its `size` bytes of data."""
    extents = b"".join(map(varint, shape))
    return _text(name) + _text(datatype) + varint(len(shape)) + extents + b"\0" + varint(size)


def _cut(data: bytes, count: int) -> list[bytes]:
    """`count` strings of one length that fill `data`."""
    width = len(data) // max(count, 1)
    return [data[at * width : (at + 1) * width] for at in range(count)]


class ReplyEncoder:
    """Encodes the replies of a micro-batch: what they share is encoded once."""

    def __init__(self, codec: Codec, fewest: int = FEWEST) -> None:
        """Fewer than `fewest` replies are joined one by one."""
        self._codec = codec
        self._fewest = fewest
        self._header = codec.header(ScoreReply)

    def encode_ok(
        self,
        request_ids: Sequence[bytes],
        rows_each: int,
        outputs: dict[str, Array],
        *,
        model: str,
        version: str,
        variant: str,
        received_at: Ints,
        replied_at: int,
        degraded: str = "",
    ) -> BytesColumn:
        """OK replies of n requests; each output is [n * rows_each, ...], request i owns its rows in order.

        `received_at` [n].
        """
        if any(array.dtype.kind in "OUS" for array in outputs.values()):
            shared = ScoreReply("", Code.OK, "", model, version, variant, 0, replied_at, degraded=degraded)
            return self._encode_each(shared, request_ids, rows_each, outputs, received_at)
        count = len(request_ids)
        few = count < self._fewest
        # What differs between replies, each with what stands before it in all of them.
        fields: list[tuple[bytes, Sequence[bytes]]] = [
            (
                _named(INDEX[Code.OK], model, version, variant),
                [*map(varint, received_at.tolist())] if few else varints(received_at),
            )
        ]
        front = varint(replied_at)
        if outputs:
            front += varint(len(outputs))
        for name, array in outputs.items():
            datatype = datatype_of(array)
            data = np.ascontiguousarray(array, DATATYPES[datatype]).tobytes()
            front += _described(name, datatype, (rows_each, *array.shape[1:]), len(data) // max(count, 1))
            fields.append((front, _cut(data, count) if few else BytesColumn.uniform(data, count)))
            front = b""
        back = front + _END + _text(degraded)
        alike = None if few else self._encode_alike(request_ids, fields, back)
        if alike is not None:
            return alike
        middles = [middle for middle, _ in fields]
        return BytesColumn.of(
            b"".join([self._front(own), *chain.from_iterable(zip(middles, data, strict=True)), back])
            for own, *data in zip(request_ids, *(column for _, column in fields), strict=True)
        )

    def _encode_alike(
        self, request_ids: Sequence[bytes], fields: Sequence[tuple[bytes, Sequence[bytes]]], back: bytes
    ) -> BytesColumn | None:
        """Replies that are all of one length: a matrix whose rows differ in ids and fields only. None for others."""
        ids = as_column(request_ids).matrix()
        if ids is None:
            return None
        wide = ids.shape[1]
        line = bytearray(self._front(bytes(wide)))
        places = [(len(line) - wide, len(line), ids)]
        for middle, column in fields:
            data = as_column(column).matrix()
            if data is None:
                return None
            line += middle
            places.append((len(line), len(line) + data.shape[1], data))
            line += bytes(data.shape[1])
        line += back
        matrix = np.empty((len(ids), len(line)), np.uint8)
        matrix[:] = np.frombuffer(line, np.uint8)
        for begin, end, data in places:
            matrix[:, begin:end] = data
        return BytesColumn.uniform(matrix.tobytes(), len(ids))

    def encode_error(
        self,
        request_ids: Sequence[bytes],
        code: Code,
        messages: Sequence[str],
        *,
        model: str,
        version: str,
        variant: str,
        received_at: Ints,
        replied_at: int,
    ) -> BytesColumn:
        """Replies without outputs, one message each."""
        front, names = varint(INDEX[code]), _text(model) + _text(version) + _text(variant)
        back = varint(replied_at) + _END + _text("")
        return BytesColumn.of(
            b"".join([self._front(own), front, _text(message), names, at, back])
            for own, message, at in zip(request_ids, messages, varints(received_at), strict=True)
        )

    def _front(self, request_id: bytes) -> bytes:
        length = len(request_id)
        return self._header + (_LENGTHS[length] if length < 256 else varint(length)) + request_id

    def _encode_each(
        self,
        shared: ScoreReply,
        request_ids: Sequence[bytes],
        rows_each: int,
        outputs: dict[str, Array],
        received_at: Ints,
    ) -> BytesColumn:
        return BytesColumn.of(
            self._codec.encode(
                replace(
                    shared,
                    request_id=own.decode(),
                    received_at=at,
                    outputs=tuple(
                        to_tensor(name, array[i * rows_each : (i + 1) * rows_each]) for name, array in outputs.items()
                    ),
                )
            )
            for i, (own, at) in enumerate(zip(request_ids, received_at.tolist(), strict=True))
        )
