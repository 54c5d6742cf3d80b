"""Work that is done again and again beside something else, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from analytics.warehouse import Warehouse

log = logging.getLogger(__name__)


class Rounds:
    """`work` every `seconds`, 0: never. A context manager. What fails as expected is logged and tried again."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Any],
        seconds: float,
        warehouse: Warehouse,
        expected: tuple[type[Exception], ...],
    ) -> None:
        """`name` says in the log what there was no round of. `warehouse`: the session that the work uses and nobody
        else; closed at the end. `expected`: failures that pass; any other is a bug and ends the thread."""
        self._name = name
        self._work = work
        self._seconds = seconds
        self._warehouse = warehouse
        self._expected = expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._work()
            except self._expected as error:
                log.warning("no round of %s, trying again in %g s: %s", self._name, self._seconds, error)

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        if not self._thread.is_alive():
            self._warehouse.close()
