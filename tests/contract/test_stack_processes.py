"""The whole local stack: what is killed comes back ready, and two stacks do not meet."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from penstock.running import read_stack, started_at
from penstock.settings import Settings, StackSettings
from penstock.stack import LocalStack
from producers.client import ScoringClient
from producers.errors import ScoringError

pytestmark = pytest.mark.kafka
FLIGHT = {
    "carrier": "UA",
    "origin": "EWR",
    "destination": "IAH",
    "departure_hour": 17,
    "day_of_week": "Fri",
    "distance": 1400,
    "scheduled_minutes": 227,
}


def until(condition: Callable[[], bool], seconds: float = 90) -> bool:
    pause = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if condition():
            return True
        pause.wait(0.1)
    return False


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 - a process of this test
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - a process of this test
        return json.loads(answer.read())


def answered(stack: LocalStack, timeout: float = 2.0) -> bool:
    """Whether a request, by a client of its own, gets its score."""
    settings = stack.settings
    try:
        with ScoringClient(settings.kafka.client(), settings.codec(), settings.kafka.topics) as client:
            return client.score_sync("flight-delay", user_id="u", features=FLIGHT, timeout=timeout).model != ""
    except ScoringError:
        return False


def logs(stack: LocalStack) -> str:
    """The last lines of every process."""
    return "\n".join(f"{name}: {stack.log(name).read_text()[-1500:]}" for name in stack.processes)


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the stack said."""
    return []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> Iterator[LocalStack]:
    state = str(tmp_path_factory.mktemp("stack"))
    with LocalStack(Settings(stack=StackSettings(state=state, workers=2, broker_port=0)), say=said.append) as running:
        yield running


def test_every_process_is_ready_and_told_of(stack: LocalStack) -> None:
    told = read_stack(stack.state)
    assert told is not None
    assert set(told.processes) == {"broker", "ingest", "monitor", "worker-1", "worker-2"}
    assert told.processes == stack.processes
    assert told.warehouse_port == stack.settings.http.warehouse_port
    assert all(ready(url) for name, url in stack.addresses.items() if name not in ("broker", "monitor"))
    assert until(lambda: ready(stack.addresses["monitor"])), "nobody waited for it"


@pytest.mark.parametrize("name", ["worker-1", "ingest"])
def test_a_killed_process_comes_back_ready_at_the_same_address(stack: LocalStack, name: str) -> None:
    before = stack.processes[name]
    os.kill(before, signal.SIGKILL)

    def told_of_another() -> bool:
        told = read_stack(stack.state)
        return told is not None and told.processes.get(name, before) != before

    assert until(told_of_another)
    assert until(lambda: ready(stack.addresses[name]))


def test_up_itself_tells_which_of_its_processes_are_ready(stack: LocalStack) -> None:
    url = stack.addresses["up"]
    assert get(f"{url}/healthz")["ok"] is True
    assert until(lambda: ready(url))
    assert get(f"{url}/readyz") == {
        "ok": True,
        "reasons": {"broker": "ok", "ingest": "ok", "monitor": "ok", "worker-1": "ok", "worker-2": "ok"},
    }
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:  # noqa: S310 - a process of this test
        assert b'penstock_stack_restarts_total{name="worker-2"}' in answer.read()


def test_a_stack_whose_broker_forgot_everything_says_so_and_serves_again_soon(
    stack: LocalStack, said: list[str]
) -> None:
    assert until(lambda: answered(stack))
    before = stack.processes
    os.kill(before["broker"], signal.SIGKILL)
    began = time.monotonic()
    assert until(lambda: stack.processes.get("broker", before["broker"]) != before["broker"])
    while not answered(stack):
        assert time.monotonic() < began + 60, logs(stack)
    seconds = time.monotonic() - began
    line = "broker runs again and is empty: its topics were in memory, what was in them is lost; "
    assert f"{line}ingest, monitor, worker-1, worker-2 start anew" in said
    assert until(lambda: ready(stack.addresses["up"]))
    assert not set(stack.processes.values()) & set(before.values())
    count = f"{stack.addresses['ingest']}/sql?query={quote('SELECT count() FROM predictions')}"  # noqa: S608 - a constant
    rows = get(count)["rows"][0][0]
    assert answered(stack, 10)
    assert until(lambda: get(count)["rows"][0][0] > rows), "ingest reads the new broker's topics"
    assert seconds < 30


def test_two_stacks_in_two_folders_do_not_meet(stack: LocalStack, tmp_path: Path) -> None:
    with LocalStack(Settings(stack=StackSettings(state=str(tmp_path), broker_port=0)), workers=0) as other:
        assert not set(other.addresses.values()) & set(stack.addresses.values())
        assert not set(other.processes.values()) & set(stack.processes.values())
        assert ready(other.addresses["ingest"])
        pids = other.processes.values()
    assert all(started_at(pid) is None for pid in pids)
    assert all(started_at(pid) is not None for pid in stack.processes.values())
