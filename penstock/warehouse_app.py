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
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from analytics.readonly import Cancel, QueryRefusedError, ReadOnlySql
from analytics.warehouse import WarehouseError, WarehouseUnavailableError
from penstock.asking import while_there
from producers.errors import BrokerUnavailableError
from stream_workers.ops_health import Health, OpsServerError, state_of

_LONGEST: Final = 64 * 1024
Format = Literal["json", "csv"]
# Looks at experiments (one by name, or '' for all; whether due or not; as if so many seconds later) and
# tells what came of each, as JSON values.
Looks = Callable[[str, bool, float], list[dict[str, Any]]]


def create_app(sql: ReadOnlySql, health: Health, registry: CollectorRegistry, looks: Looks | None = None) -> FastAPI:
    """`/sql` (GET ?query=, or POST the statement as the body; ?format=json|csv), `/healthz`, `/readyz`, `/metrics`.

    With `looks` also POST `/experiments/look` (?experiment=&force=&ahead=), from this machine only, as it writes. A
    refused or failing statement is 400 with {"error": one line}; ClickHouse or Kafka out of reach, or too busy, is 503.
    Every other error has the same form. A query whose asker goes away is broken off.
    """
    app = FastAPI(title="Penstock warehouse", docs_url=None, redoc_url=None, openapi_url=None)

    def answer(statement: str, form: Format, cancel: Cancel) -> Response:
        if len(statement) > _LONGEST:
            return _error(400, f"the query has {len(statement)} characters, the limit is {_LONGEST}")
        try:
            if form == "csv":
                return Response(sql.csv(statement, cancel), media_type="text/csv; charset=utf-8")
            return JSONResponse(sql.json(statement, cancel))
        except WarehouseUnavailableError as error:
            return _error(503, str(error))
        except (QueryRefusedError, WarehouseError) as error:
            return _error(400, str(error))

    async def answer_while_there(request: Request, statement: str, form: Format) -> Response:
        """The answer; the query is broken off when who asked has gone away."""
        return await while_there(request, sql, lambda cancel: answer(statement, form, cancel))

    @app.get("/sql")
    async def get_sql(
        request: Request, query: str, form: Annotated[Format, Query(alias="format")] = "json"
    ) -> Response:
        return await answer_while_there(request, query, form)

    @app.post("/sql")
    async def post_sql(
        request: Request,
        statement: Annotated[bytes, Body(media_type="text/plain")] = b"",
        form: Annotated[Format, Query(alias="format")] = "json",
    ) -> Response:
        try:
            text = statement.decode()
        except UnicodeDecodeError:
            return _error(400, "the query is not UTF-8")
        return await answer_while_there(request, text, form)

    @app.post("/experiments/look")
    def post_look(request: Request, experiment: str = "", force: bool = False, ahead: float = 0.0) -> Response:
        if looks is None:
            return _error(404, "this process does not look at experiments")
        if request.client is None or not is_loopback(request.client.host):
            return _error(403, "looks are asked for on the machine itself")
        try:
            return JSONResponse({"outcomes": looks(experiment, force, ahead)})
        except (WarehouseUnavailableError, BrokerUnavailableError) as error:
            return _error(503, str(error))
        except WarehouseError as error:
            return _error(400, str(error))

    _one_line_errors(app)

    # These wait for nothing and need no thread, which long queries might all hold.
    @app.get("/healthz")
    async def healthz() -> Response:
        return _state(*state_of(*health.alive()))

    @app.get("/readyz")
    async def readyz() -> Response:
        return _state(*state_of(*health.ready()))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _state(status: int, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, status)


def _one_line_errors(app: FastAPI) -> None:
    """Give what FastAPI refuses by itself, and what fails, the same form as all other errors."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _error(400, f"{first['loc'][-1]}: {first['msg'].replace('Input should be', 'expected')}")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}")

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> Response:
        # The server logs it with its traceback.
        return _error(500, f"the warehouse failed on this query, its log says where: {type(error).__name__}: {error}")


class AppServer:
    """Serves an app from a thread. `port` 0 takes a free one; `.port` says which. Raises `OpsServerError`."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
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
        # Named as TCP: asyncio turns Nagle's wait (40 ms with a delayed acknowledgement) off only where it is.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
