"""Debian's Prometheus and Alertmanager, where they are installed: run for a test and asked over HTTP."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
from waiting import until

PROMTOOL: Final = "promtool"
AMTOOL: Final = "amtool"
ALERTMANAGER: Final = "prometheus-alertmanager"
_CONFIG: Final = """
route: {{ receiver: test, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}
receivers: [{{ name: test, webhook_configs: [{{ url: "{url}", send_resolved: true }}] }}]
"""


def missing() -> str:
    """What is not installed, in words; '' where all of it is."""
    gone = [one for one in (PROMTOOL, AMTOOL, ALERTMANAGER) if shutil.which(one) is None]
    return f"{', '.join(gone)} not found: install Debian's prometheus and prometheus-alertmanager" if gone else ""


def run(*command: str | Path) -> tuple[int, str]:
    """Exit status and all that a program says."""
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Hook:
    """A webhook of the test's own: what was posted there, in order. A context manager."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.bodies.append(json.loads(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def states(self) -> list[tuple[str, str]]:
        """Of each alert that was posted: its name and whether it fires, in order."""
        return [(one["labels"]["alertname"], one["status"]) for body in list(self.bodies) for one in body["alerts"]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Alertmanager:
    """A real one on a port of its own, which tells a webhook at once. It may be stopped and started again."""

    def __init__(self, folder: Path, hook: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "alertmanager.yml").write_text(_CONFIG.format(url=hook))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        command: Sequence[str] = [
            ALERTMANAGER,
            f"--config.file={self._folder / 'alertmanager.yml'}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._ready, 30, "alertmanager did not become ready")
        return self

    def stop(self) -> None:
        """End it as an operator would: it writes down whom it has told of what."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def alerts(self) -> list[dict[str, Any]]:
        """What it takes for firing."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts").json()
        return found

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False
