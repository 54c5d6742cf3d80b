"""Decides what the device runs next, runs it, and hands on what came out.

A lane holds the pieces of one model version and variant. Interactive lanes go first, the one whose oldest record has
waited longest; bulk lanes get what is left, but never less than their share of the device's time, in slices short
enough that a request waits for one of them at most.

The device is free again when a run has ended, not when its results have been published: where there is a spare thread,
it begins the next run meanwhile.

A bulk run holds rows of one record, from a multiple of ALIGNED rows on: matrix kernels treat the last rows of a batch
otherwise, so that a result would depend, in its last bits, on how long slices were and on what else was asked.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Protocol

from models.batching import BatchLimits, BatchPolicy
from models.errors import DeviceLostError, InferenceError
from models.loading import LoadedModel
from schemas.codes import Code
from schemas.tensors import Array
from stream_workers.work import Piece

log = logging.getLogger(__name__)

# The time over which bulk's share of the device is looked at.
SHARE_SECONDS: Final = 1.0
# A lane that was unused for so long is dropped; the next piece of its kind makes one, which learns anew.
IDLE_SECONDS: Final = 600.0
# Rows that the kernels of ONNX Runtime's CPU provider treat alike wherever they stand (a test holds the zoo to it).
ALIGNED: Final = 8


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What may be in one batch together. A `shadow` is bulk as well: it gets what requests leave."""

    model: str
    version: str
    experiment: str = ""
    variant: str = ""
    bulk: bool = False
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model: when it began (monotonic seconds), how long it took, how many rows were padding."""

    dispatched: float
    seconds: float
    padded: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of pieces that ran together: outputs of each, or why there are none."""

    pieces: Sequence[Any]
    outputs: Sequence[dict[str, Array]]
    run: Run
    failure: str = ""


class Sink(Protocol):
    """Takes what became of the pieces of a lane."""

    def scored(self, model: LoadedModel, pieces: Sequence[Any], outputs: Sequence[dict[str, Array]], run: Run) -> None:
        """Outputs of each piece, from one run."""

    def failed(self, piece: Any, code: Code, message: str) -> None:
        """No unit of this piece can be scored."""

    def expired(self, piece: Any) -> Any | None:
        """Answers the units whose deadline has passed; returns the others, None where there are none."""


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one kind of work, with its policy."""

    key: LaneKey
    model: LoadedModel
    policy: BatchPolicy
    sink: Sink
    queue: deque[Piece] = field(default_factory=deque)
    rows: int = 0
    in_flight: int = 0
    used: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits in it and nothing of it runs."""
        return not self.queue and not self.in_flight

    def put(self, piece: Piece, now: float) -> None:
        """Queue a piece."""
        self.queue.append(piece)
        self.used = now
        self.rows += piece.rows
        self.policy.observe_arrival(now, piece.rows)

    def take(self, rows: int) -> list[Piece]:
        """Whole units, oldest first, while they fit into `rows`; at least one. Of bulk, those of one record."""
        taken: list[Piece] = []
        while self.queue and (not taken or (rows > 0 and not self.key.bulk)):
            piece = self.queue.popleft()
            # What is larger than the room left opens the next batch, unless it is the first of this one.
            first, rest = piece.split(rows)
            if taken and first.rows > rows:
                self.queue.appendleft(piece)
                break
            if rest is not None:
                self.queue.appendleft(rest)
            taken.append(first)
            rows -= first.rows
        self.rows -= sum(piece.rows for piece in taken)
        return taken


