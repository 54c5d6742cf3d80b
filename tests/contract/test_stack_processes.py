"""The whole local stack: what is killed comes back ready, and two stacks do not meet."""

from __future__ import annotations

import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.running import read_stack, started_at
from penstock.settings import Settings, StackSettings
from penstock.stack import LocalStack

pytestmark = pytest.mark.kafka


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


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    settings = Settings(stack=StackSettings(state=str(tmp_path_factory.mktemp("stack")), workers=2))
    with LocalStack(settings) as running:
        yield running


def test_every_process_is_ready_and_told_of(stack: LocalStack) -> None:
    told = read_stack(stack.state)
    assert told is not None
    assert set(told.processes) == {"broker", "ingest", "worker-1", "worker-2"}
    assert told.processes == stack.processes
    assert told.warehouse_port == stack.settings.http.warehouse_port
    assert all(ready(url) for name, url in stack.addresses.items() if name != "broker")


@pytest.mark.parametrize("name", ["worker-1", "ingest"])
def test_a_killed_process_comes_back_ready_at_the_same_address(stack: LocalStack, name: str) -> None:
    before = stack.processes[name]
    os.kill(before, signal.SIGKILL)

    def told_of_another() -> bool:
        told = read_stack(stack.state)
        return told is not None and told.processes.get(name, before) != before

    assert until(told_of_another)
    assert until(lambda: ready(stack.addresses[name]))


def test_two_stacks_in_two_folders_do_not_meet(stack: LocalStack, tmp_path: Path) -> None:
    with LocalStack(Settings(stack=StackSettings(state=str(tmp_path))), workers=0) as other:
        assert not set(other.addresses.values()) & set(stack.addresses.values())
        assert not set(other.processes.values()) & set(stack.processes.values())
        assert ready(other.addresses["ingest"])
        pids = other.processes.values()
    assert all(started_at(pid) is None for pid in pids)
    assert all(started_at(pid) is not None for pid in stack.processes.values())
