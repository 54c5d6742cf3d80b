"""A monitor ends: when a step failed, when it is told to during a long step, and when stopping Faust was cut off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import faust
import pytest
from aiokafka import ConsumerRecord
from faust.types import TP
from monitor_records import NOON, FixedRules, summary
from prometheus_client import CollectorRegistry

from schemas.codec import Codec
from schemas.topics import Topics
from stream_workers import monitor
from stream_workers.guardrails import Limits
from stream_workers.monitor import Monitor, MonitorConfig
from stream_workers.monitor_consumer import Consumer
from stream_workers.monitor_faust import FaustConfig, make_app
from stream_workers.monitor_metrics import MonitorMetrics
from stream_workers.monitor_watch import Entries
from stream_workers.monitor_windows import Series
from stream_workers.ops import Health

SUMMARIES = TP(Topics().summaries, 0)
# Whatever hangs does so for ever.
PATIENCE = 20.0


class BrokenRules(FixedRules):
    """A step that fails."""

    def limits(self, series: Series) -> Limits:
        raise ZeroDivisionError(series.model)


class Slow(Monitor):
    """A step that takes for ever."""

    began: threading.Event

    async def _keep(self, _entries: Entries) -> None:
        self.began.set()
        await asyncio.sleep(3600)


class Alone:
    """The thread of aiokafka's client, of which nothing is asked but what is assigned."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.beacon = None

    def assignment(self) -> set[TP]:
        return {SUMMARIES}


def without_broker(config: FaustConfig, begun: Callable[[], None]) -> faust.App:
    """Faust's app, its agents and its consumer: two records are handed out at the start, and nothing asks a broker."""
    app = make_app(config)

    async def start() -> None:
        with mock.patch.object(Consumer, "_new_consumer_thread", Alone):
            consumer = app.consumer
        app.add_dependency(app.agents)
        await app.agents.start()
        await app.topics._update_indices()
        await app.topics.on_partitions_assigned({SUMMARIES})
        app.flow_control.resume()
        begun()
        value = Codec().encode(summary())
        for offset in range(2):
            record = ConsumerRecord(SUMMARIES.topic, 0, offset, 0, 0, b"m", value, None, 1, len(value), ())
            await consumer.callback(consumer._to_message(SUMMARIES, record))

    app.start = start
    return app


def run_in_thread(made: Monitor, stop: threading.Event) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            made.run(stop)
        except BaseException as error:  # noqa: BLE001 - tests look at it
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Monitor]:
    monkeypatch.setattr(monitor, "create_topics", lambda *_: None)

    def one(kind: type[Monitor], rules: FixedRules) -> Monitor:
        config = MonitorConfig(FaustConfig("g", {"bootstrap.servers": "127.0.0.1:1"}, 1), Topics())
        metrics = MonitorMetrics(CollectorRegistry())
        made = kind(
            config, Codec(), rules, SimpleNamespace(), lambda _: [], metrics, Health(), wall=lambda: NOON
        )  # fmt: skip
        monkeypatch.setattr(monitor, "make_app", lambda own: without_broker(own, lambda: made.restore([0], {}, {0: 2})))
        return made

    return one


def test_a_step_that_fails_ends_the_monitor_with_its_error(make: Callable[..., Monitor]) -> None:
    made = make(Monitor, BrokenRules())
    began = time.monotonic()
    thread, raised = run_in_thread(made, threading.Event())
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for an acknowledgement that never comes"
    assert [type(one) for one in raised] == [ZeroDivisionError]
    assert time.monotonic() - began < monitor.STOP_SECONDS
    assert made._app.agents.should_stop, "Faust was stopped, not cut off"


def test_told_to_stop_during_a_long_step_it_ends(make: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "STOP_SECONDS", 0.5)
    stop, slow = threading.Event(), make(Slow, FixedRules())
    assert isinstance(slow, Slow)
    slow.began = threading.Event()
    thread, raised = run_in_thread(slow, stop)
    assert slow.began.wait(PATIENCE)
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert raised == []
    assert slow._app.agents.should_stop, "Faust was stopped, not cut off"


ABANDONED = """
import asyncio
from unittest.mock import AsyncMock
from stream_workers.monitor_faust import FaustConfig, make_app

async def main():
    app = make_app(FaustConfig("g", {"bootstrap.servers": "127.0.0.1:1"}, 1))
    thread = app.consumer._thread
    thread._create_consumer = lambda loop: AsyncMock()
    await thread.start()

asyncio.run(main())
print("over")
"""


def test_a_client_that_nobody_stopped_keeps_no_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.returncode) == ("over\n", 0), done.stderr
