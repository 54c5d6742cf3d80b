"""Whether a process is alive and ready, and the small HTTP server that says so next to its metrics."""

from __future__ import annotations

import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stream_workers.threads import NamedThread

log = logging.getLogger(__name__)
Reasons = dict[str, str]
PATHS: Final = ("/metrics", "/healthz", "/readyz")


@dataclass(slots=True)
class _Pulse:
    max_age: float
    last: float


class Health:
    """Ready = every named condition holds and the process is alive. Alive = every watched loop has beaten lately.

    Safe to use from several threads. `expected` conditions do not hold until somebody sets them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, expected: Iterable[str] = ()) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._conditions: dict[str, tuple[bool, str]] = dict.fromkeys(expected, (False, "not yet"))
        self._pulses: dict[str, _Pulse] = {}

    def set(self, name: str, ok: bool, why: str = "") -> None:
        """Say whether the condition `name` holds; `why` is one line for a person."""
        with self._lock:
            self._conditions[name] = (ok, why)

    def forget(self, name: str) -> None:
        """The condition or loop no longer matters (a partition was released, a thread ended in good order)."""
        with self._lock:
            self._conditions.pop(name, None)
            self._pulses.pop(name, None)

    def watch(self, name: str, max_age: float) -> None:
        """From now on the loop `name` is to beat at least every `max_age` seconds."""
        with self._lock:
            self._pulses[name] = _Pulse(max_age, self._clock())

    def beat(self, name: str, max_age: float = 30.0) -> None:
        """The loop `name` is turning; the first beat watches it with `max_age` seconds. Costs well under 1 µs."""
        pulse = self._pulses.get(name)
        if pulse is None:
            self.watch(name, max_age)
        else:
            pulse.last = self._clock()

    def alive(self) -> tuple[bool, Reasons]:
        """Whether every watched loop is turning, and what is to be said about each."""
        with self._lock:
            now = self._clock()
            ages = {name: (now - pulse.last, pulse.max_age) for name, pulse in self._pulses.items()}
        reasons = {
            name: "ok" if age <= limit else f"no heartbeat for {age:.1f} s, limit {limit:g} s"
            for name, (age, limit) in ages.items()
        }
        return all(age <= limit for age, limit in ages.values()), reasons

    def ready(self) -> tuple[bool, Reasons]:
        """Whether the process can do its work, and what is to be said about each condition and loop."""
        alive, reasons = self.alive()
        with self._lock:
            conditions = dict(self._conditions)
        for name, (ok, why) in conditions.items():
            reasons[name] = (why or "ok") if ok else (why or "not ok")
        return alive and all(ok for ok, _ in conditions.values()), reasons


def state_of(ok: bool, reasons: Reasons) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of `/healthz` and `/readyz`, the same of every process."""
    return (HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE), {"ok": ok, "reasons": reasons}


class OpsServerError(OSError):
    """The address cannot be listened on."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's own looks its host up in DNS, which can take seconds and tells nobody anything.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no event worth a traceback."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class OpsServer:
    """Serves `/metrics` (Prometheus), `/healthz` and `/readyz` (JSON; 503 where not so) from a thread of its own.

    `port` 0 takes a free one; `.port` and `.url` say which. With a `token`, /metrics is for those who send it as
    `Authorization: Bearer`; health tells what a load balancer has to know. Raises `OpsServerError` where it cannot
    listen.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health, *, token: str = "") -> None:
        kind = _ServerV6 if ":" in host else _Server
        try:
            self._server = kind((host, port), _handler(registry, health, token))
        except OSError as error:
            reason = error.strerror or str(error)
            raise OpsServerError(
                f"cannot serve metrics on {host}:{port}: {reason}; choose another port, or 0 for any free one"
            ) from None
        self.host = host
        self.port = int(self._server.server_port)
        self._thread = NamedThread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="ops-http", daemon=True
        )
        self._started = False

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def start(self) -> Self:
        """Begin to answer; returns itself."""
        self._started = True
        self._thread.start()
        log.info("metrics and health at %s", self.url)
        return self

    def stop(self) -> None:
        """Stop answering and free the port. May be called twice."""
        if self._started:
            self._server.shutdown()
            self._thread.join()
            self._started = False
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _handler(registry: CollectorRegistry, health: Health, token: str) -> type[BaseHTTPRequestHandler]:
    def known(authorization: str) -> bool:
        kind, _, sent = authorization.partition(" ")
        # Takes as long for a wrong one.
        return kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), token.encode())

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a client that connects and says nothing does not keep a thread
        server_version = "penstock"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics" and token and not known(self.headers.get("Authorization", "")):
                error = {"error": "a token is needed: send it as Authorization: Bearer"}
                self._json(HTTPStatus.UNAUTHORIZED, error, **{"WWW-Authenticate": 'Bearer realm="penstock"'})
            elif path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, content_type, encode(registry))
            elif path == "/healthz":
                self._json(*state_of(*health.alive()))
            elif path == "/readyz":
                self._json(*state_of(*health.ready()))
            else:
                self._json(HTTPStatus.NOT_FOUND, {"error": f"no {path} here", "paths": list(PATHS)})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _json(self, status: int, body: dict[str, Any], **headers: str) -> None:
            self._answer(status, "application/json", json.dumps(body).encode() + b"\n", **headers)

        def _answer(self, status: int, content_type: str, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """A scrape every few seconds is no news."""

    return Handler
