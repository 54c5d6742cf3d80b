"""`penstock score`: scores a file, however large, into another one; killed and started again it goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console
from penstock.commands.request import client_config

if TYPE_CHECKING:
    from models.signature import Signature
    from producers.columns import Layout
    from producers.results import OutputColumn


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)


def score(
    model: Annotated[str, typer.Argument(help="The model to ask.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A .parquet, .csv, .jsonl, .csv.gz or .jsonl.gz file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .parquet, .csv or .jsonl file to write.")],
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="A column to take along, again for each; else all that are no features."),
    ] = None,
    version: Annotated[str, typer.Option(help="A version to pin; else the first that answers scores everything.")] = "",
    tensor: Annotated[
        list[str] | None,
        typer.Option("--tensor", help="input=column,column,...: the columns that make an input, side by side."),
    ] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows in one Kafka record.", min=1)] = 4096,
    window: Annotated[int, typer.Option(help="Batches under way at once, which bounds the memory.", min=1)] = 64,
    patience: Annotated[float, typer.Option(help="Seconds without any answer until it stops.", min=1.0)] = 600.0,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the output, and discard an unfinished run of another job.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Score every row of INPUT in its order. Rows that cannot be scored say why in the column `error`.

    Killed and started again with the same arguments it goes on where it was; the file is the same either way.
    """
    from models.errors import ArtifactError
    from penstock.model_store import open_store
    from penstock.pools import placement
    from producers.bulk import score_file
    from producers.bulk_run import Job, Limits, Progress
    from producers.errors import BrokerUnavailableError, BulkError, BulkInputError

    settings = console.settings()
    try:
        store = open_store(settings.models)
        described = version or store.default_version(model)
        signature = store.manifest(model, described).signature
    except ArtifactError as error:
        console.fail(str(error))
    layout = layout_of(signature, tensor or [], tuple(ids) if ids else None)
    job = Job(source, output, model, layout, outputs_of(signature), version, batch_rows, force, described)
    with console.progress("rows") as bars:
        bar = bars.add_task(f"{model} {version}".strip(), total=None)

        def show(now: Progress) -> None:
            # Rows of text files are known when they are read; what the bytes so far say is close enough for a bar.
            total = now.total if now.total is not None else round(now.rows / max(now.share, 1e-9))
            if now.resumed and bars.tasks[0].completed == 0:
                bars.reset(bar, completed=now.resumed, total=total)
            bars.update(bar, completed=now.rows, total=total)

        try:
            result = score_file(
                job,
                client_config(settings),
                settings.codec(),
                settings.kafka.topics,
                limits=Limits(window=window, give_up=patience),
                on_progress=show,
                place=placement(settings).of,
            )
        except BulkInputError as error:
            console.fail(str(error))
        except (BulkError, BrokerUnavailableError) as error:
            console.fail(str(error), code=1)
        except OSError as error:
            console.fail(f"{error.filename or output}: {error.strerror or error}", code=1)
        except KeyboardInterrupt:
            console.fail("stopped; the same command again goes on from here", code=130)
    speed = (result.rows - result.resumed) / max(result.seconds, 1e-9)
    if as_json:
        console.print_json({**asdict(result), "rows_per_second": round(speed)})
        return
    again = f", {result.resumed:,} of them by an earlier run" if result.resumed else ""
    console.note(
        f"{result.output}: {result.rows:,} rows by {model} {result.version}{again}, {result.errors:,} with an error, "
        f"{speed:,.0f} rows/s"
    )


def layout_of(signature: Signature, tensors: list[str], ids: tuple[str, ...] | None) -> Layout:
    """Which columns the model needs: its features, or, where it has none or `--tensor` is given, its inputs."""
    from producers.columns import FeatureColumn, Layout, TensorColumns
    from schemas.tensors import BYTES

    inputs = {one.name: one for one in signature.inputs}
    nan_passes = {name for name, one in inputs.items() if one.dtype.kind == "f" and signature.allow_nan}
    if signature.features and not tensors:
        return Layout(
            features=tuple(
                FeatureColumn(
                    one.name,
                    bool(one.vocabulary) or inputs[one.input].datatype == BYTES,
                    one.required,
                    not one.required or one.input in nan_passes or (one.allow_nan and not one.vocabulary),
                )
                for one in signature.features
            ),
            ids=ids,
        )
    # Of an input of which some columns may be missing and others not, the worker says which row is wrong.
    lenient = nan_passes | {one.input for one in signature.features if one.allow_nan or not one.required}
    columns: dict[str, tuple[str, ...]] = {name: (name,) for name in inputs}
    for text in tensors:
        name, equals, listed = text.partition("=")
        if not equals or not listed or name not in inputs:
            console.fail(f"--tensor: expected INPUT=column,... with INPUT one of {', '.join(inputs)}; got {text!r}")
        columns[name] = tuple(listed.split(","))
    return Layout(
        tensors=tuple(
            TensorColumns(name, inputs[name].datatype, chosen, inputs[name].inner or (), name in lenient)
            for name, chosen in columns.items()
        ),
        ids=ids,
    )


def outputs_of(signature: Signature) -> tuple[OutputColumn, ...]:
    """The columns that the model's outputs become."""
    from producers.results import OutputColumn

    return tuple(
        OutputColumn(
            one.name,
            one.datatype,
            tuple(extent if isinstance(extent, int) and extent > 0 else -1 for extent in one.shape[1:]),
        )
        for one in signature.outputs
    )
