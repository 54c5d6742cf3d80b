"""A worker's pipeline without Kafka: the device's threads, the batching policy and the model, fed from memory.

What is left out is reading records and writing replies; what is measured is whether a device is kept busy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from models.batching import BatchLimits
from models.loading import LoadedModel
from schemas.codes import Code
from schemas.tensors import Array
from stream_workers.device import Device
from stream_workers.lanes import LaneKey
from stream_workers.runs import Run

KEY: Final = LaneKey("bench", "1")
# What a poll brings at a steady rate comes together.
TICK: Final = 0.002
DRAIN_SECONDS: Final = 20.0
WARM_SECONDS: Final = 1.0


class PipelineError(RuntimeError):
    """The pipeline does not do its work, in one line."""


@dataclass(slots=True, eq=False)
class Block:
    """Single-row requests that came together. `due` [n]: when each was asked, in monotonic seconds."""

    inputs: dict[str, Array]
    due: Array
    received: float

    @property
    def count(self) -> int:
        """Requests."""
        return len(self.due)

    @property
    def rows(self) -> int:
        """Rows: one a request."""
        return len(self.due)

    def split(self, rows: int) -> tuple[Block, Block | None]:
        """The first rows, at least one, and the rest."""
        rows = max(rows, 1)
        return (self, None) if rows >= self.rows else (self._part(slice(rows)), self._part(slice(rows, None)))

    def halve(self) -> tuple[Block, Block]:
        """Two halves."""
        middle = self.rows // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def joined(self, others: Sequence[Block]) -> list[Self]:
        """One block of them all, copied together as a worker's requests are."""
        if not others:
            return [self]
        blocks = (self, *others)
        inputs = {name: np.concatenate([one.inputs[name] for one in blocks]) for name in self.inputs}
        return [type(self)(inputs, np.concatenate([one.due for one in blocks]), self.received)]

    def _part(self, rows: slice) -> Block:
        return Block({name: array[rows] for name, array in self.inputs.items()}, self.due[rows], self.received)


class Counter:
    """Takes what was scored; keeps how many rows, and how long each was under way."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.rows = 0
        self.batches = 0
        self.failure = ""
        self._latencies: list[Array] = []

    def scored(
        self, _model: LoadedModel, pieces: Sequence[Any], outputs: Sequence[Mapping[str, Array]], _run: Run
    ) -> None:
        """See `stream_workers.device.Sink`."""
        now = time.monotonic()
        with self.changed:
            self.batches += 1
            for piece, output in zip(pieces, outputs, strict=True):
                if any(len(array) != piece.rows for array in output.values()):
                    self.failure = f"{piece.rows} rows were answered by {[one.shape for one in output.values()]}"
                self.rows += piece.rows
                self._latencies.append(now - piece.due)
            self.changed.notify_all()

    def failed(self, piece: Any, _code: Code, message: str) -> None:
        """See `stream_workers.device.Sink`."""
        with self.changed:
            self.failure = message
            self.rows += piece.rows
            self.changed.notify_all()

    def expired(self, piece: Any) -> Any:
        """Nothing expires."""
        return piece

    def latencies(self) -> Array:
        """Seconds of each row so far, and begin anew."""
        with self.changed:
            found, self._latencies = self._latencies, []
        return np.concatenate(found) if found else np.empty(0)


class Pipeline:
    """A device with one model on it. A context manager."""

    def __init__(self, model: LoadedModel, pool: Mapping[str, Array], limits: BatchLimits, runs: int) -> None:
        """`pool`: input arrays [n, ...] that rows are taken from; `runs`: batches under way at once."""
        self._model = model
        self._pool = pool
        self._size = len(next(iter(pool.values())))
        self._limits = limits
        self._runs = runs
        self._device = Device()
        self._counter = Counter()
        self._sent = 0

    def __enter__(self) -> Self:
        self._device.start(runs=self._runs)
        return self

    def __exit__(self, *_: object) -> None:
        self._device.stop()

    def backlog(self, seconds: float, block: int, watch: Any = None) -> dict[str, Any]:
        """Rows a second while there is always more to do. `watch` is entered while it counts."""
        self._feed_until(time.monotonic() + min(WARM_SECONDS, seconds), block)
        counter = self._counter
        began, rows, batches = time.monotonic(), counter.rows, counter.batches
        with watch or nullcontext():
            self._feed_until(began + seconds, block)
        ended, rows, batches = time.monotonic(), counter.rows - rows, counter.batches - batches
        self._drain()
        counter.latencies()
        return {"rows_per_second": rows / (ended - began), "rows_per_batch": rows / max(batches, 1)}

    def steady(self, rate: float, seconds: float, watch: Any = None) -> dict[str, Any]:
        """Latency at `rate` rows a second, each due at its own instant whatever becomes of those before."""
        began, sent, pause = time.monotonic(), 0, threading.Event()
        batches = self._counter.batches
        with watch or nullcontext():
            while (now := time.monotonic()) < began + seconds:
                ready = int((now - began) * rate)
                while sent < ready:
                    count = min(ready - sent, self._size)
                    self._submit(count, began + (sent + 1 + np.arange(count)) / rate)
                    sent += count
                pause.wait(TICK)
        batches = self._counter.batches - batches
        self._drain()
        latencies = self._counter.latencies()
        return {
            "rows_per_second": sent / seconds,
            "rows_per_batch": sent / max(batches, 1),
            "p50_ms": float(np.quantile(latencies, 0.5)) * 1e3,
            "p99_ms": float(np.quantile(latencies, 0.99)) * 1e3,
        }

    def _feed_until(self, end: float, block: int) -> None:
        counter, most = self._counter, 4 * self._limits.max_rows
        while (now := time.monotonic()) < end:
            with counter.changed:
                while self._sent - counter.rows > most and not counter.failure and time.monotonic() < end:
                    counter.changed.wait(0.1)
            self._check()
            self._submit(block, np.full(block, now))

    def _submit(self, count: int, due: Array) -> None:
        at = self._sent % max(self._size - count + 1, 1)
        inputs = {name: array[at : at + count] for name, array in self._pool.items()}
        self._sent += count
        self._device.submit(KEY, self._model, Block(inputs, due, time.monotonic()), self._counter, lambda: self._limits)

    def _drain(self) -> None:
        counter, end = self._counter, time.monotonic() + DRAIN_SECONDS
        with counter.changed:
            while counter.rows < self._sent and not counter.failure and not self._device.failure:
                if not counter.changed.wait(1.0) and time.monotonic() > end:
                    raise PipelineError(f"{self._sent - counter.rows} rows were not answered in {DRAIN_SECONDS:.0f} s")
        self._check()

    def _check(self) -> None:
        failure = self._device.failure or self._counter.failure
        if failure:
            raise PipelineError(f"the pipeline failed: {failure}")
