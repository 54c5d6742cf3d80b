"""The demo's last word: logistic regression against a small network on the flights that were replayed, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock import console
from penstock.demo import EXPERIMENT, definition
from penstock.report_file import write
from penstock.warehouse_client import AskError, ask_for_looks

if TYPE_CHECKING:
    from analytics.readings import Reading
    from penstock.settings import Settings

FILE: Final = "report.html"


def look_back(settings: Settings) -> dict[str, Any]:
    """Look at the run that has just been replayed, as if its windows had closed: nothing more comes.

    Returns the outcome as JSON values. Raises `AskError`.
    """
    one = definition()
    ahead = max(metric.window for metric in one.metrics) + one.maturity_delay + one.slot
    (outcome,) = ask_for_looks(settings, EXPERIMENT, force=True, ahead=ahead.total_seconds())
    if outcome["error"]:
        raise AskError(f"experiment {EXPERIMENT!r} could not be looked at: {outcome['error']}")
    return outcome


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
