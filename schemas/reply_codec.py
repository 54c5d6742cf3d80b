"""Replies of a whole micro-batch to bytes: what they share is encoded once, ids and data go in as a matrix.

fastavro is the reference: a property test holds both equal byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from schemas.byte_columns import BytesColumn, Octets, as_column
from schemas.codec import Codec
from schemas.codes import INDEX, Code
from schemas.records import ScoreReply
from schemas.tensors import DATATYPES, Array, to_tensor


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


_LENGTHS: Final = [varint(length) for length in range(256)]


class ReplyEncoder:
    """Encodes the replies of a micro-batch: what they share is encoded once."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
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
        received_at: int,
        replied_at: int,
    ) -> BytesColumn:
        """OK replies of n requests; each output is [n * rows_each, ...], request i owns its rows in order."""
        front = varint(INDEX[Code.OK]) + _text("") + _text(model) + _text(version) + _text(variant)
        front += varint(received_at) + varint(replied_at)
        if any(array.dtype.kind in "OUS" for array in outputs.values()):
            return self._encode_each(request_ids, rows_each, outputs, model, version, variant, received_at, replied_at)
        pieces: list[tuple[bytes, memoryview, int]] = []
        if outputs:
            front += varint(len(outputs))
        for name, array in outputs.items():
            sample = to_tensor(name, array[:rows_each])
            wide = np.ascontiguousarray(array, DATATYPES[sample.datatype])
            shape = b"".join([varint(extent) for extent in sample.shape])
            front += _text(name) + _text(sample.datatype) + varint(len(sample.shape)) + shape + b"\0"
            front += varint(len(sample.data))
            pieces.append((front, memoryview(wide.tobytes()), len(sample.data)))
            front = b""
        back = front + b"\0\0"  # end of the outputs, no row errors
        alike = as_column(request_ids).matrix()
        if alike is not None:
            return self._encode_alike(alike, pieces, back)
        return BytesColumn.of(
            b"".join(
                [
                    self._front(own),
                    *(part for middle, data, width in pieces for part in (middle, data[i * width : (i + 1) * width])),
                    back,
                ]
            )
            for i, own in enumerate(request_ids)
        )

    def _encode_alike(
        self, request_ids: Octets, pieces: Sequence[tuple[bytes, memoryview, int]], back: bytes
    ) -> BytesColumn:
        """Replies of one length, for ids [n, width] of one length: a matrix whose rows differ in ids and data only."""
        count, wide = request_ids.shape
        line = bytearray(self._front(bytes(wide)))
        fields: list[tuple[int, int, Any]] = [(len(line) - wide, len(line), request_ids)]
        for middle, data, width in pieces:
            line += middle
            fields.append((len(line), len(line) + width, data))
            line += bytes(width)
        line += back
        matrix = np.empty((count, len(line)), np.uint8)
        matrix[:] = np.frombuffer(line, np.uint8)
        for begin, end, data in fields:
            matrix[:, begin:end] = np.frombuffer(data, np.uint8).reshape(count, end - begin)
        return BytesColumn.uniform(matrix.tobytes(), count)

    def encode_error(
        self,
        request_ids: Sequence[bytes],
        code: Code,
        messages: Sequence[str],
        *,
        model: str,
        version: str,
        variant: str,
        received_at: int,
        replied_at: int,
    ) -> BytesColumn:
        """Replies without outputs, one message each."""
        front = varint(INDEX[code])
        back = _text(model) + _text(version) + _text(variant) + varint(received_at) + varint(replied_at) + b"\0\0"
        return BytesColumn.of(
            self._front(own) + front + _text(message) + back for own, message in zip(request_ids, messages, strict=True)
        )

    def _front(self, request_id: bytes) -> bytes:
        length = len(request_id)
        return self._header + (_LENGTHS[length] if length < 256 else varint(length)) + request_id

    def _encode_each(
        self,
        request_ids: Sequence[bytes],
        rows_each: int,
        outputs: dict[str, Array],
        model: str,
        version: str,
        variant: str,
        received_at: int,
        replied_at: int,
    ) -> BytesColumn:
        return BytesColumn.of(
            self._codec.encode(
                ScoreReply(
                    own.decode(), Code.OK, "", model, version, variant, received_at, replied_at,
                    tuple(to_tensor(name, a[i * rows_each : (i + 1) * rows_each]) for name, a in outputs.items()),
                )
            )
            for i, own in enumerate(request_ids)
        )  # fmt: skip
