"""Exports a torch module as ONNX with a dynamic number of rows, and holds the file to the module's own answers.

Needs the extra `train` (torch, onnx, onnxscript).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.errors import ArtifactError
from models.session import Session, signature_of
from schemas.tensors import Array

if TYPE_CHECKING:
    from torch import nn

OPSET: Final = 20
# Sizes that the export is checked at besides the sample's own: one row, and more than any sample.
_ROWS: Final = (1, 2, 7)
_SEED: Final = 20_001


def export_onnx(
    module: nn.Module,
    samples: Mapping[str, Array],
    path: str | Path,
    *,
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]] | None = None,
    opset: int = OPSET,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> float:
    """Write `module` as an ONNX file, and return the largest difference of its answers from the module's.

    `samples`: an array [n, ...] for each positional input of the module, by the name it gets, in order, with n of 2 or
    more. Axis 0 of all of them is the rows; `axes` names further dynamic axes of an input, such as {"ids": {1: "seq"}}.
    Both are run on the samples and on random rows of several sizes. Raises `ArtifactError`, and leaves no file, where
    the module cannot be exported or a difference exceeds `atol + rtol * |answer|`.
    """
    target = Path(path)
    rows = {len(array) for array in samples.values()}
    if len(rows) != 1 or rows.pop() < 2:
        # Of one row the exporter makes a constant.
        raise ArtifactError("samples: expected arrays of one number of rows, 2 or more")
    scratch = target.with_name(f".{target.name}.exported")
    try:
        scratch.write_bytes(_exported(module, samples, outputs, axes or {}, opset))
        signature = signature_of(scratch)
        session = Session.open(scratch, signature, "cpu")
        for spec in signature.inputs:
            if spec.rows is not None:
                raise ArtifactError(
                    f"input {spec.name!r} came out with {spec.rows} rows: the module fixes their number"
                )
        worst = 0.0
        for inputs in (samples, *_random(samples, axes or {})):
            worst = max(worst, _difference(module, session, inputs, outputs, rtol, atol))
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return worst


def strip_origin(model: Any) -> None:
    """Drop what the exporter notes of the source: paths of the machine it ran on have no place in a model."""
    del model.metadata_props[:]
    model.doc_string = ""
    for part in (model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        values = (*part.input, *part.output, *part.initializer) if part is model.graph else ()
        for one in (*part.node, *part.value_info, *values):
            one.doc_string = ""
            del one.metadata_props[:]


@contextmanager
def quiet_export() -> Iterator[None]:
    """Without the exporter's warnings about its own use of deprecated torch functions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _exported(
    module: nn.Module,
    samples: Mapping[str, Array],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    opset: int,
) -> bytes:
    try:
        import onnx
        import torch
    except ImportError as error:
        raise ArtifactError(f"exporting a torch module needs the extra `train`: {error}") from None

    dims: dict[str, Any] = {"rows": torch.export.Dim("rows")}
    for own in axes.values():
        for name in own.values():
            dims.setdefault(name, torch.export.Dim(name))
    shapes = tuple({0: dims["rows"], **{at: dims[one] for at, one in axes.get(name, {}).items()}} for name in samples)
    try:
        with quiet_export():
            program = torch.onnx.export(
                module.eval(),
                tuple(torch.from_numpy(array) for array in samples.values()),
                input_names=list(samples),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArtifactError(f"the module cannot be exported: {said}") from error
    if program is None:
        raise ArtifactError("the module cannot be exported: torch.onnx.export gave no program")
    model = program.model_proto
    strip_origin(model)
    try:
        onnx.checker.check_model(model)
        exported: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:
        # Over 2 GB for one, which is the most that one protobuf takes.
        said = " ".join(str(error).split())[:300]
        raise ArtifactError(f"the exported module is no ONNX file that can be written whole: {said}") from error
    return exported


def _random(samples: Mapping[str, Array], axes: Mapping[str, Mapping[int, str]]) -> Iterator[dict[str, Array]]:
    """Rows like the samples' in other numbers: noise of their spread, or, of whole numbers, their own values mixed."""
    rng = np.random.default_rng(_SEED)
    for rows in _ROWS:
        made = {}
        for name, array in samples.items():
            shape = (rows, *array.shape[1:])
            if array.dtype.kind == "f":
                values = rng.normal(array.mean(), array.std() or 1.0, shape)
            else:
                values = rng.choice(array.ravel(), shape)
            made[name] = values.astype(array.dtype)
            for at in axes.get(name, {}):
                # One shorter than the sample: an extent that was taken for a constant shows.
                if made[name].shape[at] > 1:
                    made[name] = np.ascontiguousarray(made[name].take(range(made[name].shape[at] - 1), axis=at))
        yield made


def _difference(
    module: nn.Module,
    session: Session,
    inputs: Mapping[str, Array],
    names: Sequence[str],
    rtol: float,
    atol: float,
) -> float:
    import torch

    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in inputs.values()))
    ours = [found] if isinstance(found, torch.Tensor) else list(found)
    theirs = session.run(inputs)
    worst = 0.0
    for name, tensor in zip(names, ours, strict=True):
        expected, got = tensor.numpy(), theirs[name]
        rows = len(next(iter(inputs.values())))
        if expected.shape != got.shape:
            raise ArtifactError(
                f"output {name!r} of {rows} rows is {list(got.shape)} in ONNX Runtime, {list(expected.shape)} in torch"
            )
        gap = np.abs(got.astype(np.float64) - expected)
        if not np.all(gap <= atol + rtol * np.abs(expected)):
            raise ArtifactError(
                f"output {name!r} of {rows} rows differs by {gap.max():.3g} between ONNX Runtime and torch; "
                "raise rtol or atol only where that is harmless"
            )
        worst = max(worst, float(gap.max()))
    return worst


__all__ = ["OPSET", "export_onnx", "quiet_export", "strip_origin"]
