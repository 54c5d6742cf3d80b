"""Requests of a whole poll to arrays, without a Python object a field.

Where all records are of one layout (`schemas.request_layout`), they are read by it. Else all records' cursors advance
together, one numpy step a field; the part after `reply_partition` is compared with that of some of them and sliced as a
matrix.
Whatever does not fit this (named features, BYTES tensors, other schema versions, corrupt bytes) goes through fastavro,
record by record; a property test holds both paths equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.byte_columns import BytesColumn
from schemas.codec import Codec, DecodeError
from schemas.records import ScoreRequest, Tensor
from schemas.request_layout import PAD, Layout, RequestGroup, Template, windows
from schemas.tensors import BYTES

Ints = npt.NDArray[np.int64]

# Records whose tails differ are compared with at most this many references; the rest go through fastavro.
MAX_TEMPLATES: Final = 8
# Fancy indexing takes 8 bytes of index for each byte it picks: longer spans are cut out one by one.
MAX_INDEXED: Final = 512
# Reading all at once has a fixed cost, that of fastavro for about this many records.
FEWEST: Final = 12


def decode_requests(
    codec: Codec, values: Sequence[bytes | None], fewest: int = FEWEST
) -> tuple[list[RequestGroup], dict[int, DecodeError]]:
    """The ScoreRequests of a poll, grouped, and what could not be read, by position.

    Fewer than `fewest` records are read one by one.
    """
    groups: list[RequestGroup] = []
    rest = list(range(len(values)))
    if values and len(values) >= fewest:
        groups, rest = _decode_fast(codec.header(ScoreRequest), values)
    slow, errors = _decode_slow(codec, values, rest)
    return groups + slow, errors


def _decode_slow(
    codec: Codec, values: Sequence[bytes | None], positions: Sequence[int]
) -> tuple[list[RequestGroup], dict[int, DecodeError]]:
    errors: dict[int, DecodeError] = {}
    alike: dict[tuple[Any, ...], list[tuple[int, ScoreRequest]]] = {}
    for at in positions:
        try:
            one = codec.decode(ScoreRequest, values[at])
        except DecodeError as error:
            errors[at] = error
            continue
        form: Any = tuple((t.name, t.datatype, t.shape, len(t.data)) for t in one.inputs)
        # Elements of BYTES tensors have lengths of their own, and a request may have both forms or none: kept apart.
        if (one.features and one.inputs) or any(t.datatype == BYTES for t in one.inputs):
            form = at
        key = (one.model, one.version, one.experiment, one.reply_topic, bool(one.features), form)
        alike.setdefault(key, []).append((at, one))
    return [_group(members) for members in alike.values()], errors


def _group(members: list[tuple[int, ScoreRequest]]) -> RequestGroup:
    first = members[0][1]
    ones = [one for _, one in members]
    return RequestGroup(
        index=np.array([at for at, _ in members], np.int64),
        model=first.model,
        version=first.version,
        experiment=first.experiment,
        reply_topic=first.reply_topic,
        request_ids=BytesColumn.of([one.request_id.encode() for one in ones]),
        user_ids=BytesColumn.of([one.user_id.encode() for one in ones]),
        sent_at=np.array([one.sent_at for one in ones], np.int64),
        deadlines=np.array([one.deadline for one in ones], np.int64),
        reply_partitions=np.array([one.reply_partition for one in ones], np.int64),
        tensors=tuple(
            Tensor(t.name, t.datatype, t.shape, b"".join([one.inputs[k].data for one in ones]))
            for k, t in enumerate(first.inputs)
        ),
        features=[dict(one.features) for one in ones] if first.features else [],
    )


# Bytes of 7 bits moved together, by pairs, then by fours, then by eights: shift, what stays, what moves.
_FOLDS: Final = tuple(
    (np.uint64(shift), np.uint64(low), np.uint64(high))
    for shift, low, high in (
        (1, 0x007F007F007F007F, 0x7F007F007F007F00),
        (2, 0x00003FFF00003FFF, 0x3FFF00003FFF0000),
        (4, 0x000000000FFFFFFF, 0x0FFFFFFF00000000),
    )
)


class _Cursor:
    """One position in each record of a poll; every read moves them all."""

    def __init__(self, data: bytes, at: Ints, end: Ints) -> None:
        self.data = data
        self.buffer = np.frombuffer(data, np.uint8)
        self.at = at
        self.end = end
        self.good = np.ones(len(at), bool)

    def long(self) -> Ints:
        """A zigzag varint (Avro int or long) of each record."""
        at = np.minimum(self.at, self.end)
        byte = self.buffer[at]
        if not (byte > 0x7F).any():
            self.at = at + 1
            return (byte >> 1).astype(np.int64) ^ -(byte & 1).astype(np.int64)
        # Eight bytes at once: those up to the first without its top bit are the number, 7 bits each, lowest first.
        word = windows(self.data, at, 8).reshape(-1).view("<u8")
        tops = ~word & np.uint64(0x8080808080808080)
        own = ((tops & -tops) << np.uint64(1)) - np.uint64(1)
        value: npt.NDArray[np.uint64] = word & own & np.uint64(0x7F7F7F7F7F7F7F7F)
        for bits, low, high in _FOLDS:
            value = (value & low) | ((value & high) >> bits)
        at = at + (np.bitwise_count(own) >> 3)
        more = np.flatnonzero(tops == 0)
        shift = 56
        while more.size:
            if shift > 63:
                self.good[more] = False
                break
            at = np.minimum(at, self.end + 1)
            wide = self.buffer[at[more]].astype(np.uint64)
            value[more] |= (wide & np.uint64(0x7F)) << np.uint64(shift)
            at[more] += 1
            more = more[(wide & np.uint64(0x80)) != 0]
            shift += 7
        self.at = np.minimum(at, self.end + 1)
        return (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64)

    def span(self) -> tuple[Ints, Ints]:
        """Start and end of a string or bytes field of each record."""
        length = self.long()
        start = self.at
        bad = (length < 0) | (length > self.end - start)
        if bad.any():
            self.good &= ~bad
            length = np.where(bad, 0, length)
        self.at = start + length
        return start, self.at

    def texts(self, span: tuple[Ints, Ints], rows: Ints) -> BytesColumn:
        """The bytes of a span for some of the records."""
        return BytesColumn.cut(self.data, span[0][rows], span[1][rows])


def _decode_fast(header: bytes, values: Sequence[bytes | None]) -> tuple[list[RequestGroup], list[int]]:
    filled = [value or b"" for value in values]
    data = b"".join([*filled, PAD])
    lengths = np.fromiter(map(len, filled), np.int64, len(filled))
    end = np.cumsum(lengths)
    start = end - lengths
    layout = Layout.of(header, filled[0])
    alike = None if layout is None else layout.read(data, start, end)
    if alike is not None:
        return [alike], []
    cursor = _Cursor(data, start + len(header), end)
    cursor.good &= lengths > len(header)
    cursor.at = np.minimum(cursor.at, end)
    head = np.frombuffer(header, np.uint8)
    cursor.good &= (windows(data, start, len(head)) == head).all(axis=1)

    request_id = cursor.span()
    model = cursor.span()
    version = cursor.span()
    user_id = cursor.span()
    experiment = cursor.span()
    sent_at = cursor.long()
    deadline = cursor.long()
    reply_topic = cursor.span()
    reply_partition = cursor.long()
    cursor.good &= (cursor.at <= end) & (np.abs(reply_partition) < 2**31)

    groups: list[RequestGroup] = []
    left = np.flatnonzero(cursor.good)
    rest = np.flatnonzero(~cursor.good).tolist()
    for _ in range(MAX_TEMPLATES):
        if not left.size:
            break
        template = Template.of(data[cursor.at[left[0]] : end[left[0]]])
        if template is None:
            rest.append(int(left[0]))
            left = left[1:]
            continue
        matrix, fits = template.match(data, cursor.at[left], end[left])
        rows, left = left[fits], left[~fits]
        for members in _same_words(cursor, rows, (model, version, experiment, reply_topic)):
            picked = rows[members]
            ids, users = cursor.texts(request_id, picked), cursor.texts(user_id, picked)
            words = {
                name: cursor.texts(span, picked[:1])[0]
                for name, span in (
                    ("model", model),
                    ("version", version),
                    ("experiment", experiment),
                    ("reply_topic", reply_topic),
                )
            }
            if not (ids.is_text() and users.is_text() and BytesColumn.of(words.values()).is_text()):
                rest.extend(picked.tolist())
                continue
            chosen = matrix if len(picked) == len(matrix) else matrix[members]
            groups.append(
                RequestGroup(
                    index=picked,
                    model=words["model"].decode(),
                    version=words["version"].decode(),
                    experiment=words["experiment"].decode(),
                    reply_topic=words["reply_topic"].decode(),
                    request_ids=ids,
                    user_ids=users,
                    sent_at=sent_at[picked],
                    deadlines=deadline[picked],
                    reply_partitions=reply_partition[picked],
                    tensors=template.tensors(chosen),
                )
            )
    rest.extend(left.tolist())
    return groups, sorted(rest)


def _same_words(cursor: _Cursor, rows: Ints, spans: Sequence[tuple[Ints, Ints]]) -> list[Ints]:
    """Splits records into those whose words are all equal; returns positions within `rows`."""
    if not rows.size:
        return []
    same = np.ones(len(rows), bool)
    for begin, stop in spans:
        a, b = begin[rows], stop[rows]
        width = int(b[0] - a[0])
        same &= (b - a) == width
        if width > MAX_INDEXED or not same.all():
            same[:] = False
            break
        if width:
            reference = cursor.buffer[a[0] : b[0]]
            same &= (windows(cursor.data, a, width) == reference).all(axis=1)
    if same.all():
        return [np.arange(len(rows))]
    keys: dict[tuple[bytes, ...], list[int]] = {}
    for at, key in enumerate(zip(*(cursor.texts(span, rows) for span in spans), strict=True)):
        keys.setdefault(key, []).append(at)
    return [np.array(members, np.int64) for members in keys.values()]
