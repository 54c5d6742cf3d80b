"""Waits for a condition that has no event to wait on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(
    condition: Callable[[], object], seconds: float, complaint: str | Callable[[], str], *, every: float = 0.05
) -> float:
    """Look again and again until it holds; the seconds it took. Fails with `complaint` when they are over."""
    began, pause = time.monotonic(), threading.Event()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"after {seconds:g} s: {complaint() if callable(complaint) else complaint}")
        pause.wait(every)
    return time.monotonic() - began
