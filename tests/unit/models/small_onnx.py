"""Small ONNX models, built where a test needs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None
Value = tuple[str, str, Shape]
OPSET = 21
TYPES = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, np.ndarray] | None = None,
) -> Path:
    """A model of these nodes; inputs and outputs as (name, datatype, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def identity(path: Path, datatype: str = "FP32", shape: Shape = ("rows", 3)) -> Path:
    """y = x."""
    return write(path, [node("Identity", ["x"], ["y"])], [("x", datatype, shape)], [("y", datatype, shape)])


def linear(path: Path, rows: int | str = "rows", weights: Sequence[float] = (1.0, 2.0, 3.0)) -> Path:
    """y [rows, 1] = x [rows, n] · weights."""
    return write(
        path,
        [node("MatMul", ["x", "w"], ["y"])],
        [("x", "FP32", (rows, len(weights)))],
        [("y", "FP32", (rows, 1))],
        {"w": np.array(weights, np.float32)[:, None]},
    )


def lookup(path: Path) -> Path:
    """y [rows] = table[x [rows]] of two entries: raises for any other index."""
    return write(
        path,
        [node("Gather", ["table", "x"], ["y"])],
        [("x", "INT64", ("rows",))],
        [("y", "FP32", ("rows",))],
        {"table": np.array([10.0, 20.0], np.float32)},
    )


def attention(path: Path) -> Path:
    """Two inputs [rows, seq], three outputs: their masked values [rows, seq], the sums [rows], and text [rows, 1]."""
    return write(
        path,
        [
            node("Cast", ["mask"], ["weights"], to=TYPES["FP32"]),
            node("Mul", ["values", "weights"], ["masked"]),
            node("ReduceSum", ["masked", "one"], ["total"], keepdims=0),
            node("Identity", ["label"], ["echo"]),
        ],
        [("values", "FP32", ("rows", "seq")), ("mask", "BOOL", ("rows", "seq")), ("label", "BYTES", ("rows", 1))],
        [("masked", "FP32", ("rows", "seq")), ("total", "FP32", ("rows",)), ("echo", "BYTES", ("rows", 1))],
        {"one": np.array([1], np.int64)},
    )
