"""Threads of a worker are known to the system by their names."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from stream_workers.threads import NamedThread


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the names of threads")
def test_a_thread_carries_its_name_as_far_as_it_fits() -> None:
    found: list[str] = []

    def look() -> None:
        found.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip())

    for name in ("device-0", "a name that is far too long"):
        thread = NamedThread(target=look, name=name)
        thread.start()
        thread.join(20)
    assert found == ["device-0", "a name that is "[:15].strip()]
