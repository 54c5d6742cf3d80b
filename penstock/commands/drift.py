"""`penstock drift`: what has drifted, what it does to a model, and when it wants training again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
_DAY: Final = ["%Y-%m-%d"]
_SHOWN: Final = 40


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Drift of data, predictions and performance, and retraining.", no_args_is_help=True)
    for command in (run, report, watch, profile, retrained):
        group.command()(command)
    app.add_typer(group, name="drift")


def run(
    model: Annotated[str, typer.Option(help="This model only.")] = "",
    begin: Annotated[
        datetime | None, typer.Option("--from", formats=_DAY, help="Count again from this day (UTC).")
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", formats=_DAY, help="Count again up to this day.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count what has come since the last round, and say what has drifted. Finished days are counted once."""
    document = _rounds(console.settings())(model, _day(begin), _day(end))
    if model and not document["outcomes"]:
        console.fail(f"nothing was scored by a model {model!r}")
    _show(document, as_json)
    if any(one["error"] for one in document["outcomes"]):
        raise typer.Exit(1)


def watch(
    every: Annotated[str, typer.Option(help="How long between rounds, such as 5m.")] = "5m",
    once: Annotated[bool, typer.Option("--once", help="One round, then end.")] = False,
    model: Annotated[str, typer.Option(help="This model only.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Each round as one JSON document.")] = False,
) -> None:
    """Make rounds until Ctrl-C. The stack and `penstock ingest` do so by themselves every drift.watch_seconds."""
    import threading

    from analytics.definition_values import Expected, duration

    try:
        pause = duration(every).total_seconds()
    except Expected as expected:
        console.fail(f"--every: expected {expected}, got {every!r}")
    if pause < 1:
        console.fail(f"--every: expected a second or more, got {every!r}")
    rounds = _rounds(console.settings())
    wait = threading.Event()
    while True:
        _show(rounds(model, "", ""), as_json)
        if once:
            return
        wait.wait(pause)


def report(
    model: Annotated[str, typer.Option(help="This model only.")] = "",
    version: Annotated[str, typer.Option(help="This version only.")] = "",
    days: Annotated[int, typer.Option(min=1, help="Of the last so many days that have windows.")] = 7,
    slices: Annotated[bool, typer.Option("--slices", help="Also carriers, variants and other slices.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also what is ok.")] = False,
    as_json: AsJson = False,
) -> None:
    """What the last windows said: drift first, each figure with its rows and what no drift would reach."""
    from penstock.warehouse_client import AskError, dicts

    settings = console.settings()
    try:
        found = dicts(settings, _question(model, version, days, slices, every))
        counted = dicts(settings, _counted(model, version))
    except AskError as error:
        console.fail(str(error), code=1)
    wishes = _open_wishes(settings)
    if as_json:
        console.print_json({"figures": found, "counted": counted, "retrain": wishes})
        return
    if not counted:
        console.note("nothing has been counted yet: `penstock drift run` counts what was scored on days that are over")
        return
    if not found:
        console.note("all is ok; --all shows the figures")
    rows = [
        (
            one["window"], f"{one['model']} {one['version']}", one["slice"] or "all", one["feature"] or one["kind"],
            one["metric"], _short(one["value"]), one["n"], _short(one["quiet_95"]), _short(one["threshold"]),
            one["verdict"], one["message"],
        )
        for one in found
    ]  # fmt: skip
    names = ("day", "version", "rows of", "what", "figure", "value", "n", "quiet", "threshold", "verdict", "why")
    if rows:
        console.print_table(names, rows[:_SHOWN])
        if len(rows) > _SHOWN:
            console.note(f"{len(rows) - _SHOWN} more; --json has them all")
    for one in wishes:
        console.note(f"{one['model']} wants training: {one.get('reason')}")


