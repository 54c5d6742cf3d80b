"""`penstock experiments watch` and `decide`: looks at running experiments, and what is done about the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.settings import Settings


def register(group: typer.Typer) -> None:
    """Add the commands to the group `experiments`."""
    group.command()(watch)
    group.command()(decide)


def watch(
    once: Annotated[bool, typer.Option("--once", help="One round, then end.")] = False,
    every: Annotated[str, typer.Option(help="How long between rounds, such as 1m.")] = "1m",
    now: Annotated[bool, typer.Option("--now", help="Look whether a look is due or not; one round.")] = False,
    name: Annotated[str, typer.Option("--name", help="This experiment only.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Each round as one JSON document.")] = False,
) -> None:
    """Look at running experiments where a look is due, decide, and write it down.

    The stack and `penstock ingest` do so by themselves every experiments.watch_seconds.
    """
    import threading

    from analytics.definition_values import Expected, duration

    try:
        pause = duration(every).total_seconds()
    except Expected as expected:
        console.fail(f"--every: expected {expected}, got {every!r}")
    if pause < 1:
        console.fail(f"--every: expected a second or more, got {every!r}")
    looks = _looks(console.settings())
    wait = threading.Event()
    while True:
        outcomes = looks(name, now)
        if name and not outcomes:
            console.fail(f"there is no experiment {name!r} that has been started")
        _show(outcomes, as_json)
        if once or now:
            if any(one["error"] for one in outcomes):
                raise typer.Exit(1)
            return
        wait.wait(pause)


def _looks(chosen: Settings) -> Callable[[str, bool], list[dict[str, Any]]]:
    """How to have a round made: by the process that holds chDB, or here where there is a server to be asked."""
    from penstock.warehouse_client import AskError, ask_for_looks

    if not chosen.clickhouse.url:

        def ask(name: str, force: bool) -> list[dict[str, Any]]:
            try:
                return ask_for_looks(chosen, name, force=force)
            except AskError as error:
                console.fail(str(error), code=1)

        return ask

    from analytics.experiment_job import ExperimentJob
    from analytics.warehouse import Warehouse, WarehouseError
    from penstock.experiment_watch import control_topic, plans_on
    from penstock.warehouse_config import warehouse_config
    from producers.errors import BrokerUnavailableError

    try:
        job = ExperimentJob(Warehouse.open(warehouse_config(chosen), create=False), plans_on(control_topic(chosen)))
    except WarehouseError as error:
        console.fail(str(error), code=1)

    def look(name: str, force: bool) -> list[dict[str, Any]]:
        try:
            return [one.as_dict() for one in job.run(only=name, force=force)]
        except (WarehouseError, BrokerUnavailableError) as error:
            console.fail(str(error), code=1)

    return look


def _show(outcomes: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        console.print_json({"outcomes": outcomes})
        return
    if not outcomes:
        console.note("no experiment has been started")
    for one in outcomes:
        if one["error"]:
            console.note(f"{one['experiment']}: {one['error']}")
        elif one["look"] is None:
            console.note(
                f"{one['experiment']}: no look is due; the next is at {one['next_at'] or 'no time: it has ended'}"
            )
        else:
            typer.echo(f"{one['experiment']}, look {one['look']}: {one['decision']}. {one['reason']}")


def decide(
    name: Annotated[str, typer.Argument(help="Experiment.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Publish it: the winner's version as the default, and the experiment's end.")
    ] = False,
    force: Annotated[str, typer.Option(metavar="WHY", help="Apply another decision than the last look's.")] = "",
    to: Annotated[str, typer.Option("--to", help="With --force: the variant to promote, else the control.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what the last look decided, and with --apply do it: promote the winner or roll back to the control."""
    from datetime import UTC, datetime

    from analytics.definitions import DefinitionError
    from models.routing import ExperimentError
    from penstock.experiment_verdict import VerdictError, allowed, last_look, plan_in, steps
    from penstock.experiment_watch import control_topic
    from producers.errors import BrokerUnavailableError

    if (force or to) and not apply:
        console.fail("--force and --to change what --apply does: give --apply with them")
    if to and not force:
        console.fail("--to overrides the decision: say why by --force WHY")
    chosen = console.settings()
    verdict = _verdict(chosen, name, last_look(name))
    done: list[str] = []
    if apply:
        author = f"penstock experiments decide, forced: {force}" if force else "penstock experiments decide"
        try:
            topic = control_topic(chosen)
            entries = topic.entries()
            plan = plan_in(entries, name)
            if to and to not in plan.definition.versions():
                console.fail(
                    f"--to: experiment {name!r} has no variant {to!r}; it has {', '.join(plan.definition.versions())}"
                )
            winner = to or (plan.definition.control if force else allowed(verdict, plan))
            for step in steps(plan, winner, entries, datetime.now(UTC)):
                topic.put(step.kind, step.name, step.body, author=author)
                done.append(step.words)
        except (VerdictError, DefinitionError, ExperimentError) as error:
            console.fail(str(error))
        except BrokerUnavailableError as error:
            console.fail(str(error), code=1)
    if as_json:
        document = {"experiment": name, "look": verdict.look, "looked_at": verdict.looked_at.isoformat()}
        decided = {"decision": verdict.decision, "reason": verdict.reason, "winner": verdict.winner}
        console.print_json({**document, **decided, "applied": done if apply else None})
        return
    when = verdict.looked_at.isoformat(sep=" ", timespec="seconds")
    typer.echo(f"{verdict.decision}. {verdict.reason} (look {verdict.look}, {when})")
    for words in done:
        console.note(words)
    if apply and not done:
        console.note("nothing is left to do: it has been applied before")


def _verdict(chosen: Settings, name: str, statement: str) -> Any:
    from penstock.experiment_verdict import Verdict
    from penstock.warehouse_client import AskError, dicts

    try:
        rows = dicts(chosen, statement)
    except AskError as error:
        console.fail(str(error), code=1)
    if not rows:
        console.fail(f"experiment {name!r} has not been looked at: `penstock experiments watch --once --now` looks now")
    return Verdict.of(rows[0])
