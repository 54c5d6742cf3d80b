"""The whole local stack: what is killed comes back ready, and two stacks do not meet."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from waiting import until

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
    until(lambda: ready(stack.addresses["monitor"]), 90, lambda: f"the monitor is not ready: {logs(stack)}")


@pytest.mark.parametrize("name", ["worker-1", "ingest"])
def test_a_killed_process_comes_back_ready_at_the_same_address(stack: LocalStack, name: str) -> None:
    before = stack.processes[name]
    os.kill(before, signal.SIGKILL)

    def told_of_another() -> bool:
        told = read_stack(stack.state)
        return told is not None and told.processes.get(name, before) != before

    until(told_of_another, 90, "no other process is told of")
    until(lambda: ready(stack.addresses[name]), 90, lambda: f"{name} is not ready again: {logs(stack)}")


def test_up_itself_tells_which_of_its_processes_are_ready(stack: LocalStack) -> None:
    url = stack.addresses["up"]
    assert get(f"{url}/healthz")["ok"] is True
    until(lambda: ready(url), 90, "not all are ready")
    assert get(f"{url}/readyz") == {
        "ok": True,
        "reasons": {"broker": "ok", "ingest": "ok", "monitor": "ok", "worker-1": "ok", "worker-2": "ok"},
    }
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:  # noqa: S310 - a process of this test
        assert b'penstock_stack_restarts_total{name="worker-2"}' in answer.read()


def test_a_stack_whose_broker_forgot_everything_says_so_and_serves_again_soon(
    stack: LocalStack, said: list[str]
) -> None:
    until(lambda: answered(stack), 90, lambda: logs(stack))
    before = stack.processes
    os.kill(before["broker"], signal.SIGKILL)
    began = time.monotonic()
    until(lambda: stack.processes.get("broker", before["broker"]) != before["broker"], 90, "no other broker runs")
    until(lambda: answered(stack), 60, lambda: logs(stack))
    seconds = time.monotonic() - began
    line = "broker runs again and is empty: its topics were in memory, what was in them is lost; "
    assert f"{line}ingest, monitor, worker-1, worker-2 start anew" in said
    until(lambda: ready(stack.addresses["up"]), 90, lambda: logs(stack))
    assert not set(stack.processes.values()) & set(before.values())
    count = f"{stack.addresses['ingest']}/sql?query={quote('SELECT count() FROM predictions')}"  # noqa: S608 - a constant
    rows = get(count)["rows"][0][0]
    assert answered(stack, 10)
    until(lambda: get(count)["rows"][0][0] > rows, 90, "ingest does not read the new broker's topics")
    assert seconds < 30


def test_two_stacks_in_two_folders_do_not_meet(stack: LocalStack, tmp_path: Path) -> None:
    with LocalStack(Settings(stack=StackSettings(state=str(tmp_path), broker_port=0)), workers=0) as other:
        assert not set(other.addresses.values()) & set(stack.addresses.values())
        assert not set(other.processes.values()) & set(stack.processes.values())
        assert ready(other.addresses["ingest"])
        pids = other.processes.values()
    assert all(started_at(pid) is None for pid in pids)
    assert all(started_at(pid) is not None for pid in stack.processes.values())
