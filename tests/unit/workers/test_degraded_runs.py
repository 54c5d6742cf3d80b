"""Each level of degradation on a device that fails on demand: nobody loses an answer, and each says how it is made."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_session import DEVICE, Faults, opening
from onnx_models import lookup
from worker_pieces import bulk_part, requests

from models.batching import BatchLimits
from models.breaker import BreakerState
from models.degradation import Level
from models.errors import ModelError
from models.ladder import KEEP_SECONDS, Ladders
from models.loading import LoadedModel
from models.registry import ModelStore
from models.session import Session
from schemas.codes import Code
from schemas.tensors import Array
from stream_workers.device import Device
from stream_workers.lanes import LaneKey
from stream_workers.runs import Run, attempt

KEY = LaneKey("m", "1")
LIMITS = BatchLimits(max_rows=64)


class Sink:
    """Keeps what it is told of each unit."""

    def __init__(self) -> None:
        self.answers: dict[int, tuple[float, str, str]] = {}
        self.errors: dict[int, tuple[Code, str]] = {}
        self.changed = threading.Condition()

    def expired(self, piece: Any) -> Any:
        return piece

    def scored(self, model: LoadedModel, pieces: Sequence[Any], outputs: Sequence[dict[str, Array]], run: Run) -> None:
        about = (f"{model.name}/{model.version}", run.degraded)
        for piece, own in zip(pieces, outputs, strict=True):
            units = piece.where if hasattr(piece, "where") else piece.offsets
            values = own["y"].reshape(-1).tolist()
            self._put(self.answers, {n: (value, *about) for n, value in zip(units.tolist(), values, strict=True)})

    def failed(self, piece: Any, code: Code, message: str) -> None:
        units = piece.where if hasattr(piece, "where") else piece.offsets
        self._put(self.errors, dict.fromkeys(units.tolist(), (code, message)))

    def unavailable(self, piece: Any, message: str) -> None:
        self.failed(piece, Code.UNAVAILABLE, message)

    def _put(self, where: dict[int, Any], found: dict[int, Any]) -> None:
        with self.changed:
            assert not found.keys() & (self.answers.keys() | self.errors.keys()), "two fates"
            where.update(found)
            self.changed.notify_all()

    def wait(self, units: Sequence[int]) -> None:
        """Until each of these has its fate."""
        with self.changed:
            assert self.changed.wait_for(lambda: {*units} <= self.answers.keys() | self.errors.keys(), 20)


class World:
    """A store with m 1 and m 1-small, of x [rows] to a table's value, on a device that has `faults`."""

    def __init__(self, folder: Path, fallback: str = "") -> None:
        self.faults = Faults()
        self.now = 1000.0
        self.store = ModelStore(folder / "store")
        self.store.add_onnx("m", "1-small", lookup(folder / "small.onnx"), batching=LIMITS)
        manifest = self.store.add_onnx("m", "1", lookup(folder / "full.onnx"), batching=LIMITS)
        replace(manifest, fallback=fallback).write(folder / "store/m/1/manifest.json")
        self.sink = Sink()
        self.may_load = threading.Event()
        self.may_load.set()
        self.small: LoadedModel | None = None

    def start(self, *, cpu: bool = True, leaves: bool = False) -> World:
        self.model = LoadedModel.load(self.store, "m", "1", "cuda")
        if self.model.manifest.fallback:
            self.small = LoadedModel.load(self.store, "m", "1-small", "cuda")
        self.ladders = Ladders(
            load_cpu=self._load_cpu if cpu else None,
            find=lambda *_: self.small,
            on_change=lambda: self.device.look_again(),
            leaves=leaves,
            clock=lambda: self.now,
        )
        self.device = Device(ladders=self.ladders)
        self.device.start(1)
        self.faults.runs.clear()
        return self

    def _load_cpu(self, name: str, version: str) -> LoadedModel:
        assert self.may_load.wait(20)
        return LoadedModel.load(self.store, name, version, "cpu")

    def ask(self, numbers: range, *, wait: bool = True, values: Callable[[int], int] = lambda n: n % 2) -> None:
        inputs = {"x": np.array([values(n) for n in numbers])}
        self.device.submit(KEY, self.model, requests(numbers, inputs=inputs), self.sink, lambda: LIMITS)
        if wait:
            self.sink.wait(numbers)

    def said(self, numbers: range) -> set[tuple[str, str]]:
        """By which version, and how, these were answered; each rightly."""
        assert all(self.sink.answers[n][0] == [10.0, 20.0][n % 2] for n in numbers)
        return {self.sink.answers[n][1:] for n in numbers}

    def probed(self) -> None:
        """Time for a probe, and its end."""
        self.now += 61.0
        self.ladders.tick()
        self.settled()

    def settled(self) -> None:
        """Every load and probe that was begun has ended."""
        meeting = threading.Barrier(3)
        for _ in range(2):
            self.ladders._pool.submit(meeting.wait, 20)
        meeting.wait(20)

    def level(self, version: str = "1") -> Level:
        return next(one.level for one in self.ladders.shown() if one.version == version)

    def breaker(self, device: str = DEVICE) -> BreakerState:
        return next(one.breakers[device] for one in self.ladders.shown() if one.version == "1")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(fallback: str = "") -> World:
        found = World(tmp_path, fallback)
        monkeypatch.setattr(Session, "open", opening(lambda: found.faults))
        made.append(found)
        return found

    yield make
    for one in made:
        one.may_load.set()
        one.device.stop()
        one.ladders.close()


