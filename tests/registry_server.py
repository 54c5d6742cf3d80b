"""A server that speaks the schema registry's HTTP, with its schemas in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Registry(ThreadingHTTPServer):
    """Subjects and schemas in memory. `refuse`: the status to answer everything with, or 0."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, int] = {}
        self.asked: list[str] = []
        self.refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, schema: dict[str, Any]) -> int:
        """The id of a schema, the same for the same text."""
        if schema not in self.schemas:
            self.schemas.append(schema)
        return self.schemas.index(schema) + 1


class Handler(BaseHTTPRequestHandler):
    """POST /subjects/NAME/versions and GET /schemas/ids/N, as Confluent documents them."""

    server: Registry

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind, subject, versions = self.path.partition("?")[0].strip("/").split("/")
        if (kind, versions) != ("subjects", "versions"):
            self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
            return
        self.server.subjects[subject] = number = self.server.add({"schema": body["schema"]})
        self.answer(200, {"id": number})

    def do_GET(self) -> None:
        number = int(self.path.partition("?")[0].removeprefix("/schemas/ids/"))
        if 0 < number <= len(self.server.schemas):
            self.answer(200, self.server.schemas[number - 1])
        else:
            self.answer(404, {"error_code": 40403, "message": f"Schema {number} not found"})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.refuse:
            status, body = self.server.refuse, {"error_code": self.server.refuse * 100 + 1, "message": "no"}
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keep stderr for what matters."""


@contextmanager
def running_registry() -> Iterator[Registry]:
    """A registry that answers until the end of the block."""
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
