"""Wakes coroutines from another thread, many at once. No Kafka here.

`asyncio.wrap_future` wakes the event loop for each future, and with it both threads contend for the interpreter at
every one of the replies that come together.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Wakeups:
    """The waiting coroutines of any number of event loops. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell] = weakref.WeakKeyDictionary()

    async def result(self, future: Future[T]) -> T:
        """What the future comes to. Who stops waiting leaves it as it is: its result may be on its way already."""
        loop = asyncio.get_running_loop()
        with self._lock:
            bell = self._bells.get(loop)
            if bell is None:
                bell = self._bells[loop] = _Bell(loop)
        waiter = loop.create_future()
        future.add_done_callback(partial(bell.ring, waiter))
        await waiter
        return future.result()


class _Bell:
    """Rings once for all that became ready until the loop answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop holds what it is to call; the other way round nothing could ever be forgotten.
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._ready: list[asyncio.Future[None]] = []

    def ring(self, waiter: asyncio.Future[None], _done: Future[T]) -> None:
        """From any thread: the waiter's future is done."""
        with self._lock:
            self._ready.append(waiter)
            rung = len(self._ready) > 1
        loop = self._loop()
        if not rung and loop is not None:
            # A loop that has been closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for waiter in ready:
            if not waiter.done():
                waiter.set_result(None)
