"""Gives every request its one fate: a reply to the sender, a row in the prediction log, figures in the summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final

import numpy as np

from models.loading import LoadedModel
from schemas.batch_codec import ReplyEncoder
from schemas.codec import Codec
from schemas.codes import INDEX, Code
from schemas.records import BatchSummary, Column, PredictionBatch
from schemas.tensors import BYTES, Array, datatype_of, pack_strings, to_tensor
from schemas.topics import Topics
from stream_workers.device import Run
from stream_workers.ledger import Epoch, Ledger, Output
from stream_workers.ops import WorkerMetrics
from stream_workers.replies import ReplySender
from stream_workers.work import Requests

# A prediction log record stays below this, so that Kafka takes it; larger batches are logged in halves.
LOG_BYTES: Final = 4 * 1024 * 1024
# Outputs with more bytes a row than this (embeddings, masks) go to the sender but not into the log.
LOGGED_OUTPUT_BYTES: Final = 2048
LATENCY_BUCKETS: Final = 18
SCORE_BINS: Final = 20


class Publisher:
    """The `Sink` of request lanes. Replies leave at once, log and summary with the epoch's transaction."""

    def __init__(
        self,
        codec: Codec,
        topics: Topics,
        replies: ReplySender,
        ledger: Ledger,
        metrics: WorkerMetrics,
        *,
        worker: str,
        run_id: str,
        now_us: Callable[[], int],
    ) -> None:
        """`run_id`: unique to this process, so that batch ids are."""
        self._codec = codec
        self._encoder = ReplyEncoder(codec)
        self._topics = topics
        self._replies = replies
        self._ledger = ledger
        self._metrics = metrics
        self._worker = worker
        self._now_us = now_us
        self._run_id = run_id
        self._numbers = count()

    def expired(self, piece: Requests) -> Requests | None:
        """Answers DEADLINE_EXCEEDED to those whose deadline has passed, and returns the others."""
        now = self._now_us()
        late = (piece.deadlines > 0) & (piece.deadlines < now)
        if not late.any():
            return piece
        gone = piece.pick(np.flatnonzero(late))
        messages = [
            f"the deadline passed {(now - at) / 1000:.1f} ms before scoring began" for at in gone.deadlines.tolist()
        ]
        self.refuse(gone, Code.DEADLINE_EXCEEDED, messages)
        return None if late.all() else piece.pick(np.flatnonzero(~late))

    def failed(self, piece: Requests, code: Code, message: str) -> None:
        """All requests of the piece end with this error."""
        self.refuse(piece, code, [message] * piece.count)

    def refuse(self, requests: Requests, code: Code, messages: Sequence[str]) -> None:
        """Each request ends with this code and its own message."""
        if not requests.count:
            return
        now = self._now_us()
        values = self._encoder.encode_error(
            requests.ids,
            code,
            messages,
            model=requests.model,
            version=requests.version,
            variant=requests.variant,
            received_at=requests.received_at,
            replied_at=now,
        )
        self._reply(requests, values)
        batch_id = self._batch_id()
        outputs = [
            *self._log([requests], batch_id, now, code, messages),
            self._summary([requests], batch_id, now, "", None, np.full(requests.count, np.nan), code),
        ]
        self._metrics.requests(
            code, requests.count, model=requests.model, version=requests.version, variant=requests.variant
        )
        self._ledger.finish(requests.epoch, requests.count, outputs)

    def scored(
        self, model: LoadedModel, pieces: Sequence[Requests], outputs: Sequence[dict[str, Array]], run: Run
    ) -> None:
        """Outputs of each piece from one run of the model."""
        now = self._now_us()
        signature = model.signature
        scores: list[Array] = []
        for piece, own in zip(pieces, outputs, strict=True):
            values = self._encoder.encode_ok(
                piece.ids,
                piece.rows_each,
                own,
                model=piece.model,
                version=piece.version,
                variant=piece.variant,
                received_at=piece.received_at,
                replied_at=now,
            )
            self._reply(piece, values)
            scores.append(signature.scores(own, piece.rows))
        for where in _by_epoch(pieces):
            chosen = [pieces[i] for i in where]
            batch_id = self._batch_id()
            merged = np.concatenate([scores[i] for i in where])
            published = [
                *self._log(chosen, batch_id, now, Code.OK, (), model.device, merged, [outputs[i] for i in where]),
                self._summary(chosen, batch_id, now, model.device, run, merged, Code.OK),
            ]
            # Most micro-batches lie within one epoch, so finishing them is one call.
            self._ledger.finish(chosen[0].epoch, sum(piece.count for piece in chosen), published)
        first = pieces[0]
        rows = sum(piece.rows for piece in pieces)
        requests = sum(piece.count for piece in pieces)
        self._metrics.batch(
            first.model,
            first.version,
            first.variant,
            rows=rows,
            inference_seconds=run.seconds,
            queue_seconds=np.concatenate([(piece.received_at - piece.sent_at) / 1e6 for piece in pieces]),
            batch_seconds=np.repeat(
                [run.dispatched - piece.received for piece in pieces], [piece.count for piece in pieces]
            ),
            codes={Code.OK: requests},
        )

    def malformed(self, epoch: Epoch, correlation: bytes, topic: str, partition: int, headers: Any, why: str) -> None:
        """Tells the sender of an unreadable record whose headers name a reply topic."""
        values = self._encoder.encode_error(
            [correlation], Code.MALFORMED, [why], model="", version="", variant="", received_at=0,
            replied_at=self._now_us(),
        )  # fmt: skip
        self._replies.send(epoch.parity, topic, values, np.array([partition]), [None], [headers])

    def _batch_id(self) -> str:
        return f"{self._run_id}-{next(self._numbers)}"

    def _reply(self, requests: Requests, values: Sequence[bytes]) -> None:
        self._replies.send(
            requests.epoch.parity,
            requests.reply_topic,
            values,
            requests.reply_partitions,
            requests.keys,
            requests.headers,
        )

    def _log(
        self,
        pieces: Sequence[Requests],
        batch_id: str,
        now: int,
        code: Code,
        messages: Sequence[str] = (),
        device: str = "",
        scores: Array | None = None,
        outputs: Sequence[Mapping[str, Array]] = (),
    ) -> list[Output]:
        record = self._record(pieces, batch_id, now, code, messages, device, scores, outputs)
        value = self._codec.encode(record)
        if len(value) <= LOG_BYTES or (len(pieces) == 1 and pieces[0].count == 1):
            return [Output(self._topics.predictions, value, pieces[0].keys[0])]
        found: list[Output] = []
        at = 0
        for number, piece in enumerate(pieces):
            halves = [piece] if len(pieces) > 1 else list(piece.halve())
            begin = 0
            for half in halves:
                end = begin + half.rows
                own = [{name: array[begin:end] for name, array in outputs[number].items()}] if outputs else []
                mine = None if scores is None else scores[at + begin : at + end]
                texts = messages[at + begin : at + begin + half.count] if messages else ()
                found += self._log([half], self._batch_id(), now, code, texts, device, mine, own)
                begin = end
            at += piece.rows
        return found

    def _record(
        self,
        pieces: Sequence[Requests],
        batch_id: str,
        now: int,
        code: Code,
        messages: Sequence[str],
        device: str,
        scores: Array | None,
        outputs: Sequence[Mapping[str, Array]],
    ) -> PredictionBatch:
        first = pieces[0]
        each = [piece.rows_each if outputs else 1 for piece in pieces]
        rows = sum(piece.count * times for piece, times in zip(pieces, each, strict=True))

        def spread(values: Callable[[Requests], Any], dtype: str) -> bytes:
            columns = [
                np.repeat(np.broadcast_to(np.asarray(values(piece)), piece.count), times)
                for piece, times in zip(pieces, each, strict=True)
            ]
            return np.concatenate(columns).astype(dtype, copy=False).tobytes()

        def texts(values: Callable[[Requests], list[bytes]]) -> list[bytes]:
            return [
                text
                for piece, times in zip(pieces, each, strict=True)
                for text in values(piece)
                for _ in range(times)
            ]  # fmt: skip

        logged = _loggable(outputs)
        return PredictionBatch(
            batch_id=batch_id,
            worker=self._worker,
            device=device,
            model=first.model,
            version=first.version,
            experiment=first.experiment,
            variant=first.variant,
            topic=first.topic,
            scored_at=now,
            rows=rows,
            request_ids=pack_strings(texts(lambda piece: piece.ids)),
            user_ids=pack_strings(texts(lambda piece: piece.users)),
            partitions=spread(lambda piece: piece.partitions, "<i4"),
            offsets=spread(lambda piece: piece.offsets, "<i8"),
            row_numbers=np.concatenate(
                [np.tile(np.arange(times, dtype="<i4"), piece.count) for piece, times in zip(pieces, each, strict=True)]
            ).tobytes(),
            sent_at=spread(lambda piece: piece.sent_at, "<i8"),
            received_at=spread(lambda piece: piece.received_at, "<i8"),
            codes=bytes([INDEX[code]]) * rows,
            messages=pack_strings(messages if messages else [b""] * rows),
            scores=np.full(rows, np.nan).tobytes() if scores is None else scores.astype("<f8").tobytes(),
            features=feature_columns([features for piece in pieces for features in piece.features], rows),
            outputs=tuple(output_column(name, [own[name] for own in outputs]) for name in logged),
        )

    def _summary(
        self,
        pieces: Sequence[Requests],
        batch_id: str,
        now: int,
        device: str,
        run: Run | None,
        scores: Array,
        code: Code,
    ) -> Output:
        first = pieces[0]
        requests = sum(piece.count for piece in pieces)
        rows = sum(piece.rows for piece in pieces) if run else requests
        weights = np.repeat([piece.rows_each if run else 1 for piece in pieces], [piece.count for piece in pieces])
        sent = np.concatenate([piece.sent_at for piece in pieces])
        received = np.repeat([piece.received_at for piece in pieces], [piece.count for piece in pieces])
        known = scores[np.isfinite(scores)]
        waited = sum(int((run.dispatched - piece.received) * 1e6) * piece.rows for piece in pieces) if run else 0
        summary = BatchSummary(
            batch_id=batch_id,
            worker=self._worker,
            device=device,
            model=first.model,
            version=first.version,
            experiment=first.experiment,
            variant=first.variant,
            topic=first.topic,
            scored_at=now,
            requests=requests,
            rows=rows,
            padded_rows=run.padded if run else 0,
            queue_us=int(((received - sent) * weights).sum()),
            batch_us=waited,
            infer_us=int(run.seconds * 1e6) if run else 0,
            latency_histogram=latency_histogram((now - sent) / 1000, weights),
            score_count=len(known),
            score_sum=float(known.sum()),
            score_sum_squares=float((known * known).sum()),
            score_histogram=score_histogram(known),
            errors={} if code is Code.OK else {code.value: rows},
        )
        return Output(self._topics.summaries, self._codec.encode(summary), first.model.encode())


