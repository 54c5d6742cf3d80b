"""What a graph's tensors take: graphs small enough to be counted by hand, and files that are none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.errors import GraphError
from models.memory import Activations, activations
from models.onnx_graph import Graph, OnnxFile, TensorSize
from tests.onnx_models import node, write

F = 4  # bytes of a float


def found(path: Path, rows: int, **axes: int) -> Activations:
    return activations(OnnxFile(path).at(rows, axes))


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def chain(path: Path, *kinds: str, width: int = 10) -> Path:
    """Operators one behind another on [rows, 10]; a MatMul's weight is square."""
    names = ["x", *(f"t{number}" for number in range(len(kinds) - 1)), "y"]
    nodes = [
        node(kind, [names[at], "w"] if kind == "MatMul" else [names[at]], [names[at + 1]])
        for at, kind in enumerate(kinds)
    ]
    shape = ("rows", width)
    return write(path, nodes, [("x", "FP32", shape)], [("y", "FP32", shape)], {"w": ones(width, width)})


def test_two_layers_hold_the_tensor_between_them_and_the_output(tmp_path: Path) -> None:
    one = found(chain(tmp_path / "m.onnx", "MatMul", "MatMul"), 8)
    row = 8 * 10 * F
    assert (one.live, one.buffers, one.inputs, one.outputs) == (2 * row, 2 * row, row, row)
    assert one.at == "MatMul y"


def test_a_buffer_that_serves_again_is_held_in_between(tmp_path: Path) -> None:
    widths = [5, 10, 20, 30, 10, 20, 30, 10]
    names = ["x", *(f"t{number}" for number in range(len(widths) - 2)), "y"]
    nodes = [node("MatMul", [names[at], f"w{at}"], [names[at + 1]]) for at in range(len(widths) - 1)]
    weights = {f"w{at}": ones(widths[at], widths[at + 1]) for at in range(len(widths) - 1)}
    file = write(tmp_path / "m.onnx", nodes, [("x", "FP32", ("n", 5))], [("y", "FP32", ("n", 10))], weights)
    one = found(file, 8)
    # Two layers at a time are live; all three widths are allocated from their first layer to their second.
    assert (one.live, one.buffers) == ((20 + 30) * 8 * F, (10 + 20 + 30) * 8 * F)
    # The block of the second run comes beside the buffers of the first.
    assert one.kept == 2 * one.buffers
    twice = found(chain(tmp_path / "alike.onnx", "MatMul", "MatMul", "MatMul", "MatMul"), 8)
    assert twice.live == twice.buffers == 2 * 10 * 8 * F


def test_an_elementwise_operator_writes_over_what_nobody_reads_again(tmp_path: Path) -> None:
    row = 8 * 10 * F
    assert found(chain(tmp_path / "a.onnx", "MatMul", "Relu", "Sigmoid", "MatMul"), 8).live == 2 * row
    # Softmax does not, and the model's own input is the caller's.
    assert found(chain(tmp_path / "b.onnx", "MatMul", "Softmax", "Relu"), 8).live == 2 * row
    assert found(chain(tmp_path / "c.onnx", "Relu", "MatMul"), 8).live == 2 * row


def test_what_is_still_to_be_read_is_not_written_over(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Mul", ["a", "b"], ["c"]),
        node("MatMul", ["c", "w"], ["y"]),
    ]
    file = write(
        tmp_path / "m.onnx", nodes, [("x", "FP32", ("n", 10))], [("y", "FP32", ("n", 10))], {"w": ones(10, 10)}
    )
    assert found(file, 1).live == 2 * 10 * F  # a and b; c over one of them; then c and y


def test_another_shape_of_the_same_bytes_costs_nothing(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Reshape", ["a", "to"], ["b"]),
        node("Reshape", ["b", "back"], ["c"]),
        node("MatMul", ["c", "w"], ["y"]),
    ]
    constants = {"w": ones(10, 10), "to": np.array([-1, 2, 5]), "back": np.array([-1, 10])}
    file = write(tmp_path / "m.onnx", nodes, [("x", "FP32", ("n", 10))], [("y", "FP32", ("n", 10))], constants)
    assert found(file, 4).live == 2 * 4 * 10 * F


