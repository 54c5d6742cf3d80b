"""ONNX Runtime itself: imported late and quiet, its options, and its failures in words of who asked for it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from models.errors import ArtifactError, DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.signature import Signature

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
# What ONNX Runtime raises where the file is at fault, whatever the device.
FILE_FAULTS: Final = {"InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"}

_FATAL: Final = 4
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


@cache
def runtime() -> Any:
    """ONNX Runtime, quiet: whatever it would print is raised as well."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def session_options(threads: int, signature: Signature | None) -> Any:
    """Options of a session with `threads` threads within an operator, for a worker that has other things to do."""
    library = runtime()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # A spinning thread takes a core from the poll loop beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Planned memory is kept for every shape ever seen: with free inner axes there is no end to them.
    options.enable_mem_pattern = not (signature and signature.ragged)
    return options


def frugal_options() -> Any:
    """Options to look at a model with: nothing is folded or packed, so that mapped weights stay on the disk."""
    options = session_options(1, None)
    options.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def open_on_cpu(path: str | Path, options: Any) -> Any:
    """ONNX Runtime's own session on the CPU. Raises `ArtifactError` where the file does not load."""
    try:
        return runtime().InferenceSession(str(path), options, providers=[CPU])
    except Exception as error:
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {load_fault(error)}") from error


def typed(error: Exception, device: str) -> InferenceError:
    """What a run raised as the error that says whose fault it is: the batch's size, the device's, or the model's."""
    said = text(error)
    if isinstance(error, MemoryError) or _MEMORY.search(said):
        return DeviceOutOfMemoryError(f"{device} is out of memory for this batch: {said}")
    if type(error).__name__ in _DEVICE_FAULTS or (device != "cpu" and _LOST.search(said)):
        return DeviceLostError(f"{device} failed, and this process has to be started again to use it: {said}")
    return InferenceError(f"the model raised: {said}")


def load_fault(error: Exception) -> str:
    """Why a file does not load, in words of who exported it."""
    said = _PREFIX.sub("", " ".join(str(error).split()))
    if match := _OPSET.search(said):
        return f"it has opset {match[1]} of {match[2]}, this ONNX Runtime knows up to {match[3]}: export it with that"
    if match := _CUSTOM.search(said):
        return f"{match[1]} is a custom operator, which no worker has"
    return _OPENING.sub("", text(error))


def text(error: Exception) -> str:
    """What ONNX Runtime says, on one line, without its prefix."""
    said = _PREFIX.sub("", " ".join(str(error).split())) or type(error).__name__
    return said if len(said) <= 400 else said[:399] + "…"
