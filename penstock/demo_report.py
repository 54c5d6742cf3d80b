"""What the person at the terminal sees of the demo: progress while it runs, tables at its end, and where to go next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
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
_NO_VARIANT: Final = "(no tail number)"


class Watch:
    """Progress bars on a terminal, a line now and then elsewhere; a context manager."""

    def __init__(self, plan: Plan, total: int) -> None:
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
        done = now.answers >= self._total
        at = self._bars.get_time()
        if at - self._drawn < _REDRAW_SECONDS and not done:
            return
        first, self._drawn = self._drawn == 0.0, at
        if first:
            self.say(f"replaying {self._total:,} flights of {self._plan.start} to {self._plan.last}")
        about: dict[str, Any] = {"completed": now.answers, "visible": True}
        if now.at:
            day = datetime.fromtimestamp(now.at / 1e6, UTC).astimezone(_ZONE)
            about["description"] = f"flights of {day:%a %d %b %Y}"
        self._bars.update(self._replayed, **about)

    def on_arrived(self, arrived: Arrived, tally: Tally) -> None:
        """Called when more is in ClickHouse."""
        del tally
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
    out.print(
        f"All of it read back from ClickHouse by SQL, but for replies and round trip. Run {report.run.name}.",
        style="dim",
        soft_wrap=True,
    )


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
            (ask, "each day and variant: what was predicted, what happened"),
            (f"{penstock} flights export july.parquet --from 2013-07-01 --days 31", "a stormy month as a file"),
            (f"{penstock} score flight-delay july.parquet -o scored.parquet", "all of it in bulk, through Kafka"),
        ]
    return [
        (f"{penstock} demo --from 2013-07-01 --days 14 --rate max", "two stormy weeks, as fast as it goes"),
        (f"{penstock} up", "the stack again, with what is in ClickHouse; while it runs, in another terminal:"),
        (ask, "each day and variant: what was predicted, what happened"),
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
    example = next(iter(found.examples.values()), "requests that were answered with an error")
    no_outcome = tally.requests - tally.outcomes
    p50, p99 = _round_trip(tally)
    pace = f"paced at {plan.rate:,.0f} a second by --rate" if plan.rate else "as fast as the answers came"
    if tally.held_back:
        pace += f"; {tally.held_back:,} were held back by {plan.in_flight:,} unanswered ones"
    each = found.requests / max(found.batches, 1)
    return [
        ("requests", f"{found.requests:,}", f"of {tally.requests:,} flights, one each at its scheduled departure",
         found.requests != tally.requests),
        ("replies", f"{tally.answers:,}", f"received by the demo, {tally.duplicates:,} more came twice",
         tally.unanswered > 0),
        ("errors", errors, example, bool(found.errors)),
        ("lost", f"{found.lost:,}", "requests without a row in the prediction log", found.lost != 0),
        ("duplicated", f"{found.duplicated:,}", "rows of a request beyond its first", found.duplicated != 0),
        ("misassigned", f"{found.misassigned:,}", "variants other than ClickHouse computes from the tail number",
         found.misassigned != 0),
        ("outcomes", f"{found.outcomes:,}", f"arrivals; {no_outcome:,} flights were cancelled or diverted",
         found.outcomes != tally.outcomes),
        ("latency p50", f"{found.p50_ms:,.1f} ms", "from sent to scored", False),
        ("latency p99", f"{found.p99_ms:,.1f} ms", "", False),
        ("round trip", f"{p50:,.1f} / {p99:,.1f} ms", "p50 / p99 from sent to the reply in hand, over Kafka and back",
         False),
        ("throughput", f"{found.rows_per_second:,.0f} rows/s", pace, False),
        ("micro-batches", f"{found.batches:,}",
         f"of {each:,.1f} rows on average, by {found.workers} worker{'s' if found.workers != 1 else ''}", False),
    ]  # fmt: skip


def _variants(report: Report, kinds: Mapping[str, str]) -> Any:
    from rich.table import Table

    table = Table(title="The variants against what really happened", title_justify="left", title_style="bold")
    for name in ("variant", "model"):
        table.add_column(name)
    for name in ("flights", "tail numbers", "arrived", "late", "mean score", "AUC", "log loss"):
        table.add_column(name, justify="right")
    for one in report.findings.variants:
        table.add_row(*_variant(one, kinds))
    return table


def _variant(one: VariantFindings, kinds: Mapping[str, str]) -> tuple[str, ...]:
    kind = kinds.get(one.version, "")
    return (
        one.variant or _NO_VARIANT,
        f"version {one.version}" + (f", {kind}" if kind else ""),
        f"{one.flights:,}",
        f"{one.users:,}",
        f"{one.with_outcome:,}",
        *(_figure(value) for value in (one.late_share, one.mean_score, one.auc, one.log_loss)),
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


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
