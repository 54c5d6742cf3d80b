"""Keeps a CUDA graph's capture apart from everything else that talks to a GPU in this process.

ONNX Runtime captures in CUDA's global mode: while it lasts, a call of another thread that CUDA calls unsafe (an
allocation, a synchronous copy, a wait) fails with error 900 and spoils the capture. So a capture has the gate to
itself, and whatever else uses the GPU passes it in company. That is: a new version's warm-up holds up the traffic of
the others for as long as one capture takes, not for the whole warm-up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class CaptureGate:
    """Many may pass at once, or one alone. Who wants to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use the GPU beside others. Not to be entered twice by one thread: a capture may wait in between."""
        with self._changed:
            while self._alone or self._waiting:
                self._changed.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Use the GPU with nobody else on it."""
        with self._changed:
            self._waiting += 1
            try:
                while self._alone or self._inside:
                    self._changed.wait()
            finally:
                self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


# One for the process: captures of different models disturb each other too.
GATE: Final = CaptureGate()
