"""Micro-batches as records of the prediction log: columns of all rows, in records small enough for Kafka. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from schemas.byte_columns import BytesColumn
from schemas.codec import Codec
from schemas.codes import INDEX
from schemas.records import Column, MicroBatch, PredictionBatch, StringColumn
from schemas.tensors import Array, pack_strings, unpack_strings
from stream_workers.fates import Fate
from stream_workers.log_columns import joined_columns
from stream_workers.work import joined

# A record stays below this, so that Kafka takes it; larger batches are logged in halves.
LOG_BYTES: Final = 4 * 1024 * 1024
# What is left of a text of a row that would not fit into a record of its own.
CLIPPED: Final = 16 * 1024


def log_record(fates: Sequence[Fate], worker: str) -> PredictionBatch:
    """All rows of fates of one kind; after a run a row for each output row, else one for each request."""
    head = fates[0]
    first = head.pieces[0]
    pieces = [piece for fate in fates for piece in fate.pieces]
    messages = [message for fate in fates for message in fate.messages]
    scores = [fate.scores for fate in fates if fate.scores is not None]
    each = [piece.rows_each if head.run else 1 for piece in pieces]
    rows = sum(piece.count * times for piece, times in zip(pieces, each, strict=True))
    single = max(each) == 1

    def spread(columns: list[Array], dtype: str) -> bytes:
        if not single:
            columns = [np.repeat(column, times) for column, times in zip(columns, each, strict=True)]
        return joined(columns).astype(dtype, copy=False).tobytes()

    def texts(columns: list[BytesColumn]) -> StringColumn:
        joined = BytesColumn.joined(columns)
        if not single:
            times = np.repeat(each, [piece.count for piece in pieces])
            joined = joined.take(np.repeat(np.arange(len(joined)), times))
        return pack_strings(joined)

    return PredictionBatch(
        batch_id=head.batch_id,
        worker=worker,
        device=head.device,
        model=first.model,
        version=first.version,
        experiment=first.experiment,
        variant=first.variant,
        topic=first.topic,
        scored_at=max(fate.scored_at for fate in fates),
        rows=rows,
        request_ids=texts([piece.ids for piece in pieces]),
        user_ids=texts([piece.users for piece in pieces]),
        partitions=spread([piece.partitions for piece in pieces], "<i4"),
        offsets=spread([piece.offsets for piece in pieces], "<i8"),
        row_numbers=b"".join(
            [np.arange(times, dtype="<i4").tobytes() * piece.count for piece, times in zip(pieces, each, strict=True)]
        ),
        sent_at=spread([piece.sent_at for piece in pieces], "<i8"),
        received_at=spread([piece.received_at for piece in pieces], "<i8"),
        codes=bytes([INDEX[head.code]]) * rows,
        messages=pack_strings(messages) if messages else StringColumn(bytes(4 * (rows + 1)), b""),
        scores=joined(scores).astype("<f8").tobytes() if scores else np.full(rows, np.nan).tobytes(),
        features=joined_columns([fate.features for fate in fates]),
        outputs=joined_columns([fate.outputs for fate in fates]),
        degraded=head.run.degraded if head.run else "",
        batches=tuple(MicroBatch(fate.batch_id, fate.scored_at, fate.rows, fate.infer_us) for fate in fates),
    )


def encoded(codec: Codec, record: PredictionBatch, limit: int = LOG_BYTES) -> list[bytes]:
    """The record in pieces of at most `limit` bytes each; a row larger than that leaves behind what does not fit."""
    value = codec.encode(record)
    if len(value) <= limit:
        return [value]
    if record.rows == 1:
        return [codec.encode(clipped(record))]
    middle = record.rows // 2
    halves = sliced(record, 0, middle), sliced(record, middle, record.rows)
    return [value for half in halves for value in encoded(codec, half, limit)]


def sliced(record: PredictionBatch, a: int, b: int) -> PredictionBatch:
    """Rows a to b of a record."""

    def cut(data: bytes) -> bytes:
        width = len(data) // record.rows
        return data[a * width : b * width]

    def words(column: StringColumn) -> StringColumn:
        ends = np.frombuffer(column.offsets, "<i4")[a : b + 1]
        return StringColumn((ends - ends[0]).astype("<i4").tobytes(), column.data[ends[0] : ends[-1]])

    def columns(given: Sequence[Column]) -> tuple[Column, ...]:
        return tuple(
            Column(
                one.name,
                one.datatype,
                (b - a, *one.shape[1:]),
                cut(one.data),
                None if one.strings is None else words(one.strings),
            )
            for one in given
        )

    batches = _cut(record.batches, a, b)
    return replace(
        record,
        batch_id=batches[0].batch_id if batches else record.batch_id,
        scored_at=max((one.scored_at for one in batches), default=record.scored_at),
        rows=b - a,
        request_ids=words(record.request_ids),
        user_ids=words(record.user_ids),
        messages=words(record.messages),
        partitions=cut(record.partitions),
        offsets=cut(record.offsets),
        row_numbers=cut(record.row_numbers),
        sent_at=cut(record.sent_at),
        received_at=cut(record.received_at),
        codes=cut(record.codes),
        scores=cut(record.scores),
        features=columns(record.features),
        outputs=columns(record.outputs),
        batches=batches,
    )


def _cut(batches: Sequence[MicroBatch], a: int, b: int) -> tuple[MicroBatch, ...]:
    """What rows a to b are of."""
    kept, end = [], 0
    for one in batches:
        start, end = end, end + one.rows
        if (rows := min(end, b) - max(start, a)) > 0:
            kept.append(replace(one, rows=rows))
    return tuple(kept)


def clipped(record: PredictionBatch) -> PredictionBatch:
    """The same rows without features and outputs, and with texts cut to what a record can hold."""

    def short(column: StringColumn) -> StringColumn:
        return pack_strings([text[:CLIPPED] for text in unpack_strings(column)])

    return replace(
        record,
        model=record.model[:CLIPPED],
        experiment=record.experiment[:CLIPPED],
        request_ids=short(record.request_ids),
        user_ids=short(record.user_ids),
        messages=short(record.messages),
        features=(),
        outputs=(),
    )
