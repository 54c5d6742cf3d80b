"""Writes a trained delay model as ONNX for serving, and its torch weights so that a test can compare the two."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from models.export import OPSET, quiet_export, strip_origin
from models.signature import Signature

WEIGHTS: Final = "weights.npz"
# More than one row, or the exporter takes the number of rows for a constant.
_SAMPLE_ROWS: Final = 3


def write_onnx(net: nn.Module, signature: Signature, path: Path) -> None:
    """Export with a dynamic row axis, names as in the signature, and weights inside the file."""
    import onnx

    sample = [torch.from_numpy(np.zeros((_SAMPLE_ROWS, *(spec.inner or ())), spec.dtype)) for spec in signature.inputs]
    rows = torch.export.Dim("rows")
    with quiet_export():
        program = torch.onnx.export(
            net.eval(),
            tuple(sample),
            input_names=[spec.name for spec in signature.inputs],
            output_names=[spec.name for spec in signature.outputs],
            # The numbers are one argument, the categories the rest.
            dynamic_shapes=({0: rows}, tuple({0: rows} for _ in sample[1:])),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    strip_origin(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_weights(net: nn.Module, path: Path) -> None:
    """Save the state as arrays by name. The file's bytes depend on the weights alone."""
    np.savez(path, **{name: value.numpy() for name, value in net.state_dict().items()})


def read_weights(net: nn.Module, path: Path) -> None:
    """Load what `write_weights` saved into a network of the same form. Raises RuntimeError where forms differ."""
    with np.load(path) as saved:
        net.load_state_dict({name: torch.from_numpy(saved[name]) for name in saved.files})
