"""Sessions that run bound on the host's memory, and stand-ins that fail, wait or capture where a GPU would."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.bound_runner import BoundRunner
from models.capture import CaptureGate
from models.runtime import open_on_cpu, session_options
from models.session import Session, signature_of
from models.staging import HostMemory
from schemas.tensors import Array


def raw(path: Path) -> Any:
    """ONNX Runtime's own session."""
    return open_on_cpu(path, session_options(1, None))


def bound(path: Path, session: Any = None, device: str = "cpu", **more: Any) -> Session:
    """A session that runs through binding and staging."""
    signature = signature_of(path)
    session = raw(path) if session is None else session
    memory = more.pop("memory", None) or HostMemory()
    runner = BoundRunner(
        session, signature, memory, device=device, gate=more.pop("gate", None) or CaptureGate(), **more
    )
    return Session(session, signature, device, "for a test", runner)


class Watched:
    """A session whose bound runs are looked at first: `before` gets the run options."""

    def __init__(self, session: Any, before: Callable[[Any], None]) -> None:
        self._session = session
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self._before(options)
        self._session.run_with_iobinding(binding, options)


def graph_id(options: Any) -> int | None:
    """The graph a run is of; None where its options name none."""
    try:
        return int(options.get_run_config_entry("gpu_graph_id"))
    except (AttributeError, RuntimeError):
        return None


def shrinks(options: Any) -> bool:
    """Whether a run gives memory back when it has ended."""
    try:
        return bool(options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
    except (AttributeError, RuntimeError):
        return False


class Capturing:
    """A session that keeps graphs as ONNX Runtime's CUDA provider does, and complains of what would break them.

    Graphs belong to the thread they were captured by, on the third run of an id there. While one is captured nothing
    else may run in the process (`busy` counts over all sessions that share it), and a graph's addresses stay.
    """

    def __init__(self, session: Any, busy: Busy, fail: Callable[[int], Exception | None] = lambda _: None) -> None:
        self._session = session
        self._busy = busy
        self._fail = fail
        self._runs: dict[tuple[int, int], int] = {}
        self.captures: list[int] = []
        self.replays: list[int] = []
        self.without: int = 0
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        number = graph_id(options)
        assert number is not None, "with graphs each run says which"
        thread = threading.get_ident()
        self.threads.add(thread)
        count = self._runs[(thread, number)] = self._runs.get((thread, number), 0) + 1
        capture = number >= 0 and count == 3
        if number < 0:
            self.without += 1
        elif count > 3:
            self.replays.append(number)
        with self._busy.running(capture):
            if capture:
                if (error := self._fail(number)) is not None:
                    raise error
                self.captures.append(number)
            self._session.run_with_iobinding(binding, options)


class Busy:
    """How many runs are under way in the process, and whether one of them captures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self._capturing = False
        self.most = 0
        self.spoiled = 0

    def running(self, capture: bool) -> _Running:
        return _Running(self, capture)

    def enter(self, capture: bool) -> None:
        with self._lock:
            if self._capturing or (capture and self._now):
                self.spoiled += 1
            self._now += 1
            self._capturing = self._capturing or capture
            self.most = max(self.most, self._now)

    def leave(self, capture: bool) -> None:
        with self._lock:
            self._now -= 1
            self._capturing = self._capturing and not capture


class _Running:
    def __init__(self, busy: Busy, capture: bool) -> None:
        self._busy, self._capture = busy, capture

    def __enter__(self) -> None:
        self._busy.enter(self._capture)

    def __exit__(self, *_: object) -> None:
        self._busy.leave(self._capture)


class Cudart:
    """CUDA's runtime library on the host's memory. `fail`: error numbers by function, each raised once."""

    def __init__(self) -> None:
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self._held: dict[int, Any] = {}
        self.pinned: set[int] = set()
        self.streams: set[int] = set()

    @property
    def held(self) -> int:
        """Buffers and streams that were not given back."""
        return len(self._held) + len(self.streams)

    def _begin(self, name: str) -> int:
        self.calls.append(name)
        return self.fail.pop(name, 0)

    def _put(self, out: Any, size: int) -> int:
        buffer = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(buffer)
        self._held[address] = buffer
        out._obj.value = address
        return address

    def cudaSetDevice(self, number: int) -> int:  # noqa: N802 - CUDA's name
        assert number == 0
        return 0

    def cudaHostAlloc(self, out: Any, size: int, flags: int) -> int:  # noqa: N802
        assert flags == 0
        code = self._begin("cudaHostAlloc")
        if not code:
            self.pinned.add(self._put(out, size))
        return code

    def cudaFreeHost(self, address: int) -> int:  # noqa: N802
        self.pinned.remove(address)
        del self._held[address]
        return self._begin("cudaFreeHost")

    def cudaMalloc(self, out: Any, size: int) -> int:  # noqa: N802
        code = self._begin("cudaMalloc")
        if not code:
            self._put(out, size)
        return code

    def cudaFree(self, address: int) -> int:  # noqa: N802
        assert address not in self.pinned
        del self._held[address]
        return self._begin("cudaFree")

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> int:  # noqa: N802
        assert stream in self.streams
        # Copies by the device itself need page-locked memory on the host's side.
        host = source if kind == 1 else to
        assert any(one <= host < one + len(self._held[one]) for one in self.pinned)
        ctypes.memmove(to, source, size)
        return self._begin("cudaMemcpyAsync")

    def cudaStreamCreateWithFlags(self, out: Any, flags: int) -> int:  # noqa: N802
        assert flags == 1
        out._obj.value = number = max(self.streams, default=0) + 1
        self.streams.add(number)
        return self._begin("cudaStreamCreateWithFlags")

    def cudaStreamSynchronize(self, stream: int) -> int:  # noqa: N802
        assert stream in self.streams
        return self._begin("cudaStreamSynchronize")

    def cudaStreamDestroy(self, stream: int) -> int:  # noqa: N802
        self.streams.remove(stream)
        return self._begin("cudaStreamDestroy")

    def cudaDeviceGetPCIBusId(self, text: Any, size: int, number: int) -> int:  # noqa: N802
        assert size == 32
        assert number == 0
        text.value = b"0000:3B:00.0"
        return self._begin("cudaDeviceGetPCIBusId")

    def cudaRuntimeGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 13000
        return self._begin("cudaRuntimeGetVersion")

    def cudaDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 13010
        return self._begin("cudaDriverGetVersion")

    def cudaGetErrorString(self, code: int) -> bytes:  # noqa: N802
        return {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(code, b"unknown error")


def ones(rows: int, value: float = 1.0) -> dict[str, Array]:
    """Inputs of `linear`."""
    return {"x": np.full((rows, 3), value, np.float32)}
