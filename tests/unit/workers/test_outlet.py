"""What the outlet promises whoever puts results into it."""

from __future__ import annotations

import threading
from typing import Any

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
