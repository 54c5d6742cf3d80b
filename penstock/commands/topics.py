"""`penstock topics`: creates the topics that are missing, for clusters that do not create topics by themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("topics")(topics)


def topics(
    replication: Annotated[
        int, typer.Option(help="Copies of each partition; -1 is the cluster's default.", min=-1, max=32767)
    ] = -1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Create the Kafka topics that are missing, those of the pools too; those there are stay as they are."""
    from penstock.pools import pool_specs
    from producers.errors import BrokerUnavailableError
    from producers.publisher import create_topics

    settings = console.settings()
    specs = pool_specs(settings)
    try:
        created = create_topics(settings.kafka.client(), specs, replication=replication)
    except BrokerUnavailableError as error:
        console.fail(str(error), code=1)
    if as_json:
        console.print_json([{"topic": one.name, "created": one.name in created} for one in specs])
        return
    for one in specs:
        console.note(f"{'created' if one.name in created else 'exists '} {one.name}")