def profile(
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str, typer.Option(help="Its version.")],
    begin: Annotated[datetime, typer.Option("--from", formats=_DAY, help="First day (UTC).")],
    end: Annotated[datetime, typer.Option("--to", formats=_DAY, help="Last day.")],
    outcome: Annotated[str, typer.Option(help="The outcome that says what was right; empty: none is known.")] = "",
    delay: Annotated[str, typer.Option(help="How long outcomes are waited for, such as 24h.")] = "24h",
    slice_by: Annotated[
        list[str] | None, typer.Option(help="A category whose values get references of their own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a reference profile of logged predictions; from now on the version is held against it."""
    from penstock.drift_profile import ask_for_profile, made_here
    from penstock.warehouse_client import AskError

    settings = console.settings()
    wanted = {
        "model": model, "version": version, "from": f"{begin:%Y-%m-%d}", "to": f"{end:%Y-%m-%d}",
        "outcome": outcome, "delay": delay, "slice_by": ",".join(slice_by or ()),
    }  # fmt: skip
    try:
        made = made_here(settings, wanted) if settings.clickhouse.url else ask_for_profile(settings, wanted)
    except AskError as error:
        console.fail(str(error), code=1)
    if as_json:
        console.print_json(made)
        return
    console.note(f"{model} {version} is held against {made['rows']:,} rows of {wanted['from']} to {wanted['to']}")


def retrained(
    model: Annotated[str, typer.Argument(help="The model.")],
    as_json: AsJson = False,
) -> None:
    """Close the open wish that a model be trained again. A newer version that goes live closes it by itself."""
    from penstock.experiment_watch import control_topic
    from penstock.retraining import RetrainError, Retraining
    from producers.errors import BrokerUnavailableError

    try:
        Retraining(control_topic(console.settings())).close(model)
    except RetrainError as error:
        console.fail(str(error))
    except BrokerUnavailableError as error:
        console.fail(str(error), code=1)
    if as_json:
        console.print_json({"model": model, "done": "closed"})
    else:
        console.note(f"{model}: the wish for training is closed")


def _rounds(chosen: Settings) -> Callable[[str, str, str], dict[str, Any]]:
    """How to have a round made: by the process that holds chDB, or here where there is a server to be asked."""
    if not chosen.clickhouse.url:
        return lambda model, begin, end: _asked(chosen, model, begin, end)
    from analytics.warehouse import Warehouse, WarehouseError
    from models.errors import ModelError
    from penstock.drift_watch import again_of, as_document, rounds
    from penstock.experiment_watch import control_topic
    from penstock.warehouse_config import warehouse_config
    from producers.errors import BrokerUnavailableError

    try:
        ours = rounds(chosen, Warehouse.open(warehouse_config(chosen), create=False), control_topic(chosen))
    except WarehouseError as error:
        console.fail(str(error), code=1)

    def make(model: str, begin: str, end: str) -> dict[str, Any]:
        try:
            return as_document(*ours.run(model, again_of(begin, end)))
        except ValueError as error:
            console.fail(str(error))
        except (WarehouseError, ModelError, BrokerUnavailableError) as error:
            console.fail(str(error), code=1)

    return make


def _asked(chosen: Settings, model: str, begin: str, end: str) -> dict[str, Any]:
    from penstock.warehouse_client import AskError, ask_for_drift

    try:
        return ask_for_drift(chosen, model, begin, end)
    except AskError as error:
        console.fail(str(error), code=1)


def _open_wishes(settings: Settings) -> list[dict[str, Any]]:
    from penstock.experiment_watch import control_topic
    from penstock.retraining import Retraining
    from producers.errors import BrokerUnavailableError

    try:
        return Retraining(control_topic(settings)).listed()
    except BrokerUnavailableError as error:
        console.note(f"open wishes for training are not shown: {error}")
        return []


def _show(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json(document)
        return
    if not document["outcomes"]:
        console.note("nothing has been scored yet")
    for one in document["outcomes"]:
        name = f"{one['model']} {one['version']}"
        if one["error"]:
            console.note(f"{name}: {one['error']}")
            continue
        console.note(
            f"{name}: {one['days']} days and {one['outcome_days']} days of outcomes counted, {one['rows']:,} rows"
        )
        drift = [alarm for alarm in one["alarms"] if alarm["verdict"] == "drift" and not alarm["slice_by"]]
        for alarm in drift[:_SHOWN]:
            what = alarm["feature"] or alarm["kind"]
            typer.echo(f"{alarm['window_start'][:10]} {name} {what} {alarm['metric']}: {alarm['message']}")
        if len(drift) > _SHOWN:
            console.note(f"{len(drift) - _SHOWN} more; `penstock drift report` and --json have them")
    for words in document["retrain"]:
        console.note(words)


def _question(model: str, version: str, days: int, slices: bool, every: bool) -> str:
    where = [*_where(model, version), "window_end - window_start = 86400"]
    if not slices:
        where.append("slice_by = ''")
    if not every:
        where.append("verdict IN ('drift', 'watch')")
    return f"""
        SELECT toString(window_start) AS window, model, version, slice_by, slice, kind, feature, metric, value, n,
            reference_value, reference_n, quiet_95, threshold, verdict, message
        FROM drift_latest WHERE {" AND ".join(where)} AND window_start >= (
            SELECT max(window_start) FROM drift_latest WHERE {" AND ".join(where)}) - INTERVAL {days - 1} DAY
        ORDER BY window_start DESC, verdict = 'drift' DESC, kind, feature, metric, slice_by, slice LIMIT 5000
    """  # noqa: S608 - names are quoted


def _counted(model: str, version: str) -> str:
    where = " AND ".join(_where(model, version))
    return f"""
        SELECT model, version, counted, count() AS windows, toString(max(window_start)) AS last FROM drift_windows FINAL
        WHERE {where} GROUP BY model, version, counted ORDER BY model, version, counted
    """  # noqa: S608 - names are quoted


def _where(model: str, version: str) -> list[str]:
    from analytics.drift_sql import quoted

    found = [f"model = {quoted(model)}"] if model else []
    found += [f"version = {quoted(version)}"] if version else []
    return found or ["1"]


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"


def _short(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"
