"""`penstock pools list | move | return`: which workers take which model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock import console
from penstock.commands._models_store import failing_in_one_line

if TYPE_CHECKING:
    from producers.control import ControlTopic
    from schemas.placement import Place

AUTHOR: Final = "penstock pools"
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Model = Annotated[str, typer.Argument(help="The model.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Pools of workers: which of them takes which model.")
    group.command("list")(pools)
    group.command()(move)
    group.command("return")(give_back)
    app.add_typer(group, name="pools")


def pools(as_json: AsJson = False) -> None:
    """Where the requests of each model in the registry go, and why."""
    from penstock.model_store import open_store
    from penstock.pools import placement

    settings = console.settings()
    with failing_in_one_line():
        moved = _moved()
        names = sorted({*open_store(settings.models).names(), *moved})
    found = placement(settings).with_moved(moved)
    rows = [(name, found.of(name), "control" if name in moved else "settings") for name in names]
    if as_json:
        keys = ("model", "pool", "topic", "bulk_topic", "by")
        console.print_json(
            [dict(zip(keys, (name, at.pool, at.requests, at.bulk, by), strict=True)) for name, at, by in rows]
        )
    else:
        console.print_table(
            ("model", "pool", "topic", "bulk topic", "by"),
            [(name, at.pool, at.requests, at.bulk, by) for name, at, by in rows],
        )


def move(
    model: Model,
    pool: Annotated[str, typer.Argument(help="A pool of the settings, or default.")],
    as_json: AsJson = False,
) -> None:
    """Let the workers of another pool take a model, while traffic runs: no request is lost, each is scored once."""
    from penstock.pools import check_pool, place_of
    from schemas.placement import KIND, Place, PlacementError

    settings = console.settings()
    try:
        name = check_pool(settings, pool)
    except PlacementError as error:
        console.fail(str(error))
    place = place_of(settings, name).place if name else Place.default(settings.kafka.topics)
    with failing_in_one_line():
        _refuse_missing_topics(place)
        topic = _topic()
        held = topic.entries().get((KIND, model))
        topic.swap(KIND, model, place.to_json(), expected=None if held is None else held.revision, author=AUTHOR)
    _tell(model, place, as_json)


def give_back(model: Model, as_json: AsJson = False) -> None:
    """Let a model be where the settings have it again."""
    from penstock.pools import placement
    from schemas.placement import KIND

    settings = console.settings()
    with failing_in_one_line():
        if model not in _moved():
            pool = placement(settings).of(model).pool
            console.fail(f"model {model!r} was not moved: the settings have it in pool {pool}")
        _topic().remove(KIND, model)
    _tell(model, placement(settings).of(model), as_json)


def _tell(model: str, place: Place, as_json: bool) -> None:
    if as_json:
        console.print_json({"model": model, "pool": place.pool, "topic": place.requests, "bulk_topic": place.bulk})
    else:
        console.note(f"{model}: pool {place.pool} takes it, on {place.requests} and {place.bulk}")


def _moved() -> dict[str, Place]:
    from schemas.placement import KIND, Place, PlacementError

    found = {}
    for (kind, name), entry in _topic().entries().items():
        if kind == KIND:
            try:
                found[name] = Place.from_json(entry.body)
            except PlacementError as error:
                console.note(f"control entry {KIND}/{name} cannot be read, workers pass over it: {error}")
    return found


def _refuse_missing_topics(place: Place) -> None:
    """Raise `BrokerUnavailableError` for a topic that is not there: workers would go on as before."""
    from confluent_kafka.admin import AdminClient

    from producers.kafka import partitions_of, topics_at

    client = console.settings().kafka.client()
    there = topics_at(AdminClient(client), client, 15.0)
    for name in (place.requests, place.bulk):
        partitions_of(there, name, client)


def _topic() -> ControlTopic:
    from producers.control import ControlTopic

    settings = console.settings()
    return ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)