class Share:
    """How much of the device's recent time went to bulk, exponentially forgotten. Pure; the clock is passed in."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._bulk = 0.0
        self._all = 0.0
        self._at = 0.0

    def spent(self, now: float, seconds: float, bulk: bool) -> None:
        """The device was busy for `seconds` until `now`."""
        keep = 0.5 ** (max(0.0, now - self._at) / SHARE_SECONDS)
        self._bulk = self._bulk * keep + (seconds if bulk else 0.0)
        self._all = self._all * keep + seconds
        self._at = now

    def bulk_is_due(self) -> bool:
        """Whether bulk had less than its share."""
        return self._bulk < self._least * self._all


class Device:
    """The lanes of one device and the threads that serve them."""

    def __init__(self, *, bulk_share: float = 0.1, bulk_slice: float = 0.01) -> None:
        """`bulk_slice`: seconds that a bulk run may take, since a request may come meanwhile."""
        self._lanes: dict[LaneKey, Lane] = {}
        self._retired: set[tuple[str, str]] = set()
        self._wake = threading.Condition()
        self._running = 0
        self._at_once = 1
        self._rows = {False: 0, True: 0}
        self._share = Share(bulk_share)
        self._bulk_slice = bulk_slice
        self._stopping = False
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def rows(self, bulk: bool) -> int:
        """Rows that wait or run."""
        return self._rows[bulk]

    @property
    def failure(self) -> BaseException | None:
        """What ended a device thread, a bug: the worker must not go on."""
        return self._failure

    def start(self, runs: int, spare: int = 0) -> None:
        """Begin to serve, with `runs` runs under way at once; with `spare` threads publishing keeps no run waiting."""
        self._at_once = runs
        for number in range(runs + spare):
            thread = threading.Thread(target=self._run, name=f"device-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads after the batches that run now; what waits stays where it is."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(
        self, key: LaneKey, model: LoadedModel, piece: Piece, sink: Sink, limits: Callable[[], BatchLimits]
    ) -> None:
        """Queue a piece in its lane. `limits` is asked when the lane is new."""
        with self._wake:
            now = monotonic()
            lane = self._lanes.get(key)
            if lane is None:
                self._drop(lambda one: now - one.used > IDLE_SECONDS)
                lane = self._lanes[key] = Lane(key, model, _policy(limits(), model), sink)
            elif lane.model is not model:
                lane.model = model
            self._rows[key.bulk] += piece.rows
            lane.put(piece, now)
            self._wake.notify()

    def forget(self, model: str, version: str) -> None:
        """A version is retired: its lanes, and with them its memory, go as soon as what is in them is done."""
        with self._wake:
            self._retired.add((model, version))
            self._drop_retired()

    @property
    def lanes(self) -> list[LaneKey]:
        """The lanes there are."""
        with self._wake:
            return list(self._lanes)

    def _drop_retired(self) -> None:
        if self._retired:
            self._drop(lambda one: (one.key.model, one.key.version) in self._retired)
            # A version may come back under its name, and is then in use again.
            self._retired &= {(key.model, key.version) for key in self._lanes}

    def _drop(self, unwanted: Callable[[Lane], bool]) -> None:
        for key in [key for key, lane in self._lanes.items() if lane.is_idle and unwanted(lane)]:
            del self._lanes[key]

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                lane, pieces = work
                rows = sum(piece.rows for piece in pieces)
                began = monotonic()
                try:
                    results = self._serve(lane, pieces)
                finally:
                    ended = monotonic()
                    with self._wake:
                        self._running -= 1
                        lane.in_flight -= 1
                        self._share.spent(ended, ended - began, lane.key.bulk)
                        self._drop_retired()
                        self._wake.notify_all()
                try:
                    _publish(lane, results)
                finally:
                    with self._wake:
                        self._rows[lane.key.bulk] -= rows
        except BaseException as error:
            log.exception("a device thread ended")
            self._failure = error
            raise

    def _next(self) -> tuple[Lane, list[Piece]] | None:
        with self._wake:
            while not self._stopping:
                chosen, wake_at = self._choose(monotonic()) if self._running < self._at_once else (None, None)
                if chosen is not None:
                    lane, rows = chosen
                    self._running += 1
                    lane.in_flight += 1
                    return lane, lane.take(rows)
                self._wake.wait(None if wake_at is None else max(0.0, wake_at - monotonic()))
            return None

    def _choose(self, now: float) -> tuple[tuple[Lane, int] | None, float | None]:
        best: dict[bool, tuple[Lane, int]] = {}
        wake_at: float | None = None
        for lane in self._lanes.values():
            if not lane.rows:
                continue
            oldest = lane.queue[0].received
            decision = lane.policy.decide(
                now,
                queued_rows=lane.rows,
                oldest=oldest,
                in_flight=lane.in_flight,
                device_free=self._running == 0,
            )
            if decision.rows:
                held = best.get(lane.key.bulk)
                if held is None or oldest < held[0].queue[0].received:
                    best[lane.key.bulk] = (lane, decision.rows)
            elif decision.wake_at is not None:
                wake_at = decision.wake_at if wake_at is None else min(wake_at, decision.wake_at)
        if True in best and (False not in best or self._share.bulk_is_due()):
            lane, rows = best[True]
            return (lane, aligned(min(rows, self._slice_rows(lane)), lane.policy.max_rows())), None
        return best.get(False), wake_at

    def _slice_rows(self, lane: Lane) -> int:
        """Rows of this lane that fit into a bulk slice."""
        service = lane.policy.service
        if not service.known or service.slope <= 0:
            return lane.policy.limits.max_rows
        # Where a run's fixed cost alone exceeds the slice, as much again for rows: smaller runs would be all overhead.
        left = max(self._bulk_slice - service.intercept, service.intercept)
        return max(1, int(left / service.slope))

    def _serve(self, lane: Lane, pieces: Sequence[Piece]) -> list[Ended]:
        live = [alive for piece in pieces if (alive := lane.sink.expired(piece)) is not None]
        if not live:
            return []
        live = live[0].joined(live[1:])
        began = monotonic()
        results = _score(lane.model, live)
        lane.policy.observe_batch(sum(piece.rows for piece in live), monotonic() - began)
        return results


def _score(model: LoadedModel, pieces: Sequence[Piece]) -> list[Ended]:
    """Run the pieces as one batch; where the model raises, halve until the culprit is alone."""
    began = monotonic()
    rows = sum(piece.rows for piece in pieces)
    try:
        outputs = model.run([piece.inputs for piece in pieces])
    except DeviceLostError:
        # No answer of this process can be trusted to come: its end hands the records to another worker.
        raise
    except (InferenceError, MemoryError) as error:
        if sum(piece.count for piece in pieces) == 1:
            return [Ended(pieces, (), Run(began, monotonic() - began, 0), str(error) or "out of memory")]
        first, second = _halves(pieces)
        return [*_score(model, first), *_score(model, second)]
    return [Ended(pieces, outputs, Run(began, monotonic() - began, model.padded_rows(rows) - rows))]


def _publish(lane: Lane, results: Sequence[Ended]) -> None:
    for one in results:
        if one.failure:
            lane.sink.failed(one.pieces[0], Code.INFERENCE_FAILED, one.failure)
        else:
            lane.sink.scored(lane.model, one.pieces, one.outputs, one.run)


def aligned(rows: int, most: int) -> int:
    """A bulk slice of about `rows` rows whose end is aligned, where `most` rows allow it."""
    return max(rows // ALIGNED, 1) * ALIGNED if most >= ALIGNED else most


def _policy(limits: BatchLimits, model: LoadedModel) -> BatchPolicy:
    policy = BatchPolicy(limits)
    for rows, seconds in model.warm_up:
        policy.observe_batch(rows, seconds)
    return policy


def _halves(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Two lists of about the same number of units."""
    if len(pieces) == 1:
        first, second = pieces[0].halve()
        return [first], [second]
    middle = len(pieces) // 2
    return list(pieces[:middle]), list(pieces[middle:])
