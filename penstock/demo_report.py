"""What the person at the terminal sees of the demo: progress while it runs, tables at its end, and where to go next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from zoneinfo import ZoneInfo

import numpy as np

from penstock import console
from penstock.demo_evidence import Arrived, VariantFindings
from penstock.flights.tables import LOCAL_ZONE

if TYPE_CHECKING:
    from penstock.demo import Plan, Report
    from producers.replay import Progress, Tally

# Often enough for the eye, seldom enough for the latencies.
_REDRAW_SECONDS: Final = 0.1
_ZONE: Final = ZoneInfo(LOCAL_ZONE)
# The last answers come a moment after the last request, so that even a calm run is a little under its pace.
_KEPT_PACE: Final = 0.8
# They belong to nobody, so no variant has them; none of them took off.
_NO_VARIANT: Final = "no tail number"


class Watch:
    """Progress bars on a terminal, a line now and then elsewhere; a context manager.

    `look` is called with every bit of progress, and may raise.
    """

    def __init__(self, plan: Plan, total: int, look: Callable[[], None]) -> None:
        self._look = look
        self._plan = plan
        self._total = total
        self._bars = console.progress("flights")
        self._replayed = self._bars.add_task("flights", total=total, visible=False)
        self._stored = self._bars.add_task("into ClickHouse", total=total, visible=False)
        self._drawn = 0.0

    def say(self, line: str) -> None:
        """A line that stays; also from other threads."""
        # Around a live bar only its own console knows where to write.
        self._bars.console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)

    def on_replay(self, now: Progress) -> None:
        """Called for every request."""
        self._look()
        done = now.answers >= self._total
        at = self._bars.get_time()
        if at - self._drawn < _REDRAW_SECONDS and not done:
            return
        first, self._drawn = self._drawn == 0.0, at
        if first:
            self.say(f"replaying {self._total:,} flights of {self._plan.start} to {self._plan.last}")
        day = datetime.fromtimestamp(now.at / 1e6, UTC).astimezone(_ZONE)
        self._bars.update(
            self._replayed, completed=now.answers, description=f"flights of {day:%a %d %b %Y}", visible=True
        )

    def on_arrived(self, arrived: Arrived, tally: Tally) -> None:
        """Called when more is in ClickHouse."""
        del tally
        self._look()
        self._bars.update(self._stored, completed=arrived.requests, visible=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def document(report: Report) -> dict[str, Any]:
    """The report as the JSON document of `--json`."""
    tally, found = report.tally, report.findings
    p50, p99 = _round_trip(tally)
    return {
        "run": report.run.name,
        "from": report.plan.start.isoformat(),
        "to": report.plan.last.isoformat(),
        "rate": report.plan.rate,
        "requests": tally.requests,
        "replies": tally.answers,
        "replies_by_code": dict(tally.codes),
        "replies_twice": tally.duplicates,
        "unanswered": tally.unanswered,
        "held_back": tally.held_back,
        "round_trip_ms": {"p50": p50, "p99": p99},
        "outcomes_published": tally.outcomes,
        "clickhouse": asdict(found),
        "faults": report.faults(),
    }


def show(report: Report, kinds: Mapping[str, str]) -> None:
    """The summary, on standard output."""
    from rich.table import Table

    out = console.out()
    table = Table(title=_title(report.plan), title_justify="left", title_style="bold", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(style="dim")
    for name, value, about, wrong in _rows(report):
        table.add_row(name, value, about, style="red" if wrong else None)
    out.print()
    out.print(table)
    out.print(_variants(report, kinds))
    out.print("\nRead back from ClickHouse by SQL, but for replies and round trip, which the demo", style="dim")
    out.print(f"counted itself. The run is {report.run.name}: its request ids begin with that.", style="dim")


def next_steps(*, kept: bool) -> list[tuple[str, str]]:
    """Three commands that work with what is there now (`kept`: the stack still runs), and what each is good for."""
    penstock = _ourselves()
    by_day = (
        "SELECT toDate(occurred_at, 'America/New_York') AS day, variant, count() AS flights, "
        "round(avg(value), 3) AS late, round(avg(score), 3) AS predicted "
        "FROM labelled_predictions GROUP BY ALL ORDER BY ALL"
    )
    ask = f'{penstock} sql "{by_day}"'
    if kept:
        return [
            (ask, "each day and variant, over all runs: what was predicted, what happened"),
            (f"{penstock} flights export july.parquet --from 2013-07-01 --days 31", "a stormy month as a file"),
            (f"{penstock} score flight-delay july.parquet -o scored.parquet", "all of it in bulk, through Kafka"),
        ]
    return [
        (f"{penstock} demo --from 2013-07-01 --days 14 --rate max", "two stormy weeks, as fast as it goes"),
        (f"{penstock} up", "the stack again, with what is in ClickHouse; while it runs, in another terminal:"),
        (ask, "each day and variant, over all runs: what was predicted, what happened"),
    ]


def show_next(steps: list[tuple[str, str]]) -> None:
    """The commands, whole lines to copy."""
    out = console.out()
    out.print("\n[bold]Try next[/bold]")
    for command, about in steps:
        out.print(f"  # {about}", style="dim", soft_wrap=True, markup=False)
        out.print(f"  {command}", style="cyan", soft_wrap=True, markup=False)


def _title(plan: Plan) -> str:
    days = f"{plan.start} to {plan.last}" if plan.last > plan.start else f"{plan.start}"
    return f"Real flights of {days}, scored on the way"


def _rows(report: Report) -> list[tuple[str, str, str, bool]]:
    """Name, value, what it is, whether it is wrong."""
    tally, found, plan = report.tally, report.findings, report.plan
    errors = ", ".join(f"{count:,} {code}" for code, count in found.errors.items()) or "0"
    example = next(iter(found.examples.values()), "requests answered with an error")
    no_outcome = tally.requests - tally.outcomes
    p50, p99 = _round_trip(tally)
    pace = f"paced at {plan.rate:,g} a second by --rate" if plan.rate else "as fast as the answers came"
    if plan.rate and found.rows_per_second < _KEPT_PACE * plan.rate:
        pace = f"{plan.rate:,g} a second were asked for: too many for now"
    each = found.requests / max(found.batches, 1)
    return [
        ("requests", f"{found.requests:,}", f"of {tally.requests:,} flights, at scheduled departure",
         found.requests != tally.requests),
        ("replies", f"{tally.answers:,}", f"received by the demo; {tally.duplicates:,} more came twice",
         tally.unanswered > 0),
        ("errors", errors, example, bool(found.errors)),
        ("lost", f"{found.lost:,}", "requests without a row in predictions", found.lost != 0),
        ("duplicated", f"{found.duplicated:,}", "rows of a request beyond its first", found.duplicated != 0),
        ("misassigned", f"{found.misassigned:,}", "variant is not what SQL computes", found.misassigned != 0),
        ("outcomes", f"{found.outcomes:,}", f"arrivals; {no_outcome:,} cancelled or diverted",
         found.outcomes != tally.outcomes),
        ("latency p50", f"{found.p50_ms:,.1f} ms", "from sent to scored", False),
        ("latency p99", f"{found.p99_ms:,.1f} ms", "", False),
        ("round trip p50", f"{p50:,.1f} ms", "from sent to the reply in hand", False),
        ("round trip p99", f"{p99:,.1f} ms", "", False),
        ("throughput", f"{found.rows_per_second:,.0f} rows/s", pace, False),
        ("micro-batches", f"{found.batches:,}",
         f"{each:,.1f} rows on average, {found.workers} worker{'s' if found.workers != 1 else ''}", False),
    ]  # fmt: skip


def _variants(report: Report, kinds: Mapping[str, str]) -> Any:
    from rich.table import Table

    found = report.findings.variants
    names = (f"{one.variant} is version {one.version}, {kinds.get(one.version, '')}" for one in found if one.variant)
    table = Table(
        title="The variants against what really happened",
        title_justify="left",
        title_style="bold",
        caption="\n".join(names),
        caption_justify="left",
    )
    table.add_column("variant")
    for name in ("flights", "arrived", "late", "predicted", "AUC", "log loss"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(*_variant(one))
    return table


def _variant(one: VariantFindings) -> tuple[str, ...]:
    return (
        one.variant or _NO_VARIANT,
        f"{one.flights:,}",
        f"{one.with_outcome:,}",
        *("" if value is None else f"{value:.1%}" for value in (one.late_share, one.mean_score)),
        *("" if value is None else f"{value:.4f}" for value in (one.auc, one.log_loss)),
    )


def _round_trip(tally: Tally) -> tuple[float, float]:
    """p50 and p99 in milliseconds; NaN without an answer."""
    if not tally.round_trips:
        return float("nan"), float("nan")
    p50, p99 = np.quantile(np.asarray(tally.round_trips), [0.5, 0.99]) * 1000
    return float(p50), float(p99)


def _ourselves() -> str:
    """How the person can call this very command again."""
    if shutil.which("penstock"):
        return "penstock"
    own = Path(sys.argv[0])
    if own.name != "penstock":
        return f"{sys.executable} -m penstock"
    relative = os.path.relpath(own)
    return str(own) if relative.startswith("..") else relative
