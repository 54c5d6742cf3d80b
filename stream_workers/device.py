"""Runs what waits in the lanes of a device, as `stream_workers.choosing` has it, and hands on what came out.

A lane holds the pieces of one model version and variant. Bulk is run in slices short enough that a request waits for
one of them at most. The device has threads of its own, and may run a few requests by the thread that brings them.

The device is free again when a run has ended, not when its results have been published: where more waits for it, they
are published beside the next run (`stream_workers.outlet`).

Where a run fails and no sender is to blame, the rows go on at once on the next rung of the ladder (`models.ladder`),
or, while that is being loaded, back to the head of their lane.

A bulk run holds rows of one record, from a multiple of ALIGNED rows on: matrix kernels treat the last rows of a batch
otherwise, so that a result would depend, in its last bits, on how long slices were and on what else was asked. A few
such runs are taken and published together.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Final

from models.batching import BatchLimits
from models.degradation import HALF_BATCH, Rung, fallback_name
from models.ladder import Ladders, Pick
from models.loading import LoadedModel
from schemas.codes import Code
from stream_workers.choosing import SHORT_SECONDS, Choice, Chooser
from stream_workers.lanes import Lane, LaneKey, Share, Sink, policy_of
from stream_workers.outlet import Outlet
from stream_workers.runs import Ended, Run, attempt, together
from stream_workers.threads import NamedThread
from stream_workers.work import Piece

log = logging.getLogger(__name__)

# A lane that was unused for so long is dropped; the next piece of its kind makes one, which learns anew.
IDLE_SECONDS: Final = 600.0
# Whoever polls lets records gather for so long while others run, and is back so long before the run is to end.
GATHER_SECONDS: Final = 0.005
BACK_SECONDS: Final = 0.002


# A lane, what was taken of it, and whether that could have been more with more memory.
_Work = tuple[Lane, list[Piece], bool]


@dataclass(slots=True)
class _Served:
    """What became of a batch. `left` goes back to its lane; `pick` says what it waits for."""

    ended: list[Ended]
    left: list[Any] = field(default_factory=list)
    pick: Pick | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of `rows` rows of a lane."""

    lane: Lane
    ended: Sequence[Ended]
    rows: int