def test_a_batch_that_finds_no_memory_is_halved_and_what_fits_is_remembered(world: Callable[..., World]) -> None:
    one = world().start()
    one.ask(range(64))
    assert one.said(range(64)) == {("m/1", "")}
    one.faults.memory_rows = 16
    one.ask(range(100, 164))
    assert one.said(range(100, 164)) == {("m/1", "half-batch")}
    assert one.level() is Level.HALF_BATCH
    (shown,) = one.ladders.shown()
    assert shown.rows == 16
    one.faults.runs.clear()
    one.ask(range(200, 264))
    assert max(one.faults.runs) == 16, "no more than fits is asked for again"
    assert one.said(range(200, 264)) == {("m/1", "half-batch"), ("m/1", "")}, "the last batch had room"
    assert one.sink.errors == {}
    # Later a little more is tried, and where that works the limit goes.
    one.faults.memory_rows = None
    for turn in range(20):
        one.now += 40
        one.ask(range(1000 + 100 * turn, 1064 + 100 * turn))
    assert one.level() is Level.FULL
    assert one.faults.runs[-1] == 64


def test_one_request_that_asks_for_too_much_memory_teaches_nothing_about_the_others(
    world: Callable[..., World],
) -> None:
    one = world().start()
    one.faults.memory_rows = 16
    inputs = {"x": np.zeros(40, np.int64)}
    one.device.submit(KEY, one.model, requests([0], 40, inputs=inputs), one.sink, lambda: LIMITS)
    one.ask(range(1, 5))
    one.sink.wait([0])
    assert one.sink.errors[0] == (Code.INFERENCE_FAILED, f"{DEVICE} is out of memory for 40 rows")
    # They may have been in one batch with it, which was halved.
    assert one.said(range(1, 5)) <= {("m/1", ""), ("m/1", "half-batch")}
    assert (one.level(), one.breaker()) == (Level.FULL, BreakerState.CLOSED)


def test_a_device_that_fails_costs_nobody_an_answer_and_the_cpu_goes_on(world: Callable[..., World]) -> None:
    one = world().start()
    one.faults.lost = True
    one.ask(range(20))
    assert one.said(range(20)) == {("m/1", "cpu")}
    assert (one.level(), one.breaker()) == (Level.CPU, BreakerState.OPEN)
    one.faults.runs.clear()
    one.ask(range(20, 40))
    assert one.said(range(20, 40)) == {("m/1", "cpu")}
    assert one.faults.runs == [], "nothing is sent to a dead device"
    one.probed()
    assert one.faults.runs == [1], "but a probe"
    assert one.breaker() is BreakerState.OPEN
    one.faults.lost = False
    one.probed()
    assert (one.level(), one.breaker()) == (Level.FULL, BreakerState.CLOSED)
    one.ask(range(40, 60))
    assert one.said(range(40, 60)) == {("m/1", "")}
    assert one.sink.errors == {}
    one.now += KEEP_SECONDS + 1
    one.ladders.tick()
    assert "cpu" not in one.ladders.shown()[0].breakers, "the copy was dropped"


