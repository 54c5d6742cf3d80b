"""`penstock models quantize`: a smaller version, measured against its original before it is registered."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console
from penstock.commands._models_store import AsJson, Name, failing_in_one_line, store

if TYPE_CHECKING:
    from models.quantization import Measured, Method


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(quantize)


def quantize(
    name: Name,
    data: Annotated[Path, typer.Option(help="Parquet file of rows to measure (and calibrate) on.")],
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights; activations by what each batch holds.")] = False,
    static: Annotated[
        bool, typer.Option("--static", help="With --int8: activations by what the sample holds.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="16-bit floating point. For GPUs; a CPU gains nothing.")] = False,
    version: Annotated[str | None, typer.Option(help="The original; the newest released where it is left out.")] = None,
    as_version: Annotated[
        str | None, typer.Option("--as", help="The new version's name; else VERSION-int8 or so.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of 0 and 1 in DATA: the AUC before and after is told.")
    ] = None,
    agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Lin's concordance with the original's scores, at least.")
    ] = 0.99,
    rows: Annotated[int, typer.Option(min=1, help="Rows of DATA at most.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Make a smaller version, a candidate: nobody is answered by it until it is promoted or an experiment names it."""
    method = _method(int8, static, fp16)
    from models.quantization import quantized
    from penstock.sample import read_sample

    with failing_in_one_line():
        ours = store()
        original = version or ours.default_version(name)
        manifest = ours.manifest(name, original)
        new = as_version or f"{original}-{method.removesuffix('-dynamic')}"
        sample = read_sample(data, manifest.signature, label, rows)
        with TemporaryDirectory(prefix="penstock-quantized-") as scratch:
            made, measured = quantized(
                ours.artifact(name, original),
                manifest,
                new,
                method,
                sample,
                Path(scratch),
                least=agreement,
                device=console.settings().models.device,
            )
            ours.add(scratch, made)
    if as_json:
        console.print_json({"model": name, "version": new, "from": original, **measured.to_json()})
    else:
        console.print_table(("", original, new), _rows(measured))
        console.note(f"{name} {new} is registered as a candidate (penstock models promote {name} {new})")


def _method(int8: bool, static: bool, fp16: bool) -> Method:
    if int8 == fp16:
        console.fail("give --int8 or --fp16")
    if static and not int8:
        console.fail("--static goes with --int8")
    return "fp16" if fp16 else "int8-static" if static else "int8-dynamic"


def _rows(measured: Measured) -> list[tuple[str, str, str]]:
    found = measured.agreement
    rows = [
        ("bytes", f"{measured.bytes_before:,}", f"{measured.bytes_after:,}"),
        ("microseconds a row", f"{measured.seconds_before * 1e6:.3f}", f"{measured.seconds_after * 1e6:.3f}"),
        ("agreement", "", f"{found.agreement:.5f}"),
        ("mean difference", "", f"{found.mean_abs:.3g}"),
        ("largest difference", "", f"{found.max_abs:.3g}"),
    ]
    if found.rank_correlation == found.rank_correlation:
        rows.append(("rank correlation", "", f"{found.rank_correlation:.5f}"))
    if found.auc_before == found.auc_before:
        rows.append(("AUC", f"{found.auc_before:.4f}", f"{found.auc_after:.4f}"))
    return rows