def test_another_shape_of_the_models_input_is_the_callers_memory(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "to"], ["a"]), node("Flatten", ["a"], ["b"]), node("MatMul", ["b", "w"], ["y"])]
    constants = {"w": ones(10, 10), "to": np.array([-1, 2, 5])}
    file = write(tmp_path / "m.onnx", nodes, [("x", "FP32", ("n", 10))], [("y", "FP32", ("n", 10))], constants)
    assert found(file, 4).live == 4 * 10 * F


def convolutions(path: Path, residual: bool) -> Path:
    """Two 3x3 convolutions of [rows, 4, 8, 8], with or without what came before added to their result."""
    kernel = ones(4, 4, 3, 3)
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "k"], ["stem"], **conv),
        node("Conv", ["stem", "k"], ["a"], **conv),
        node("Conv", ["a", "k"], ["b"], **conv),
        *([node("Add", ["b", "stem"], ["sum"])] if residual else []),
        node("Conv", ["sum" if residual else "b", "k"], ["y"], **conv),
    ]
    shape = ("rows", 4, 8, 8)
    return write(path, nodes, [("x", "FP32", shape)], [("y", "FP32", shape)], {"k": kernel})


def test_a_residual_sum_is_written_where_what_was_added_is(tmp_path: Path) -> None:
    image = 4 * 8 * 8 * F
    assert found(convolutions(tmp_path / "a.onnx", residual=False), 2).live == 2 * 2 * image
    # Not three: the second Conv adds into the stem's buffer.
    assert found(convolutions(tmp_path / "b.onnx", residual=True), 2).live == 2 * 2 * image


def test_scratch_memory_of_a_kernel_counts_while_it_runs(tmp_path: Path) -> None:
    plain = found(chain(tmp_path / "a.onnx", "MatMul", "Softmax", "MatMul"), 8)
    scratch = found(chain(tmp_path / "b.onnx", "MatMul", "Gelu", "MatMul"), 8)
    assert scratch.live - plain.live == 8 * 10 * F
    assert scratch.at == "Gelu t1"


def test_a_batch_grows_with_its_rows_and_with_its_free_axes(tmp_path: Path) -> None:
    nodes = [node("Softmax", ["x"], ["a"]), node("Softmax", ["a"], ["y"])]
    shape = ("rows", "seq", 16)
    file = write(tmp_path / "m.onnx", nodes, [("x", "FP32", shape)], [("y", "FP32", shape)])
    assert OnnxFile(file).free_axes == ("seq",)
    assert found(file, 2, seq=128).live == 2 * 2 * 128 * 16 * F
    assert found(file, 4, seq=64).live == found(file, 2, seq=128).live
    with pytest.raises(GraphError, match=r"axis 'seq' is free: say how long it is \(--axis NAME=LENGTH\)"):
        OnnxFile(file).at(2)
    with pytest.raises(GraphError, match="no axis 'time'; it has seq"):
        OnnxFile(file).at(2, {"seq": 3, "time": 3})
    with pytest.raises(GraphError, match="rows: expected 1 or more, got 0"):
        OnnxFile(file).at(0, {"seq": 3})


def test_what_depends_on_weights_alone_is_computed_once_and_shapes_cost_nothing(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["w"], ["folded"]),
        node("MatMul", ["x", "folded"], ["a"]),
        node("Shape", ["a"], ["s"]),
        node("Expand", ["bias", "s"], ["wide"]),
        node("Add", ["a", "wide"], ["y"]),
    ]
    file = write(
        tmp_path / "m.onnx",
        nodes,
        [("x", "FP32", ("n", 10))],
        [("y", "FP32", ("n", 10))],
        {"w": ones(10, 10), "bias": ones(10)},
    )
    assert found(file, 8).live == 8 * 10 * F


