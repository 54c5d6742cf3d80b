"""`penstock sql "…"`: a question to the warehouse, answered as a table, JSON or CSV."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from penstock.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sql")(sql)


def sql(
    query: Annotated[str, typer.Argument(help='One statement that changes nothing; "-" reads it from standard input.')],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: columns and rows.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a line of names.")] = False,
) -> None:
    """Ask the warehouse: the running ingest process, or the server that clickhouse.url names."""
    from penstock.console import fail, print_json, print_table, settings

    if as_json and as_csv:
        fail("--json and --csv exclude each other")
    statement = sys.stdin.read() if query == "-" else query
    chosen = settings()
    ask = _ask_server if chosen.clickhouse.url else _ask_process
    answer = ask(chosen, statement, "csv" if as_csv else "json")
    if as_csv:
        sys.stdout.write(answer)
    elif as_json:
        print_json(answer)
    else:
        print_table([one["name"] for one in answer["columns"]], answer["rows"])


def _ask_server(chosen: Settings, statement: str, form: str) -> Any:
    from analytics.readonly import ReadOnlySql
    from analytics.warehouse import Warehouse, WarehouseError
    from penstock.console import fail
    from penstock.warehouse_config import warehouse_config

    try:
        with Warehouse.open(warehouse_config(chosen), create=False) as warehouse:
            readonly = ReadOnlySql(warehouse)
            return readonly.csv(statement).decode() if form == "csv" else readonly.json(statement)
    except WarehouseError as error:
        fail(str(error))


def _ask_process(chosen: Settings, statement: str, form: str) -> Any:
    import json
    import urllib.error
    import urllib.request

    from penstock.console import fail

    host, port = chosen.http.host, chosen.http.warehouse_port
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    request = urllib.request.Request(  # noqa: S310 - always http, from our settings
        f"{place}/sql?format={form}", statement.encode(), {"Content-Type": "text/plain"}
    )
    # A proxy of the environment is not meant for the process next door.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=90) as response:
            body = response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        try:
            fail(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            fail(
                f"{place} answers {error.code} {error.reason}, not in the way of Penstock's warehouse: "
                "does http.warehouse_port belong to another program?"
            )
    except (urllib.error.URLError, OSError) as error:
        fail(f"no warehouse answers at {place} ({getattr(error, 'reason', error)}): start it by `penstock up`")
    return body if form == "csv" else json.loads(body)
