"""The demo's last word: logistic regression against a small network on the flights that were replayed, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock import console
from penstock.report_file import write

if TYPE_CHECKING:
    from analytics.readings import Reading

FILE: Final = "report.html"


def demo_experiment(reading: Reading, state: Path) -> Path:
    """Write the page into the stack's state folder, print the table and where the page is; returns that.

    The metrics are calls that came true and the log loss, a unit is an aircraft: what is compared is aircraft, so that
    the many flights of one are not taken for independent of one another. Raises `ReportFileError`.
    """
    from analytics.report_text import report

    path = state / FILE
    write(reading, path)
    out = console.out()
    out.print()
    out.print("Which model is better? The unit is an aircraft, with all of its flights.", style="bold")
    out.print(report(reading))
    out.print(f"\nWith figures, in any browser: [cyan]{path.resolve().as_uri()}[/cyan]", soft_wrap=True)
    return path
