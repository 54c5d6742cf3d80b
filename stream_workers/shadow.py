"""A shadow: a version that scores what others answer, for the record and for nobody else.

Its outputs go to topics of their own, at most once and beside the worker's transactions: what it says may be lost, and
whatever counts replies, predictions or fates does not see it. It never holds up a reply: it has bulk's share of the
device, and what it does not get to in time is dropped, and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic
from typing import Final

import numpy as np
from confluent_kafka import Producer

from models.batching import BatchLimits
from models.catalog import Catalog, UnavailableModelError
from models.errors import InferenceError, InvalidInputError, UnknownModelError
from models.loading import LoadedModel
from schemas.codec import Codec
from schemas.codes import Code
from schemas.tensors import Array, TensorError
from schemas.topics import Topics
from stream_workers.device import Device
from stream_workers.fates import Fate
from stream_workers.intake import stacked
from stream_workers.lanes import LaneKey
from stream_workers.log_writer import LogWriter
from stream_workers.ops import WorkerMetrics
from stream_workers.runs import Run
from stream_workers.work import Requests

# Rows that may wait for the device; more are dropped.
MOST_ROWS: Final = 4096
# What has waited for so long is dropped: it would be compared with what others were answered long ago.
STALE_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 5.0


class Shadow:
    """The `Sink` of shadow lanes, and what fills them."""

    def __init__(
        self,
        codec: Codec,
        topics: Topics,
        producer: Producer,
        catalog: Catalog,
        device: Device,
        metrics: WorkerMetrics,
        *,
        worker: str,
        run_id: str,
        limits_of: Callable[[LoadedModel], BatchLimits],
        now_us: Callable[[], int],
    ) -> None:
        """`producer`: of its own, without transactions."""
        self._log = LogWriter(codec, topics.shadow_predictions, topics.shadow_summaries, worker)
        self._producer = producer
        self._catalog = catalog
        self._device = device
        self._metrics = metrics
        self._run_id = run_id
        self._limits_of = limits_of
        self._now_us = now_us
        self._numbers = count()
        self._lock = threading.Lock()
        self._waiting = 0

    def offer(self, requests: Requests, version: str) -> None:
        """Score these as well, where there is room. Requests as they came: the version orders features by itself."""
        try:
            model = self._catalog.ready(requests.model, version)
        except (UnavailableModelError, UnknownModelError):
            model = None
        if model is None or self._waiting + requests.count > MOST_ROWS:
            self._dropped(requests.model, requests.count)
            return
        requests = requests.to(version, requests.experiment, "")
        try:
            checked = _filled(model, requests)
        except (InvalidInputError, TensorError) as error:
            self._put(requests, Code.INVALID_ARGUMENT, str(error))
            return
        if checked is not None:
            with self._lock:
                self._waiting += checked.rows
            key = LaneKey(checked.model, version, bulk=True, shadow=True)
            self._device.submit(key, model, checked, self, lambda: self._limits_of(model))

    def expired(self, piece: Requests) -> Requests | None:
        """Drops what has waited too long."""
        if monotonic() - piece.received <= STALE_SECONDS:
            return piece
        self._done(piece)
        self._dropped(piece.model, piece.rows)
        return None

    def failed(self, piece: Requests, code: Code, message: str) -> None:
        """The version cannot score these."""
        self._done(piece)
        self._put(piece, code, message)

    def unavailable(self, piece: Requests, message: str) -> None:
        """The version has nothing to run on now."""
        self.failed(piece, Code.UNAVAILABLE, message)

    def scored(
        self, model: LoadedModel, pieces: Sequence[Requests], outputs: Sequence[dict[str, Array]], run: Run
    ) -> None:
        """Outputs of each piece, from one run."""
        for piece, own in zip(pieces, outputs, strict=True):
            self._done(piece)
            try:
                scores = model.signature.scores(own, piece.rows)
            except InferenceError as error:
                self._put(piece, Code.INFERENCE_FAILED, str(error))
            else:
                self._put(piece, Code.OK, "", model.device, run, scores, [own])

    def close(self) -> None:
        """Send what is left, for a while."""
        self._producer.flush(FLUSH_SECONDS)

    def _done(self, piece: Requests) -> None:
        with self._lock:
            self._waiting -= piece.rows

    def _dropped(self, model: str, rows: int) -> None:
        self._metrics.shadow_dropped.labels(model).inc(rows)

    def _put(
        self,
        piece: Requests,
        code: Code,
        message: str,
        device: str = "",
        run: Run | None = None,
        scores: Array | None = None,
        outputs: Sequence[dict[str, Array]] = (),
    ) -> None:
        batch_id = f"{self._run_id}-shadow-{next(self._numbers)}"
        messages = [message] * piece.count if message else ()
        fate = Fate.of(
            batch_id, self._now_us(), code, [piece],
            device=device, run=run, messages=messages, scores=scores, outputs=outputs,
        )  # fmt: skip
        try:
            for one in self._log.written([fate]):
                self._producer.produce(one.topic, one.value, one.key)
        except BufferError:
            self._dropped(piece.model, piece.rows)
        self._producer.poll(0)


def _filled(model: LoadedModel, requests: Requests) -> Requests | None:
    """The requests with inputs as this version orders them, those that it takes; None where there are none.

    Raises `InvalidInputError`, `TensorError` where all of them are alike wrong.
    """
    signature = model.signature
    if requests.features:
        assembled = signature.assemble(requests.features)
        if not assembled.errors:
            return requests.filled(assembled.inputs, 1)
        return requests.pick(assembled.good).filled(assembled.inputs, 1) if len(assembled.good) else None
    arrays, rows_each = stacked(requests.tensors, requests.count)
    signature.check_arrays(arrays)
    filled = requests.filled(arrays, rows_each)
    broken = signature.nan_rows(arrays)
    if not broken.any():
        return filled
    whole = ~broken.reshape(requests.count, rows_each).any(axis=1)
    return filled.pick(np.flatnonzero(whole)) if whole.any() else None