def test_a_tensor_whose_shape_depends_on_data_is_named_and_not_counted(tmp_path: Path) -> None:
    nodes = [node("NonZero", ["x"], ["where"]), node("Relu", ["x"], ["y"]), node("Cast", ["where"], ["z"], to=1)]
    file = write(
        tmp_path / "m.onnx",
        nodes,
        [("x", "FP32", ("n", 10))],
        [("y", "FP32", ("n", 10)), ("z", "FP32", (2, "many"))],
    )
    one = found(file, 8)
    assert one.unsized == ("where", "z")
    assert one.live == 8 * 10 * F


def test_a_graph_inside_an_operator_counts_while_that_runs(tmp_path: Path) -> None:
    def branch(name: str, weight: str) -> onnx.GraphProto:
        nodes = [node("MatMul", ["x", weight], [f"{name}1"]), node("MatMul", [f"{name}1", weight], [name])]
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 10))
        return helper.make_graph(nodes, name, [], [out])

    flag = node("ReduceMax", ["x"], ["most"], keepdims=0)
    over = node("Greater", ["most", "zero"], ["flag"])
    either = node("If", ["flag"], ["y"], then_branch=branch("a", "w"), else_branch=branch("b", "w"))
    constants = {"w": ones(10, 10), "zero": np.float32(0)}
    file = write(
        tmp_path / "m.onnx", [flag, over, either], [("x", "FP32", ("n", 10))], [("y", "FP32", ("n", 10))], constants
    )
    graph = OnnxFile(file).at(8)
    assert len(graph.nodes[2].bodies) == 2
    # y, and in a branch two tensors of as many bytes.
    assert activations(graph).live >= 3 * 8 * 10 * F


@pytest.mark.parametrize(
    ("kind", "size"),
    [("FLOAT", 40), ("FLOAT16", 20), ("BFLOAT16", 20), ("INT8", 10), ("INT4", 5), ("FLOAT8E4M3FN", 10), ("DOUBLE", 80)],
)
def test_weights_are_as_large_as_their_type(kind: str, size: int) -> None:
    assert TensorSize(kind, (2, 5)).size == size
    assert TensorSize("INT4", (3,)).size == 2  # whole bytes
    assert TensorSize(kind, None).size == 0


def sizes(graph: Graph) -> dict[str, int]:
    return {name: one.size for name, one in graph.weights.items()}


def test_weights_in_files_of_their_own_are_counted_and_not_read(tmp_path: Path) -> None:
    file = chain(tmp_path / "m.onnx", "MatMul", width=1000)
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    graph = OnnxFile(file).at(4)
    assert sizes(graph) == {"w": 1000 * 1000 * F}
    assert activations(graph).live == 4 * 1000 * F


def test_a_weight_that_is_a_constant_node_is_a_weight(tmp_path: Path) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT16, (10, 10), np.zeros(200, np.uint8).tobytes(), raw=True)
    nodes = [node("Constant", [], ["w"], value=value), node("MatMul", ["x", "w"], ["y"])]
    file = write(tmp_path / "m.onnx", nodes, [("x", "FP16", ("n", 10))], [("y", "FP16", ("n", 10))])
    assert sizes(OnnxFile(file).at(1)) == {"w": 200}


def test_an_old_files_weights_are_no_inputs(tmp_path: Path) -> None:
    file = chain(tmp_path / "m.onnx", "MatMul")
    model = onnx.load(file)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (10, 10)))
    onnx.save(model, file)
    graph = OnnxFile(file).at(4)
    assert graph.inputs == ("x",)
    assert activations(graph).inputs == 4 * 10 * F


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "it cannot be read: No such file"), (b"\xff\xffnot a model", "it is no ONNX file"), (b"", "no operators")],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "m.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GraphError, match=says) as caught:
        OnnxFile(file)
    assert str(file) in str(caught.value)


def test_without_onnx_the_extra_that_brings_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(GraphError, match="needs the package onnx, which the extra `plan` brings"):
        OnnxFile(tmp_path / "m.onnx")


def test_every_size_is_of_the_batch_that_was_asked_for(tmp_path: Path) -> None:
    file = OnnxFile(chain(tmp_path / "m.onnx", "MatMul", "MatMul"))
    wide: Sequence[int] = [activations(file.at(rows)).buffers for rows in (1, 8, 64, 1)]
    assert wide == [80, 640, 5120, 80]
