"""Shows how serving goes: figures that one looks at first, charts over time, and who served what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from analytics import report_numbers as numbers
from analytics.dashboard.charts import Bars, Chart, Line, charts, colour
from analytics.dashboard.layout import address, below, choices, empty, note, section, table, tile, tiles, title
from analytics.dashboard.overview import STAGES, Overview, Pair, Served, Step, name_of
from analytics.dashboard.spans import SPANS
from analytics.report_markup import Markup, element, join

_WORDS: Final[Mapping[str, str]] = {
    "queue": "from the client's send to the worker's poll",
    "batch": "from the poll to the batch's start",
    "inference": "the model's run",
    "publish": "from the score to its record in the log",
}
_MOST_SERIES: Final = 5
NEVER: Final = (
    "Nothing has been scored yet. Start the stack, send a request, and it is here within a second or two.",
    "penstock up",
    'penstock request flight-delay --user N14228 --features \'{"carrier": "UA", "origin": "EWR", …}\'',
    "penstock demo --keep",
)


@dataclass(frozen=True, slots=True)
class Lag:
    """Records that wait in a topic for a group of consumers. `problem`: why it is not known."""

    group: str
    topic: str
    records: int
    problem: str = ""


def content(found: Overview, lags: Sequence[Lag], now: datetime) -> Markup:
    """The page between its frame; parts with an id are what a refresh replaces."""
    if not found.predictions:
        return join((title("Overview", "How serving goes"), empty(NEVER[0], *NEVER[1:])))
    picker = choices("span", ((one.key, one.words) for one in SPANS), found.window.span.key, "/")
    lead = f"The last {found.window.span.words}, in steps of {numbers.span_of_time(found.window.span.step)}"
    stale = ""
    if found.window.stale and found.newest is not None:
        stale = note(
            f"Nothing has been scored in the last {found.window.span.words}. Shown is the time up to the newest "
            f"prediction, {numbers.moment(found.newest)}."
        )
        lead = f"The {found.window.span.words} before {numbers.moment(found.newest)}"
    return join((
        title("Overview", lead, picker),
        element("div", stale, _tiles(found, lags), id="figures", data_live=True),
        element("div", charts(_charts(found)), id="curves", data_live=True),
        element("div", _stages(found), _served(found), _devices(found), _lags(lags), id="tables", data_live=True),
        element("p", f"{numbers.count(found.predictions)} predictions in all. As of {now:%H:%M:%S} UTC.",
                class_="hint", id="as-of", data_live=True),
    ))  # fmt: skip


def _tiles(found: Overview, lags: Sequence[Lag]) -> Markup:
    share = found.errors / found.rows if found.rows else 0.0
    known = [one for one in lags if not one.problem]
    waiting = sum(one.records for one in known)
    lag = numbers.count(waiting) if known else "unknown"
    behind = (
        "records wait for workers and ingest" if known else (lags[0].problem if lags else "Kafka was not asked yet")
    )
    devices = sorted({one.device for one in found.devices})
    return tiles((
        tile("Rate", f"{_rate(found.rate)}/s", f"{numbers.count(found.rows)} in the {found.window.span.words}"),
        tile("Errors", numbers.percent(share), f"{numbers.count(found.errors)} answered with an error",
             "bad" if share > 0.01 else ""),
        tile("p50", _ms(_of(found.latency, "p50")), "from sent to scored"),
        tile("p99", _ms(_of(found.latency, "p99")), _largest(found)),
        tile("Lag", lag, behind),
        tile("Batch", _plain(found.batch_p50), f"rows in the middle one; 95% up to {_plain(found.batch_p95)}"),
        tile("Device", ", ".join(devices) or "none", f"{len({one.worker for one in found.devices})} worker(s)"),
    ))  # fmt: skip


def _largest(found: Overview) -> str:
    if not found.stages:
        return "no batch has been summarised"
    # Publishing comes after the score.
    name, pair = max(((name, found.stages[name]) for name in STAGES[:-1]), key=lambda one: one[1].p99)
    return f"longest stage: {name}, {_ms(pair.p99)}"


def _charts(found: Overview) -> list[Chart]:
    # What goes on has not all come yet, and would look like a fall.
    whole = found.steps[:-1]
    steps = whole if any(one.rows for one in whole) else found.steps
    at = [one.at for one in steps]
    seconds = found.window.seconds
    totals: dict[str, int] = {}
    for one in steps:
        for name, rows in one.by_version.items():
            totals[name] = totals.get(name, 0) + rows
    names = sorted(sorted(totals, key=totals.__getitem__, reverse=True)[:_MOST_SERIES])
    rate = [
        Line(name, at, [one.by_version.get(name, 0) / seconds for one in steps], colour(number + 1), stacked=True)
        for number, name in enumerate(names)
    ]
    if any(one.bulk_rows for one in steps):
        rate.append(Line("rows of files", at, [one.bulk_rows / seconds for one in steps], colour(0), dash="dot"))
    drawn = [
        Chart("rate", "Rate by version", "Predictions a second", rate, unit="/s"),
        Chart("latency", "Latency", "From sent to scored, ms", [
            _line("p50", at, [_of(one.latency, "p50") for one in steps], 1),
            _line("p99", at, [_of(one.latency, "p99") for one in steps], 2),
        ], unit="ms", log=True),
    ]  # fmt: skip
    for key, words in (("p50", "The middle row"), ("p99", "Of 100 rows the slowest")):
        lines = [
            _line(name, at, [_of(one.stages.get(name), key) for one in steps], number + 1)
            for number, name in enumerate(STAGES)
        ]
        drawn.append(
            Chart(f"stages-{key}", f"Where time goes, {key}", f"{words}, by stage, ms", lines, unit="ms", log=True)
        )
    drawn.append(
        Chart("batches", "Rows in a batch", "The middle batch, and 95% of them", [
            _line("p50", at, [one.batch_p50 for one in steps], 1),
            _line("p95", at, [one.batch_p95 for one in steps], 2),
        ])
    )  # fmt: skip
    drawn.append(_errors(steps, at))
    return drawn


def _errors(steps: Sequence[Step], at: Sequence[datetime]) -> Chart:
    codes = sorted({code for one in steps for code in one.errors})
    series = [
        Bars(code, at, [one.errors.get(code, 0) for one in steps], colour(number + 2))
        for number, code in enumerate(codes)
    ] or [Bars("errors", at, [0 for _ in steps], colour(2))]
    return Chart("errors", "Errors by code", "Answered with an error, in each step" if codes else "There were none",
                 series, bars="stack")  # fmt: skip


def _line(name: str, at: Sequence[datetime], values: Sequence[float | None], number: int) -> Line:
    return Line(name, at, values, colour(number))


def _of(pair: Pair | None, key: str) -> float | None:
    return None if pair is None else pair.p50 if key == "p50" else pair.p99


def _stages(found: Overview) -> Markup:
    if not found.stages:
        return section("Stages", empty("No batch summary yet: workers write one for each micro-batch."), key="stages")
    rows = [(name, _WORDS[name], _ms(found.stages[name].p50), _ms(found.stages[name].p99)) for name in STAGES]
    if found.latency:
        rows.append(("scored", "from sent to scored, all of it", _ms(found.latency.p50), _ms(found.latency.p99)))
    about = "Over rows; of queue and batch each row counts with its batch's mean. Replies do not wait for publish."
    columns = (("stage", ""), ("is the time", ""), ("p50", "number"), ("p99", "number"))
    return section("Where the time goes", table(columns, rows, "Latency by stage"), key="stages", about=about)


def _served(found: Overview) -> Markup:
    if not found.served:
        return section("Versions live", empty(f"No prediction in the {found.window.span.words}."), key="served")
    columns = (
        ("model", ""), ("version", ""), ("experiment", ""), ("variant", ""), ("predictions", "number"),
        ("share", "number"), ("errors", "number"), ("p50", "number"), ("p99", "number"), ("last", "number"),
    )  # fmt: skip
    return section("Versions live", table(columns, _versions(found.served, found.rows), "Versions live"), key="served")


def _versions(served: Iterable[Served], total: int) -> Iterable[Sequence[str]]:
    for one in served:
        test = (
            element("a", one.experiment, href=below("/experiments", one.experiment)) if one.experiment else numbers.NONE
        )
        yield (
            element("a", one.model, href=address("/models", model=one.model))
            if one.version
            else name_of(one.model, ""),
            one.version or numbers.NONE,
            test,
            one.variant or numbers.NONE,
            numbers.count(one.rows),
            numbers.percent(one.rows / total if total else 0, 1),
            numbers.percent(one.errors / one.rows if one.rows else 0),
            _ms(_of(one.latency, "p50")),
            _ms(_of(one.latency, "p99")),
            f"{one.last:%H:%M}",
        )


def _devices(found: Overview) -> Markup:
    if not found.devices:
        return join(())
    columns = (
        ("worker", ""), ("device", ""), ("batches", "number"), ("rows", "number"), ("rows a batch", "number"),
        ("inference a row", "number"), ("last batch", "number"),
    )  # fmt: skip
    rows = [
        (one.worker, one.device, numbers.count(one.batches), numbers.count(one.rows),
         f"{one.rows / max(one.batches, 1):.1f}", f"{one.microseconds:.1f} µs", f"{one.last:%H:%M:%S}")
        for one in found.devices
    ]  # fmt: skip
    return section("Workers", table(columns, rows, "Workers and devices"), key="workers")


def _lags(lags: Sequence[Lag]) -> Markup:
    if not lags:
        return join(())
    columns = (("group", ""), ("topic", ""), ("records that wait", "number"))
    rows = [(one.group, one.topic, one.problem or numbers.count(one.records)) for one in lags]
    return section("Lag", table(columns, rows, "Lag by group and topic"), key="lag")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2f}"


def _ms(value: float | None) -> str:
    if value is None:
        return numbers.NONE
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def _plain(value: float | None) -> str:
    return numbers.NONE if value is None else f"{value:,.0f}"
