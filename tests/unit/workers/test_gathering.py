"""While the device runs requests, those that come are let gather a little: polls of single records are dear."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import numpy as np
import pytest
from worker_pieces import requests

from models.batching import BatchLimits
from models.loading import LoadedModel
from stream_workers.device import Device
from stream_workers.errands import Errands
from stream_workers.lanes import LaneKey
from stream_workers.ledger import Ledger
from stream_workers.ops import Health, WorkerMetrics, new_registry
from stream_workers.pipeline import FEW, Pipeline

LONG = 60.0


class Gate:
    """A sink whose run ends when the test says so."""

    def __init__(self) -> None:
        self.began, self.go, self.done = threading.Event(), threading.Event(), threading.Event()

    def expired(self, piece: Any) -> Any:
        self.began.set()
        assert self.go.wait(20)
        return piece

    def scored(self, *_: Any) -> None:
        self.done.set()

    def failed(self, *_: Any) -> None:
        raise AssertionError

    unavailable = failed


@contextmanager
def running(model: LoadedModel, *, bulk: bool = False, expected: float = LONG, at_once: int = 1) -> Iterator[Any]:
    """A device with a run under way that was expected to take so many seconds, and its gate."""
    gate, device, key = Gate(), Device(), LaneKey("m", "1", bulk=bulk)
    device.submit(key, model, requests([0], inputs={"x": np.array([0])}), gate, BatchLimits)
    if expected:
        device._lanes[key].policy.observe_batch(1, expected)
    device.start(at_once)
    assert gate.began.wait(20)
    try:
        yield device, gate
    finally:
        gate.go.set()
        assert gate.done.wait(20)
        device.stop()
        assert device.failure is None


def returns(device: Device) -> bool:
    """Whether gathering ends at once, where it could take a minute."""
    thread = threading.Thread(target=device.let_gather, args=(LONG,), daemon=True)
    thread.start()
    thread.join(0.3)
    return not thread.is_alive()


def test_nothing_gathers_where_something_could_be_run(model: LoadedModel) -> None:
    idle = Device()
    idle.start(1)
    assert returns(idle)
    idle.stop()
    with running(model, at_once=2) as (device, _):
        assert returns(device)


def test_nothing_gathers_beside_bulk_which_gives_way(model: LoadedModel) -> None:
    with running(model, bulk=True) as (device, _):
        assert returns(device)


@pytest.mark.parametrize("expected", [0.0, 0.001])
def test_nothing_gathers_where_the_run_is_short_or_nobody_knows_how_long_it_takes(
    model: LoadedModel, expected: float
) -> None:
    with running(model, expected=expected) as (device, _):
        assert returns(device)


def test_gathering_ends_with_the_run_even_where_that_ends_early(model: LoadedModel) -> None:
    with running(model) as (device, gate):
        thread = threading.Thread(target=device.let_gather, args=(LONG,))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        gate.go.set()
        thread.join(20)
        assert not thread.is_alive()


def test_gathering_ends_before_a_long_run_does(model: LoadedModel) -> None:
    with running(model) as (device, gate):
        began = monotonic()
        device.let_gather()
        assert monotonic() - began < LONG / 3
        assert not gate.done.is_set()


class Polls:
    """A consumer that gives so many records a poll, then ends the loop."""

    def __init__(self, stop: threading.Event, sizes: Sequence[int]) -> None:
        self._stop, self._left = stop, [*sizes]
        self._rest = 0

    def poll(self, timeout: float) -> Any:
        del timeout
        count = self._left.pop(0)
        if not self._left:
            self._stop.set()
        self._rest = max(0, count - 1)
        return Record() if count else None

    def consume(self, most: int, timeout: float) -> list[Any]:
        del most, timeout
        return [Record() for _ in range(self._rest)]

    def assignment(self) -> list[Any]:
        return []

    def position(self, places: list[Any]) -> list[Any]:
        return places

    def subscribe(self, *_: Any, **__: Any) -> None: ...

    def close(self) -> None: ...


class Record:
    """A message without an error."""

    def error(self) -> None:
        return None


class NoCommits:
    """A committer with nothing to commit."""

    def under_way(self) -> float:
        return 0.0

    def drain(self, *_: Any) -> bool:
        return True

    def start(self, *_: Any) -> None: ...

    stop = start


def test_a_poll_of_many_records_or_of_none_is_followed_by_the_next_at_once() -> None:
    stop = threading.Event()
    calls: list[str] = []
    consumer: Any = Polls(stop, [1, FEW - 1, FEW, 0, 2])

    @contextmanager
    def around() -> Iterator[None]:
        calls.append("few:")
        yield
        calls.append("done")

    pipeline = Pipeline(
        "requests", consumer, ["t"], Ledger(), lambda taken: calls.append(f"take {len(taken)}"), Errands(),
        max_poll=99, held_back=lambda: False, health=Health(), metrics=WorkerMetrics(new_registry(), "w"),
        around_few=around, between_polls=lambda: calls.append("gather"),
    )  # fmt: skip
    pipeline.run(stop, NoCommits())  # type: ignore[arg-type]
    few = [["few:", f"take {count}", "done", "gather"] for count in (1, FEW - 1, 2)]
    assert calls == [*few[0], *few[1], f"take {FEW}", *few[2]]
