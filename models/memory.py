"""How much memory a model's batch takes, from its graph alone: the least there is, and what ONNX Runtime holds. Pure.

Three figures, in the order of their size. The **live** bytes are those of tensors that were written and are still to be
read while some operator runs: whatever runs the graph in this order cannot do with less. ONNX Runtime plans **buffers**
before it runs: a tensor takes the buffer of a dead one of the same type and shape, and such a buffer stays allocated
until the last of those that share it is dead, so that a layer's buffers are held from the first such layer to the last.
And a worker **keeps** up to twice as much: the first run of a shape takes its buffers from the arena one by one and
notes when each comes and goes; from the second on one block is laid out for all of them (the memory pattern), beside
the first ones unless it fits into what they left, and the arena gives back neither.

The rules are those of ONNX Runtime's allocation and memory-pattern planners (`allocation_planner.cc` and
`mem_pattern_planner.h` in its `core/framework`); which operators write over an input, are fused or need scratch memory
follows its CPU kernels. A test holds the figures to what a process measures. On a GPU the planners are the same, the
kernels are not: cuDNN's and cuBLAS's workspaces come on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from models.onnx_graph import Graph, Node, TensorSize

# The same bytes under another shape.
_VIEWS: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
# May write over an input of the same type and shape that nobody reads again.
_IN_PLACE: Final = frozenset(
    {
        *("Add", "And", "Div", "Mul", "Or", "PRelu", "Sub"),
        *("Abs", "Cast", "Ceil", "Clip", "Elu", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Neg"),
        *("Not", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"),
    }
)
# Kernels that take scratch memory of the size of their output.
_SCRATCH: Final = frozenset({"Gelu"})
# Known as soon as the inputs' shapes are: a few bytes.
_SHAPES: Final = frozenset({"Constant", "Shape", "Size"})


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of a batch's tensors, weights apart; see the module.

    `at`: the operator where most is live, and the tensor it writes. `inputs` are the caller's and in none of the three
    figures, `outputs` are in all. `unsized`: tensors whose shape depends on data; they count as nothing.
    """

    live: int
    buffers: int
    kept: int
    at: str
    inputs: int
    outputs: int
    unsized: tuple[str, ...] = ()


def activations(graph: Graph) -> Activations:
    """The figures of a graph at the batch size it was sized for."""
    steps, unsized = _steps(graph)
    least = _lifetimes(steps, graph, reuse=False)
    planned = _lifetimes(steps, graph, reuse=True)
    live, at = _peak(steps, least)
    buffers, _ = _peak(steps, planned)
    pattern = _block([one for one in planned if not one.output])
    outputs = sum(one.size for one in planned if one.output)
    return Activations(
        live=live,
        buffers=buffers,
        kept=max(buffers + pattern, pattern + outputs + max((step.scratch for step in steps), default=0)),
        at="" if at is None else f"{steps[at].kind} {next(iter(steps[at].writes))}",
        inputs=sum(graph.tensors[name].size for name in graph.inputs if name in graph.tensors),
        outputs=outputs,
        unsized=tuple(unsized),
    )


@dataclass(slots=True)
class _Step:
    """An operator that runs. `view_of`: what its output is a view of; `over`: the inputs its output may replace."""

    kind: str
    writes: dict[str, TensorSize]
    reads: list[str]
    view_of: str = ""
    over: tuple[str, ...] = ()
    scratch: int = 0


@dataclass(slots=True)
class _Buffer:
    """Bytes that are allocated from step `first` to step `last`, both included."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    first: int
    last: int
    uses: int
    output: bool = False


def _steps(graph: Graph) -> tuple[list[_Step], list[str]]:
    """What really runs: nothing constant, and as one operator what ONNX Runtime makes one."""
    constant = {*graph.weights}
    readers = _readers(graph)
    fused = _fused_additions(graph, readers)
    behind_conv = {name for node in graph.nodes if node.kind == "Conv" for name in node.outputs if readers[name] == 1}
    steps: list[_Step] = []
    unsized: list[str] = []
    for node in graph.nodes:
        reads = [name for name in node.inputs if name and name not in constant]
        if node.kind in _SHAPES or not (reads or node.bodies):
            constant.update(node.outputs)
            continue
        writes: dict[str, TensorSize] = {}
        for name in node.outputs:
            size = graph.tensors.get(name)
            if name and readers[name] and (size is None or size.shape is None):
                unsized.append(name)
            elif name and readers[name] and size is not None:
                writes[name] = size
        if not writes:
            continue
        step = _Step(node.kind, writes, reads)
        first = node.outputs[0]
        if node.kind in _VIEWS or (node.kind == "BatchNormalization" and node.inputs[0] in behind_conv):
            step.view_of = node.inputs[0]
        elif first in fused.sums:
            # The Conv wrote the sum already, over what it was added to.
            step.view_of, step.reads = fused.sums[first], [fused.sums[first]]
        elif first in fused.added:
            step.reads.append(fused.added[first])
            step.over = (fused.added[first],)
        elif node.kind in _IN_PLACE:
            step.over = tuple(reads)
        if node.kind in _SCRATCH and first in writes:
            step.scratch = writes[first].size
        step.scratch += sum(activations(body).buffers for body in node.bodies)
        steps.append(step)
    return steps, unsized


@dataclass(frozen=True, slots=True)
class _Fused:
    """`added`: a Conv's output to the tensor that is added to it; `sums`: the sum to the Conv's output."""

    added: dict[str, str]
    sums: dict[str, str]


def _fused_additions(graph: Graph, readers: Counter[str]) -> _Fused:
    """Sums of a Conv's output with a tensor that was there before: a residual connection."""
    made = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs}
    fused = _Fused({}, {})
    for node in graph.nodes:
        if node.kind != "Add" or len(node.inputs) != 2:
            continue
        # The later of two Convs takes the earlier one's output.
        for conv, other in sorted((node.inputs, node.inputs[::-1]), key=lambda pair: -made.get(pair[0], -1)):
            source = _conv_of(graph.nodes, made, conv, readers)
            if source and other in made and made[other] < made[source]:
                sizes = [graph.tensors.get(name) for name in (conv, other)]
                if sizes[0] is not None and sizes[0] == sizes[1] and source not in fused.added:
                    fused.added[source] = other
                    fused.sums[node.outputs[0]] = conv
                    break
    return fused


