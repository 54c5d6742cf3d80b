"""Requests of one layout: records that differ in ids, times, reply partitions and tensor data, and in nothing else.

That is what a poll holds as a rule. Where in such a record each field lies is found out once; all of them are then
compared and read as two matrices, one counted from the records' starts and one from their ends, since the user's id
between them may be of any length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from schemas.byte_columns import BytesColumn, Octets
from schemas.records import FeatureValue, Tensor
from schemas.tensors import DATATYPES, Array

Ints = npt.NDArray[np.int64]
Span = tuple[int, int]

# Bytes that must follow the last record in a buffer, since windows end on whole words.
PAD: Final = bytes(32)
# Of a number's bytes only the top bits must be alike: those say how many bytes it has.
_TOP: Final = 0x80
# A number of 8 bytes has 56 bits, a reply partition of 4 is one.
_MOST_BYTES: Final = 8
_PARTITION_BYTES: Final = 4
# A length up to here is a byte.
_SHORT: Final = 63


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Requests of one poll that ask the same thing in the same form: n requests, each of the same tensors and shapes.

    `index` [n]: positions in the poll. `tensors`: each holds all requests' data joined, its shape that of one request.
    `features`: one mapping a request, where the group has no tensors.
    """

    index: Ints
    model: str
    version: str
    experiment: str
    reply_topic: str
    request_ids: BytesColumn
    user_ids: BytesColumn
    sent_at: Ints
    deadlines: Ints
    reply_partitions: Ints
    tensors: tuple[Tensor, ...] = ()
    features: list[dict[str, FeatureValue]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Template:
    """The tail of a record from `inputs` on: constant but for the tensors' data."""

    raw: Octets
    constant: tuple[Span, ...]
    parts: tuple[tuple[str, str, tuple[int, ...], int, int], ...]

    @classmethod
    def of(cls, tail: bytes) -> Self | None:
        """The template of one record's tail; None where it is not one array block of plain tensors and no features."""
        parts = []
        constant = []
        begin = 0
        try:
            count, at = read_long(tail, 0)
            if not 0 < count <= 64:
                return None
            for _ in range(count):
                name, at = read_raw(tail, at)
                datatype, at = read_raw(tail, at)
                shape: list[int] = []
                block, at = read_long(tail, at)
                if not 0 <= block <= 16:
                    return None
                for _ in range(block):
                    extent, at = read_long(tail, at)
                    shape.append(extent)
                if block:
                    stop, at = read_long(tail, at)
                    if stop != 0:
                        return None
                data, end = read_raw(tail, at)
                if datatype.decode() not in DATATYPES:
                    return None
                constant.append((begin, end - len(data)))
                begin = end
                parts.append((name.decode(), datatype.decode(), tuple(shape), end - len(data), end))
                at = end
        except (IndexError, UnicodeDecodeError):
            return None
        if tail[at:] != b"\0\0":  # end of the inputs, no features
            return None
        return cls(np.frombuffer(tail, np.uint8), (*constant, (begin, len(tail))), tuple(parts))

    def match(self, data: bytes, at: Ints, end: Ints) -> tuple[Octets, npt.NDArray[np.bool_]]:
        """The tails [k, bytes] that equal this one but for data, and which of those from `at` to `end` they are."""
        width = len(self.raw)
        fits = (end - at) == width
        rows = np.flatnonzero(fits)
        matrix = windows(data, at[rows], width)
        equal = np.ones(len(rows), bool)
        for a, b in self.constant:
            equal &= (matrix[:, a:b] == self.raw[a:b]).all(axis=1)
        if not equal.all():
            fits[rows[~equal]] = False
            matrix = matrix[equal]
        return matrix, fits

    def tensors(self, matrix: Array) -> tuple[Tensor, ...]:
        """Each tensor with the data of all records of the matrix joined."""
        return tuple(Tensor(name, kind, shape, matrix[:, a:b].tobytes()) for name, kind, shape, a, b in self.parts)


@dataclass(frozen=True, slots=True)
class _Side:
    """The first or the last `width` bytes of a record, filled up to words; those at `places` are `raw` under `mask`."""

    width: int
    places: Ints
    raw: npt.NDArray[np.uint64]
    mask: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, raw: bytes, constant: Iterable[Span], numbers: Iterable[Span] = ()) -> Self:
        """Of one record's bytes: those that are the same in all, and those that are numbers."""
        filled = raw + bytes(-len(raw) % 8)
        octets = np.zeros(len(filled), np.uint8)
        for a, b in constant:
            octets[a:b] = 0xFF
        for a, b in numbers:
            octets[a:b] = _TOP
        mask = octets.view(np.uint64)
        places = np.flatnonzero(mask)
        mask = mask[places]
        return cls(len(raw), places, np.frombuffer(filled, np.uint64)[places] & mask, mask)

    def read(self, data: bytes, at: Ints) -> Octets | None:
        """The bytes at each position [n, width and more]; None where one of them is not like this."""
        matrix = windows(data, at, -(-self.width // 8) * 8)
        words = matrix.view(np.uint64)[:, self.places]
        words &= self.mask
        return matrix if (words == self.raw).all() else None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in a record its fields lie.

    `front` ends with the byte that says how long the user's id is; `back` begins behind that id.
    """

    front: _Side
    back: _Side
    request_id: Span
    sent_at: Span
    deadline: Span
    reply_partition: Span
    tail: int
    template: Template
    model: str
    version: str
    experiment: str
    reply_topic: str

    @classmethod
    def of(cls, header: bytes, record: bytes) -> Self | None:
        """That of one framed record; None where its fields are of another kind than is read here."""
        if not record.startswith(header):
            return None
        try:
            request_id, id_end = read_raw(record, len(header))
            model, at = read_raw(record, id_end)
            version, at = read_raw(record, at)
            user, user_end = read_raw(record, at)
            if len(user) > _SHORT or user_end - len(user) != at + 1:
                return None
            back = record[user_end:]
            experiment, sent_at = read_raw(back, 0)
            deadline = read_long(back, sent_at)[1]
            topic = read_long(back, deadline)[1]
            reply_topic, partition = read_raw(back, topic)
            tail = read_long(back, partition)[1]
            names = [one.decode() for one in (model, version, experiment, reply_topic)]
        except (IndexError, UnicodeDecodeError):
            return None
        template = Template.of(back[tail:])
        numbers = ((sent_at, deadline), (deadline, topic), (partition, tail))
        if template is None or any(b - a > _MOST_BYTES for a, b in numbers) or tail - partition > _PARTITION_BYTES:
            return None
        id_begin = id_end - len(request_id)
        constant = [(0, sent_at), (topic, partition), *((tail + a, tail + b) for a, b in template.constant)]
        return cls(
            _Side.of(record[: at + 1], ((0, id_begin), (id_end, at))),
            _Side.of(back, constant, numbers),
            (id_begin, id_end),
            *numbers,
            tail,
            template,
            *names,
        )

    def read(self, data: bytes, start: Ints, end: Ints) -> RequestGroup | None:
        """The records of a buffer, from `start` to `end` each, with `PAD` behind the last; None where one differs."""
        users = end - start - (self.front.width + self.back.width)
        if int(users.min()) < 0 or int(users.max()) > _SHORT:
            return None
        front = self.front.read(data, start)
        if front is None or (front[:, self.front.width - 1] != users << 1).any():
            return None
        back = self.back.read(data, end - self.back.width)
        if back is None:
            return None
        a, b = self.request_id
        request_ids = BytesColumn.uniform(front[:, a:b].tobytes(), len(start))
        user_ids = BytesColumn.cut(data, start + self.front.width, end - self.back.width)
        if not (request_ids.is_text() and user_ids.is_text()):
            return None
        sent_at, deadlines, partitions = (
            _numbers(back[:, a:b]) for a, b in (self.sent_at, self.deadline, self.reply_partition)
        )
        return RequestGroup(
            index=np.arange(len(start)),
            model=self.model,
            version=self.version,
            experiment=self.experiment,
            reply_topic=self.reply_topic,
            request_ids=request_ids,
            user_ids=user_ids,
            sent_at=sent_at,
            deadlines=deadlines,
            reply_partitions=partitions,
            tensors=self.template.tensors(back[:, self.tail :]),
        )


_WEIGHTS: Final = np.left_shift(1, 7 * np.arange(_MOST_BYTES))


def _numbers(octets: Octets) -> Ints:
    """Zigzag varints that all have as many bytes [n, bytes]."""
    value: Ints = (octets & 0x7F).astype(np.int64) @ _WEIGHTS[: octets.shape[1]]
    return (value >> 1) ^ -(value & 1)


def windows(data: bytes, at: Ints, width: int) -> Octets:
    """The `width` bytes from each position on, [n, width]: copied a record at a time, not a byte at a time."""
    kind = np.dtype((np.void, width))
    whole: npt.NDArray[np.void] = np.ndarray((len(data) - width + 1,), kind, data, strides=(1,))
    return whole[np.minimum(at, len(whole) - 1)].view(np.uint8).reshape(len(at), width)


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """An Avro int or long, and the position behind it. Raises IndexError where it does not end."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            value &= 0xFFFF_FFFF_FFFF_FFFF
            return (value >> 1) ^ -(value & 1), at
        if shift > 63:
            raise IndexError


def read_raw(data: bytes, at: int) -> tuple[bytes, int]:
    """An Avro string or bytes, and the position behind it. Raises IndexError where it does not end."""
    length, at = read_long(data, at)
    if length < 0 or at + length > len(data):
        raise IndexError
    return data[at : at + length], at + length
