"""`penstock experiments`: the life of an experiment, from its plan to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock import console
from penstock.commands import _experiment_decide, _experiment_plan, _experiment_report

if TYPE_CHECKING:
    from penstock.experiments import Change, Experiments, State

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Name = Annotated[str, typer.Argument(help="The experiment.")]
_SQL_SECONDS: Final = 5.0
_LAST: Final = """
    SELECT experiment, toUnixTimestamp64Micro(started_at), argMax(decision, looked_at), argMax(reason, looked_at),
        toUnixTimestamp64Micro(max(looked_at))
    FROM experiment_results GROUP BY experiment, started_at
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Experiments: plan, create, start, ramp, watch, decide, report, stop.", no_args_is_help=True
    )
    _experiment_plan.register(group)
    for command in (create, start, ramp, stop, show):
        group.command()(command)
    group.command("list")(listed)
    _experiment_decide.register(group)
    _experiment_report.register(group)
    app.add_typer(group, name="experiments")


def create(
    file: Annotated[Path, typer.Argument(help="The definition, TOML.")],
    as_json: AsJson = False,
) -> None:
    """Check a definition and keep it on the control topic. Nobody is assigned yet."""
    from analytics.definition_reader import from_toml

    with _failing_in_one_line():
        definition = from_toml(file)
        ours = _experiments()
        _tell(ours, definition.name, ours.create(definition, file.name), as_json)


def start(name: Name, as_json: AsJson = False) -> None:
    """Begin a run: workers assign users, and what they meet counts from now on."""
    with _failing_in_one_line():
        ours = _experiments()
        _tell(ours, name, ours.start(name), as_json)


def ramp(
    name: Name,
    shares: Annotated[list[str], typer.Argument(metavar="ARM=SHARE...", help="Such as treatment=50%.")],
    as_json: AsJson = False,
) -> None:
    """Change shares within the run. Users stay in their arm; arms that are not named keep their share."""
    with _failing_in_one_line():
        ours = _experiments()
        _tell(ours, name, ours.ramp(name, _shares(shares)), as_json)


def stop(name: Name, as_json: AsJson = False) -> None:
    """End the run: workers assign nobody, and what users meet later does not count."""
    with _failing_in_one_line():
        ours = _experiments()
        _tell(ours, name, ours.stop(name), as_json)


def listed(as_json: AsJson = False) -> None:
    """All experiments: status, model, arms, layer, since when, and what the last look decided."""
    with _failing_in_one_line():
        states = _experiments().states()
    decisions, missing = _decisions() if states else ({}, "")
    documents = [_document(one, decisions) for one in states.values()]
    if as_json:
        console.print_json(documents)
        return
    rows = [
        (
            one["name"],
            one["status"],
            one["model"],
            ", ".join(f"{arm['name']} {_percent(arm['share'])} of version {arm['version']}" for arm in one["arms"]),
            one["layer"],
            one["started_at"] if one["stopped_at"] is None else f"{one['started_at']} to {one['stopped_at']}",
            (one["last_decision"] or {}).get("decision"),
        )
        for one in documents
    ]
    console.print_table(("experiment", "status", "model", "arms", "layer", "since", "last decision"), rows)
    for state in states.values():
        if state.problem:
            console.note(state.problem)
    if missing:
        console.note(f"last decisions are not shown: {missing}")


