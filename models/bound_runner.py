"""Runs a session bound to a device's memory, through staging buffers and, where they can be had, CUDA graphs.

A bound run copies its inputs into page-locked memory and from there to the device, computes, and copies the outputs
back. Each of the batches under way has a lane of its own: buffers, binding and a stream for its copies. While one lane
computes another copies, so that the device is not idle between two batches.

CUDA graphs replay into fixed addresses, so that each captured shape has buffers of its own. ONNX Runtime keeps graphs
by thread, and a graph's activations are in memory that other runs of the session may be given; so with graphs all of a
session's computing is done by one thread, one run after another, and only copies overlap with it.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from models.capture import GATE, CaptureGate
from models.errors import DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.execution import Fill, Shapes
from models.runtime import runtime, text, typed
from models.signature import Signature
from models.specs import TensorSpec
from models.staging import ABANDONED, Held, Memory, Staging, view
from schemas.tensors import Array

log = logging.getLogger(__name__)

# ONNX Runtime runs a shape twice as usual, captures it then, and replays it from the next run on.
_RUNS_TO_CAPTURE: Final = 4
# The graph id with which ONNX Runtime neither captures nor replays.
_NO_GRAPH: Final = -1
# How far a graph's answer may be from that of a normal run: other kernels may have been chosen, in FP16 too.
_RELATIVE: Final = 2e-2
_ABSOLUTE: Final = 1e-3

# CUDA's words for a capture that was spoiled; the device is well.
_CAPTURING: Final = re.compile(r"captur|failure 90[0-9]", re.I)
_IN: Final = "in "
_OUT: Final = "out "


class Shrinking:
    """When a run also gives unused memory of the device back. Pure.

    Never after each run: giving back waits for the device, and the next run has to ask for the memory again. So only
    after a run that was larger than any the model was warmed up on, and after one that found no memory, in whose place
    smaller ones come.
    """

    def __init__(self) -> None:
        self._warm = 0
        self._failed = False

    def warmed(self, size: int) -> None:
        """Batches of `size` bytes belong to the normal."""
        self._warm = max(self._warm, size)

    def failed(self) -> None:
        """A run found no memory."""
        self._failed = True

    def due(self, size: int) -> bool:
        """Whether a run of `size` bytes of input is to shrink when it has ended. Asked once a run."""
        failed, self._failed = self._failed, False
        return failed or (0 < self._warm < size)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured shape: its buffers, its binding, the options that replay it."""

    staging: Staging
    binding: Any
    options: Any


@dataclass(eq=False, slots=True)
class _Lane:
    """What one batch under way needs. `bound`: the shapes that `binding` is for."""

    staging: Staging
    stream: int
    binding: Any
    bound: Shapes | None = None
    graphs: dict[Shapes, _Graph] = field(default_factory=dict)

    def drop_graphs(self) -> None:
        """Forget the captured shapes and give their buffers back."""
        while self.graphs:
            self.graphs.popitem()[1].staging.close()


