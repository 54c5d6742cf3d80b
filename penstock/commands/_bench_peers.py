"""`penstock bench peers`: Penstock beside Faust, Quix Streams, Bytewax, MLServer, hand-written loops and the limits."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from penstock import console
from penstock.commands._bench_failures import failing_in_one_line


def peers(
    broker: Annotated[
        str, typer.Option(help="kafka (a local Apache Kafka: java and mvn), embedded, or HOST:PORT of one.")
    ] = "kafka",
    work: Annotated[
        list[str] | None,
        typer.Option(help="stream, heavy, bulk, reply, batching, in-flight, backlog; several times for several."),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Of stream and heavy: whom to compare; several times for several.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 3,
    records: Annotated[int | None, typer.Option(min=1, help="Requests a round; slow candidates take fewer.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.5, help="Of reply and batching, all rounds together.")] = None,
    largest: Annotated[int, typer.Option(min=10_000, help="Of in-flight: the largest backlog.")] = 10_000_000,
    backlog: Annotated[int, typer.Option(min=1, help="Of backlog: bulk requests that wait.")] = 1_000_000,
    rows_each: Annotated[int, typer.Option(min=1, max=65_536, help="Of backlog: rows in a bulk request.")] = 1,
    output: Annotated[Path | None, typer.Option(help="A folder to write DATE-peers.json, .md and .svg to.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="An earlier document, or a folder with some: fail where a ratio fell below 0.8 of its last."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Penstock, its peers and the limits by turns in one run, each in its own environment and process."""
    from penstock.bench.campaign import WORKS, Sizes, goals_before, run_campaign, write
    from penstock.bench.candidates import chosen
    from penstock.bench.comparison import regressions, report
    from penstock.bench.peer_process import environment

    works = tuple(work or WORKS)
    for one in works:
        if one not in WORKS:
            console.fail(f"--work: expected one of {', '.join(WORKS)}, got {one!r}")
    try:
        candidates = chosen(candidate or [])
    except ValueError as error:
        console.fail(f"--candidate: {error}")
    # All that could go wrong with a file, before an hour of work; the one to compare with may be one of today.
    try:
        committed = [] if against is None else goals_before(against)
    except OSError as error:
        console.fail(f"--against: {error.filename}: {error.strerror}")
    except ValueError as error:
        console.fail(f"--against: {error}")
    try:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            if not os.access(output, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        console.fail(f"--output: {output}: {error.strerror}")
    usual = Sizes()
    sizes = Sizes(
        rounds=rounds,
        records=records or usual.records,
        heavy_records=min(records or usual.heavy_records, usual.heavy_records),
        bulk_rows=usual.bulk_rows if records is None else max(records, 4096),
        reply_seconds=seconds or usual.reply_seconds,
        batching_seconds=seconds or usual.batching_seconds,
        in_flight=tuple(size for size in usual.in_flight if size <= largest),
        backlog=backlog,
        backlog_rows=rows_each,
    )
    with failing_in_one_line(broker):
        document = run_campaign(
            console.settings(stack=False), broker, works, candidates, sizes, environment, console.note
        )
    lines = regressions(document["goals"], committed)
    if output is not None:
        for path in write(document, output, candidates):
            console.note(f"wrote {path}")
    if as_json:
        console.print_json(document)
    else:
        typer.echo(report(document))
    for line in lines:
        console.note(f"regression: {line}")
    if lines:
        console.fail(f"{len(lines)} ratio(s) fell below those of {against}", code=1)
