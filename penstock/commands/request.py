"""`penstock request`: asks a model one question over Kafka and shows the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock import console

if TYPE_CHECKING:
    from penstock.settings import Settings
    from schemas.records import FeatureValue
    from schemas.tensors import Array


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(request)


def request(
    model: Annotated[str, typer.Argument(help="The model to ask.")],
    user: Annotated[str, typer.Option("--user", "-u", help="The unit that experiments assign variants to.")] = "",
    experiment: Annotated[str, typer.Option("--experiment", "-e", help="The experiment that picks the variant.")] = "",
    version: Annotated[str, typer.Option(help="A version to pin; else experiment or rollout choose.")] = "",
    feature: Annotated[
        list[str] | None, typer.Option("--feature", "-f", help="name=value; a number, true, false, null, else text.")
    ] = None,
    features: Annotated[str, typer.Option(help="All features as one JSON object.")] = "",
    tensor: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="name=JSON or name:DATATYPE=JSON, rows first, such as x=[[1,2,3]]; FP32."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the answer is no longer wanted.", min=0.001)] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Ask a model and print its outputs, version, variant and latency."""
    from penstock.pools import placement
    from producers.client import ScoringClient
    from producers.errors import InvalidArgumentError, ScoringError, UnknownModelError

    named = named_features(feature or [], features)
    arrays = dict(map(array_of, tensor or []))
    if named and arrays:
        console.fail("give either features or --input, not both")
    settings = console.settings()
    client = ScoringClient(
        client_config(settings),
        settings.codec(),
        settings.kafka.topics,
        connect_timeout=max(timeout, 1.0),
        place=placement(settings).of,
    )
    try:
        client.open()
        score = client.score_sync(
            model,
            user_id=user,
            experiment=experiment,
            version=version,
            timeout=timeout,
            **({"inputs": arrays} if arrays else {"features": named}),
        )
    except (InvalidArgumentError, UnknownModelError) as error:
        console.fail(f"{error.code}: {error}")
    except ScoringError as error:
        console.fail(f"{error.code}: {error}", code=1)
    finally:
        client.close()
    outputs = {name: array.tolist() for name, array in score.outputs.items()}
    about = {"model": score.model, "version": score.version, "variant": score.variant, "degraded": score.degraded}
    times = {"latency_ms": round(score.latency * 1e3, 3), "worker_ms": round(score.worker_seconds * 1e3, 3)}
    if as_json:
        console.print_json({**about, "outputs": outputs, **times, "request_id": score.request_id})
        return
    rows: list[tuple[str, Any]] = [(name, json.dumps(values)) for name, values in outputs.items()]
    rows += [(name.replace("_", " "), str(value)) for name, value in {**about, **times}.items() if value != ""]
    console.print_table(("", "answer"), rows)


def client_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's configuration for a program that both sends and reads."""
    kafka = settings.kafka
    return {**kafka.client(), **kafka.consumer_properties, **kafka.producer_properties}


def named_features(pairs: list[str], document: str) -> dict[str, FeatureValue]:
    """The features of `--features` and, over them, of each `--feature name=value`."""
    found: dict[str, FeatureValue] = {}
    if document:
        try:
            values = json.loads(document)
        except ValueError as error:
            console.fail(f"--features is not JSON: {error}")
        if not isinstance(values, dict):
            console.fail(f"--features: expected a JSON object, got {document[:60]!r}")
        found.update(values)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            console.fail(f"--feature: expected name=value, got {pair!r}")
        found[name] = _value(text)
    return found


def array_of(pair: str) -> tuple[str, Array]:
    """`name=JSON` or `name:DATATYPE=JSON` as a named array; FP32 where it does not say."""
    import numpy as np

    from schemas.tensors import BYTES, DATATYPES

    head, equals, text = pair.partition("=")
    name, _, datatype = head.partition(":")
    datatype = datatype or "FP32"
    if not name or not equals:
        console.fail(f"--input: expected name=JSON or name:DATATYPE=JSON, got {pair!r}")
    if datatype != BYTES and datatype not in DATATYPES:
        console.fail(f"--input {name}: unknown datatype {datatype!r}; use {BYTES} or {', '.join(DATATYPES)}")
    try:
        values = json.loads(text)
        array = np.array(values, dtype=object if datatype == BYTES else DATATYPES[datatype])
        # numpy cuts what is behind the point without a word.
        if array.dtype.kind in "iu" and not np.array_equal(array, np.array(values)):
            raise ValueError(f"{text} does not fit {datatype}, which has whole numbers only")
        return name, array
    except (ValueError, TypeError, OverflowError) as error:
        console.fail(f"--input {name}: {error}")


def _value(text: str) -> FeatureValue:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, int | float | bool | str) else text
