"""Threads that carry their names where operators look for them: in `top -H`, `perf` and `/proc`."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final

# Linux keeps so many characters of a thread's name.
_LONGEST: Final = 15


class NamedThread(threading.Thread):
    """A thread whose name the system knows as well, as it does by itself from Python 3.14 on."""

    def run(self) -> None:
        """See `threading.Thread.run`."""
        # Where there is no /proc nobody can read the name there either.
        with contextlib.suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(self.name[:_LONGEST])
        super().run()
