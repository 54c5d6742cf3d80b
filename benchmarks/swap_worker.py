"""A scoring worker that keeps its own record of what it loads and when, and whose device fails when it is told to.

For `benchmarks.swaps` and the fault tests only: `python -m benchmarks.swap_worker worker …` is `penstock worker …` with
the same settings. The record is a witness apart from the worker: a line of JSON for each load as it begins and ends, in
the folder that WITNESS names, one file for each process. Where settings ask for another device than the CPU, sessions
run on the CPU and call it that device; SIGUSR1 loses it, so that every further run on it fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import models.loading
from models.errors import DeviceLostError
from models.loading import LoadedModel
from models.session import Session
from models.signature import Signature
from schemas.tensors import Array

WORKER: Final = "benchmarks.swap_worker"
# Not one of Penstock's settings, which whoever starts a worker filters.
WITNESS: Final = "SWAP_WITNESS"
# A process began, which has loaded nothing; a load began, came to something that may serve, or did not.
BEGAN, LOADING, READY, REFUSED = "began", "loading", "ready", "refused"
DEVICE: Final = "cuda:0"
_lost = threading.Event()
_open = LoadedModel.__dict__["load"].__func__


class Witness:
    """Appends lines to this process's file."""

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._worker = worker
        self._file = (folder / f"{worker}-{os.getpid()}.jsonl").open("a", buffering=1, encoding="utf-8")
        self._lock = threading.Lock()

    def note(self, what: str, model: str = "", version: str = "") -> None:
        """Write that it happened now."""
        line = {"worker": self._worker, "pid": os.getpid(), "what": what, "model": model, "version": version}
        with self._lock:
            self._file.write(json.dumps({**line, "at": time.time_ns() // 1000}) + "\n")


class FailingSession(Session):
    """A session on a device that can be lost."""

    @classmethod
    def open(cls, path: str | Path, signature: Signature, device: str = "auto", *args: Any, **more: Any) -> Session:
        """See `Session.open`."""
        session = super().open(path, signature, "cpu", *args, **more)
        if device != "cpu":
            session.device, session.why = DEVICE, "it is called so"
        return session

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Session.run`."""
        if _lost.is_set() and self.device == DEVICE:
            raise DeviceLostError(f"{self.device} failed, and this process has to be started again to use it: injected")
        return super().run(inputs)


@contextmanager
def witnessing(folder: Path) -> Iterator[None]:
    """Workers that inherit this process's environment meanwhile write their notes there."""
    os.environ[WITNESS] = str(folder)
    try:
        yield
    finally:
        del os.environ[WITNESS]


def main() -> None:
    """The command line of Penstock, witnessed."""
    from penstock.cli import main as penstock

    name = sys.argv[sys.argv.index("--name") + 1] if "--name" in sys.argv else "worker"
    witness = Witness(Path(os.environ[WITNESS]), name)
    witness.note(BEGAN)

    def load(cls: type[LoadedModel], store: Any, model: str, version: str, *args: Any, **more: Any) -> LoadedModel:
        witness.note(LOADING, model, version)
        try:
            loaded: LoadedModel = _open(cls, store, model, version, *args, **more)
        except Exception:
            witness.note(REFUSED, model, version)
            raise
        witness.note(READY, model, version)
        return loaded

    # Whatever loads a model does it by this name, and opens its session by that one.
    type.__setattr__(LoadedModel, "load", classmethod(load))
    vars(models.loading)["Session"] = FailingSession
    signal.signal(signal.SIGUSR1, lambda *_: _lost.set())
    penstock()


if __name__ == "__main__":
    main()
