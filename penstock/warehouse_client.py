"""Asks the warehouse from another process: the one that holds chDB, over HTTP, or the server that the settings name.

What was not answered is an `AskError`: one line that says who did not answer, or what was refused.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.settings import Settings


class AskError(RuntimeError):
    """A question that was not answered, in one line."""


def ask(settings: Settings, statement: str, form: str = "json", timeout: float = 90.0) -> Any:
    """The answer to a read-only statement: {"columns": …, "rows": …}, or CSV text.

    `timeout` in seconds bounds the wait for the local process. Raises `AskError`.
    """
    if settings.clickhouse.url:
        return _ask_server(settings, statement, form)
    body = post(settings, f"/sql?format={form}", statement.encode(), timeout)
    return body if form == "csv" else json.loads(body)


def dicts(settings: Settings, statement: str) -> list[dict[str, Any]]:
    """The rows of an answer, each by column name. Raises `AskError`."""
    answer = ask(settings, statement)
    names = [one["name"] for one in answer["columns"]]
    return [dict(zip(names, row, strict=True)) for row in answer["rows"]]


def ask_for_looks(settings: Settings, experiment: str, *, force: bool, ahead: float = 0.0) -> list[dict[str, Any]]:
    """Have the process that holds the warehouse look at its experiments now, or as if `ahead` seconds later.

    Returns its outcomes. Raises `AskError`.
    """
    query = urllib.parse.urlencode({"experiment": experiment, "force": str(force).lower(), "ahead": ahead})
    found: list[dict[str, Any]] = json.loads(post(settings, f"/experiments/look?{query}", b"", 600))["outcomes"]
    return found


def credentials(settings: Settings) -> dict[str, str]:
    """The headers that the process which holds the warehouse asks for: none where it needs no token."""
    token = settings.page.token
    return {"Authorization": f"Bearer {token}"} if token else {}


def _ask_server(settings: Settings, statement: str, form: str) -> Any:
    from analytics.readonly import ReadOnlySql
    from analytics.warehouse import Warehouse, WarehouseError
    from penstock.warehouse_config import warehouse_config

    try:
        with Warehouse.open(warehouse_config(settings), create=False) as warehouse:
            readonly = ReadOnlySql(warehouse)
            return readonly.csv(statement).decode() if form == "csv" else readonly.json(statement)
    except WarehouseError as error:
        raise AskError(str(error)) from None


def ask_for_drift(settings: Settings, model: str, begin: str, end: str) -> dict[str, Any]:
    """Have the process that holds the warehouse make a round of the drift job; ISO days to be counted again, or ''.

    Returns its outcomes and what became of wishes for training. Raises `AskError`.
    """
    query = urllib.parse.urlencode({"model": model, "from": begin, "to": end})
    found: dict[str, Any] = json.loads(post(settings, f"/drift/run?{query}", b"", 600))
    return found


def post(settings: Settings, path: str, body: bytes, timeout: float) -> str:
    """What the process that holds the warehouse answers to a POST. Raises `AskError`."""
    return request(settings, "POST", path, body, timeout=timeout)


def request(
    settings: Settings, method: str, path: str, body: bytes | None = None, *, kind: str = "text/plain", timeout: float
) -> str:
    """What the process that holds the warehouse answers; `kind` is the body's media type. Raises `AskError`."""
    host, port = settings.http.host, settings.http.warehouse_port
    # A process that listens on every address is asked on this machine's own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    headers = {"Content-Type": kind, **credentials(settings)}
    wanted = urllib.request.Request(f"{place}{path}", body, headers, method=method)  # noqa: S310 - ours
    # A proxy of the environment is not meant for the process next door.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(wanted, timeout=timeout) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        try:
            said = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            said = (
                f"{place} answers {error.code} {error.reason}, not in the way of Penstock's warehouse: "
                "does http.warehouse_port belong to another program?"
            )
        raise AskError(said) from None
    except (urllib.error.URLError, OSError) as error:
        raise AskError(
            f"no warehouse answers at {place} ({getattr(error, 'reason', error)}): start it by `penstock up`"
        ) from None
