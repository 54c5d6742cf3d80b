"""A `penstock` process that a test starts, asks over HTTP, and ends."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from waiting import until


class ServiceProcess:
    """Runs until `stop`, or until it is killed; its log is a file."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def await_alive(self, seconds: float = 60.0) -> Self:
        """Return once it answers on its port: all that starts a process is behind it, whatever it still waits for."""
        return self._await("/healthz", seconds)

    def await_ready(self, seconds: float = 60.0) -> Self:
        """Return once /readyz says 200."""
        return self._await("/readyz", seconds)

    def _await(self, path: str, seconds: float) -> Self:
        def well() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.get(path)[0] == 200

        until(well, seconds, lambda: f"{path} does not say 200: {self.get(path)} {self.log.read_text()}")
        return self

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= found.items():
                    total += float(match[3])
        return total

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
