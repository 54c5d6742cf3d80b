"""Opens a model on a GPU, by CUDA or by TensorRT, with the provider options that a worker wants, or says why not."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

from models.bound_runner import BoundRunner
from models.capture import GATE
from models.cuda_memory import CudaCallError, CudaMemory
from models.device_options import DeviceOptions
from models.errors import ArtifactError, DeviceError
from models.execution import PlainRunner, Runner, can_be_bound
from models.runtime import CPU, CUDA, FILE_FAULTS, TENSORRT, load_fault, runtime, session_options, text
from models.signature import Signature
from models.staging import Memory

log = logging.getLogger(__name__)

_WANTED: Final = {"cuda": CUDA, "tensorrt": TENSORRT}
_CALLED: Final = {"cuda": "CUDA", "tensorrt": "TensorRT"}


def cuda_options(number: int, options: DeviceOptions, graphs: bool) -> dict[str, str]:
    """What the CUDA provider is told."""
    told = {
        "device_id": str(number),
        # By powers of two, the default, one batch that is a little larger takes twice the memory for good.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if options.memory_limit is not None:
        told["gpu_mem_limit"] = str(options.memory_limit)
    if graphs:
        told["enable_cuda_graph"] = "1"
    return told


def tensorrt_options(number: int, options: DeviceOptions, signature: Signature) -> dict[str, str]:
    """What the TensorRT provider is told. Engines are built once for a GPU and kept in `engine_cache`.

    Where the sizes of all axes are known from buckets, one engine is built for them all; otherwise TensorRT builds anew
    for each shape beyond those it has met.
    """
    told = {
        "device_id": str(number),
        "trt_fp16_enable": str(int(options.fp16)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": options.engine_cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": options.engine_cache,
    }
    return told | _profile(options.rows, signature)


def _profile(rows: tuple[int, int] | None, signature: Signature) -> dict[str, str]:
    sizes = {one.axis: (one.extents[0], one.extents[-1]) for one in signature.axes if one.extents}
    ragged = {symbol for axes in signature.ragged.values() for _, symbol in axes}
    if rows is None or signature.fixed_rows is not None or not ragged <= set(sizes):
        return {}

    def shapes(at: int) -> str:
        return ",".join(
            f"{one.name}:" + "x".join(str(sizes[axis][at] if isinstance(axis, str) else axis) for axis in shape)
            for one in signature.inputs
            for shape in [(rows[at], *one.shape[1:])]
        )

    # Kernels are chosen for the largest: that is what a backlog runs.
    return {
        "trt_profile_min_shapes": shapes(0),
        "trt_profile_opt_shapes": shapes(1),
        "trt_profile_max_shapes": shapes(1),
    }


def providers(kind: str, number: int, options: DeviceOptions, signature: Signature, graphs: bool = False) -> list[Any]:
    """ONNX Runtime's list, best first: nodes that the first does not have run on the next."""
    cuda = (CUDA, cuda_options(number, options, graphs))
    return [cuda, CPU] if kind == "cuda" else [(TENSORRT, tensorrt_options(number, options, signature)), cuda, CPU]


def open_on_gpu(
    path: str | Path,
    signature: Signature,
    kind: str,
    number: int,
    options: DeviceOptions,
    threads: int = 1,
    memory: Callable[[int], Memory] = CudaMemory,
) -> tuple[Any, Runner, str]:
    """A session on GPU `number` by `kind` ("cuda" or "tensorrt"), how to run it, and one line on how it came to that.

    A model that cannot be captured is opened without CUDA graphs, and the log says so. Raises `ArtifactError` where the
    file is no model, `DeviceError` where the GPU cannot be had.
    """
    available = runtime().get_available_providers()
    if _WANTED[kind] not in available:
        hint = "the extra `gpu` in place of `cpu` brings it" if kind == "cuda" else "another build of it has"
        raise DeviceError(f"this ONNX Runtime has no {_CALLED[kind]} ({hint})")
    bindable = can_be_bound(signature)
    graphs = options.graphs and kind == "cuda" and bindable
    if options.graphs and not graphs:
        why = "TensorRT has its own" if bindable else "text cannot lie in a GPU's memory"
        log.warning("%s: no CUDA graphs: %s", path, why)
    if kind == "tensorrt":
        try:
            Path(options.engine_cache).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(f"TensorRT keeps its engines in {options.engine_cache}: {error.strerror}") from error

    def opened(with_graphs: bool) -> Any:
        with GATE.shared():
            return _open(path, signature, kind, number, options, with_graphs, threads)

    try:
        session = opened(graphs)
    except DeviceError as error:
        if not graphs:
            raise
        # Control flow, or nodes that run on the CPU: ONNX Runtime refuses such a model as soon as it is opened.
        session = opened(False)
        graphs = False
        log.warning("%s: no CUDA graphs, this model runs without: %s", path, error)
    why = f"{_CALLED[kind]} loaded on GPU {number}"
    if not bindable:
        return session, PlainRunner(session, signature), why
    try:
        runner = BoundRunner(
            session,
            signature,
            memory(number),
            device=f"{kind}:{number}",
            runs=options.runs,
            graphs=graphs,
            reopen=lambda: opened(False),
        )
    except CudaCallError as error:
        raise DeviceError(f"{_CALLED[kind]} failed: {error}") from error
    return session, runner, why


def _open(
    path: str | Path,
    signature: Signature,
    kind: str,
    number: int,
    options: DeviceOptions,
    graphs: bool,
    threads: int,
) -> Any:
    library, called = runtime(), _CALLED[kind]
    # Both calls print what they miss, to a stdout that may be somebody's JSON.
    with redirect_stdout(io.StringIO()) as said:
        if hasattr(library, "preload_dlls"):
            library.preload_dlls()
        try:
            # Without its fallback: it would move to the CPU in silence, and again in the middle of a run.
            session = library.InferenceSession(
                str(path),
                session_options(threads, signature),
                providers=providers(kind, number, options, signature, graphs),
                enable_fallback=0,
            )
        except Exception as error:
            if type(error).__name__ in FILE_FAULTS:
                raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {load_fault(error)}") from error
            raise DeviceError(f"{called} failed: {text(error)}") from error
    if session.get_providers()[0] != _WANTED[kind]:
        first = next(iter(said.getvalue().splitlines()), "its driver or libraries are missing")
        raise DeviceError(f"{called} did not load: {first}")
    return session