class BoundRunner:
    """Runs through I/O binding, with `runs` batches under way at once; the next one waits for one of them to end."""

    stages = True

    def __init__(
        self,
        session: Any,
        signature: Signature,
        memory: Memory,
        *,
        device: str = "cpu",
        runs: int = 2,
        graphs: bool = False,
        reopen: Callable[[], Any] | None = None,
        gate: CaptureGate = GATE,
    ) -> None:
        """`device`: its name. `graphs`: the session captures CUDA graphs; `reopen` then gives one that does not.

        Raises what `memory` raises.
        """
        self._session = session
        self._reopen = reopen
        self._device = device
        self._inputs = signature.inputs
        self._outputs = signature.outputs
        self._memory = memory
        self._gate = gate
        self._shrinking = Shrinking()
        self._next_graph = 1
        # Who takes all lanes does so alone: two of that kind would wait for each other's.
        self._all = threading.Lock()
        # Graphs are a thread's own: the one that captures them has to replay them.
        self._thread = ThreadPoolExecutor(1, "graphs") if graphs else None
        self._lanes: SimpleQueue[_Lane | None] = SimpleQueue()
        self._count = runs
        with gate.shared():
            while ABANDONED:
                ABANDONED.popleft().close()
            self._held = Held(memory)
            self._abandon = weakref.finalize(self, ABANDONED.append, self._held)
            for _ in range(runs):
                self._lanes.put(_Lane(self._held.staging(), self._held.stream(), session.io_binding()))
        self._normal = self._options(_NO_GRAPH) if graphs else None
        self._shrinks = self._options(None, shrink=True)

    @property
    def allocations(self) -> int:
        """Buffers made so far: the number does not grow while batches fit into what there is."""
        with self._every_lane() as lanes:
            return sum(lane.staging.allocations for lane in lanes)

    @property
    def graphs(self) -> list[Shapes]:
        """The input shapes that are captured."""
        with self._every_lane() as lanes:
            return sorted(set.intersection(*(set(lane.graphs) for lane in lanes)))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Runner.run`."""
        return self.run_filled({name: array.shape for name, array in inputs.items()}, self._copier(inputs))

    def run_filled(self, shapes: Mapping[str, tuple[int, ...]], fill: Fill) -> dict[str, Array]:
        """See `Runner.run_filled`."""
        own = tuple(shapes[spec.name] for spec in self._inputs)
        lane = self._lane()
        try:
            with self._gate.shared():
                return self._run(lane, own, fill, lane.graphs.get(own))
        except Exception as error:
            # What was bound for a run that failed is not relied upon.
            lane.bound = None
            if isinstance(typed(error, self._device), DeviceOutOfMemoryError):
                self._shrinking.failed()
            raise
        finally:
            self._lanes.put(lane)

    def prepare(self, inputs: Mapping[str, Array]) -> None:
        """Capture these shapes in every lane, with nobody else on the device; a shape that cannot be runs as usual.

        Raises where the device itself fails.
        """
        shapes = tuple(inputs[spec.name].shape for spec in self._inputs)
        self._shrinking.warmed(self._size(shapes))
        if self._thread is None:
            return
        free = [one.name for one in self._outputs if output_shape(one, self._inputs, shapes) is None]
        if free:
            log.warning("no CUDA graph for inputs %s: only a run tells the shape of output %s", shapes, ", ".join(free))
            return
        with self._every_lane() as lanes:
            try:
                for lane in lanes:
                    if shapes not in lane.graphs:
                        lane.graphs[shapes] = self._captured(lane, shapes, self._copier(inputs))
            except Exception as error:
                said = text(error)
                if isinstance(typed(error, self._device), DeviceLostError) and not _CAPTURING.search(said):
                    raise
                log.warning("no CUDA graphs, this model runs without: inputs %s: %s", shapes, said)
                self._without_graphs(lanes)

    def close(self) -> None:
        """See `Runner.close`."""
        with self._all:
            for _ in range(self._count):
                self._lane()
            self._abandon.detach()
            try:
                with self._gate.shared():
                    self._held.close()
            except Exception as error:
                if not isinstance(typed(error, self._device), DeviceLostError):
                    raise
                # Nothing can be given back to a device that is lost; with the process it is.
                log.warning("%s is lost, its memory is not given back: %s", self._device, text(error))
            # Whoever still waits for a lane is told that there will be none.
            self._lanes.put(None)
            if self._thread is not None:
                self._thread.shutdown()
            self._session = None

    @contextmanager
    def _every_lane(self) -> Iterator[list[_Lane]]:
        """All lanes, once no run is under way."""
        with self._all:
            lanes = [self._lane() for _ in range(self._count)]
            try:
                yield lanes
            finally:
                for lane in lanes:
                    self._lanes.put(lane)

    def _lane(self) -> _Lane:
        lane = self._lanes.get()
        if lane is None:
            self._lanes.put(None)
            raise InferenceError("the model was closed")
        return lane

    def _run(self, lane: _Lane, shapes: Shapes, fill: Fill, graph: _Graph | None) -> dict[str, Array]:
        if graph is not None:
            staging, binding, options = graph.staging, graph.binding, graph.options
        else:
            staging, binding, options = lane.staging, lane.binding, self._normal
            if lane.bound != shapes:
                lane.bound = None
                self._bind(staging, binding, shapes)
                lane.bound = shapes
            # Memory that a graph replays into may look unused: with graphs nothing is given back.
            if self._thread is None and self._shrinking.due(self._size(shapes)):
                options = self._shrinks
        areas = [staging.area(_IN + spec.name, 0) for spec in self._inputs]
        buffers = {
            spec.name: view(area, shape, spec.dtype)
            for spec, area, shape in zip(self._inputs, areas, shapes, strict=True)
        }
        fill(buffers)
        for area, buffer in zip(areas, buffers.values(), strict=True):
            self._memory.upload(area.address, area.host[: buffer.nbytes], lane.stream)
        self._memory.wait(lane.stream)
        self._compute(self._session.run_with_iobinding, binding, options)
        return self._fetch(lane, staging, binding, shapes)

    def _fetch(self, lane: _Lane, staging: Staging, binding: Any, shapes: Shapes) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for spec in self._outputs:
            shape = output_shape(spec, self._inputs, shapes)
            if shape is not None:
                area = staging.area(_OUT + spec.name, 0)
                found[spec.name] = view(area, shape, spec.dtype)
                self._memory.download(area.host[: found[spec.name].nbytes], area.address, lane.stream)
        self._memory.wait(lane.stream)
        # The buffers are the next batch's: what leaves is a copy.
        found = {name: array.copy() for name, array in found.items()}
        if len(found) < len(self._outputs):
            # A binding keeps what a run made, and would have the next one fit into it.
            lane.bound = None
            values = dict(zip((one.name for one in self._outputs), binding.get_outputs(), strict=True))
            found |= {name: value.numpy() for name, value in values.items() if name not in found}
        return {one.name: found[one.name] for one in self._outputs}

    def _bind(self, staging: Staging, binding: Any, shapes: Shapes) -> None:
        kind, number = self._memory.device_type, self._memory.device_id
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for spec, shape in zip(self._inputs, shapes, strict=True):
            area = staging.area(_IN + spec.name, math.prod(shape) * spec.dtype.itemsize)
            binding.bind_input(spec.name, kind, number, spec.dtype, shape, area.address)
        for spec in self._outputs:
            known = output_shape(spec, self._inputs, shapes)
            if known is None:
                binding.bind_output(spec.name, "cpu")
            else:
                area = staging.area(_OUT + spec.name, math.prod(known) * spec.dtype.itemsize)
                binding.bind_output(spec.name, kind, number, spec.dtype, known, area.address)

    def _captured(self, lane: _Lane, shapes: Shapes, fill: Fill) -> _Graph:
        """The graph of these shapes in this lane. Raises where it cannot be had, or answers something else."""
        with self._gate.shared():
            expected = self._run(lane, shapes, fill, None)
        graph = _Graph(self._held.staging(), self._session.io_binding(), self._options(self._next_graph))
        self._next_graph += 1
        try:
            with self._gate.alone():
                self._bind(graph.staging, graph.binding, shapes)
                for _ in range(_RUNS_TO_CAPTURE):
                    got = self._run(lane, shapes, fill, graph)
            _compare(expected, got)
        except BaseException:
            with self._gate.shared():
                graph.staging.close()
            raise
        return graph

    def _without_graphs(self, lanes: list[_Lane]) -> None:
        """Go on with a session that captures none: a capture that broke off leaves its stream unusable."""
        if self._thread is None:
            return
        with self._gate.shared():
            for lane in lanes:
                lane.drop_graphs()
                lane.binding, lane.bound = None, None
            # The old one first: there may be no memory for two.
            self._session = None
        self._thread.shutdown()
        self._thread, self._normal = None, None
        if self._reopen is None:
            raise InferenceError("a CUDA graph could not be captured, and nothing says how to open the model again")
        # It passes the gate itself.
        self._session = self._reopen()
        for lane in lanes:
            lane.binding = self._session.io_binding()

    def _copier(self, inputs: Mapping[str, Array]) -> Fill:
        for spec in self._inputs:
            if inputs[spec.name].dtype != spec.dtype:
                raise InferenceError(f"input {spec.name!r}: expected {spec.dtype}, got {inputs[spec.name].dtype}")

        def fill(buffers: Mapping[str, Array]) -> None:
            for name, buffer in buffers.items():
                np.copyto(buffer, inputs[name])

        return fill

    def _size(self, shapes: Shapes) -> int:
        """Bytes of inputs of these shapes."""
        return sum(math.prod(shape) * spec.dtype.itemsize for spec, shape in zip(self._inputs, shapes, strict=True))

    def _compute(self, call: Callable[..., Any], *arguments: Any) -> None:
        if self._thread is None:
            call(*arguments)
        else:
            self._thread.submit(call, *arguments).result()

    def _options(self, graph: int | None, shrink: bool = False) -> Any:
        options = runtime().RunOptions()
        if graph is not None:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        if shrink:
            kind = "gpu" if self._memory.device_type == "cuda" else "cpu"
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"{kind}:{self._memory.device_id}")
        return options


def output_shape(spec: TensorSpec, specs: tuple[TensorSpec, ...], shapes: Shapes) -> tuple[int, ...] | None:
    """The shape of an output where its axes are numbers or those of inputs of these shapes; None where a run tells."""
    extents = {
        symbol: extent
        for one, given in zip(specs, shapes, strict=True)
        for symbol, extent in zip(one.shape[1:], given[1:], strict=True)
        if isinstance(symbol, str)
    }
    shape = [shapes[0][0]]
    for extent in spec.shape[1:]:
        found = extents.get(extent) if isinstance(extent, str) else extent
        if found is None or found < 0:
            return None
        shape.append(found)
    return tuple(shape)


def _compare(expected: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    for name, array in expected.items():
        if not np.allclose(got[name], array, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True):
            raise InferenceError(f"output {name!r} of the captured graph is not what a normal run gives")
