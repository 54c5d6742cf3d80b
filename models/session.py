"""ONNX Runtime behind one small class: which device it got and why, and failures that say what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from models.cuda import open_on_gpu
from models.device_options import DEFAULT_OPTIONS, DeviceOptions
from models.errors import (
    ArtifactError,
    DeviceError,
    DeviceLostError,
    DeviceOutOfMemoryError,
    InferenceError,
    SignatureError,
)
from models.execution import Fill, PlainRunner, Runner
from models.runtime import frugal_options, open_on_cpu, session_options, typed
from models.signature import Signature
from models.specs import ANY, Score, TensorSpec
from schemas.tensors import BYTES, Array

__all__ = [
    "Declared",
    "DeviceError",
    "DeviceLostError",
    "DeviceOutOfMemoryError",
    "InferenceError",
    "Session",
    "declared_of",
    "signature_of",
]

# What an ONNX file declares of its inputs or outputs: (name, ONNX type, shape) each.
Declared = tuple[tuple[str, str, tuple[int | str | None, ...]], ...]

DATATYPES: Final = {
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": BYTES,
}
_DEVICE: Final = re.compile(r"auto|cpu|(cuda|tensorrt)(?::([0-9]{1,3}))?")


class Session:
    """An open ONNX model on one device. `run` may be called from several threads at once.

    `device`: "cpu", "cuda:0" or "tensorrt:0"; `why`: one line on how it came to that. `inputs` and `outputs`: what the
    file declares, as (name, ONNX type, shape). `stages`: inputs are copied into buffers on their way, so that
    `run_filled` spares a copy.
    """

    def __init__(self, session: Any, signature: Signature, device: str, why: str, runner: Runner | None = None) -> None:
        """`runner`: how `session` is run; None: plainly, with copies made by ONNX Runtime."""
        self._runner: Runner | None = runner or PlainRunner(session, signature)
        self.stages = self._runner.stages
        self.device = device
        self.why = why
        self.inputs = _declared(session.get_inputs())
        self.outputs = _declared(session.get_outputs())

    @classmethod
    def open(
        cls,
        path: str | Path,
        signature: Signature,
        device: str = "auto",
        threads: int = 1,
        options: DeviceOptions = DEFAULT_OPTIONS,
    ) -> Session:
        """Open a model on `auto`, `cpu`, `cuda`, `tensorrt` or `cuda:N`; `threads` within an operator on a CPU.

        `auto` takes the first GPU where CUDA loads, else the CPU. Raises `ArtifactError` where the file is no model,
        `DeviceError` where `cuda` or `tensorrt` was asked for and did not load.
        """
        match = _DEVICE.fullmatch(device)
        if match is None:
            raise DeviceError(f"device: expected auto, cpu, cuda, tensorrt, cuda:N or tensorrt:N, got {device!r}")
        why = "cpu was asked for"
        if device != "cpu":
            kind, number = match[1] or "cuda", int(match[2] or 0)
            try:
                session, runner, why = open_on_gpu(path, signature, kind, number, options, threads)
                return cls(session, signature, f"{kind}:{number}", why, runner)
            except DeviceError as error:
                if device != "auto":
                    raise DeviceError(f"device {device} was asked for, and cannot be had: {error}") from error
                why = f"cpu, because {error}"
        return cls(open_on_cpu(path, session_options(threads, signature)), signature, "cpu", why)

    @property
    def wants_buckets(self) -> bool:
        """Whether a shape that was not seen before costs so much that rows had better be padded to few sizes."""
        return self.device != "cpu"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays [n, ...] by input name to arrays by output name.

        Raises `InferenceError` where the model raises, its kin `DeviceOutOfMemoryError` where it finds no memory and
        `DeviceLostError` where the device itself fails.
        """
        runner = self._runner
        if runner is None:
            raise InferenceError("the model was closed")
        try:
            return runner.run(inputs)
        except InferenceError:
            raise
        except Exception as error:
            raise typed(error, self.device) from error

    def run_filled(self, shapes: Mapping[str, tuple[int, ...]], fill: Fill) -> dict[str, Array]:
        """`run` on inputs of these shapes that `fill` writes into the buffers it is given, by name. Raises as `run`."""
        runner = self._runner
        if runner is None:
            raise InferenceError("the model was closed")
        try:
            return runner.run_filled(shapes, fill)
        except InferenceError:
            raise
        except Exception as error:
            raise typed(error, self.device) from error

    def prepare(self, inputs: Mapping[str, Array]) -> None:
        """Make ready for more runs of these shapes, having run one: on a GPU that is to, capture them as a CUDA graph.

        Raises as `run` does.
        """
        if self._runner is not None:
            try:
                self._runner.prepare(inputs)
            except InferenceError:
                raise
            except Exception as error:
                raise typed(error, self.device) from error

    def close(self) -> None:
        """Give back its memory, once no run is under way. Twice is fine."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def declared_of(path: str | Path) -> tuple[Declared, Declared]:
    """The inputs and outputs an ONNX file declares. Raises `ArtifactError` where it does not load.

    Its weights are not touched where they are external data, so that a file of any size may be looked at.
    """
    session = open_on_cpu(path, frugal_options())
    return _declared(session.get_inputs()), _declared(session.get_outputs())


def signature_of(path: str | Path) -> Signature:
    """The signature an ONNX file declares: symbolic axes keep their names, unnamed ones are -1; no features.

    Outputs that are no tensor or have no rows axis (a map of classes, a mean over the batch) are left out: no request
    owns them. Where there is one output of one number a row, that is the score.
    Raises `ArtifactError` where the file does not load or cannot be batched.
    """
    session = open_on_cpu(path, frugal_options())
    inputs = []
    for name, kind, shape in _declared(session.get_inputs()):
        if kind not in DATATYPES:
            raise ArtifactError(f"{path}: input {name!r} is {kind}; Penstock takes {', '.join(DATATYPES)}")
        if not shape:
            raise ArtifactError(
                f"{path}: input {name!r} has no rows axis, or declares no shape; export it with a batch axis"
            )
        inputs.append(_spec(path, name, kind, shape))
    unranked = [name for name, kind, shape in _declared(session.get_outputs()) if kind in DATATYPES and not shape]
    ranks = _ranks(session, inputs, unranked) if unranked else {}
    outputs = []
    for name, kind, shape in _declared(session.get_outputs()):
        if kind in DATATYPES and (shape or ranks.get(name)):
            outputs.append(_spec(path, name, kind, shape or (ANY,) * ranks[name]))
    if not outputs:
        raise ArtifactError(f"{path}: none of its outputs is a tensor with a rows axis")
    only = outputs[0] if len(outputs) == 1 and outputs[0].datatype != BYTES else None
    score = Score(only.name, None) if only is not None and only.inner is not None and only.row_items == 1 else None
    try:
        return Signature(tuple(inputs), tuple(outputs), score=score)
    except SignatureError as error:
        raise ArtifactError(f"{path}: {error}") from None


def _declared(values: Any) -> Declared:
    return tuple((str(one.name), str(one.type), tuple(one.shape or ())) for one in values)


def _spec(path: str | Path, name: str, kind: str, shape: tuple[int | str | None, ...]) -> TensorSpec:
    extents = tuple(ANY if one is None or one == "" or (isinstance(one, int) and one < 0) else one for one in shape)
    try:
        return TensorSpec(name, DATATYPES[kind], extents)
    except SignatureError as error:
        raise ArtifactError(f"{path}: {error}") from None


def _ranks(session: Any, inputs: list[TensorSpec], names: list[str]) -> dict[str, int]:
    """Ranks of outputs that declare no shape, 0 for those without a row for each input row, found by running."""
    rows = inputs[0].rows or 3  # not 1, which a mean over the batch might have too
    for extent in (1, 8, 32, 224):
        feed = {one.name: one.sample(rows, extent) for one in inputs}
        try:
            values = session.run(names, feed)
        except Exception:  # noqa: BLE001, S112 - this size does not suit the model; the next may
            continue
        return {name: one.ndim if one.ndim and len(one) == rows else 0 for name, one in zip(names, values, strict=True)}
    return {}
