"""`penstock flights export`: real flights as a file for `penstock score`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from penstock import console


def register(app: typer.Typer) -> None:
    """Add the commands."""
    flights = typer.Typer(no_args_is_help=True, help="The demo's flights.")
    flights.command("export")(export)
    flights.callback()(_group)
    app.add_typer(flights, name="flights")


def _group() -> None:
    """The demo's flights."""


def export(
    output: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    start: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of departure, New York time.")
    ] = datetime(2013, 4, 1),  # noqa: DTZ001 - typer reads the default; it is a day, not an instant
    days: Annotated[int, typer.Option(min=1, help="How many days.")] = 30,
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="Also what happened: late, arrived_at. No model may have these.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Write flights with their features, one row each, in order of scheduled departure."""
    if output.suffix != ".parquet":
        console.fail(f"{output}: give the output a name that ends in .parquet")
    if output.exists() and not force:
        console.fail(f"{output} is there already; give --force to replace it, or another name")
    if not output.parent.is_dir():
        console.fail(f"{output.parent} is no folder; make it first")
    import pyarrow.parquet as pq

    from penstock.flights.data import feature_table
    from penstock.flights.tables import FlightsDataError

    part = output.with_name(f".{output.name}.part")
    try:
        table = feature_table(start.date(), days, outcomes=outcomes)
        pq.write_table(table, part, compression="zstd")
        part.replace(output)
    except FlightsDataError as error:
        console.fail(str(error))
    except OSError as error:
        console.fail(f"{output} cannot be written: {error.strerror or error}")
    finally:
        part.unlink(missing_ok=True)
    if as_json:
        size = output.stat().st_size
        console.print_json({"output": output, "rows": table.num_rows, "columns": table.column_names, "bytes": size})
    else:
        console.note(f"{output}: {table.num_rows:,} flights in {table.num_columns} columns")
