"""Bulk batches: read, cut into parts that fit the device, put together again, answered in the epoch's transaction.

A ScoreBatch has one answer, a ScoreReply with the outputs of all rows and an error for each that could not be scored.
Bulk rows are summarised like any other; they are not in the prediction log, because the answer is the caller's file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from time import monotonic

import numpy as np
from confluent_kafka import Message

from models.catalog import Catalog, UnavailableModelError
from models.degradation import CPU, HALF_BATCH, level_name
from models.errors import InferenceError, InvalidInputError, UnknownModelError, shown
from models.loading import LoadedModel
from schemas.codec import Codec, DecodeError
from schemas.codes import Code
from schemas.records import BatchSummary, RowError, ScoreBatch, ScoreReply
from schemas.tensors import Array, TensorError, from_tensor, to_tensor
from schemas.topics import Topics
from stream_workers.dead_letters import DeadLetters
from stream_workers.device import Device
from stream_workers.handover import Handover
from stream_workers.intake import LimitsOf
from stream_workers.lanes import LaneKey
from stream_workers.ledger import Epoch, Ledger, Output, short_key
from stream_workers.messages import ends_of
from stream_workers.ops import OncePer, WorkerMetrics
from stream_workers.publish import REPLY_BYTES
from stream_workers.replies import ReplyTopics
from stream_workers.runs import Run
from stream_workers.summary_figures import latency_histogram, score_figures
from stream_workers.work import BulkBatch, BulkPart

log = logging.getLogger(__name__)


class BulkIntake:
    """Takes polled ScoreBatch records; the `Sink` of bulk lanes."""

    def __init__(
        self,
        codec: Codec,
        topics: Topics,
        ledger: Ledger,
        dead_letters: DeadLetters,
        handover: Handover,
        catalog: Catalog,
        device: Device,
        reply_topics: ReplyTopics,
        metrics: WorkerMetrics,
        *,
        worker: str,
        run_id: str,
        limits_of: LimitsOf,
        now_us: Callable[[], int],
    ) -> None:
        """`run_id`: unique to this process."""
        self._codec = codec
        self._topics = topics
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._handover = handover
        self._catalog = catalog
        self._device = device
        self._reply_topics = reply_topics
        self._metrics = metrics
        self._worker = worker
        self._run_id = run_id
        self._limits_of = limits_of
        self._now_us = now_us
        self._numbers = count()
        self._due = OncePer(60.0)
        self._parked: dict[tuple[str, str], list[BulkBatch]] = {}
        self._lock = threading.Lock()
        self.bytes_in_flight = 0

    def take(self, messages: Sequence[Message]) -> None:
        """All messages of a poll of the bulk topic."""
        received_at = self._now_us()
        epoch = self._ledger.admit(ends_of(messages), len(messages), sum(len(message) for message in messages))
        for message in messages:
            try:
                record = self._codec.decode_batch(message.value())
            except DecodeError as error:
                self._dead_letters.put(epoch, message, error)
                continue
            elsewhere = self._handover.topic_of(record.model)
            if elsewhere and not self._handover.hand_on(epoch, elsewhere, [message]):
                continue
            size = len(message)
            with self._lock:
                self.bytes_in_flight += size
            self._route(BulkBatch(epoch, record, message.topic() or "", "", received_at, size))

    def release(self, model: str, version: str) -> None:
        """A version became ready or failed: what waited for it goes on."""
        with self._lock:
            waiting = self._parked.pop((model, version), [])
        for batch in waiting:
            self._place(batch)

    def expired(self, piece: BulkPart) -> BulkPart | None:
        """The part, unless the deadline of its batch has passed."""
        deadline = piece.batch.record.deadline
        now = self._now_us()
        if not deadline or now <= deadline:
            return piece
        late = f"the deadline passed {(now - deadline) / 1000:.1f} ms before scoring began"
        self.failed(piece, Code.DEADLINE_EXCEEDED, late)
        return None

    def failed(self, piece: BulkPart, code: Code, message: str) -> None:
        """No row of the part can be scored."""
        with self._lock:
            piece.batch.errors.extend(RowError(row, code, message) for row in piece.where.tolist())
        self._came_back(piece.batch.epoch, [piece])

    def unavailable(self, piece: BulkPart, message: str) -> None:
        """The part cannot be scored now. Its batch is answered so as a whole, for the run to send it again.

        A file partly made by another version, or that lacks rows for a while's sake, would not be the same file twice.
        """
        with self._lock:
            piece.batch.unavailable = message
        self._came_back(piece.batch.epoch, [piece])

    def scored(
        self, model: LoadedModel, pieces: Sequence[BulkPart], outputs: Sequence[dict[str, Array]], run: Run
    ) -> None:
        """Outputs of each part: of one run each, one after another."""
        rows = sum(piece.rows for piece in pieces)
        # An epoch's summary goes into its transaction, with the offsets of the records that it tells of.
        told: dict[Epoch, list[tuple[BulkPart, Array]]] = {}
        for piece, own in zip(pieces, outputs, strict=True):
            batch = piece.batch
            try:
                scores = model.signature.scores(own, piece.rows)
            except InferenceError as error:
                self.failed(piece, Code.INFERENCE_FAILED, str(error))
                continue
            with self._lock:
                if run.degraded:
                    batch.degraded.add(run.degraded)
                if piece.rows == batch.record.rows:
                    batch.outputs = own
                else:
                    _fill_in(batch, piece.where, own)
            told.setdefault(batch.epoch, []).append((piece, scores))
        for epoch, parts in told.items():
            share = run.seconds * sum(piece.rows for piece, _ in parts) / rows
            self._came_back(epoch, [piece for piece, _ in parts], [self._summary(parts, share, run, model.device)])
        first = pieces[0].batch
        if run.degraded:
            self._metrics.degraded(first.record.model, first.version, level_name(run.degraded), rows)
        self._metrics.batch(
            first.record.model,
            first.version,
            "",
            rows=rows,
            inference_seconds=run.seconds,
            queue_seconds=np.array([piece.batch.queued_us / 1e6 for piece in pieces]),
            batch_seconds=np.array([run.dispatched - piece.received for piece in pieces]),
            codes={},
            runs=len(pieces),
        )

    def _route(self, batch: BulkBatch) -> None:
        record = batch.record
        if record.deadline and record.deadline < self._now_us():
            self._answer(batch, Code.DEADLINE_EXCEEDED, "the deadline passed before scoring began")
            return
        try:
            batch.version = self._catalog.resolve(record.model, record.version)
        except UnknownModelError as error:
            self._answer(batch, Code.UNKNOWN_MODEL, str(error))
            return
        self._place(batch)

    def _place(self, batch: BulkBatch) -> None:
        key = (batch.record.model, batch.version)
        try:
            model = self._catalog.ready(*key)
            if model is None:
                with self._lock:
                    self._parked.setdefault(key, []).append(batch)
                # It may have become ready before this was parked, and then nobody else comes to look.
                self._release_if_done(*key)
                return
        except UnavailableModelError as error:
            self._answer(batch, Code.UNAVAILABLE, str(error))
            return
        try:
            part = self._checked(model, batch)
        except (InvalidInputError, TensorError) as error:
            self._answer(batch, Code.INVALID_ARGUMENT, str(error))
            return
        batch.left = part.rows
        if not part.rows:
            self._answer(batch, Code.OK, "")
            return
        lane = LaneKey(*key, bulk=True)
        self._device.submit(lane, model, part, self, lambda: self._limits_of(model))
        if not self._catalog.is_ready(*key):
            # It was evicted meanwhile: its lane must not keep it longer than this work takes.
            self._device.forget(*key)

    def _release_if_done(self, model: str, version: str) -> None:
        try:
            done = self._catalog.ready(model, version) is not None
        except UnavailableModelError:
            done = True
        if done:
            self.release(model, version)

    def _checked(self, model: LoadedModel, batch: BulkBatch) -> BulkPart:
        """The rows that fit the signature; the others get their error at once."""
        record, signature = batch.record, model.signature
        if record.rows < 1:
            raise TensorError(f"a batch has at least one row, got {record.rows}")
        if record.columns and record.inputs:
            raise TensorError("a batch gives inputs or columns, not both")
        given = {tensor.name: from_tensor(tensor) for tensor in (record.columns or record.inputs)}
        if record.rows > max(1, sum(len(tensor.data) for tensor in (*record.columns, *record.inputs))):
            raise TensorError(f"{record.rows} rows without data")
        wrong = [
            f"{shown(name)} has {len(array) if array.ndim else 'none'}"
            for name, array in given.items()
            if array.shape[:1] != (record.rows,)
        ]
        if wrong:
            raise TensorError(f"every column has {record.rows} rows, but {', '.join(wrong)}")
        if record.columns:
            assembled = signature.assemble_columns(given, record.rows)
            batch.errors += [
                RowError(row, Code.INVALID_ARGUMENT, text) for row, text in sorted(assembled.errors.items())
            ]  # fmt: skip
            return BulkPart(batch, assembled.good, assembled.inputs, monotonic())
        signature.check_arrays(given)
        broken = signature.nan_rows(given)
        where = np.arange(record.rows)
        if broken.any():
            batch.errors += [
                RowError(row, Code.INVALID_ARGUMENT, "NaN or infinity where the signature forbids it")
                for row in np.flatnonzero(broken).tolist()
            ]
            where = np.flatnonzero(~broken)
            given = {name: array[where] for name, array in given.items()}
        return BulkPart(batch, where, given, monotonic())

    def _came_back(self, epoch: Epoch, pieces: Sequence[BulkPart], outputs: Sequence[Output] = ()) -> None:
        """Parts of an epoch are done; `outputs` go with them. Batches of which they were the last are answered."""
        with self._lock:
            done = []
            for piece in pieces:
                piece.batch.left -= piece.rows
                if not piece.batch.left:
                    done.append(piece.batch)
        answers = [answer for batch in done for answer in self._answer_of(batch)]
        # At once: when no record is left, another thread may end the epoch.
        self._ledger.finish(epoch, len(done), [*outputs, *answers])

    def _answer(self, batch: BulkBatch, code: Code, message: str) -> None:
        """A batch ends without having been scored."""
        self._ledger.finish(batch.epoch, 1, self._answer_of(batch, code, message))

    def _answer_of(self, batch: BulkBatch, code: Code = Code.OK, message: str = "") -> list[Output]:
        record = batch.record
        if batch.unavailable:
            batch.outputs, batch.errors, batch.degraded = {}, [], set()
            code, message = Code.UNAVAILABLE, batch.unavailable
        reply = ScoreReply(
            request_id=f"{record.job}/{record.sequence}",
            code=code,
            message=message,
            model=record.model,
            version=batch.version,
            received_at=batch.received_at,
            replied_at=self._now_us(),
            outputs=tuple(to_tensor(name, array) for name, array in batch.outputs.items()),
            row_errors=tuple(sorted(batch.errors, key=lambda error: error.row)),
            # Of its parts' runs the one that fell shortest; another version never has a part in a batch.
            degraded=next((one for one in (CPU, HALF_BATCH) if one in batch.degraded), ""),
        )
        with self._lock:
            self.bytes_in_flight -= batch.size
        self._metrics.requests(code, model=record.model, version=batch.version)
        batch.outputs = {}
        return self._addressed(reply, record)

    def _encoded(self, reply: ScoreReply) -> bytes:
        value = self._codec.encode(reply)
        if len(value) <= REPLY_BYTES:
            return value
        # Kafka would refuse it, with the transaction it is in, again and again.
        text = f"the result has {len(value)} bytes, at most {REPLY_BYTES} can be sent; send fewer rows in a batch"
        short = replace(reply, code=Code.TOO_LARGE, message=text, outputs=(), row_errors=())
        return self._codec.encode(short)

    def _addressed(self, reply: ScoreReply, record: ScoreBatch) -> list[Output]:
        wanted = max(-1, record.reply_partition)
        known = self._reply_topics.partitions(record.reply_topic, wanted)
        if not known or wanted >= known:
            self.undeliverable(record.reply_topic, "UNKNOWN_PARTITION" if known else "UNKNOWN_TOPIC")
            return []
        # One to our own topic is not for its sender to spoil.
        senders = record.reply_topic != self._topics.bulk_results
        key = short_key(record.job.encode())
        return [Output(record.reply_topic, self._encoded(reply), key, wanted, senders=senders)]

    def undeliverable(self, topic: str, reason: str) -> None:
        """A result cannot go to the topic that its sender named."""
        self._metrics.undeliverable(reason)
        if self._due.due(reason):
            log.warning("bulk results cannot be delivered to %.249r: %s", topic, reason)

    def _summary(self, parts: Sequence[tuple[BulkPart, Array]], seconds: float, run: Run, device: str) -> Output:
        """Of parts with their scores, of one epoch and version; `seconds`: what their runs took."""
        first = parts[0][0].batch
        pieces = [piece for piece, _ in parts]
        now, rows = self._now_us(), np.array([piece.rows for piece in pieces])
        queued = np.array([piece.batch.queued_us for piece in pieces])
        waited = np.array([run.dispatched - piece.received for piece in pieces])
        sent = np.array([piece.batch.record.sent_at for piece in pieces])
        summary = BatchSummary(
            batch_id=f"{self._run_id}-bulk-{next(self._numbers)}",
            worker=self._worker,
            device=device,
            model=first.record.model,
            version=first.version,
            experiment="",
            variant="",
            topic=first.topic,
            scored_at=now,
            requests=len(pieces),
            rows=int(rows.sum()),
            queue_us=int((queued * rows).sum()),
            batch_us=int((waited * rows).sum() * 1e6),
            infer_us=int(seconds * 1e6),
            latency_histogram=latency_histogram((now - sent) / 1000, rows),
            **score_figures(np.concatenate([scores for _, scores in parts])),
            degraded=run.degraded,
            # Each part was run by itself.
            batches=len(parts),
        )
        return Output(self._topics.summaries, self._codec.encode(summary), first.record.model.encode())


def _fill_in(batch: BulkBatch, where: Array, outputs: dict[str, Array]) -> None:
    """Put outputs of some rows where they belong."""
    for name, array in outputs.items():
        whole = batch.outputs.get(name)
        shape = (batch.record.rows, *array.shape[1:])
        if whole is None:
            whole = batch.outputs[name] = _blank(shape, array)
        elif whole.shape != shape:
            whole = batch.outputs[name] = _widened(whole, shape)
            array = _padded(array, whole.shape[1:])
        whole[where] = array


def _blank(shape: tuple[int, ...], like: Array) -> Array:
    """Outputs of no row yet: zeros, or empty strings."""
    return np.full(shape, "", object) if like.dtype == object else np.zeros(shape, like.dtype)


def _widened(whole: Array, shape: tuple[int, ...]) -> Array:
    """The same values with inner axes long enough for both (parts may be padded to different lengths)."""
    wide = _blank((shape[0], *(max(a, b) for a, b in zip(whole.shape[1:], shape[1:], strict=True))), whole)
    wide[tuple(slice(0, extent) for extent in whole.shape)] = whole
    return wide


def _padded(array: Array, inner: tuple[int, ...]) -> Array:
    wide = _blank((array.shape[0], *inner), array)
    wide[tuple(slice(0, extent) for extent in array.shape)] = array
    return wide