def latency_histogram(milliseconds: Array, weights: Array) -> tuple[int, ...]:
    """Rows by latency: bucket i ends at 2^i ms, the last is open."""
    places = np.ceil(np.log2(np.maximum(milliseconds, 1.0))).astype(np.int64).clip(0, LATENCY_BUCKETS - 1)
    return tuple(np.bincount(places, weights, LATENCY_BUCKETS).astype(np.int64).tolist())


def score_histogram(scores: Array) -> tuple[int, ...]:
    """Rows by score in 20 equal bins over [0, 1]; what lies outside counts in the end bins."""
    if not len(scores):
        return ()
    places = np.floor(scores * SCORE_BINS).clip(0, SCORE_BINS - 1).astype(np.int64)
    return tuple(np.bincount(places, minlength=SCORE_BINS).tolist())


def feature_columns(rows: Sequence[Mapping[str, Any]], expected: int) -> tuple[Column, ...]:
    """Named features of all rows as columns: numbers as FP64 (missing: NaN), text as strings (missing: empty)."""
    if not rows or len(rows) != expected:
        return ()
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            texts = ["" if value is None else str(value) for value in values]
            columns.append(Column(name, BYTES, (expected,), b"", pack_strings(texts)))
        else:
            numbers = np.array([np.nan if value is None else value for value in values], "<f8")
            columns.append(Column(name, "FP64", (expected,), numbers.tobytes()))
    return tuple(columns)


def output_column(name: str, arrays: Sequence[Array]) -> Column:
    """An output of all pieces as one column, each row flattened (pieces may be padded to different lengths)."""
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
        if len(shapes) == 1 and small and not (sample.dtype == object and sample.ndim > 1 and sample.shape[1] > 1):
            names.append(name)
    return names


def _by_epoch(pieces: Iterable[Requests]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for position, piece in enumerate(pieces):
        found.setdefault(id(piece.epoch), []).append(position)
    return list(found.values())
