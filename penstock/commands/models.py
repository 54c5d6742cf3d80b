"""`penstock models`: what is in the model store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penstock import console

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="The model store: list, show, add and verify versions.")
    group.command("list")(versions)
    group.command()(show)
    group.command()(add)
    group.command()(verify)
    app.add_typer(group, name="models")


def versions(as_json: AsJson = False) -> None:
    """All models and versions. The newest version serves, unless control says otherwise."""
    from models.errors import ModelError

    store = _store()
    rows = []
    for name in store.names():
        for version in store.versions(name):
            try:
                manifest = store.manifest(name, version)
            except ModelError as error:
                rows.append((name, version, str(error), "", ""))
                continue
            size = sum(one.size for one in manifest.files)
            takes = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in manifest.signature.inputs)
            gives = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in manifest.signature.outputs)
            rows.append((name, version, takes, gives, size))
    columns = ("model", "version", "inputs", "outputs", "bytes")
    if as_json:
        console.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        console.print_table(columns, rows)


def show(
    name: Annotated[str, typer.Argument(help="Model.")],
    version: Annotated[str | None, typer.Argument(help="Version; the newest where it is left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, as without it.")] = False,
) -> None:
    """The manifest of a version, as JSON."""
    from models.errors import ModelError

    del as_json
    store = _store()
    try:
        manifest = store.manifest(name, version or store.default_version(name))
    except ModelError as error:
        console.fail(str(error))
    document: Any = manifest.to_json()
    console.print_json(document)


def add(
    name: Annotated[str, typer.Argument(help="Model.")],
    version: Annotated[str, typer.Argument(help="Version.")],
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: the manifest.")] = False,
) -> None:
    """Add an ONNX file, with the signature it declares itself. Workers see it within seconds."""
    from models.errors import ModelError

    try:
        manifest = _store().add_onnx(name, version, file)
    except (ModelError, OSError) as error:
        console.fail(str(error))
    if as_json:
        console.print_json(manifest.to_json())
        return
    for one in manifest.signature.inputs:
        console.note(f"input  {one.name} {one.datatype} {list(one.shape)}")
    for one in manifest.signature.outputs:
        console.note(f"output {one.name} {one.datatype} {list(one.shape)}")


def verify(
    name: Annotated[str, typer.Argument(help="Model.")],
    version: Annotated[str | None, typer.Argument(help="Version; all where it is left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a version with its checksum, load it and warm it up."""
    from models.errors import ModelError
    from models.loading import LoadedModel

    store = _store()
    try:
        wanted = [version] if version else store.versions(name)
    except ModelError as error:
        console.fail(str(error))
    found: list[dict[str, Any]] = []
    for one in wanted:
        about: dict[str, Any] = {"model": name, "version": one, "problem": "", "warm_up": []}
        try:
            loaded = LoadedModel.load(store, name, one, "cpu")
            about["warm_up"] = [{"rows": rows, "ms": round(seconds * 1000, 3)} for rows, seconds in loaded.warm_up]
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


def _store() -> Any:
    from models.registry import ModelStore

    return ModelStore(console.settings().models.store)