class Device:
    """The lanes of one device and the threads that serve them."""

    def __init__(
        self,
        *,
        bulk_share: float = 0.1,
        bulk_slice: float = 0.01,
        ladders: Ladders | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`bulk_slice`: seconds that a bulk run may take, since a request may come meanwhile.

        `ladders`: what a version runs on; None: on its own device and nothing else. `on_idle` is called, from a device
        thread, when a lane has nothing to do any more.
        """
        self._ladders = ladders or Ladders()
        self._on_idle = on_idle
        self._lanes: dict[LaneKey, Lane] = {}
        self._retired: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        # Of its own, for whoever waits for it must not be woken in the place of a device thread.
        self._ended = threading.Condition(self._lock)
        self._running = 0
        # When the runs of requests are expected to have ended, by thread.
        self._ends: dict[int, float] = {}
        self._at_once = 1
        self._rows = {False: 0, True: 0}
        self._share = Share(bulk_share)
        self._chooser = Chooser(self._lanes, self._ladders, self._share, bulk_slice)
        self._lends = False
        # The thread that submits now, and runs it itself.
        self._lender: int | None = None
        # When the last request came, by the steady clock; bulk does not count.
        self.asked_at = -math.inf
        self._stopping = False
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._outlet = Outlet(self._publish)

    def rows(self, bulk: bool) -> int:
        """Rows that wait or run."""
        return self._rows[bulk]

    @property
    def failure(self) -> BaseException | None:
        """What ended a run, a bug: the worker must not go on."""
        return self._failure or self._outlet.failure

    def start(self, runs: int, *, lends: bool = False) -> None:
        """Begin to serve, with `runs` runs under way at once. `lends`: whether `lent` may run anything."""
        self._at_once = runs
        self._lends = lends
        self._outlet.start()
        for number in range(runs):
            thread = NamedThread(target=self._run, name=f"device-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads once the batches that run now are published; what waits stays where it is."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        if self._threads:
            self._outlet.stop()

    def submit(
        self, key: LaneKey, model: LoadedModel, piece: Piece, sink: Sink, limits: Callable[[], BatchLimits]
    ) -> None:
        """Queue a piece in its lane. `limits` is asked when the lane is new."""
        if key not in self._lanes:
            # Never below the lock of the lanes: the ladders may call back from under their own.
            self._ladders.meet(model)
        with self._wake:
            now = monotonic()
            if not key.bulk:
                self.asked_at = now
            lane = self._lanes.get(key)
            if lane is None:
                self._drop(lambda one: now - one.used > IDLE_SECONDS)
                lane = self._lanes[key] = Lane(key, model, policy_of(limits(), model), sink)
            elif lane.model is not model:
                lane.model = model
            self._rows[key.bulk] += piece.rows
            lane.put(piece, now)
            if self._lender != threading.get_ident():
                self._wake.notify()

    def let_gather(self, seconds: float = GATHER_SECONDS) -> None:
        """Wait, up to `seconds`, while nothing but requests runs in all places and no run is about to end.

        What comes meanwhile could not be run sooner, and a poll has a price however few records it finds. Bulk
        gives way to a request between two runs, so that beside it each is to be seen at once.
        """
        with self._lock:
            if len(self._ends) == self._at_once:
                left = min(self._ends.values()) - BACK_SECONDS - monotonic()
                if left > 0:
                    self._ended.wait(min(left, seconds))

    def forget(self, model: str, version: str) -> None:
        """A version is retired: its lanes, and with them its memory, go as soon as what is in them is done."""
        with self._wake:
            self._retired.add((model, version))
            gone = self._drop_retired()
        self._let_go({(model, version), *gone})

    def look_again(self) -> None:
        """Lanes that wait for a model see whether it is there, or whether deadlines have passed meanwhile."""
        with self._wake:
            for lane in self._lanes.values():
                lane.held = False
            self._wake.notify_all()

    def is_busy(self, model: str, version: str) -> bool:
        """Whether work of a version waits or runs."""
        with self._wake:
            return any(
                not lane.is_idle for key, lane in self._lanes.items() if (key.model, key.version) == (model, version)
            )

    @property
    def lanes(self) -> list[LaneKey]:
        """The lanes there are."""
        with self._wake:
            return list(self._lanes)

    def _drop_retired(self) -> set[tuple[str, str]]:
        """Drop what is done of the lanes of retired versions; the versions of which nothing is left."""
        if not self._retired:
            return set()
        self._drop(lambda one: (one.key.model, one.key.version) in self._retired)
        # A version may come back under its name, and is then in use again.
        left = {(key.model, key.version) for key in self._lanes}
        gone, self._retired = self._retired - left, self._retired & left
        return gone

    def _let_go(self, versions: Iterable[tuple[str, str]]) -> None:
        """Never below the lock of the lanes: the ladders may call back from under their own. What a lane had left was
        run after its version was retired, and the ladder met it again.
        """
        for model, version in versions:
            self._ladders.forget(model, version)

    def _drop(self, unwanted: Callable[[Lane], bool]) -> None:
        for key in [key for key, lane in self._lanes.items() if lane.is_idle and unwanted(lane)]:
            del self._lanes[key]

    @contextmanager
    def lent(self) -> Iterator[None]:
        """What the caller submits within this is run by the caller itself, once it leaves, if it is over in a moment.

        To hand a request over costs two switches of threads, a good part of what it costs in all. Where something runs
        already, or for longer, the device's threads do it as ever. Raises what a device thread would end with.
        """
        with self._wake:
            lent = self._lends and not self._running and self._lender is None
            if lent:
                self._lender = threading.get_ident()
        try:
            yield
            until = monotonic() + SHORT_SECONDS
            while lent and (work := self._next_here(until)) is not None:
                self._do(work, here=True)
        finally:
            if lent:
                with self._wake:
                    self._lender = None
                    # With nothing to do no thread is woken, which is what this spares.
                    if any(lane.rows for lane in self._lanes.values()):
                        self._wake.notify()

    def _next_here(self, until: float) -> _Work | None:
        """What the thread that lends itself may run until then."""
        with self._wake:
            now = monotonic()
            if now < until and not self._running and not self._stopping:
                choice, _ = self._chooser.choose(now, device_free=True)
                if choice is not None and choice.is_short:
                    return self._taken(choice)
        return None

    def _run(self) -> None:
        while (work := self._next()) is not None:
            self._do(work)
            # Until there is other work this thread must not keep a model alive that is evicted.
            del work

    def _do(self, work: _Work, *, here: bool = False) -> None:
        """Run and publish. `here`: by a thread that has nothing else to do, and looks for more itself."""
        try:
            self._run_and_publish(work, here)
        except BaseException as error:
            log.exception("a run ended the device")
            self._failure = error
            raise

    def _run_and_publish(self, work: _Work, here: bool) -> None:
        lane, pieces, cut = work
        rows = sum(piece.rows for piece in pieces)
        began = monotonic()
        served = _Served([])
        try:
            served = self._serve_records(lane, pieces, cut) if lane.key.bulk else self._serve(lane, pieces, cut)
        finally:
            ended = monotonic()
            with self._wake:
                self._running -= 1
                lane.in_flight -= 1
                self._ends.pop(threading.get_ident(), None)
                self._ended.notify_all()
                if served.left:
                    rows -= self._put_back(lane, served)
                self._share.spent(ended, ended - began, lane.key.bulk)
                idle = lane.is_idle
                gone = self._drop_retired()
                in_a_hurry = not here and any(one.rows and not one.held for one in self._lanes.values())
                if not here:
                    self._wake.notify_all()
        self._let_go(gone)
        if idle:
            self._on_idle()
        self._outlet.put(_Result(lane, served.ended, rows), in_a_hurry=in_a_hurry)

    def _publish(self, result: _Result) -> None:
        sink = result.lane.sink
        try:
            for one in result.ended:
                if one.code is Code.UNAVAILABLE:
                    sink.unavailable(one.pieces[0], one.failure)
                elif one.failure:
                    sink.failed(one.pieces[0], one.code, one.failure)
                else:
                    sink.scored(one.model, one.pieces, one.outputs, one.run)
        finally:
            with self._wake:
                self._rows[result.lane.key.bulk] -= result.rows

    def _put_back(self, lane: Lane, served: _Served) -> int:
        lane.put_back(served.left)
        # What it waits for may have come since.
        lane.held = served.pick is not None and not self._ladders.changed_since(served.pick)
        return sum(piece.rows for piece in served.left)

    def _next(self) -> _Work | None:
        with self._wake:
            while not self._stopping:
                choice, wake_at = None, None
                if self._running < self._at_once:
                    choice, wake_at = self._chooser.choose(monotonic(), device_free=self._running == 0)
                if choice is not None:
                    return self._taken(choice)
                self._wake.wait(None if wake_at is None else max(0.0, wake_at - monotonic()))
            return None

    def _taken(self, choice: Choice) -> _Work:
        lane, rows = choice.lane, choice.rows
        self._running += 1
        lane.in_flight += 1
        if not lane.key.bulk:
            self._ends[threading.get_ident()] = monotonic() + choice.seconds
        cut = lane.rows > rows and lane.policy.is_cut_by_memory(rows)
        return lane, lane.take_records(rows) if lane.key.bulk else lane.take(rows), cut

    def _serve_records(self, lane: Lane, pieces: Sequence[Piece], cut: bool) -> _Served:
        """One run after another, until somebody waits for an answer; what has then not been run goes back."""
        served = _Served([])
        for number, piece in enumerate(pieces):
            if number and self._is_asked():
                served.left += pieces[number:]
                break
            one = self._serve(lane, [piece], cut)
            served.ended += one.ended
            if one.left:
                served.left, served.pick = [*one.left, *pieces[number + 1 :]], one.pick
                break
        served.ended = together(served.ended)
        return served

    def _is_asked(self) -> bool:
        """Whether a request waits for the device."""
        with self._wake:
            return any(one.rows and not one.held and not key.bulk for key, one in self._lanes.items())

    def _serve(self, lane: Lane, pieces: Sequence[Piece], cut: bool) -> _Served:
        live: list[Any] = [alive for piece in pieces if (alive := lane.sink.expired(piece)) is not None]
        if not live:
            return _Served([])
        live = live[0].joined(live[1:])
        rows, began = sum(piece.rows for piece in live), monotonic()
        served = _Served([])
        # A file is made by one version: bulk waits, or is answered UNAVAILABLE and sent again.
        tried = {Rung.FALLBACK, Rung.FALLBACK_CPU} if lane.key.bulk else set()
        while live:
            pick = self._ladders.pick(lane.model, tried)
            if pick.model is None or pick.rung is None:
                return self._unscored(served, lane, live, pick)
            tried.add(pick.rung)
            ended, live = self._try(lane, pick, live, cut)
            served.ended += ended
        lane.policy.observe_batch(rows, monotonic() - began)
        return served

    def _try(self, lane: Lane, pick: Pick, live: list[Any], cut: bool) -> tuple[list[Ended], list[Any]]:
        """Run what is there on one rung; returns what ended and what is left for the next."""
        model, ladders = pick.model or lane.model, self._ladders
        degraded = pick.degraded or (HALF_BATCH if cut else "")
        if (lane.model.name, lane.model.version) != (lane.key.model, lane.key.version):
            # The version that was to answer was never loaded, and this is another one.
            degraded = fallback_name(model.name, model.version)
        done = attempt(
            model, live, degraded=degraded, ran_out=lambda rows, fitted: ladders.ran_out(model, rows, fitted)
        )
        if done.error is not None:
            ladders.failed(model, done.error)
        else:
            ladders.worked(model)
            if ladders.limited and len(done.ended) == 1:
                ladders.fitted(model, model.padded_rows(sum(piece.rows for piece in live)))
        return done.ended, done.left

    def _unscored(self, served: _Served, lane: Lane, live: list[Any], pick: Pick) -> _Served:
        """No rung is left for these now. They wait for one that is coming; else they are answered so."""
        if pick.wait:
            return replace(served, left=live, pick=pick)
        why = f"model {lane.key.model!r} version {lane.key.version!r} cannot be run: {pick.why or 'its device failed'}"
        now = Run(monotonic(), 0.0, 0)
        served.ended += [Ended(lane.model, [piece], (), now, why, Code.UNAVAILABLE) for piece in live]
        return served
