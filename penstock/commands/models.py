"""`penstock models`: what is in the registry, what comes in and what goes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock import console
from penstock.commands import _models_live, _models_quantize, _models_replicate, _models_rollout
from penstock.commands._models_store import AsJson, Name, failing_in_one_line, store


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="The registry of models: add, verify, promote, roll back, remove, quantize, replicate.",
    )
    group.command("list")(versions)
    for command in (show, add, verify):
        group.command()(command)
    _models_rollout.register(group)
    _models_live.register(group)
    _models_quantize.register(group)
    _models_replicate.register(group)
    app.add_typer(group, name="models")


def versions(as_json: AsJson = False) -> None:
    """All models and versions. The newest released version serves, unless control says otherwise."""
    from models.errors import ModelError, StoreError

    rows: list[tuple[Any, ...]] = []
    with failing_in_one_line():
        ours = store()
        stages, missing = _models_live.stages()
        for name in ours.names():
            for version in ours.versions(name):
                try:
                    manifest = ours.manifest(name, version)
                except StoreError:
                    raise
                except ModelError as error:
                    rows.append((name, version, "", str(error), "", ""))
                    continue
                size = sum(one.size for one in manifest.files)
                takes = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in manifest.signature.inputs)
                gives = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in manifest.signature.outputs)
                rows.append((name, version, stages.get((name, version), manifest.stage), takes, gives, size))
    columns = ("model", "version", "stage", "inputs", "outputs", "bytes")
    if as_json:
        console.print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    console.print_table(columns, rows)
    if missing:
        console.note(f"which versions are live is not shown: {missing}")


def show(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="Version; the newest released where it is left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, as without it.")] = False,
) -> None:
    """The manifest of a version as JSON, with the model's last rollout, and the times that workers measured."""
    del as_json
    with failing_in_one_line():
        ours = store()
        document: Any = ours.manifest(name, version or ours.default_version(name)).to_json()
    console.print_json({**document, **_models_live.live_state(name)})


def add(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version.")],
    path: Annotated[Path, typer.Argument(help="An ONNX file, a folder of a version, an MLflow model, or an archive.")],
    candidate: Annotated[
        bool, typer.Option("--candidate", help="It serves only where control, an experiment or a request names it.")
    ] = False,
    new_signature: Annotated[
        bool,
        typer.Option("--new-signature", help="Take it although callers of the newest version would have to change."),
    ] = False,
    metrics: Annotated[Path | None, typer.Option(help="JSON file: training metrics.")] = None,
    profile: Annotated[Path | None, typer.Option(help="JSON file: profile of the training features.")] = None,
    lineage: Annotated[Path | None, typer.Option(help="JSON file: code, data and parameters it was made of.")] = None,
    signature: Annotated[
        Path | None, typer.Option(help="JSON file: the signature; else what the ONNX file says.")
    ] = None,
    fallback: Annotated[
        str, typer.Option(help="NAME/VERSION that answers where this one cannot; of one signature.")
    ] = "",
    last_answer_seconds: Annotated[
        float,
        typer.Option(min=0.0, help="So long a user's last answer may stand in where nothing can answer; 0: never."),
    ] = 0.0,
    max_unpacked_gb: Annotated[float, typer.Option(min=0.001, help="What an archive may unpack to.")] = 32.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: the manifest.")] = False,
) -> None:
    """Add a version. Workers see it within seconds; the same version again with the same content changes nothing."""
    from models.importing import About, source_of
    from models.manifest import CANDIDATE, RELEASED
    from models.signature import Signature
    from models.unpacking import Limits

    with failing_in_one_line():
        about = About(
            signature=None if signature is None else Signature.from_json(_document(signature, "--signature")),
            metrics=_document(metrics, "--metrics"),
            profile=_document(profile, "--profile"),
            lineage=_document(lineage, "--lineage"),
            stage=CANDIDATE if candidate else RELEASED,
            fallback=fallback,
            last_answer_seconds=last_answer_seconds,
        )
        with source_of(path, name, version, about, Limits(size=round(max_unpacked_gb * 1e9))) as source:
            manifest = store().add(source.folder, source.manifest, new_signature=new_signature)
    if as_json:
        console.print_json(manifest.to_json())
        return
    for one in manifest.signature.inputs:
        console.note(f"input  {one.name} {one.datatype} {list(one.shape)}")
    for one in manifest.signature.outputs:
        console.note(f"output {one.name} {one.datatype} {list(one.shape)}")


def verify(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="Version; all where it is left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a version with its checksum, load it and warm it up."""
    from models.errors import ModelError, StoreError
    from models.loading import LoadedModel

    found: list[dict[str, Any]] = []
    with failing_in_one_line():
        ours = store()
        for one in [version] if version else ours.versions(name):
            about: dict[str, Any] = {"model": name, "version": one, "problem": "", "warm_up": []}
            try:
                # The store's own bytes: what is loaded may have been brought here long ago.
                ours.verify(name, one)
                loaded = LoadedModel.load(ours, name, one, "cpu")
                about["warm_up"] = [{"rows": rows, "ms": round(seconds * 1000, 3)} for rows, seconds in loaded.warm_up]
            except StoreError:
                raise
            except ModelError as error:
                about["problem"] = str(error)
            found.append(about)
    if as_json:
        console.print_json(found)
    for about in found:
        if not about["problem"] and not as_json:
            timings = ", ".join(f"{run['rows']} rows in {run['ms']:.2f} ms" for run in about["warm_up"])
            console.note(f"{name} {about['version']}: as its manifest says; {timings}")
    if failed := [f"{name} {about['version']}: {about['problem']}" for about in found if about["problem"]]:
        console.fail("; ".join(failed), code=1)


def _document(path: Path | None, option: str) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        console.fail(f"{option}: {path} cannot be read as JSON: {error}")
    if not isinstance(document, dict):
        console.fail(f"{option}: {path}: expected an object")
    return document
