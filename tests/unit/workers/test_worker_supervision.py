"""A worker's main loop looks after its device, its models and control: without it, or without one of them, it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from models.registry import ModelStore
from schemas.codec import Codec
from schemas.topics import Topics
from stream_workers.ops import Health, WorkerMetrics, new_registry
from stream_workers.scoring import ScoringWorker
from stream_workers.scoring_config import ScoringConfig


def test_a_worker_ends_when_nobody_looks_after_its_device_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Polling:
        """A pipeline that polls until it is told to stop."""

        ended = False

        def run(self, stop: threading.Event, _: object) -> None:
            self.ended = stop.wait(30)

    class Following:
        failure: BaseException | None = None

        def __init__(self, *_: object, **__: object) -> None: ...

        def start(self, timeout: float) -> None: ...

        def stop(self) -> None: ...

    def properties(group: str = "", **over: object) -> dict[str, object]:
        own = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, **over}
        return {**own, "group.id": group} if group else own

    def run(fails: Callable[[ScoringWorker], None], why: str) -> None:
        config = ScoringConfig(
            "w", properties, properties, properties, Topics(), device="cpu", delivery="at-least-once",
            requests=False, bulk=False,
        )  # fmt: skip
        worker = ScoringWorker(config, Codec(), ModelStore(tmp_path), WorkerMetrics(new_registry(), "w"), Health())
        monkeypatch.setattr(worker._clients, "await_topics", lambda *_: True)
        monkeypatch.setattr(worker, "_start_device", lambda _: True)
        polling = Polling()
        worker._pipelines.append((polling, None))  # type: ignore[arg-type]
        fails(worker)
        with pytest.raises(RuntimeError, match=why):
            worker.run(threading.Event())
        assert polling.ended

    def ticks(worker: ScoringWorker) -> None:
        monkeypatch.setattr(worker._standby, "tick", lambda: (_ for _ in ()).throw(RuntimeError("a bug in a tick")))

    def control(_: ScoringWorker) -> None:
        monkeypatch.setattr(Following, "failure", RuntimeError("control is not followed"))

    monkeypatch.setattr("stream_workers.scoring.ControlFollower", Following)
    run(ticks, "a bug in a tick")
    run(control, "control is not followed")
