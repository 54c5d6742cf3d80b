"""Small ONNX models of many kinds, and a store of them, for tests of whoever serves models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.batching import BatchLimits
from models.registry import ModelStore
from models.signature import FeatureSpec, Score, Signature, TensorSpec

Value = tuple[str, str, Sequence[int | str]]
TYPES = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
}
EVERY_TYPE = tuple(TYPES)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """A model of these nodes; inputs and outputs as (name, datatype, shape)."""

    def declared(values: Sequence[Value]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in values]

    initial = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "small", declared(inputs), declared(outputs), initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def linear(path: Path, weights: Sequence[float] = (1.0, 2.0, 3.0)) -> Path:
    """y [rows, 1] = x [rows, n] · weights."""
    return write(
        path,
        [node("MatMul", ["x", "w"], ["y"])],
        [("x", "FP32", ("rows", len(weights)))],
        [("y", "FP32", ("rows", 1))],
        {"w": np.array(weights, np.float32)[:, None]},
    )


def lookup(path: Path) -> Path:
    """y [rows] = table[x [rows]] of two entries, 10 and 20: raises for any other index."""
    return write(
        path,
        [node("Gather", ["table", "x"], ["y"])],
        [("x", "INT64", ("rows",))],
        [("y", "FP32", ("rows",))],
        {"table": np.array([10.0, 20.0], np.float32)},
    )


def echo(path: Path) -> Path:
    """An input in_<type> [rows, 2] and an equal output out_<type> of every datatype."""
    return write(
        path,
        [node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in EVERY_TYPE],
        [(f"in_{kind}", kind, ("rows", 2)) for kind in EVERY_TYPE],
        [(f"out_{kind}", kind, ("rows", 2)) for kind in EVERY_TYPE],
    )


def sequences(path: Path) -> Path:
    """values, mask [rows, seq] to masked [rows, seq] and total [rows]."""
    return write(
        path,
        [
            node("Cast", ["mask"], ["weights"], to=TYPES["FP32"]),
            node("Mul", ["values", "weights"], ["masked"]),
            node("ReduceSum", ["masked", "one"], ["total"], keepdims=0),
        ],
        [("values", "FP32", ("rows", "seq")), ("mask", "BOOL", ("rows", "seq"))],
        [("masked", "FP32", ("rows", "seq")), ("total", "FP32", ("rows",))],
        {"one": np.array([1], np.int64)},
    )


def wide(path: Path, width: int) -> Path:
    """y [rows, width]: x [rows, 1] repeated."""
    return write(
        path,
        [node("Expand", ["x", "shape"], ["y"])],
        [("x", "FP32", ("rows", 1))],
        [("y", "FP32", ("rows", width))],
        {"shape": np.array([1, width], np.int64)},
    )


SUM = {"1": (1.0, 1.0, 1.0), "2": (2.0, 2.0, 2.0), "3": (3.0, 3.0, 3.0)}


def fill_store(root: Path, scratch: Path) -> ModelStore:
    """A store with a model of each kind.

    sum 1, 2, 3: version times the sum of x [rows, 3]; named: the same of features a, b, c; lookup; echo; sequences;
    wide: 4 bytes to a reply of 10 MB; seconds: score is element 1 of a row of any length; spoilt: bytes that changed.
    """
    store = ModelStore(root)
    # One row a batch would tell nothing of batching: 32 rows wait for 5 ms at most.
    limits = BatchLimits(max_rows=64)
    for version, weights in SUM.items():
        store.add_onnx("sum", version, linear(scratch / f"sum{version}.onnx", weights), batching=limits)
    named = Signature(
        (TensorSpec("x", "FP32", ("rows", 3)),),
        (TensorSpec("y", "FP32", ("rows", 1)),),
        tuple(FeatureSpec(name, "x", at) for at, name in enumerate("abc")),
        Score("y"),
    )
    store.add_onnx("named", "1", linear(scratch / "named.onnx"), named, limits)
    store.add_onnx("lookup", "1", lookup(scratch / "lookup.onnx"), batching=limits)
    store.add_onnx("echo", "1", echo(scratch / "echo.onnx"), batching=limits)
    store.add_onnx("sequences", "1", sequences(scratch / "sequences.onnx"), batching=limits)
    store.add_onnx("wide", "1", wide(scratch / "wide.onnx", 2_500_000), batching=BatchLimits(max_rows=2))
    second = Signature(
        (TensorSpec("values", "FP32", ("rows", "seq")), TensorSpec("mask", "BOOL", ("rows", "seq"))),
        (TensorSpec("masked", "FP32", ("rows", "seq")), TensorSpec("total", "FP32", ("rows",))),
        score=Score("masked", 0),
    )
    store.add_onnx("seconds", "1", sequences(scratch / "seconds.onnx"), second, limits)
    store.add_onnx("spoilt", "1", linear(scratch / "spoilt.onnx"))
    with (root / "spoilt" / "1" / "spoilt.onnx").open("r+b") as file:
        file.seek(40)
        byte = file.read(1)
        file.seek(40)
        file.write(bytes([byte[0] ^ 1]))
    return store
