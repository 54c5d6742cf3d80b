"""ONNX Runtime behind one small class: which device it got and why, and failures that say what they are."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Final

from models.errors import (
    ArtifactError,
    DeviceError,
    DeviceLostError,
    DeviceOutOfMemoryError,
    InferenceError,
    SignatureError,
)
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

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_FATAL: Final = 4
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
_DEVICE: Final = re.compile(r"auto|cpu|cuda(?::([0-9]{1,3}))?")
_PREFIX: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_MEMORY: Final = re.compile(
    r"failed to allocate memory|out of memory|out_of_memory|alloc_failed|memoryallocation|bad_alloc|bad allocation",
    re.I,
)
_LOST: Final = re.compile(r"(cuda|cublas|cudnn) (failure|error)", re.I)
_DEVICE_FAULTS: Final = {"EPFail", "EngineError", "DeviceReset"}
# What it puts before its message: the path again, and where in its own sources it is.
_OPENING: Final = re.compile(r"^Load model from .*? failed: ?(?:/\S+:\d+ .+?\)(?: const)? (?=[A-Z]))?")
_OPSET: Final = re.compile(r"Opset (\d+) is under development.* for domain (\S+) is till opset (\d+)")
_CUSTOM: Final = re.compile(r"(\S+?)\(-?\d+\) is not a registered function/op")
# What ONNX Runtime raises where the file is at fault, whatever the device.
_FILE_FAULTS: Final = {"InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"}


class Session:
    """An open ONNX model on one device. `run` may be called from several threads at once.

    `device`: "cpu" or "cuda:0"; `why`: one line on how it came to that. `inputs` and `outputs`: what the file declares,
    as (name, ONNX type, shape).
    """

    def __init__(self, session: Any, signature: Signature, device: str, why: str) -> None:
        self._session: Any = session
        self._names = [one.name for one in signature.outputs]
        self.device = device
        self.why = why
        self.inputs = _declared(session.get_inputs())
        self.outputs = _declared(session.get_outputs())

    @classmethod
    def open(cls, path: str | Path, signature: Signature, device: str = "auto", threads: int = 1) -> Session:
        """Open a model on `auto`, `cpu`, `cuda` or `cuda:N`, with `threads` threads within an operator.

        `auto` takes the first GPU where CUDA loads, else the CPU. Raises `ArtifactError` where the file is no model,
        `DeviceError` where `cuda` was asked for and did not load.
        """
        match = _DEVICE.fullmatch(device)
        if match is None:
            raise DeviceError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}")
        why = "cpu was asked for"
        if device != "cpu":
            number = int(match[1] or 0)
            session, why = _open_on_cuda(path, number, _options(threads, signature))
            if session is not None:
                return cls(session, signature, f"cuda:{number}", why)
            if device != "auto":
                raise DeviceError(f"device {device} was asked for, and cannot be had: {why}")
            why = f"cpu, because {why}"
        return cls(_open_on_cpu(path, _options(threads, signature)), signature, "cpu", why)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays [n, ...] by input name to arrays by output name.

        Raises `InferenceError` where the model raises, its kin `DeviceOutOfMemoryError` where it finds no memory and
        `DeviceLostError` where the device itself fails.
        """
        session = self._session
        if session is None:
            raise InferenceError("the model was closed")
        try:
            values = session.run(self._names, inputs)
        except Exception as error:
            raise _typed(error, self.device) from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Give back its memory, once no run is under way. Twice is fine."""
        self._session = None


def declared_of(path: str | Path) -> tuple[Declared, Declared]:
    """The inputs and outputs an ONNX file declares. Raises `ArtifactError` where it does not load.

    Its weights are not touched where they are external data, so that a file of any size may be looked at.
    """
    session = _open_on_cpu(path, _frugal())
    return _declared(session.get_inputs()), _declared(session.get_outputs())


def signature_of(path: str | Path) -> Signature:
    """The signature an ONNX file declares: symbolic axes keep their names, unnamed ones are -1; no features.

    Outputs that are no tensor or have no rows axis (a map of classes, a mean over the batch) are left out: no request
    owns them. Where there is one output of one number a row, that is the score.
    Raises `ArtifactError` where the file does not load or cannot be batched.
    """
    session = _open_on_cpu(path, _frugal())
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


@cache
def _runtime() -> Any:
    """ONNX Runtime, quiet: whatever it would print is raised as well."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def _options(threads: int, signature: Signature | None) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # A spinning thread takes a core from the poll loop beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Planned memory is kept for every shape ever seen: with free inner axes there is no end to them.
    options.enable_mem_pattern = not (signature and signature.ragged)
    return options


def _frugal() -> Any:
    """Options to look at a model with: nothing is folded or packed, so that mapped weights stay on the disk."""
    options = _options(1, None)
    options.graph_optimization_level = _runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _open_on_cpu(path: str | Path, options: Any) -> Any:
    try:
        return _runtime().InferenceSession(str(path), options, providers=[_CPU])
    except Exception as error:
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_load_fault(error)}") from error


def _open_on_cuda(path: str | Path, number: int, options: Any) -> tuple[Any, str]:
    """A session and why it is on this device, or None and why it is not."""
    runtime = _runtime()
    if _CUDA not in runtime.get_available_providers():
        return None, "this ONNX Runtime has no CUDA (the extra `gpu` in place of `cpu` brings it)"
    providers = [(_CUDA, {"device_id": number, "arena_extend_strategy": "kSameAsRequested"}), _CPU]
    # Both calls print what they miss, to a stdout that may be somebody's JSON.
    with redirect_stdout(io.StringIO()) as said:
        if hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls()
        try:
            # Without its fallback: it would move to the CPU in silence, and again in the middle of a run.
            session = runtime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:
            if type(error).__name__ in _FILE_FAULTS:
                raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_load_fault(error)}") from error
            return None, f"CUDA failed: {_text(error)}"
    if session.get_providers()[0] != _CUDA:
        first = next(iter(said.getvalue().splitlines()), "its driver or libraries are missing")
        return None, f"CUDA did not load: {first}"
    return session, f"CUDA loaded on GPU {number}"


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


def _typed(error: Exception, device: str) -> InferenceError:
    text = _text(error)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return DeviceOutOfMemoryError(f"{device} is out of memory for this batch: {text}")
    if type(error).__name__ in _DEVICE_FAULTS or (device != "cpu" and _LOST.search(text)):
        return DeviceLostError(f"{device} failed, and this process has to be started again to use it: {text}")
    return InferenceError(f"the model raised: {text}")


def _load_fault(error: Exception) -> str:
    """Why a file does not load, in words of who exported it."""
    said = _PREFIX.sub("", " ".join(str(error).split()))
    if match := _OPSET.search(said):
        return f"it has opset {match[1]} of {match[2]}, this ONNX Runtime knows up to {match[3]}: export it with that"
    if match := _CUSTOM.search(said):
        return f"{match[1]} is a custom operator, which no worker has"
    return _OPENING.sub("", _text(error))


def _text(error: Exception) -> str:
    """What ONNX Runtime says, on one line, without its prefix."""
    text = _PREFIX.sub("", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 400 else text[:399] + "…"
