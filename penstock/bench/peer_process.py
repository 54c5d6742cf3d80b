"""A peer's own Python environment, made by uv from its pinned requirements, and its process."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from penstock.bench.bed import BenchError
from penstock.child import tail
from penstock.kafka_install import CACHE
from penstock.supervisor import Program

PEERS: Final = Path(__file__).parent.parent.parent / "benchmarks" / "peers"
_INSTALL_SECONDS: Final = 900


def environment(name: str, cache: Path = CACHE) -> Path:
    """The Python of the peer's environment under `cache`, made at the first call. Raises `BenchError`."""
    requirements = PEERS / name / "requirements.txt"
    if not requirements.is_file():
        raise BenchError(f"{requirements} is not there: the peers are part of the checkout, not of an installation")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    mark = hashlib.sha256(requirements.read_bytes() + version.encode()).hexdigest()[:12]
    folder = cache.expanduser() / "peers" / f"{name}-{mark}"
    python, complete = folder / "bin" / "python", folder / ".complete"
    if complete.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = _uv()
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", str(python), "--requirements", str(requirements)],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name} could not be installed within {_INSTALL_SECONDS} s") from None
        if done.returncode:
            raise BenchError(f"{name} could not be installed: {' '.join(done.stderr.split())[-300:]}")
    complete.touch()
    return python


def _uv() -> list[str]:
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    if (found := shutil.which("uv")) is not None:
        return [found]
    raise BenchError("the peers' environments are made by uv, which is not installed: pip install uv")


def pinned(name: str) -> dict[str, str]:
    """The versions that the peer's requirements pin, by package."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (PEERS / name / "requirements.txt").read_text(), re.M))


class Peer:
    """A peer's process, in a folder of its own under `folder`. A context manager."""

    def __init__(self, name: str, python: Path, settings: Mapping[str, Any], folder: Path) -> None:
        self.name = name
        self._work = folder / name
        self._work.mkdir(parents=True, exist_ok=True)
        self.log = folder / "logs" / f"peer-{name}.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PENSTOCK_", "PYTHON"))}
        paths = [str(PEERS / "common"), str(PEERS / name)]
        # It starts in a folder of its own: some keep files where they are started.
        start = (
            f"import os, runpy; os.chdir({str(self._work)!r}); "
            f"runpy.run_path({str(PEERS / name / 'worker.py')!r}, run_name='__main__')"
        )
        self._program = Program(
            name,
            [str(python), "-c", start],
            self.log,
            env={
                **inherited,
                "PEER_SETTINGS": json.dumps(dict(settings)),
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stop_seconds=10.0,
        )

    def __enter__(self) -> Peer:
        self._program.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._program.pid is not None:
            self.thaw()
        self._program.stop()

    @property
    def pid(self) -> int:
        """The process. Raises `BenchError` where it has ended."""
        pid = self._program.pid
        if pid is None:
            raise BenchError(f"{self.name} has ended: {tail(self.log)}")
        return pid

    def freeze(self) -> None:
        """Stop it where it stands."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def cpu(self) -> float:
        """CPU seconds that it has used."""
        try:
            used = psutil.Process(self.pid).cpu_times()
        except psutil.NoSuchProcess:
            raise BenchError(f"{self.name} has ended: {tail(self.log)}") from None
        return float(used.user + used.system)
