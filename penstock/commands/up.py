"""`penstock up`: the local stack in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from penstock import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    broker: Annotated[
        str | None, typer.Option(help="embedded, kafka (a local Apache Kafka: java and mvn), or HOST:PORT of one.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, max=256, help="Scoring workers.")] = None,
    ingest: Annotated[bool, typer.Option(help="Run ingest and the warehouse.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON once all is ready.")] = False,
) -> None:
    """Run broker, ingest, warehouse and scoring workers on this machine. Ctrl-C stops them all.

    Exit status: 0 stopped when it was told to, 130 when that came before everything was ready.
    """
    ready = False
    # What ends this process in the ordinary way also ends it in an orderly way.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which is how nohup asks to be left alone
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        from penstock.stack import LocalStack, StackError

        settings = console.settings(stack=False)
        _check(broker or settings.stack.broker)
        stack = LocalStack(settings, broker=broker, workers=workers, ingest=ingest, say=console.note)
        try:
            with stack:
                ready = True
                _show(stack, as_json)
                threading.Event().wait()
        except StackError as error:
            console.fail(str(error), code=1)
    except KeyboardInterrupt:
        if not ready:
            console.fail("stopped before everything was ready", code=130)
        console.note("stopped")


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _check(broker: str) -> None:
    host, _, port = broker.rpartition(":")
    if broker not in ("embedded", "kafka") and not (host and port.isdigit()):
        console.fail(f"broker {broker!r} is neither embedded, nor kafka, nor HOST:PORT")


def _show(stack: object, as_json: bool) -> None:
    from penstock.stack import LocalStack

    assert isinstance(stack, LocalStack)  # noqa: S101 - imported late, so that --help is quick
    pids = {"up": os.getpid(), **stack.processes}
    if as_json:
        where = {"addresses": stack.addresses, "processes": pids, "state": str(stack.state)}
        console.print_json({"broker": stack.broker, **where})
    else:
        rows = [
            (name, address, pids.get(name), stack.log(name) if name != "up" else "")
            for name, address in stack.addresses.items()
        ]
        console.print_table(("what", "listens on", "pid", "log"), rows)
        if stack.ingest:
            console.note('ask the warehouse: penstock sql "show tables"')
            console.note(f"look at it all: {stack.addresses['ingest']}")
    console.note("ready; Ctrl-C stops everything")
