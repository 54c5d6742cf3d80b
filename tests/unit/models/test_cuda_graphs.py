"""CUDA graphs are captured in warm-up, each alone on the device, replayed where they were captured, or done without."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bound import Busy, Capturing, Watched, bound, graph_id, ones, raw
from small_onnx import linear
from test_execution import PATIENCE, cut, runner

from models.batching import BatchLimits
from models.capture import CaptureGate
from models.errors import DeviceLostError
from models.loading import LoadedModel
from models.registry import ModelStore
from models.session import Session, signature_of
from models.staging import HostMemory


def capturing(path: Path, busy: Busy | None = None, **more: Any) -> tuple[Session, Capturing]:
    fake = Capturing(raw(path), busy or Busy(), more.pop("fail", lambda _: None))
    return bound(path, fake, graphs=True, **more), fake


def test_each_bucket_is_captured_in_each_lane_while_the_model_warms_up(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    path = linear(tmp_path / "m.onnx")
    store.add_onnx("m", "1", path, signature_of(path), batching=BatchLimits(max_rows=8, buckets=(2, 4, 8)))
    session, fake = capturing(path, runs=2)
    model = LoadedModel(store.manifest("m", "1"), session)
    assert runner(session).graphs == [((2, 3),), ((4, 3),), ((8, 3),)]
    assert len(fake.captures) == len(set(fake.captures)) == 3 * 2
    warm, replayed = fake.without, len(fake.replays)
    for rows in (1, 2, 3, 8):
        assert model.run([ones(rows, rows)])[0]["y"].ravel().tolist() == [6.0 * rows] * rows
    assert len(fake.replays) == replayed + 4
    assert fake.without == warm
    assert len(fake.captures) == 6


def test_a_shape_that_was_not_captured_runs_without_and_is_not_captured_behind_traffics_back(tmp_path: Path) -> None:
    session, fake = capturing(linear(tmp_path / "m.onnx"))
    session.prepare(ones(4))
    before = len(fake.captures)
    for _ in range(5):
        assert session.run(ones(5))["y"].ravel().tolist() == [6.0] * 5
    assert len(fake.captures) == before
    session.prepare(ones(4))
    assert len(fake.captures) == before


def test_graphs_are_replayed_by_the_thread_that_captured_them(tmp_path: Path) -> None:
    session, fake = capturing(linear(tmp_path / "m.onnx"))
    session.prepare(ones(4))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: session.run(ones(4, number))["y"][0, 0], range(40)))
    assert answers == [6.0 * number for number in range(40)]
    assert len(fake.threads) == 1
    assert threading.get_ident() not in fake.threads
    assert len(fake.captures) == 2


def test_nothing_runs_beside_a_capture_in_the_whole_process(tmp_path: Path) -> None:
    gate, busy = CaptureGate(), Busy()
    path = linear(tmp_path / "m.onnx")
    serving, _ = capturing(path, busy, gate=gate)
    plain = bound(path, Watched(raw(path), lambda _: None), gate=gate)
    loading, fake = capturing(path, busy, gate=gate)
    stop = threading.Event()
    served = 0

    def traffic(session: Session) -> int:
        count = 0
        while not stop.is_set():
            assert session.run(ones(3))["y"][0, 0] == 6
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(traffic, one) for one in (serving, serving, plain)]
        try:
            for rows in range(4, 24):
                loading.prepare(ones(rows))
        finally:
            stop.set()
        served = sum(one.result(PATIENCE) for one in work)
    assert len(fake.captures) == 2 * 20
    assert busy.spoiled == 0
    assert served > 0


def test_a_capture_that_fails_is_said_and_the_model_goes_on_without_graphs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = linear(tmp_path / "m.onnx")
    opened: list[Any] = []

    def reopen() -> Any:
        assert gate._inside == 0, "it has to pass the gate itself"
        told: list[int | None] = []
        opened.append(told)
        return Watched(raw(path), lambda options: told.append(graph_id(options)))

    gate, memory = CaptureGate(), HostMemory()
    error = RuntimeError("CUDA failure 900: operation not permitted when stream is capturing ; GPU=0")
    session, _ = capturing(
        path,
        memory=memory,
        gate=gate,
        device="cuda:0",
        reopen=reopen,
        fail=lambda number: error if number == 3 else None,
    )
    with caplog.at_level(logging.WARNING):
        session.prepare(ones(2))
        session.prepare(ones(4))
        session.prepare(ones(8))
    assert [one.getMessage() for one in caplog.records] == [
        "no CUDA graphs, this model runs without: inputs ((4, 3),): "
        "CUDA failure 900: operation not permitted when stream is capturing ; GPU=0"
    ]
    assert len(opened) == 1
    assert session.run(ones(2))["y"].ravel().tolist() == [6.0, 6.0]
    assert opened[0] == [None]
    assert runner(session).graphs == []
    session.close()
    assert memory.held == 0


def test_a_graph_that_answers_something_else_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, other = linear(tmp_path / "m.onnx"), linear(tmp_path / "n.onnx", weights=(1.0, 2.0, 4.0))

    class Wrong(Capturing):
        def io_binding(self) -> Any:
            return Pair(raw_session.io_binding(), wrong_session.io_binding())

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            number = graph_id(options)
            wrong = number is not None and number >= 0
            (wrong_session if wrong else raw_session).run_with_iobinding(binding.wrong if wrong else binding.right)

    class Pair:
        def __init__(self, right: Any, wrong: Any) -> None:
            self.right, self.wrong = right, wrong

        def __getattr__(self, name: str) -> Any:
            def both(*arguments: Any) -> Any:
                getattr(self.wrong, name)(*arguments)
                return getattr(self.right, name)(*arguments)

            return both

    raw_session, wrong_session = raw(path), raw(other)
    session = bound(path, Wrong(raw_session, Busy()), graphs=True, reopen=lambda: raw(path))
    with caplog.at_level(logging.WARNING):
        session.prepare(ones(4))
    assert "output 'y' of the captured graph is not what a normal run gives" in caplog.text
    assert session.run(ones(4))["y"][0, 0] == 6


def test_an_output_of_unknown_shape_is_never_captured_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session, fake = capturing(cut(tmp_path / "m.onnx"))
    x = np.ones((3, 4), np.float32)
    with caplog.at_level(logging.WARNING):
        session.prepare({"x": x})
    assert "only a run tells the shape of output y" in caplog.text
    assert session.run({"x": x})["y"].shape == (3, 4)
    assert fake.captures == []


def test_a_device_that_is_lost_while_it_captures_is_not_taken_for_a_model_that_does_not(tmp_path: Path) -> None:
    error = RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=0")
    session, _ = capturing(linear(tmp_path / "m.onnx"), device="cuda:0", fail=lambda _: error)
    with pytest.raises(DeviceLostError, match="unspecified launch failure"):
        session.prepare(ones(2))


def test_many_pass_the_gate_at_once_and_one_alone() -> None:
    gate = CaptureGate()
    together = threading.Barrier(3)

    def shared() -> None:
        with gate.shared():
            together.wait(PATIENCE)

    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(shared) for _ in range(3)]:
            one.result(PATIENCE)


def test_whoever_wants_to_be_alone_goes_before_those_who_come_later() -> None:
    order: list[str] = []
    inside, leave, waits = threading.Event(), threading.Event(), threading.Event()

    class Telling(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    gate = CaptureGate()
    gate._changed = Telling()

    def first() -> None:
        with gate.shared():
            inside.set()
            assert leave.wait(PATIENCE)
            order.append("first")

    def alone() -> None:
        with gate.alone():
            order.append("alone")

    def later() -> None:
        with gate.shared():
            order.append("later")

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(first)]
        assert inside.wait(PATIENCE)
        work.append(pool.submit(alone))
        assert waits.wait(PATIENCE)
        work.append(pool.submit(later))
        leave.set()
        for one in work:
            one.result(PATIENCE)
    assert order == ["first", "alone", "later"]
