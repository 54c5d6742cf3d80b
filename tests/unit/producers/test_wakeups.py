"""Whoever waits in an event loop gets what another thread found, once, however many come together."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from producers.wakeups import Wakeups


def test_results_that_come_together_reach_each_who_waits_by_one_call_to_the_loop() -> None:
    wakeups = Wakeups()
    futures: list[Future[int]] = [Future() for _ in range(100)]
    calls = []

    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(wakeups.result(one)) for one in futures]
        await asyncio.sleep(0)
        call = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *a, **k: (calls.append(a), call(*a, **k))[1]  # type: ignore[method-assign]
        # The loop stands still meanwhile, as it does while it works on something else.
        thread = threading.Thread(target=lambda: [one.set_result(n) for n, one in enumerate(futures)])
        thread.start()
        thread.join()
        loop.call_soon_threadsafe = call  # type: ignore[method-assign]
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [*range(100)]
    assert len(calls) == 1


def test_one_after_another_each_is_woken() -> None:
    wakeups = Wakeups()

    async def run() -> list[int]:
        found = []
        for number in range(50):
            future: Future[int] = Future()
            timer = threading.Thread(target=future.set_result, args=(number,))
            timer.start()
            found.append(await wakeups.result(future))
            timer.join()
        return found

    assert asyncio.run(run()) == [*range(50)]


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    future: Future[int] = Future()
    future.set_exception(KeyError("gone"))
    with pytest.raises(KeyError, match="gone"):
        asyncio.run(Wakeups().result(future))


def test_who_stops_waiting_leaves_the_future_to_its_result() -> None:
    wakeups = Wakeups()
    first: Future[int] = Future()
    second: Future[int] = Future()

    async def run() -> int:
        task = asyncio.create_task(wakeups.result(first))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        first.set_result(3)
        second.set_result(7)
        return await wakeups.result(second)

    assert asyncio.run(run()) == 7
    assert first.result() == 3


def test_several_loops_are_served_and_one_that_is_gone_is_no_matter() -> None:
    wakeups = Wakeups()
    left: Future[int] = Future()

    async def leave() -> None:
        asyncio.create_task(wakeups.result(left))  # noqa: RUF006 - the loop ends before it does
        await asyncio.sleep(0)

    asyncio.run(leave())
    left.set_result(1)
    for number in range(3):
        future: Future[int] = Future()

        async def ask(future: Future[int] = future, number: int = number) -> int:
            threading.Thread(target=future.set_result, args=(number,)).start()
            return await wakeups.result(future)

        assert asyncio.run(ask()) == number