def test_while_the_cpu_copy_is_loaded_the_rows_wait_at_the_head_of_their_lane(world: Callable[..., World]) -> None:
    one = world().start()
    one.may_load.clear()
    one.faults.lost = True
    one.ask(range(8), wait=False)
    while one.breaker() is BreakerState.CLOSED:
        one.now += 0.001
    one.ask(range(8, 16), wait=False)
    assert one.sink.answers == {}
    assert one.device.rows(False) == 16
    one.may_load.set()
    one.sink.wait(range(16))
    assert one.said(range(16)) == {("m/1", "cpu")}
    one.device.stop()
    assert one.device.rows(False) == 0


def test_the_fallback_answers_where_the_cpu_may_not_and_says_so(world: Callable[..., World]) -> None:
    one = world("m/1-small").start(cpu=False)
    one.faults.broken = ("full.onnx",)
    for turn in range(4):
        one.ask(range(10 * turn, 10 * turn + 10))
    assert one.said(range(40)) == {("m/1-small", "fallback:m/1-small")}
    assert (one.level(), one.breaker()) == (Level.FALLBACK, BreakerState.OPEN)
    assert one.level("1-small") is Level.FULL
    one.faults.broken = ()
    one.probed()
    one.ask(range(40, 50))
    assert one.said(range(40, 50)) == {("m/1", "")}


def test_with_the_device_lost_the_fallback_is_taken_until_the_cpu_copy_is_there(world: Callable[..., World]) -> None:
    one = world("m/1-small").start()
    one.may_load.clear()
    one.faults.broken = ("full.onnx",)
    one.ask(range(10))
    assert one.said(range(10)) == {("m/1-small", "fallback:m/1-small")}
    one.may_load.set()
    one.settled()
    one.ask(range(10, 20))
    assert one.said(range(10, 20)) == {("m/1", "cpu")}


