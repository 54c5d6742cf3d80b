"""Gives every request its one fate: a reply to the sender, a row in the prediction log, figures in the summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import Any, Final

import numpy as np

from models.answers import AnswerCache, LastAnswer, Scope
from models.degradation import CACHED, FALLBACK, level_name
from models.errors import InferenceError
from models.loading import LoadedModel
from schemas.byte_columns import BytesColumn
from schemas.codec import Codec
from schemas.codes import Code
from schemas.reply_codec import ReplyEncoder
from schemas.tensors import Array
from schemas.topics import MAX_MESSAGE_BYTES, Topics
from stream_workers.fates import Fate
from stream_workers.ledger import Epoch, Ledger
from stream_workers.log_writer import LogWriter
from stream_workers.ops import WorkerMetrics
from stream_workers.replies import ReplySender
from stream_workers.runs import Run
from stream_workers.work import Requests, joined

# A larger reply would be refused by the producer, and its sender wait in vain. Key and headers need room too.
REPLY_BYTES: Final = MAX_MESSAGE_BYTES - 64 * 1024
# Between two batches of a variant whose features are counted: 20 a second tell enough, at a thousandth of a core.
COUNT_PAUSE_US: Final = 50_000


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
        answers: AnswerCache | None = None,
    ) -> None:
        """`run_id`: unique to this process, so that batch ids are. `answers`: keeps last ones where manifests allow it;
        without it none is kept.
        """
        self._encoder = ReplyEncoder(codec)
        self._log = LogWriter(codec, topics.predictions, topics.summaries, worker)
        self._replies = replies
        self._ledger = ledger
        self._metrics = metrics
        self._now_us = now_us
        self._run_id = run_id
        self._answers = AnswerCache(0) if answers is None else answers
        self._numbers = count()
        self._counted_at: dict[tuple[str, str, str, str], int] = {}

    def expired(self, piece: Requests) -> Requests | None:
        """Answers DEADLINE_EXCEEDED to those whose deadline has passed, and returns the others."""
        now = self._now_us()
        late = (piece.deadlines > 0) & (piece.deadlines < now)
        if not late.any():
            return piece
        gone = piece.pick(np.flatnonzero(late))
        if not gone.inputs:
            # Not routed yet: the version is what the sender wished for, not one that was reached.
            gone = gone.to("", gone.experiment, "")
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
        self._metrics.requests(
            code, requests.count, model=requests.model, version=requests.version, variant=requests.variant
        )
        self._finish(requests.epoch, Fate.of(self._batch_id(), now, code, [requests], messages=messages))

    def unavailable(self, piece: Requests, message: str) -> None:
        """Nothing can answer these anew: a last answer where there is one, else UNAVAILABLE."""
        now = self._now_us()
        missed: list[int] = []
        alike: dict[tuple[Any, ...], list[tuple[int, LastAnswer]]] = {}
        for place, user in enumerate(piece.users):
            found = self._answers.get(monotonic(), _scope(piece), user, piece.rows_each)
            if found is None:
                missed.append(place)
            else:
                form = tuple((name, array.dtype, array.shape) for name, array in found.outputs.items())
                alike.setdefault(form, []).append((place, found))
        for group in alike.values():
            chosen = piece.pick(np.array([place for place, _ in group], np.int64))
            names = group[0][1].outputs
            outputs = {name: np.concatenate([found.outputs[name] for _, found in group]) for name in names}
            self._reply(chosen, self._encoded(chosen, outputs, now, CACHED))
            scores = np.concatenate([found.scores for _, found in group])
            self._metrics.requests(
                Code.OK, chosen.count, model=chosen.model, version=chosen.version, variant=chosen.variant
            )
            self._metrics.degraded(chosen.model, chosen.version, CACHED, chosen.rows)
            self._publish([(chosen, outputs, scores)], now, "", Run(monotonic(), 0.0, 0, CACHED))
        if missed:
            gone = piece if len(missed) == piece.count else piece.pick(np.array(missed, np.int64))
            self.failed(gone, Code.UNAVAILABLE, message)

    def scored(
        self, model: LoadedModel, pieces: Sequence[Requests], outputs: Sequence[dict[str, Array]], run: Run
    ) -> None:
        """Outputs of each piece from one run of the model."""
        now = self._now_us()
        if run.degraded:
            if level_name(run.degraded) == FALLBACK:
                # The version that really answered; the name of its model, where that is another, is in `degraded`.
                pieces = [piece.to(model.version, piece.experiment, piece.variant) for piece in pieces]
            first = pieces[0]
            rows = sum(piece.rows for piece in pieces)
            self._metrics.degraded(first.model, first.version, level_name(run.degraded), rows)
        sent: list[tuple[Requests, dict[str, Array], Array]] = []
        for piece, own in zip(pieces, outputs, strict=True):
            answered = self._answer(model, piece, own, now, run.degraded)
            if answered is not None:
                sent.append(answered)
        answers = [piece for piece, _, _ in sent]
        for where in _alike(answers):
            seen = self._features(model, [answers[i] for i in where], now, run)
            self._publish([sent[i] for i in where], now, model.device, run, seen)
        first = pieces[0]
        self._metrics.batch(
            first.model,
            first.version,
            first.variant,
            rows=sum(piece.rows for piece in pieces),
            inference_seconds=run.seconds,
            # A client's clock may be ahead of ours.
            queue_seconds=joined([np.maximum(piece.received_at - piece.sent_at, 0) / 1e6 for piece in pieces]),
            batch_seconds=run.dispatched - joined([piece.taken for piece in pieces]),
            codes={Code.OK: sum(piece.count for piece in answers)},
        )

    def _publish(
        self,
        sent: Sequence[tuple[Requests, dict[str, Array], Array]],
        now: int,
        device: str,
        run: Run,
        features: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Answers that have left have their fate, with their outputs and scores; of one epoch and experiment."""
        pieces = [piece for piece, _, _ in sent]
        fate = Fate.of(
            self._batch_id(),
            now,
            Code.OK,
            pieces,
            device=device,
            run=run,
            scores=joined([scores for _, _, scores in sent]),
            outputs=[own for _, own, _ in sent],
            histograms=features,
        )
        # Most micro-batches lie within one epoch, so finishing them is one call.
        self._finish(pieces[0].epoch, fate)

    def _finish(self, epoch: Epoch, fate: Fate) -> None:
        self._ledger.finish(epoch, fate.requests, self._log.put(epoch, fate))

    def _answer(
        self, model: LoadedModel, piece: Requests, outputs: dict[str, Array], now: int, degraded: str
    ) -> tuple[Requests, dict[str, Array], Array] | None:
        """Replies OK; returns those that could be answered so, with their outputs and scores."""
        try:
            scores = model.signature.scores(outputs, piece.rows)
        except InferenceError as error:
            self.failed(piece, Code.INFERENCE_FAILED, str(error))
            return None
        values = self._encoded(piece, outputs, now, degraded)
        lengths = values.lengths()
        fits = lengths <= REPLY_BYTES
        if not fits.all():
            large = np.flatnonzero(~fits)
            texts = [f"the reply has {lengths[i]} bytes, at most {REPLY_BYTES} can be sent" for i in large.tolist()]
            self.refuse(piece.pick(large), Code.TOO_LARGE, texts)
            if not fits.any():
                return None
            rows = np.repeat(fits, piece.rows_each)
            outputs, scores = {name: array[rows] for name, array in outputs.items()}, scores[rows]
            values, piece = values.take(np.flatnonzero(fits)), piece.pick(np.flatnonzero(fits))
        self._reply(piece, values)
        keep = model.manifest.last_answer_seconds
        if keep and level_name(degraded) != FALLBACK:
            users = list(piece.users)
            self._answers.put(monotonic(), keep, _scope(piece), users, piece.rows_each, outputs, scores)
        return piece, outputs, scores

    def _encoded(self, piece: Requests, outputs: dict[str, Array], now: int, degraded: str) -> BytesColumn:
        return self._encoder.encode_ok(
            piece.ids,
            piece.rows_each,
            outputs,
            model=piece.model,
            version=piece.version,
            variant=piece.variant,
            received_at=piece.received_at,
            replied_at=now,
            degraded=degraded,
        )

    def malformed(self, epoch: Epoch, correlation: bytes, topic: str, partition: int, headers: Any, why: str) -> None:
        """Tells the sender of an unreadable record whose headers name a reply topic."""
        values = self._encoder.encode_error(
            [correlation], Code.MALFORMED, [why], model="", version="", variant="",
            received_at=np.zeros(1, np.int64), replied_at=self._now_us(),
        )  # fmt: skip
        self._replies.send(epoch.parity, topic, values, np.array([partition], np.int64), [None], [headers])

    def _batch_id(self) -> str:
        return f"{self._run_id}-{next(self._numbers)}"

    def _reply(self, requests: Requests, values: BytesColumn) -> None:
        self._replies.send(
            requests.epoch.parity,
            requests.reply_topic,
            values,
            requests.reply_partitions,
            requests.keys,
            requests.headers,
        )

    def _features(
        self, model: LoadedModel, pieces: Sequence[Requests], now: int, run: Run
    ) -> dict[str, tuple[int, ...]]:
        """Histograms of the features, of a batch now and then: one takes 60 µs, which small batches would feel."""
        if level_name(run.degraded) == FALLBACK:
            return {}  # its bins may be those of another model
        key = _scope(pieces[0])
        if not model.feature_bins or 0 <= now - self._counted_at.get(key, 0) < COUNT_PAUSE_US:
            return {}
        self._counted_at[key] = now
        return model.feature_bins.count([piece.inputs for piece in pieces])


def _scope(piece: Requests) -> Scope:
    # Outside a variant an experiment's name may be made up, and there is no end to those.
    return piece.model, piece.version, piece.experiment if piece.variant else "", piece.variant


def _alike(pieces: Iterable[Requests]) -> list[list[int]]:
    """Pieces that one record of the log can hold: of one epoch, and of one experiment's name."""
    found: dict[tuple[int, str], list[int]] = {}
    for position, piece in enumerate(pieces):
        found.setdefault((id(piece.epoch), piece.experiment), []).append(position)
    return list(found.values())
