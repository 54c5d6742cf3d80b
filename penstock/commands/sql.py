"""`penstock sql "…"`: a question to the warehouse, answered as a table, JSON or CSV."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


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
    from penstock.warehouse_client import AskError, ask

    if as_json and as_csv:
        fail("--json and --csv exclude each other")
    statement = sys.stdin.read() if query == "-" else query
    try:
        answer = ask(settings(), statement, "csv" if as_csv else "json")
    except AskError as error:
        fail(str(error))
    if as_csv:
        sys.stdout.write(answer)
    elif as_json:
        print_json(answer)
    else:
        print_table([one["name"] for one in answer["columns"]], answer["rows"])