def show(name: Name, as_json: AsJson = False) -> None:
    """All about one experiment: its state, definition and assignment."""
    import json

    from analytics.definitions import to_document

    with _failing_in_one_line():
        state = _experiments().state(name)
    decisions, _ = _decisions()
    document = _document(state, decisions)
    document["definition"] = to_document(state.plan.definition) if state.plan else None
    document["assignment"] = json.loads(state.assignment.to_json()) if state.assignment else None
    if as_json:
        console.print_json(document)
        return
    last = document["last_decision"]
    rows = [
        ("status", document["status"]),
        ("hypothesis", (document["definition"] or {}).get("hypothesis")),
        ("model", document["model"]),
        *((f"arm {one['name']}", f"version {one['version']}, {_percent(one['share'])}") for one in document["arms"]),
        ("layer", document["layer"]),
        ("started", document["started_at"]),
        ("stopped", document["stopped_at"]),
        ("last decision", last and f"{last['decision']} ({last['looked_at']}): {last['reason']}"),
    ]
    definition = state.plan.definition if state.plan else None
    if definition is not None:
        rows += [
            (f"metric {one.name}", f"{one.kind}, {one.direction} is good, window {one.window}")
            for one in definition.metrics
        ]
        rows += [
            (f"guardrail {one.metric}", f"not worse by {_size(one.margin.size, one.margin.relative)}")
            for one in definition.guardrails
        ]
    console.print_table(("", name), rows)


def _experiments() -> Experiments:
    from penstock.experiments import Experiments
    from penstock.model_store import open_store
    from producers.control import ControlTopic, now_us

    settings = console.settings()
    topic = ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)
    return Experiments(topic, open_store(settings.models), now_us)


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    """What the caller can mend is exit status 2, a broker that does not answer 1."""
    from analytics.definitions import DefinitionError
    from producers.errors import BrokerUnavailableError
    from producers.publisher import DeliveryError

    try:
        yield
    except DefinitionError as error:
        console.fail(str(error))
    except (BrokerUnavailableError, DeliveryError) as error:
        console.fail(str(error), code=1)


def _tell(ours: Experiments, name: str, change: Change, as_json: bool) -> None:
    for line in change.notes:
        console.note(f"note: {line}")
    if as_json:
        console.print_json({"done": change.done, "notes": change.notes, "experiment": _document(ours.state(name), {})})
    else:
        console.note(change.done)


def _shares(texts: list[str]) -> dict[str, float]:
    from analytics import definition_values as values

    found: dict[str, float] = {}
    for text in texts:
        arm, equals, share = text.partition("=")
        if not (arm and equals) or arm in found:
            console.fail(f"ARM=SHARE: expected an arm once and its share, such as treatment=50%, got {text!r}")
        try:
            found[arm] = values.share(share if share.endswith("%") else values.number(_number(share)))
        except values.Expected as expected:
            console.fail(f"{arm}: expected {expected}, got {share!r}")
    return found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _document(state: State, decisions: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    from penstock.experiments import micros

    plan, assignment = state.plan, state.assignment
    started = plan.started_at if plan else None
    definition = plan.definition if plan else assignment
    return {
        "name": state.name,
        "status": state.status,
        "problem": state.problem or None,
        "model": definition.model if definition else None,
        "arms": [{"name": name, "version": version, "share": share} for name, version, share in state.arms()],
        "layer": (definition.layer or None) if definition else None,
        "started_at": started.isoformat(timespec="seconds") if started else None,
        "stopped_at": plan.stopped_at.isoformat(timespec="seconds") if plan and plan.stopped_at else None,
        "last_decision": decisions.get((state.name, micros(started))) if started else None,
    }


def _decisions() -> tuple[dict[tuple[str, int], dict[str, Any]], str]:
    """The last decision of each run (name, start), and why there are none where the warehouse cannot be asked."""
    from datetime import UTC, datetime

    from penstock.warehouse_client import AskError, ask

    try:
        rows = ask(console.settings(), _LAST, timeout=_SQL_SECONDS)["rows"]
    except AskError as error:
        return {}, str(error)
    return {
        (name, int(started)): {
            "decision": decision,
            "reason": reason,
            "looked_at": datetime.fromtimestamp(int(looked) / 1e6, UTC).isoformat(timespec="seconds"),
        }
        for name, started, decision, reason, looked in rows
    }, ""


def _size(size: float, relative: bool) -> str:
    return _percent(size) if relative else f"{size:g}"


def _percent(share: float) -> str:
    return f"{share * 100:g}%"
