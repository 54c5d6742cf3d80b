"""`penstock demo`: real flights through the whole stack, with a summary out of ClickHouse."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console

if TYPE_CHECKING:
    from penstock.demo import Plan, Report
    from penstock.flights.data import Dataset
    from penstock.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    start: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of departure in 2013, New York time.")
    ] = datetime(2013, 4, 1),  # noqa: DTZ001 - typer reads the default; it is a day, not an instant
    days: Annotated[int, typer.Option(min=1, help="How many days; 275 from April on is the rest of the year.")] = 30,
    rate: Annotated[str, typer.Option(help="Requests a second, or max: as fast as the answers come.")] = "2000",
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Scoring workers.")] = None,
    broker: Annotated[
        str | None, typer.Option(help="embedded, kafka (a local Apache Kafka: java and mvn), or HOST:PORT of one.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Score real flights end to end, and compare two models on what really happened."""
    options = _Options(start.date(), days, _rate(rate), workers, broker, keep, as_json)
    interrupts = _Interrupts()
    try:
        _demo(options, interrupts)
    except KeyboardInterrupt:
        interrupts.ignore()
        console.fail("stopped", code=130)


class _Interrupts:
    """Ctrl-C and its kin: raised wherever they come, and once more at the next look should they get lost there.

    An exception that meets Python inside a destructor or a callback of C code is printed and dropped.
    """

    def __init__(self) -> None:
        names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # An ignored signal is how nohup asks to be left alone.
        self._names = [one for one in names if signal.getsignal(one) is not signal.SIG_IGN]
        self._asked = False
        for one in self._names:
            signal.signal(one, self._interrupt)

    def look(self) -> None:
        """Raise `KeyboardInterrupt` if one has come."""
        if self._asked:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on: an impatient second Ctrl-C must not break off what the first one began."""
        for one in self._names:
            signal.signal(one, signal.SIG_IGN)

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class _Options:
    start: date
    days: int
    rate: float | None
    workers: int | None
    broker: str | None
    keep: bool
    as_json: bool


def _demo(options: _Options, interrupts: _Interrupts) -> None:
    from models.errors import ModelError
    from penstock.demo import Plan, kinds, overlaps
    from penstock.flights.data import dataset
    from penstock.flights.tables import FlightsDataError, data_folder
    from penstock.model_store import open_store

    settings = console.settings(stack=False)
    plan = Plan(options.start, options.days, options.rate)
    try:
        store = open_store(settings.models)
        data_folder()
        for line in overlaps(store, plan):
            console.note(f"warning: {line}")
        words = kinds(store)
        console.note("reading the flights of 2013")
        data = dataset()
        rows = data.between(plan.start, plan.days)
    except (FlightsDataError, ModelError) as error:
        console.fail(str(error))
    report = _on_a_stack(options, settings, plan, data, rows.stop - rows.start, words, interrupts)
    if not options.as_json:
        from penstock.demo_report import next_steps, show_next

        show_next(next_steps(kept=False))
    if report.faults():
        console.fail("; ".join(report.faults()), code=1)


def _on_a_stack(
    options: _Options,
    settings: Settings,
    plan: Plan,
    data: Dataset,
    total: int,
    words: Mapping[str, str],
    interrupts: _Interrupts,
) -> Report:
    from analytics.definitions import DefinitionError
    from penstock import demo_report
    from penstock.demo import EXPERIMENT, publish_experiment, replay
    from penstock.demo_evidence import EvidenceError
    from penstock.demo_experiment import demo_experiment, look_back
    from penstock.experiment_reading import ReadingUnavailableError, ask
    from penstock.report_file import ReportFileError
    from penstock.stack import LocalStack, StackError
    from penstock.warehouse_client import AskError
    from producers.errors import BrokerUnavailableError
    from producers.publisher import DeliveryError
    from producers.replay import NoAnswerError

    watch = demo_report.Watch(plan, total, interrupts.look)
    stack = LocalStack(
        settings, broker=options.broker, workers=options.workers, prepare=publish_experiment, say=watch.say
    )
    try:
        with watch:
            interrupts.look()
            stack.start()
            report = replay(
                stack.settings,
                stack.addresses["ingest"],
                plan,
                data,
                say=watch.say,
                on_replay=watch.on_replay,
                on_arrived=watch.on_arrived,
            )
        looked = look_back(stack.settings)
        if options.as_json:
            console.print_json(demo_report.document(report) | {"experiment": looked})
        else:
            demo_report.show(report, words)
            demo_experiment(ask(stack.settings, EXPERIMENT), stack.state)
        if options.keep:
            demo_report.show_next(demo_report.next_steps(kept=True))
            console.note("\nthe stack runs on; Ctrl-C stops it")
            _until_interrupted()
    except (
        StackError, EvidenceError, NoAnswerError, DeliveryError, BrokerUnavailableError, DefinitionError, AskError,
        ReadingUnavailableError, ReportFileError,
    ) as error:  # fmt: skip
        console.fail(str(error), code=1)
    finally:
        interrupts.ignore()
        console.note("stopping the stack")
        stack.stop()
    return report


def _until_interrupted() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:  # the ordinary end of --keep
        return


def _rate(text: str) -> float | None:
    """Requests a second; None for max."""
    if text == "max":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        console.fail(f"--rate: expected a number of requests a second above 0, or max, got {text!r}")
    return rate
