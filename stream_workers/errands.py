"""Calls on a consumer from other threads, run by the one that polls it.

confluent-kafka serialises the calls on a handle, and a poll loop leaves no gap in which another thread would get its
turn: a commit beside a running poll waits forever. So whoever needs the consumer asks the poll loop to make the call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Errands:
    """Calls that wait for the poll loop. `run` belongs into each of its turns."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._owner: int | None = None

    def own(self) -> None:
        """The thread that calls this is the poll loop's."""
        self._owner = threading.get_ident()

    def ask(self, call: Callable[[], T], timeout: float) -> T:
        """The call's result, from the poll loop's thread. Raises what the call raised, or TimeoutError."""
        # Within the loop's own thread, as in a rebalance callback, nobody else would run it.
        if threading.get_ident() == self._owner:
            return call()
        future: Future[T] = Future()
        self._waiting.append((future, call))
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def run(self) -> None:
        """Make the calls that wait."""
        while self._waiting:
            future, call = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - it is raised where the call was asked for
                future.set_exception(error)
