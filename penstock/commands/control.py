"""`penstock control`: the entries of the control topic, which every worker follows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console

if TYPE_CHECKING:
    from producers.control import ControlTopic

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
KINDS = ("experiment", "experiment-plan", "model", "pool", "schema")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Experiments, default versions and schemas, as all workers follow them.")
    group.command("list")(entries)
    group.command()(put)
    group.command()(remove)
    app.add_typer(group, name="control")


def entries(as_json: AsJson = False) -> None:
    """The entries that hold now."""
    from producers.errors import BrokerUnavailableError

    try:
        found = _topic().entries()
    except BrokerUnavailableError as error:
        console.fail(str(error), code=1)
    rows = [
        (one.kind, one.name, datetime.fromtimestamp(one.changed_at / 1e6, UTC).isoformat(timespec="seconds"), one.body)
        for _, one in sorted(found.items())
    ]
    if as_json:
        console.print_json([dict(zip(("kind", "name", "changed_at", "body"), row, strict=True)) for row in rows])
    else:
        console.print_table(("kind", "name", "changed at", "body"), rows)


def put(
    kind: Annotated[str, typer.Argument(help="experiment, experiment-plan, model, pool or schema.")],
    name: Annotated[str, typer.Argument(help="The entry's name within its kind.")],
    body: Annotated[str, typer.Argument(help="JSON, or @FILE that holds it.")],
    as_json: AsJson = False,
) -> None:
    """Write an entry: checked here, and obeyed by every worker within a second."""
    from analytics.definition_reader import plan_from_json
    from analytics.definitions import PLAN_KIND, DefinitionError
    from models.routing import Experiment, ExperimentError, Router
    from producers.errors import BrokerUnavailableError
    from schemas.placement import Place, PlacementError

    if kind not in KINDS:
        console.fail(f"KIND: expected {', '.join(KINDS)}, got {kind!r}")
    text = _text(body)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        console.fail(f"BODY is not JSON: {error}")
    topic = _topic()
    try:
        if kind == "experiment":
            own = Experiment.from_json(text)
            if own.name != name:
                console.fail(f"the experiment's own name is {own.name!r}, not {name!r}")
            others = [one for (its, known), one in topic.entries().items() if its == kind and known != name]
            Router([own, *(Experiment.from_json(one.body) for one in others)])
        elif kind == PLAN_KIND:
            planned = plan_from_json(text, "BODY").definition
            if planned.name != name:
                console.fail(f"the experiment's own name is {planned.name!r}, not {name!r}")
        elif kind == "model":
            _check_live(text)
        elif kind == "pool":
            Place.from_json(text)
        topic.put(kind, name, text, author="penstock control")
    except (ExperimentError, DefinitionError, PlacementError, BrokerUnavailableError) as error:
        console.fail(str(error), code=1 if isinstance(error, BrokerUnavailableError) else 2)
    _done(kind, name, "written", as_json)


def remove(
    kind: Annotated[str, typer.Argument(help="experiment, experiment-plan, model or pool.")],
    name: Annotated[str, typer.Argument(help="The entry's name within its kind.")],
    as_json: AsJson = False,
) -> None:
    """Remove an entry."""
    from producers.errors import BrokerUnavailableError

    topic = _topic()
    try:
        known = topic.entries()
        if (kind, name) not in known:
            there = ", ".join(f"{its}/{one}" for its, one in sorted(known)) or "none"
            console.fail(f"there is no {kind}/{name}; entries: {there}")
        topic.remove(kind, name)
    except BrokerUnavailableError as error:
        console.fail(str(error), code=1)
    _done(kind, name, "removed", as_json)


def _check_live(text: str) -> None:
    from models.live import Live

    try:
        Live.from_json(text)
    except ValueError as error:
        console.fail(f'BODY of a model: expected {{"version": "…"}}, but {error}')


def _done(kind: str, name: str, what: str, as_json: bool) -> None:
    if as_json:
        console.print_json({"kind": kind, "name": name, "done": what})
    else:
        console.note(f"{kind}/{name} {what}")


def _topic() -> ControlTopic:
    from producers.control import ControlTopic

    settings = console.settings()
    return ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)


def _text(body: str) -> str:
    if not body.startswith("@"):
        return body
    try:
        return Path(body[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        console.fail(f"BODY: {body[1:]} cannot be read: {error}")
