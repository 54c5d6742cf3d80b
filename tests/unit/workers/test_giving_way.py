"""Whoever reads bulk rests in proportion to what it worked, and only while somebody asks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gathering import LONG, running
from worker_pieces import requests

from models.batching import BatchLimits
from models.loading import LoadedModel
from models.registry import ModelStore
from schemas.codec import Codec
from schemas.topics import Topics
from stream_workers.giving_way import LATELY_SECONDS, MOST_SECONDS, RESTS, GivingWay
from stream_workers.lanes import LaneKey
from stream_workers.ops import Health, WorkerMetrics, new_registry
from stream_workers.scoring import ScoringWorker
from stream_workers.scoring_config import ScoringConfig

# Seconds of the processor.
SPELL = 0.01


class World:
    """A thread's processor time, which resting does not add to, and when somebody asked last."""

    def __init__(self) -> None:
        self.now, self.worked, self.asked_at = 1000.0, 0.0, -math.inf
        self.rests: list[float] = []
        self.giving_way = GivingWay(
            lambda: self.asked_at, clock=lambda: self.now, worked=lambda: self.worked, rest=self.rest
        )

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.worked += seconds
        self.giving_way()


def rests_of(between_polls: Callable[[], None]) -> list[float]:
    """Seconds that it takes, called three times by a thread that has worked for `SPELL` before each."""
    took = []

    def read() -> None:
        between_polls()
        for _ in range(3):
            end = time.thread_time() + SPELL
            while time.thread_time() < end:
                pass
            began = time.monotonic()
            between_polls()
            took.append(time.monotonic() - began)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(20)
    assert len(took) == 3
    return took


@given(st.lists(st.floats(1e-6, MOST_SECONDS / RESTS), min_size=1, max_size=30))
def test_while_somebody_asks_a_reader_works_a_quarter_of_the_time(spells: list[float]) -> None:
    world = World()
    began = world.now
    for spell in spells:
        world.asked_at = world.now
        world.work(spell)
    assert world.rests == pytest.approx([RESTS * one for one in spells])
    assert world.worked / (world.now - began) == pytest.approx(0.25)


def test_nobody_rests_for_those_who_asked_a_while_ago_and_what_was_worked_meanwhile_is_not_made_up_for() -> None:
    world = World()
    world.work(5.0)
    assert world.rests == []
    world.asked_at = world.now
    world.work(0.001)
    assert world.rests == pytest.approx([0.001 * RESTS])
    world.now = world.asked_at + LATELY_SECONDS
    world.work(3.0)
    assert len(world.rests) == 1


def test_a_rest_is_short_however_much_was_worked() -> None:
    world = World()
    world.asked_at = world.now + 10
    world.work(10.0)
    assert world.rests == [MOST_SECONDS]


def test_a_real_thread_rests_for_what_it_worked_itself() -> None:
    assert min(rests_of(GivingWay(time.monotonic))) >= SPELL * RESTS


def test_the_device_knows_when_a_request_came_and_bulk_is_none(model: LoadedModel) -> None:
    with running(model, bulk=True) as (device, gate):
        assert device.asked_at == -math.inf
        before = time.monotonic()
        device.submit(
            LaneKey("m", "1"), model, requests([1], inputs={"x": np.array([1])}), gate, BatchLimits
        )  # fmt: skip
        assert before <= device.asked_at <= time.monotonic()
    with running(model, expected=LONG) as (device, _):
        assert device.asked_at <= time.monotonic()
        assert device.asked_at > before


def test_a_workers_bulk_reader_rests_for_the_requests_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kept:
        """A pipeline that is not run."""

        def __init__(self, *_: object, between_polls: Callable[[], None], **__: object) -> None:
            self.between_polls = between_polls

        def committed(self, *_: object) -> None: ...

        commit_failed = committed

    def properties(group: str = "", **over: object) -> dict[str, object]:
        own = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, **over}
        return {**own, "group.id": group} if group else own

    monkeypatch.setattr("stream_workers.scoring.Pipeline", Kept)
    config = ScoringConfig("w", properties, properties, properties, Topics(), device="cpu", delivery="at-least-once")
    metrics = WorkerMetrics(new_registry(), "w")
    worker = ScoringWorker(config, Codec(), ModelStore(tmp_path), metrics, Health())
    pipeline, _ = worker._bulk_pipeline()
    worker._device.asked_at = math.inf
    assert min(rests_of(pipeline.between_polls)) >= SPELL * RESTS
    worker._device.asked_at = -math.inf
    assert min(rests_of(pipeline.between_polls)) < SPELL * RESTS