def _conv_of(nodes: Sequence[Node], made: dict[str, int], name: str, readers: Counter[str]) -> str:
    """The output of the Conv that `name` comes from, directly or through its BatchNormalization; else ""."""
    node = nodes[made[name]] if name in made and readers[name] == 1 else None
    if node is not None and node.kind == "BatchNormalization" and readers[node.inputs[0]] == 1:
        node = nodes[made[node.inputs[0]]] if node.inputs[0] in made else None
    return node.outputs[0] if node is not None and node.kind == "Conv" else ""


def _readers(graph: Graph) -> Counter[str]:
    """How often each tensor is read, by operators, by graphs inside them, and as an output."""

    def names(one: Graph) -> Iterator[str]:
        for node in one.nodes:
            yield from node.inputs
            for body in node.bodies:
                yield from names(body)

    return Counter((*names(graph), *graph.outputs))


def _lifetimes(steps: Sequence[_Step], graph: Graph, *, reuse: bool) -> list[_Buffer]:
    """The buffers of a run in the order they are first needed. With `reuse` dead ones serve again, newest first."""
    uses = Counter(name for step in steps for name in step.reads)
    outputs = {*graph.outputs}
    uses.update(outputs)
    buffers: list[_Buffer] = []
    of: dict[str, _Buffer] = {}
    dead: list[_Buffer] = []
    for at, step in enumerate(steps):
        for number, (name, size) in enumerate(step.writes.items()):
            if number == 0 and step.view_of and step.view_of not in of and name not in outputs:
                continue  # of what the caller gave, or of a weight: no buffer of ours
            buffer = _shared(step, of, size) if number == 0 else None
            if buffer is None and reuse and name not in outputs:
                buffer = next((one for one in dead if (one.dtype, one.shape) == (size.dtype, size.shape)), None)
                if buffer is not None:
                    dead.remove(buffer)
            if buffer is None:
                buffer = _Buffer(size.dtype, size.shape or (), size.size, at, at, 0)
                buffers.append(buffer)
            buffer.uses += uses[name]
            buffer.last = at
            buffer.output = buffer.output or name in outputs
            of[name] = buffer
        for name in step.reads:
            read = of.get(name)
            if read is not None:
                read.last = at
                read.uses -= 1
                if read.uses == 0:
                    dead.insert(0, read)
    for buffer in buffers:
        if buffer.output:
            buffer.last = len(steps)
    return buffers


def _shared(step: _Step, of: dict[str, _Buffer], size: TensorSize) -> _Buffer | None:
    """The buffer of an input that the step's output is in."""
    if step.view_of:
        return of.get(step.view_of)
    for name in step.over:
        buffer = of.get(name)
        if buffer is not None and buffer.uses == 1 and (buffer.dtype, buffer.shape) == (size.dtype, size.shape):
            return buffer
    return None


def _peak(steps: Sequence[_Step], buffers: Sequence[_Buffer]) -> tuple[int, int | None]:
    """The most bytes allocated while a step runs, scratch included, and which step that is."""
    changes = [0] * (len(steps) + 2)
    for one in buffers:
        changes[one.first] += one.size
        changes[one.last + 1] -= one.size
    most, at, held = 0, None, 0
    for number, step in enumerate(steps):
        held += changes[number]
        if held + step.scratch > most:
            most, at = held + step.scratch, number
    return most, at


def _block(buffers: Sequence[_Buffer]) -> int:
    """Bytes of one block that holds all buffers, each laid into the tightest gap that is free when it comes."""
    laid: list[tuple[int, _Buffer]] = []
    most = 0
    for one in buffers:
        laid = [(offset, other) for offset, other in laid if other.last >= one.first]
        best, waste, end = -1, 0, 0
        for offset, other in laid:
            gap = offset - end
            if gap >= one.size and (best < 0 or gap - one.size < waste):
                best, waste = end, gap - one.size
            end = max(end, offset + other.size)
        place = end if best < 0 else best
        laid.append((place, one))
        laid.sort(key=lambda pair: pair[0])
        most = max(most, place + one.size)
    return most
