"""`penstock bench`: how fast Penstock is on this machine, beside what this machine can do at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock import console
from penstock.commands._bench_failures import failing_in_one_line
from penstock.commands._bench_peers import peers

if TYPE_CHECKING:
    from penstock.bench.bed import Bed

Broker = Annotated[
    str, typer.Option(help="embedded, kafka (a local Apache Kafka: java and mvn), or HOST:PORT of one.")
]  # fmt: skip
Model = Annotated[str, typer.Option(help="mlp (32-64-32-1), heavy (256-1024-1024-1), or a model of the store.")]
Delivery = Annotated[str, typer.Option(help="exactly-once or at-least-once.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often to measure; fewer than 3 show nothing of the spread.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    bench = typer.Typer(help="Measure Penstock beside the limits of this machine, in one run.", no_args_is_help=True)
    for command in (stream, bulk, reply, soak):
        bench.command()(command)
    bench.command()(peers)
    app.add_typer(bench, name="bench")


def stream(
    broker: Broker = "embedded",
    records: Annotated[int | None, typer.Option(min=1, help="Requests a round.")] = None,
    model: Model = "mlp",
    delivery: Delivery = "exactly-once",
    workers: Annotated[int, typer.Option(min=1, max=8, help="Scoring workers.")] = 1,
    rounds: Rounds = 3,
    as_json: AsJson = False,
) -> None:
    """Single-row requests through workers, as a share of consuming and producing the same bytes undecoded."""
    from penstock.bench.stream import run_stream

    _check_delivery(delivery)
    count = records or (40_000 if model == "heavy" else 1_000_000)
    found = _measure(
        "stream", broker, model, lambda bed: run_stream(bed, count, rounds, delivery, workers, console.note)
    )
    if as_json:
        console.print_json(found)
        return
    one = found["rounds"][-1]["profile"]
    _table(
        f"stream: {found['model']}, {count:,} requests, {delivery}, {workers} worker(s), {found['broker']}",
        [
            ("raw limit, records/s", *_spread(found["raw_records_per_second"])),
            ("workers, records/s", *_spread(found["records_per_second"])),
            ("share of the raw limit", *_spread(found["ratio"])),
        ],
    )
    console.note(", ".join(f"{name} {value}" for name, value in one.items()))
    _doubt(found)


def bulk(
    broker: Broker = "embedded",
    rows: Annotated[int, typer.Option(min=1, help="Rows a round.")] = 6_000_000,
    rows_each: Annotated[int, typer.Option(min=1, max=65_536, help="Rows in a record.")] = 4096,
    model: Model = "mlp",
    delivery: Delivery = "exactly-once",
    workers: Annotated[int, typer.Option(min=1, max=8, help="Scoring workers.")] = 1,
    rounds: Rounds = 3,
    as_json: AsJson = False,
) -> None:
    """Columnar batches end to end, and a Parquet file to a Parquet file, beside ONNX Runtime alone."""
    from penstock.bench.bulk import run_bulk

    _check_delivery(delivery)
    found = _measure(
        "bulk", broker, model, lambda bed: run_bulk(bed, rows, rows_each, rounds, delivery, workers, console.note)
    )
    if as_json:
        console.print_json(found)
        return
    _table(
        f"bulk: {found['model']}, {found['rows']:,} rows, {delivery}, {workers} worker(s), {found['broker']}",
        [
            ("ONNX Runtime alone, rows/s", *_spread(found["onnxruntime_alone_rows_per_second"])),
            ("stream, rows/s", *_spread(found["rows_per_second"])),
            ("stream, share of ONNX Runtime", *_spread(found["ratio"])),
            ("file to file, rows/s", *_spread(found["file_rows_per_second"])),
        ],
    )
    _doubt(found)


def reply(
    broker: Broker = "embedded",
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long, all rounds together.")] = 30.0,
    model: Model = "mlp",
    workers: Annotated[int, typer.Option(min=1, max=8, help="Scoring workers.")] = 1,
    rounds: Rounds = 3,
    as_json: AsJson = False,
) -> None:
    """Request/reply at a steady rate, timed from when each request was due, beside a raw Kafka echo."""
    from penstock.bench.reply import run_reply

    found = _measure("reply", broker, model, lambda bed: run_reply(bed, rate, seconds, rounds, workers, console.note))
    if as_json:
        console.print_json(found)
        return
    rows = [
        (f"{who} {name}, ms", *(f"{found[f'{who}_{key}_ms'][one]:.1f}" for one in ("median", "min", "max")))
        for who in ("echo", "reply")
        for name, key in (("p50", "p50"), ("p99", "p99"), ("worst", "worst"))
    ]
    rows += [(f"added {name}, ms", f"{found[f'added_{name}_ms']:.1f}", "", "") for name in ("p50", "p99")]
    _table(f"reply: {found['model']}, {rate:,.0f} requests/s, {workers} worker(s), {found['broker']}", rows)
    lost = sum(one["reply"]["lost"] for one in found["rounds"])
    console.note(f"{found['requests']:,} requests, {lost} without an answer {found['errors'] or ''}".rstrip())
    _doubt(found)


def soak(
    broker: Broker = "embedded",
    minutes: Annotated[float, typer.Option(min=0.01, help="How long.")] = 10.0,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 500.0,
    model: Model = "flight-delay",
    as_json: AsJson = False,
) -> None:
    """One worker under steady load: whether its memory stays where it is."""
    from penstock.bench.soak import run_soak

    found = _measure("soak", broker, model, lambda bed: run_soak(bed, minutes, rate, console.note))
    if as_json:
        console.print_json(found)
        return
    _table(
        f"soak: {found['model']}, {rate:,.0f} requests/s for {minutes:g} minutes, {found['broker']}",
        [(name.replace("_", " "), f"{value:,.2f}") for name, value in found["rss_mib"].items()],
        ("worker memory, MiB", ""),
    )
    _doubt(found)


def _measure(what: str, broker: str, model: str, run: Callable[[Bed], dict[str, Any]]) -> dict[str, Any]:
    """Run a benchmark in a bed; a failure ends the command with its line."""
    from penstock.bench.bed import Bed, machine

    with failing_in_one_line(broker), Bed(console.settings(stack=False), broker, model, say=console.note) as bed:
        about = {"benchmark": what, "broker": bed.broker, "model": bed.workload.shown, "partitions": 8}
        return {**about, "machine": machine(bed.settings, broker), **run(bed)}


def _check_delivery(delivery: str) -> None:
    if delivery not in ("exactly-once", "at-least-once"):
        console.fail(f"--delivery: expected exactly-once or at-least-once, got {delivery!r}")


def _spread(found: dict[str, float]) -> tuple[str, str, str]:
    digits = 0 if found["median"] >= 100 else 3
    return tuple(f"{found[name]:,.{digits}f}" for name in ("median", "min", "max"))  # type: ignore[return-value]


def _table(title: str, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("", "median", "min", "max")) -> None:
    console.print_table(columns, rows, title=title)


def _doubt(found: dict[str, Any]) -> None:
    for line in found["doubts"]:
        console.note(f"do not trust this: {line}")
