"""Enough of ClickHouse's HTTP interface, over chDB, to put the network client through its paces where no server is.

Run as a program it serves a chDB folder until it is killed: `clickhouse_front.py FOLDER PORT [PASSWORD]`, printing
"listening PORT". POST /_front with {"mode": …, "times": n} makes it misbehave on the next n inserts (or on all
requests, for "refuse"): "lose" does the insert and hangs up without an answer, "refuse" answers 503, "slow" waits
`seconds` first. Source of the protocol: ClickHouse documentation, "HTTP Interface".
"""

from __future__ import annotations

import base64
import json
import re
import sys
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb

# What the client sends as parameters that are no ClickHouse settings, or that only concern the transport.
_TRANSPORT = {
    *("query", "database", "session_id", "session_timeout", "session_check", "query_id", "quota_key", "compress"),
    *("decompress", "wait_end_of_query", "client_protocol_version", "role", "send_progress_in_http_headers"),
    *("http_headers_progress_interval_ms", "enable_http_compression", "default_format", "buffer_size"),
}
_INSERT = re.compile(rb"\s*(INSERT INTO .*?) FORMAT (\w+)\s*$", re.DOTALL | re.IGNORECASE)


class Front:
    """The engine behind the server, and how it is to misbehave."""

    def __init__(self, folder: str, password: str = "") -> None:
        self.password = password
        self._folder = folder
        self._anchor = chdb.connect(folder)
        self.mode, self.times, self.seconds = "", 0, 0.0
        self.lock = threading.Lock()

    def misbehave(self, mode: str) -> bool:
        """Whether this is the moment for `mode`; counts it."""
        with self.lock:
            if self.mode != mode or self.times <= 0:
                return False
            self.times -= 1
            return True

    def run(self, sql: bytes, data: bytes, parameters: Mapping[str, str]) -> tuple[bytes, int]:
        """The answer's bytes and the rows read. Raises what chDB raises."""
        connection = chdb.connect(self._folder)
        try:
            if parameters.get("database"):
                connection.query(f"USE {parameters['database']}", "TabSeparated")
            for name, value in sorted(parameters.items(), key=lambda item: item[0] == "readonly"):
                if name not in _TRANSPORT and not name.startswith("param_"):
                    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
                    connection.query(f"SET {name} = '{quoted}'", "TabSeparated")
            bound = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
            insert = _INSERT.match(sql)
            if insert and data:
                with tempfile.NamedTemporaryFile(suffix=".body") as body:
                    body.write(data)
                    body.flush()
                    text = f"{insert[1].decode()} FROM INFILE '{body.name}' FORMAT {insert[2].decode()}"
                    result = connection.query(text, "TabSeparated")
                    return b"", int(result.rows_read())
            result = connection.query(sql.decode(), "TabSeparated", params=bound)
            return bytes(result.bytes() or b""), int(result.rows_read())
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: Front

    def do_POST(self) -> None:
        self._serve(self._body())

    def do_GET(self) -> None:
        self._serve(b"")

    def _serve(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/_front":
            wish = json.loads(body)
            with self.front.lock:
                self.front.mode, self.front.times = wish["mode"], wish.get("times", 1)
                self.front.seconds = wish.get("seconds", 0.0)
            self._answer(200, b"")
            return
        if parts.path == "/ping":
            self._answer(200, b"Ok.\n")
            return
        if self.front.misbehave("refuse"):
            self._answer(
                503, b"Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)", 202
            )
            return
        if not self._welcome():
            self._answer(401, b"Code: 516. DB::Exception: default: Authentication failed. (AUTHENTICATION_FAILED)", 516)
            return
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        sql, data = parameters.get("query", "").encode(), body
        if not sql:
            head = re.match(rb"\s*INSERT INTO [^\n]* FORMAT \w+\n", body, re.IGNORECASE)
            sql, data = (head[0], body[head.end() :]) if head else (body, b"")
        if data and self.front.misbehave("slow"):
            sleep(self.front.seconds)
        try:
            result, rows = self.front.run(sql, data, parameters)
        except Exception as error:  # noqa: BLE001 - whatever chDB says is the answer
            text = str(error)
            code = re.search(r"Code: (\d+)", text)
            self._answer(500, text.encode(), int(code[1]) if code else 1001)
            return
        if data and self.front.misbehave("lose"):
            self.close_connection = True
            self.connection.close()
            return
        self._answer(200, result, rows=rows)

    def _welcome(self) -> bool:
        if not self.front.password:
            return True
        given = self.headers.get("Authorization", "")
        plain = base64.b64decode(given.removeprefix("Basic ")).decode() if given.startswith("Basic ") else ""
        return plain.partition(":")[2] == self.front.password

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes, code: int = 0, rows: int = 0) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("X-ClickHouse-Summary", json.dumps({"read_rows": str(rows), "written_rows": str(rows)}))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if body and not code:
            self.send_header("X-ClickHouse-Format", "TabSeparated")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Silence."""


def serve(folder: Path, port: int, password: str) -> None:
    """Serve until killed."""
    handler = type("Handler", (_Handler,), {"front": Front(str(folder), password)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    print(f"listening {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
