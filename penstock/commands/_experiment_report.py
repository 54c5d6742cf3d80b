"""`penstock experiments report`: what a look found, as a table in the terminal, a page of HTML, or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console

if TYPE_CHECKING:
    from penstock.experiment_reading import ReadExperiment


def register(group: typer.Typer, read: ReadExperiment | None = None) -> None:
    """Add the command. `read` finds the reading; by default the process that holds the warehouse is asked for it."""

    @group.command()
    def report(
        name: Annotated[str, typer.Argument(help="The experiment.")],
        html: Annotated[
            Path | None, typer.Option(help="Write a page that stands alone: figures, tables, how to repeat it.")
        ] = None,
        look: Annotated[int | None, typer.Option(min=1, help="An earlier look of the run; else the newest.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON document: all that the look found.")] = False,
    ) -> None:
        """Show what an experiment has found: decision, checks, lifts with their intervals, guardrails."""
        _report(name, html, look, as_json=as_json, read=read)


def _report(name: str, html: Path | None, look: int | None, *, as_json: bool, read: ReadExperiment | None) -> None:
    from penstock.experiment_reading import ReadingUnavailableError, ask

    try:
        reading = (read or ask)(console.settings(), name, look)
    except ReadingUnavailableError as error:
        console.fail(str(error))
    if html is not None:
        from penstock.report_file import ReportFileError, write

        try:
            write(reading, html)
        except ReportFileError as error:
            console.fail(str(error))
    if as_json:
        from analytics.reading_json import reading_to_document

        console.print_json(reading_to_document(reading))
    else:
        from analytics.report_text import report

        console.out().print(report(reading))
    if html is not None:
        console.note(f"the page is {html}")