def test_a_fallback_on_a_lost_device_goes_to_the_cpu_as_well(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world("m/1-small").start()
    load = one._load_cpu

    def small_only(name: str, version: str) -> LoadedModel:
        if version == "1":
            raise MemoryError("the full one does not fit")
        return load(name, version)

    one.ladders._load_cpu = small_only
    one.faults.lost = True
    one.ask(range(10))
    assert one.said(range(10)) == {("m/1-small", "fallback:m/1-small")}


def test_what_nothing_can_score_is_unavailable_and_says_why(world: Callable[..., World]) -> None:
    one = world().start(cpu=False)
    one.faults.lost = True
    one.ask(range(10))
    code, text = one.sink.errors[3]
    assert code is Code.UNAVAILABLE
    assert text == f"model 'm' version '1' cannot be run: {DEVICE} failed: a test says so"
    assert one.level() is Level.UNAVAILABLE


def test_a_worker_that_would_leave_keeps_its_rows_until_the_device_is_known_to_be_dead(
    world: Callable[..., World],
) -> None:
    one = world().start(cpu=False, leaves=True)
    one.faults.lost = True
    one.ask(range(10), wait=False)
    while one.breaker() is BreakerState.CLOSED:
        one.now += 0.001
    assert one.ladders.dead() == ""
    one.probed()
    assert one.ladders.dead() == "", "one probe may be bad luck"
    one.probed()
    assert one.ladders.dead().startswith(f"{DEVICE} failed")
    assert (one.sink.answers, one.sink.errors) == ({}, {}), "others will score them"


def test_a_device_on_which_another_version_runs_is_not_dead(world: Callable[..., World]) -> None:
    one = world("m/1-small").start(cpu=False, leaves=True)
    one.faults.lost = True
    one.ask(range(10), wait=False)
    while one.breaker() is BreakerState.CLOSED:
        one.now += 0.001
    one.probed()
    one.probed()
    assert one.ladders.dead()
    assert one.small is not None
    one.ladders.worked(one.small)
    assert one.ladders.dead() == ""


def test_culprits_are_nobody_else_s_fault_however_many_come(world: Callable[..., World]) -> None:
    one = world("m/1-small").start()
    for turn in range(6):
        one.ask(range(10 * turn, 10 * turn + 10), values=lambda _: 7)
    assert {code for code, _ in one.sink.errors.values()} == {Code.INFERENCE_FAILED}
    assert len(one.sink.errors) == 60
    assert (one.level(), one.breaker()) == (Level.FULL, BreakerState.CLOSED)


def test_bulk_goes_on_on_the_cpu_and_never_on_the_fallback(world: Callable[..., World]) -> None:
    one = world("m/1-small").start(cpu=False)
    key = LaneKey("m", "1", bulk=True)
    one.faults.broken = ("full.onnx",)
    part = bulk_part(20)
    part.inputs["x"] %= 2
    one.device.submit(key, one.model, part, one.sink, lambda: LIMITS)
    one.sink.wait(range(20))
    assert {code for code, _ in one.sink.errors.values()} == {Code.UNAVAILABLE}
    one.ladders._load_cpu = one._load_cpu
    one.sink.errors.clear()
    again = bulk_part(20)
    again.inputs["x"] %= 2
    one.device.submit(key, one.model, again, one.sink, lambda: LIMITS)
    one.sink.wait(range(20))
    assert one.said(range(20)) == {("m/1", "cpu")}


def test_a_version_whose_larger_sizes_do_not_fit_while_it_is_warmed_up_begins_with_a_limit(
    world: Callable[..., World],
) -> None:
    one = world()
    one.faults.memory_rows = 16
    one.start()
    one.ask(range(10))
    assert one.model.fits == 1
    (shown,) = one.ladders.shown()
    assert shown.rows is not None
    assert shown.rows <= 16


@pytest.mark.parametrize("capacity", [1, 3, 7, 16, 63])
def test_a_limit_is_what_both_halves_of_a_run_fitted_into(
    world: Callable[..., World], capacity: int, tmp_path: Path
) -> None:
    one = world().start()
    one.faults.memory_rows = capacity
    told: list[tuple[int, int]] = []
    done = attempt(
        one.model,
        [requests(range(64), inputs={"x": np.zeros(64, np.int64)})],
        ran_out=lambda rows, fitted: told.append((rows, fitted)),
    )
    assert done.left == []
    assert [n for ended in done.ended for piece in ended.pieces for n in piece.offsets.tolist()] == [*range(64)]
    assert told
    assert all(fitted <= capacity < rows for rows, fitted in told)
    assert {ended.run.degraded for ended in done.ended} == {"half-batch"}


def test_a_copy_whose_load_has_just_failed_is_not_waited_for_and_breaks_nothing(world: Callable[..., World]) -> None:
    one = world().start()
    standing = one.ladders._standing(one.model)
    standing.own.failed(one.now, "lost", fatal=True)
    standing.copy = Future()
    standing.copy.set_exception(ModelError("no such file"))
    # What the callback of the load is about to note.
    assert standing.copy_failed_at is None
    assert one.level() is Level.UNAVAILABLE
    pick = one.ladders.pick(one.model)
    assert (pick.model, pick.wait) == (None, False)


def test_a_retired_version_s_memory_goes_with_the_last_of_its_work(world: Callable[..., World]) -> None:
    one = world().start()
    one.device.stop()
    device = Device(ladders=one.ladders)
    inputs = {"x": np.arange(4)}
    device.submit(KEY, one.model, requests(range(4), inputs=inputs), one.sink, lambda: LIMITS)
    device.forget("m", "1")
    held = weakref.ref(one.model)
    del one.model
    device.start(1)
    one.sink.wait(range(4))
    device.stop()
    gc.collect()
    assert held() is None
