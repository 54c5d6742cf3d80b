"""Starts child processes that die with their parent, however it dies.

Linux sends a process its "parent death signal" when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG).
So every child is started by one thread that lives as long as the process, and goes through this very file, which sets
the signal, looks whether the parent is still there, and then becomes the command: same pid, nothing in between.
Elsewhere than on Linux children outlive a parent that was killed with SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:  # the launcher below runs this file alone and wants a quick start
    from pathlib import Path
    from subprocess import Popen

PR_SET_PDEATHSIG = 1


def spawn(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Popen[bytes]:
    """Start `argv` in a process group of its own, both outputs appended to the file `log`, no standard input.

    Its own group keeps a terminal's Ctrl-C from it: who started it stops it, in order. A command that cannot be
    executed ends with status 127 and a line in the log.
    """
    import subprocess

    launcher = [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]

    def start() -> Popen[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            return subprocess.Popen(
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                process_group=0,
            )

    return _undying().call(start)


def tail(log: Path, limit: int = 64 * 1024) -> str:
    """The last non-empty line of a log file, of a JSON line its message; empty where there is none."""
    try:
        with log.open("rb") as file:
            _seek_back(file, limit)
            kept = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return ""
    return _message(kept[-1])[:500] if kept else ""


def _message(line: str) -> str:
    import json

    try:
        return str(json.loads(line)["message"])
    except (ValueError, TypeError, LookupError):
        return line


def _seek_back(file: IO[bytes], limit: int) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - limit))


class _UndyingThread:
    """A daemon thread that runs one call at a time and ends only with the process."""

    def __init__(self) -> None:
        import queue
        import threading
        from concurrent.futures import Future

        self.pid = os.getpid()
        self._calls: queue.SimpleQueue[tuple[Future[Popen[bytes]], Callable[[], Popen[bytes]]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="spawner", daemon=True).start()

    def call(self, function: Callable[[], Popen[bytes]]) -> Popen[bytes]:
        """What `function` returns or raises."""
        from concurrent.futures import Future

        future: Future[Popen[bytes]] = Future()
        self._calls.put((future, function))
        return future.result()

    def _run(self) -> None:
        while True:
            future, function = self._calls.get()
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is raised again by `call`
                future.set_exception(error)


_thread: _UndyingThread | None = None


def _undying() -> _UndyingThread:
    global _thread
    # A fork copies the variable, but not the thread.
    if _thread is None or _thread.pid != os.getpid():
        _thread = _UndyingThread()
    return _thread


def _become(parent: int, argv: Sequence[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was set
            sys.exit(1)
    try:
        os.execvp(argv[0], list(argv))  # noqa: S606 - no shell is wanted
    except OSError as error:
        print(f"cannot execute {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
