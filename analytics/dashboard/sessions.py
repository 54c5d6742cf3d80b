"""Sessions with the warehouse for the threads that answer pages: each has one of its own, and none asks for long."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from analytics.warehouse import Warehouse, WarehouseUnavailableError

_LIMITS: Final = {"max_execution_time": "30", "max_memory_usage": str(2 * 1024**3)}


class Sessions:
    """At most `most` sessions, opened as they are needed. `warehouse` stays its owner's and is asked nothing."""

    def __init__(self, warehouse: Warehouse, most: int = 4, patience: float = 15.0) -> None:
        self._first = warehouse
        self._patience = patience
        self._own: list[Warehouse] = []
        self._idle: queue.LifoQueue[Warehouse | None] = queue.LifoQueue()
        for _ in range(most):
            self._idle.put(None)

    @contextmanager
    def one(self) -> Iterator[Warehouse]:
        """A session for as long as the block lasts. Raises `WarehouseUnavailableError` where all are busy for long."""
        try:
            session = self._idle.get(timeout=self._patience)
        except queue.Empty:
            raise WarehouseUnavailableError(
                f"every session was busy for {self._patience:g} s: ask again later"
            ) from None
        try:
            if session is None:
                session = self._first.another()
                session.restrict(_LIMITS)
                self._own.append(session)
            yield session
        finally:
            self._idle.put(session)

    def close(self) -> None:
        """Close those that were opened here."""
        for one in self._own:
            one.close()
