"""What the outlet promises whoever puts results into it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stream_workers.outlet import MOST_WAITING, Outlet
from tests.waiting import until


def test_results_are_published_in_the_order_they_were_put_by_whichever_thread() -> None:
    published: list[tuple[int, str]] = []
    outlet = Outlet[int](lambda number: published.append((number, threading.current_thread().name)))
    outlet.start()
    for number in range(200):
        outlet.put(number, in_a_hurry=number % 3 != 0)
    outlet.stop()
    assert [number for number, _ in published] == [*range(200)]
    assert {name for _, name in published} >= {"outlet"}


def test_without_a_hurry_and_with_nothing_before_it_the_caller_publishes() -> None:
    published: list[str] = []
    outlet = Outlet[int](lambda _: published.append(threading.current_thread().name))
    outlet.start()
    outlet.put(1, in_a_hurry=False)
    assert published == [threading.current_thread().name]
    outlet.put(2, in_a_hurry=True)
    outlet.stop()
    assert published[1:] == ["outlet"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how often a thread was woken")
def test_its_thread_is_not_woken_by_what_others_publish() -> None:
    outlet = Outlet[int](lambda _: None)
    outlet.start()
    (thread,) = [one for one in threading.enumerate() if one.name == "outlet"]
    status = Path(f"/proc/self/task/{thread.native_id}/status")

    def slept() -> int:
        return int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])

    until(lambda: "State:\tS" in status.read_text(), 10, "the outlet does not wait for results", every=0.01)
    before, others_turn = slept(), threading.Event()
    for number in range(40):
        outlet.put(number, in_a_hurry=False)
        others_turn.wait(0.002)
    woken = slept() - before
    outlet.stop()
    assert woken < 10


def test_who_is_in_a_hurry_waits_only_where_too_many_wait_already() -> None:
    began, go, published = threading.Event(), threading.Event(), []

    def slow(number: int) -> None:
        began.set()
        assert go.wait(20)
        published.append(number)

    outlet = Outlet[int](slow)
    outlet.start()
    for number in range(MOST_WAITING + 1):
        outlet.put(number, in_a_hurry=True)
        assert began.wait(20)
    late = threading.Thread(target=lambda: outlet.put(9, in_a_hurry=True))
    late.start()
    late.join(0.05)
    assert late.is_alive(), "one is published and two wait"
    go.set()
    late.join(20)
    outlet.stop()
    assert published == [*range(MOST_WAITING + 1), 9]


def test_a_failure_ends_it_and_keeps_nobody_waiting() -> None:
    published: list[int] = []

    def broken(number: int) -> None:
        if number == 1:
            raise KeyError("a bug")
        published.append(number)

    outlet = Outlet[Any](broken)
    outlet.start()
    outlet.put(1, in_a_hurry=True)
    until(lambda: outlet.failure is not None, 20, "the failure is not told")
    for number in range(2, 9):
        outlet.put(number, in_a_hurry=number % 2 == 1)
    outlet.stop()
    assert isinstance(outlet.failure, KeyError)
    assert published == []
