"""The HTTP face of the process that holds the warehouse: read-only SQL, looks at experiments, health and metrics.

chDB lives in one process, so everybody else asks that process.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Annotated, Any, Final, Literal, Self

import uvicorn
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from analytics.readonly import QueryRefusedError, ReadOnlySql
from analytics.warehouse import WarehouseError, WarehouseUnavailableError
from producers.errors import BrokerUnavailableError
from stream_workers.ops_health import Health, OpsServerError

_LONGEST: Final = 64 * 1024
Format = Literal["json", "csv"]
# Looks at experiments (one by name, or '' for all; whether due or not) and tells what came of each, as JSON values.
Looks = Callable[[str, bool], list[dict[str, Any]]]


def create_app(sql: ReadOnlySql, health: Health, registry: CollectorRegistry, looks: Looks | None = None) -> FastAPI:
    """`/sql` (GET ?query=, or POST the statement as the body; ?format=json|csv), `/healthz`, `/readyz`, `/metrics`.

    With `looks` also POST `/experiments/look` (?experiment=&force=), from this machine only, as it writes. A refused or
    failing statement is 400 with {"error": one line}; ClickHouse or Kafka out of reach is 503.
    """
    app = FastAPI(title="Penstock warehouse", docs_url=None, redoc_url=None, openapi_url=None)

    def answer(statement: str, form: Format) -> Response:
        if len(statement) > _LONGEST:
            return _error(400, f"the query has {len(statement)} characters, the limit is {_LONGEST}")
        try:
            if form == "csv":
                return Response(sql.csv(statement), media_type="text/csv; charset=utf-8")
            return JSONResponse(sql.json(statement))
        except WarehouseUnavailableError as error:
            return _error(503, str(error))
        except (QueryRefusedError, WarehouseError) as error:
            return _error(400, str(error))

    @app.get("/sql")
    def get_sql(query: str, form: Annotated[Format, Query(alias="format")] = "json") -> Response:
        return answer(query, form)

    @app.post("/sql")
    def post_sql(
        statement: Annotated[bytes, Body(media_type="text/plain")],
        form: Annotated[Format, Query(alias="format")] = "json",
    ) -> Response:
        try:
            text = statement.decode()
        except UnicodeDecodeError:
            return _error(400, "the query is not UTF-8")
        return answer(text, form)

    @app.post("/experiments/look")
    def post_look(request: Request, experiment: str = "", force: bool = False) -> Response:
        if looks is None:
            return _error(404, "this process does not look at experiments")
        if request.client is None or not _loopback(request.client.host):
            return _error(403, "looks are asked for on the machine itself")
        try:
            return JSONResponse({"outcomes": looks(experiment, force)})
        except (WarehouseUnavailableError, BrokerUnavailableError) as error:
            return _error(503, str(error))
        except WarehouseError as error:
            return _error(400, str(error))

    @app.get("/healthz")
    def healthz() -> Response:
        return _state(*health.alive())

    @app.get("/readyz")
    def readyz() -> Response:
        return _state(*health.ready())

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _state(ok: bool, reasons: Any) -> JSONResponse:
    return JSONResponse({"ok": ok, "reasons": reasons}, 200 if ok else 503)


class AppServer:
    """Serves an app from a thread. `port` 0 takes a free one; `.port` says which. Raises `OpsServerError`."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._host = host
        self.port = port
        config = uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self.port}"

    def start(self) -> Self:
        """Listen and serve."""
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        try:
            listener = self._bind()
        except OSError as error:
            raise OpsServerError(f"cannot listen on {self._host}:{self.port}: {error.strerror}") from error
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Finish the requests under way and end."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self.port))
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        return listener

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
