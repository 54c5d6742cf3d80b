"""Publishes what runs came to beside the runs that follow, so that the device does not stand still meanwhile."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from stream_workers.threads import NamedThread

log = logging.getLogger(__name__)

T = TypeVar("T")
# Results that may wait to be published. More would only be held longer: who publishes is then slower than the device.
MOST_WAITING: Final = 2


class Outlet(Generic[T]):
    """One thread that publishes, in the order in which results are put. Safe from any thread."""

    def __init__(self, publish: Callable[[T], None]) -> None:
        """`publish`: whatever it raises is a bug, and ends the outlet: see `failure`."""
        self._publish = publish
        self._changed = threading.Condition()
        self._waiting: deque[T] = deque()
        self._busy = False
        self._stopping = False
        self.failure: BaseException | None = None
        self._thread = NamedThread(target=self._run, name="outlet", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def put(self, result: T, *, in_a_hurry: bool) -> None:
        """Publish a result after those put before: here and now, or, where the caller has other work, beside it.

        Handing over costs a switch of threads, so without a hurry and with nothing before it the caller publishes.
        Waits while `MOST_WAITING` others wait. After a failure nothing is published any more, and so nothing of it
        committed.
        """
        with self._changed:
            handed_over = in_a_hurry or self._waiting or self._busy
            if handed_over:
                self._changed.wait_for(lambda: len(self._waiting) < MOST_WAITING or self.failure is not None)
            if self.failure is not None:
                return
            if handed_over:
                self._waiting.append(result)
                self._changed.notify_all()
                return
            self._busy = True
        self._do(result)

    def stop(self) -> None:
        """Return once everything that was put is published."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self.failure is not None or (not self._busy and (self._waiting or self._stopping))
                )
                if self.failure is not None or not self._waiting:
                    return
                result = self._waiting.popleft()
                self._busy = True
                self._changed.notify_all()
            try:
                self._do(result)
            except BaseException:
                log.exception("what a run came to could not be published")
                return
            # Until there is another it must not keep a model alive that is evicted.
            del result

    def _do(self, result: T) -> None:
        try:
            self._publish(result)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            with self._changed:
                self._busy = False
                # With nothing to do for it the thread is not woken, which may cost tens of microseconds.
                if self._waiting or self._stopping or self.failure is not None:
                    self._changed.notify_all()
