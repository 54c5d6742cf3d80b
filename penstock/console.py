"""How every command speaks: results on standard output, everything else on standard error, failures in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:  # they take tenths of a second, which `--help` can do without
    from rich.console import Console
    from rich.progress import Progress

    from penstock.settings import Settings


class _State:
    """What the options before the command said."""

    config: str | None = None


def use_config(path: str | None) -> None:
    """Remember `--config` for `settings`."""
    _State.config = path


def settings(*, stack: bool = True) -> Settings:
    """The settings of this command line; a wrong one ends the command with its line."""
    from penstock.settings import SettingsError, load

    try:
        return load(_State.config, stack=stack)
    except SettingsError as error:
        fail(str(error))


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command: `message` in one line on standard error, exit status `code` (2: the caller can mend it)."""
    typer.echo(f"penstock: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def note(message: str) -> None:
    """A line for the person who watches."""
    typer.echo(message, err=True)


def print_json(document: Any, *, in_one_line: bool = False) -> None:
    """The one JSON document of `--json`. Not-a-number becomes null, times and paths become text.

    `in_one_line`: for a process that goes on, whose reader has to know where the document ends.
    """
    indent = None if in_one_line else 2
    typer.echo(json.dumps(_plain(document), indent=indent, default=str, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table for people, on standard output. Numbers stand to the right."""
    from rich.table import Table
    from rich.text import Text

    all_rows = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left")
    for at, column in enumerate(columns):
        numbers = all_rows != [] and all(isinstance(row[at], int | float | None) for row in all_rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in all_rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    out().print(table)


def out() -> Console:
    """Rich on standard output; into a pipe it writes whole lines however long they are."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


def err() -> Console:
    """Rich on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def progress(unit: str = "rows") -> Progress:
    """Progress bars on standard error with speed and time left; silent where nobody watches.

    Add tasks with `bars.add_task("scoring", total=n)`; a total of None is a bar without an end.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "")

    console = err()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    # numpy's scalars are not JSON; whatever else knows no JSON becomes text in `print_json`
    return _plain(value.item()) if type(value).__module__ == "numpy" and hasattr(value, "item") else value
