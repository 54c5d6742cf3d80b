"""Asks the warehouse from any process: the server that clickhouse.url names, or the local process that holds chDB."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from penstock.settings import Settings

Format = Literal["json", "csv"]


class AskError(RuntimeError):
    """A question without an answer, in one line."""


def ask(settings: Settings, statement: str, form: Format = "json", timeout: float = 90.0) -> Any:
    """The answer to one statement that changes nothing: CSV text, or {"columns": [{"name", "type"}], "rows": [[…]]}.

    `timeout` in seconds bounds the wait for the local process. Raises `AskError`.
    """
    if settings.clickhouse.url:
        return _ask_server(settings, statement, form)
    return _ask_process(settings, statement, form, timeout)


def _ask_server(settings: Settings, statement: str, form: Format) -> Any:
    # Tenths of a second, which a question to the local process can do without.
    from analytics.readonly import ReadOnlySql
    from analytics.warehouse import Warehouse, WarehouseError
    from penstock.warehouse_config import warehouse_config

    try:
        with Warehouse.open(warehouse_config(settings), create=False) as warehouse:
            readonly = ReadOnlySql(warehouse)
            return readonly.csv(statement).decode() if form == "csv" else readonly.json(statement)
    except WarehouseError as error:
        raise AskError(str(error)) from None


def _ask_process(settings: Settings, statement: str, form: Format, timeout: float) -> Any:
    host, port = settings.http.host, settings.http.warehouse_port
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    request = urllib.request.Request(  # noqa: S310 - always http, from our settings
        f"{place}/sql?format={form}", statement.encode(), {"Content-Type": "text/plain"}
    )
    # A proxy of the environment is not meant for the process next door.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            body = response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        raise AskError(_reason(text) or f"{place} is not Penstock's warehouse: it answers {error.code}") from None
    except (urllib.error.URLError, OSError) as error:
        raise AskError(
            f"no warehouse answers at {place} ({getattr(error, 'reason', error)}): start it by `penstock up`"
        ) from None
    return body if form == "csv" else json.loads(body)


def _reason(text: str) -> str:
    """What a refusal says; '' where it does not come from Penstock."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
