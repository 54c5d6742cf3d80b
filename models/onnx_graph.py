"""Reads what an ONNX file says of its tensors, their types, shapes and order, without reading its weights.

The `onnx` package reads it, an optional import (the extra `plan` brings it), for three reasons. It leaves
weights that lie in files of their own where they are, so that a model of 138 GB is planned on a laptop; ONNX Runtime
would load them. It infers the shape of every intermediate tensor for any batch; ONNX Runtime keeps those to itself. And
it is needed where models are planned, not where they are served, so a worker's image goes without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.errors import GraphError, shown

# Bits of an element. Text has no size of its own; its elements are pointers.
BITS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("FLOAT4E2M1", "INT4", "UINT4"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
    **dict.fromkeys(("BOOL", "INT8", "UINT8"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64", "STRING"), 64),
    "COMPLEX128": 128,
}
FLOATING: Final = frozenset({"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"})
# A constant up to so many bytes may be a shape that the inference has to know.
_KNOWN_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class TensorSize:
    """A tensor's ONNX type and shape; None where the shape depends on the data."""

    dtype: str
    shape: tuple[int, ...] | None

    @property
    def items(self) -> int:
        """Elements; 0 where the shape is not known."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes; 0 where the shape is not known."""
        return -(-self.items * BITS[self.dtype] // 8)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: what it reads and writes. `bodies`: the graphs inside it (If, Loop, Scan)."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bodies: tuple[Graph, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """Operators in the order of the file, which is one they can run in, and every tensor's size at one batch size."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, TensorSize]
    tensors: Mapping[str, TensorSize]

    def all_weights(self) -> Iterator[TensorSize]:
        """Weights of this graph and of those inside its operators."""
        yield from self.weights.values()
        for node in self.nodes:
            for body in node.bodies:
                yield from body.all_weights()


class OnnxFile:
    """An ONNX file that was read once, to be sized at several batch sizes."""

    def __init__(self, path: str | Path) -> None:
        """Read the file, but none of its external data. Raises `GraphError` naming the file and what is wrong."""
        self.path = Path(path)
        onnx = _onnx(self.path)
        try:
            model = onnx.load(str(self.path), load_external_data=False)
        except OSError as error:
            raise GraphError(f"{self.path}: it cannot be read: {error.strerror or error}") from None
        except Exception as error:  # noqa: BLE001 - protobuf's own class depends on how it was built
            raise GraphError(f"{self.path}: it is no ONNX file: {error}") from None
        if not model.graph.node:
            raise GraphError(f"{self.path}: it is no ONNX file, or has no operators")
        self._onnx = onnx
        self._names = {number: name for name, number in onnx.TensorProto.DataType.items()}
        self._weights = self._weights_of(model.graph)
        _strip(onnx, model.graph)
        del model.graph.value_info[:]
        self._model = model

    @property
    def free_axes(self) -> tuple[str, ...]:
        """Names of the inputs' axes beside the rows that the file leaves open, "input[1]" where it has none."""
        found: dict[str, None] = {}
        for value in self._fed(self._model.graph):
            for at, dim in enumerate(value.type.tensor_type.shape.dim):
                if at and dim.WhichOneof("value") != "dim_value":
                    found.setdefault(dim.dim_param or f"{value.name}[{at}]")
        return tuple(found)

    def at(self, rows: int, axes: Mapping[str, int] | None = None) -> Graph:
        """All tensors for a batch of `rows`; `axes`: the other free axes by name.

        An input that fixes its rows keeps them. Raises `GraphError` naming an axis that is left open, or the tensor
        that ONNX finds inconsistent at this size.
        """
        if rows < 1:
            raise GraphError(f"rows: expected 1 or more, got {rows}")
        lengths = dict(axes or {})
        unknown = sorted(lengths.keys() - set(self.free_axes))
        if unknown:
            there = ", ".join(self.free_axes) or "no free axis but the rows"
            raise GraphError(f"{self.path}: no axis {shown(unknown[0])}; it has {there}")
        missing = [name for name in self.free_axes if name not in lengths]
        if missing:
            raise GraphError(f"{self.path}: axis {shown(missing[0])} is free: say how long it is (--axis NAME=LENGTH)")
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        for value in self._fed(model.graph):
            for at, dim in enumerate(value.type.tensor_type.shape.dim):
                if dim.WhichOneof("value") != "dim_value":
                    dim.dim_value = rows if at == 0 else lengths[dim.dim_param or f"{value.name}[{at}]"]
        try:
            model = self._onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        except self._onnx.shape_inference.InferenceError as error:
            raise GraphError(f"{self.path}: shapes cannot be inferred for {rows} rows: {error}") from None
        return self._graph(model.graph, self._weights)

    def _fed(self, graph: Any) -> list[Any]:
        """Inputs that a caller gives: old files list their weights among them."""
        return [value for value in graph.input if value.name not in self._weights]

    def _weights_of(self, graph: Any) -> dict[str, TensorSize]:
        found = {one.name: TensorSize(self._names[one.data_type], tuple(one.dims)) for one in graph.initializer}
        for one in graph.sparse_initializer:
            found[one.values.name] = TensorSize(self._names[one.values.data_type], tuple(one.values.dims))
            found[f"{one.values.name}.indices"] = TensorSize("INT64", tuple(one.indices.dims))
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        kind = self._names[attribute.t.data_type]
                        found[node.output[0]] = TensorSize(kind, tuple(attribute.t.dims))
        return found

    def _graph(self, graph: Any, weights: dict[str, TensorSize]) -> Graph:
        tensors: dict[str, TensorSize] = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            if value.type.WhichOneof("value") == "tensor_type" and kind.elem_type:
                known = kind.HasField("shape") and all(dim.WhichOneof("value") == "dim_value" for dim in kind.shape.dim)
                shape = tuple(dim.dim_value for dim in kind.shape.dim) if known else None
                tensors[value.name] = TensorSize(self._names[kind.elem_type], shape)
        nodes = []
        for node in graph.node:
            bodies = tuple(
                self._graph(one.g, self._weights_of(one.g)) for one in node.attribute if one.type == one.GRAPH
            )
            nodes.append(Node(node.op_type, tuple(node.input), tuple(node.output), bodies))
        inputs = tuple(value.name for value in graph.input if value.name not in weights)
        return Graph(tuple(nodes), inputs, tuple(value.name for value in graph.output), weights, tensors)


def _strip(onnx: Any, graph: Any) -> None:
    """Drop the bytes of large weights: shapes are what is wanted, and each inference would copy them."""
    for one in graph.initializer:
        if math.prod(one.dims) * BITS[onnx.TensorProto.DataType.Name(one.data_type)] // 8 > _KNOWN_BYTES:
            kept = onnx.TensorProto(name=one.name, data_type=one.data_type, dims=one.dims)
            one.CopyFrom(kept)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                _strip(onnx, attribute.g)


def _onnx(path: Path) -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except ImportError:
        raise GraphError(
            f"{path}: reading an ONNX graph needs the package onnx, which the extra `plan` brings (pip install onnx)"
        ) from None
    return onnx
