"""Writes the benchmark's models as ONNX files without the onnx package, which running Penstock does not need.

An ONNX file is a protobuf message (onnx.proto3, ModelProto); the numbers below are its field numbers. A test reads
what is written here with the onnx package and checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from schemas.tensors import Array

_IR_VERSION: Final = 10
_OPSET: Final = 20
_FLOAT: Final = 1


def mlp(sizes: Sequence[int], seed: int = 0) -> bytes:
    """A perceptron: input `x` [n, sizes[0]] float32, ReLU between its layers, sigmoid output `y` [n, sizes[-1]].

    The weights follow from `seed`, so that the same file is written everywhere.
    """
    rng = np.random.default_rng(seed)
    nodes: list[bytes] = []
    weights: list[bytes] = []
    value = "x"
    for layer, (before, after) in enumerate(pairwise(sizes)):
        weight = rng.standard_normal((before, after), np.float32) / np.float32(np.sqrt(before))
        bias = rng.standard_normal(after, np.float32) / np.float32(10)
        weights += [_tensor(f"w{layer}", weight), _tensor(f"b{layer}", bias)]
        nodes.append(_node("Gemm", (value, f"w{layer}", f"b{layer}"), f"g{layer}"))
        last = layer == len(sizes) - 2
        value = "y" if last else f"h{layer}"
        nodes.append(_node("Sigmoid" if last else "Relu", (f"g{layer}",), value))
    graph = b"".join(
        [
            *(_message(1, node) for node in nodes),
            _text(2, "mlp"),
            *(_message(5, weight) for weight in weights),
            _message(11, _value("x", sizes[0])),
            _message(12, _value("y", sizes[-1])),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _text(2, "penstock") + _message(7, graph) + _message(8, opset)


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    """NodeProto: input, output, name, op_type."""
    return b"".join([*(_text(1, name) for name in inputs), _text(2, output), _text(3, output), _text(4, kind)])


def _tensor(name: str, array: Array) -> bytes:
    """TensorProto: dims, data_type, name, raw_data."""
    dims = b"".join(_number(1, extent) for extent in array.shape)
    return dims + _number(2, _FLOAT) + _text(8, name) + _message(9, array.astype("<f4").tobytes())


def _value(name: str, width: int) -> bytes:
    """ValueInfoProto of a float tensor [n, width]."""
    shape = _message(1, _text(2, "n")) + _message(1, _number(1, width))
    tensor = _number(1, _FLOAT) + _message(2, shape)
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
