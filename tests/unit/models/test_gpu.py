"""On a real GPU: the CPU's answers, with CUDA graphs and without, two batches at once, and memory that runs out."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bound import ones
from small_onnx import attention, linear, node, write
from test_execution import cut, runner, sequences

from models.batching import BatchLimits
from models.device_options import DeviceOptions
from models.errors import DeviceOutOfMemoryError
from models.execution import PlainRunner
from models.loading import LoadedModel
from models.registry import ModelStore
from models.session import Session, signature_of
from schemas.tensors import Array


def has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


pytestmark = [pytest.mark.gpu, pytest.mark.skipif("not has_cuda()", reason="this ONNX Runtime has no CUDA")]


def on_gpu(path: Path, **options: object) -> Session:
    return Session.open(path, signature_of(path), "cuda", options=DeviceOptions(**options))  # type: ignore[arg-type]


def perceptron(path: Path) -> Path:
    """y [rows, 1] = relu(x [rows, 64] · a) · b."""
    rng = np.random.default_rng(5)
    return write(
        path,
        [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])],
        [("x", "FP32", ("rows", 64))],
        [("y", "FP32", ("rows", 1))],
        {
            "a": rng.normal(0, 0.1, (64, 512)).astype(np.float32),
            "b": rng.normal(0, 0.1, (512, 1)).astype(np.float32),
        },
    )


def rows_of(count: int, seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).random((count, 64), np.float32)}


@pytest.mark.parametrize("graphs", [False, True])
def test_a_gpu_answers_what_the_cpu_does_with_graphs_and_without(tmp_path: Path, graphs: bool) -> None:
    path = perceptron(tmp_path / "m.onnx")
    session, plain = on_gpu(path, graphs=graphs), Session.open(path, signature_of(path), "cpu")
    for count in (1, 8, 64):
        session.prepare(rows_of(count))
    assert runner(session).graphs == ([((1, 64),), ((8, 64),), ((64, 64),)] if graphs else [])
    for seed, count in enumerate((1, 8, 64, 5, 200, 8, 64)):
        inputs = rows_of(count, seed)
        # TF32 keeps ten bits of a product.
        np.testing.assert_allclose(session.run(inputs)["y"], plain.run(inputs)["y"], rtol=5e-3, atol=5e-3)
    session.close()


def test_a_graph_answers_what_a_run_without_does(tmp_path: Path) -> None:
    path = perceptron(tmp_path / "m.onnx")
    with_graphs, without = on_gpu(path, graphs=True), on_gpu(path)
    with_graphs.prepare(rows_of(32))
    for seed in range(5):
        inputs = rows_of(32, seed)
        np.testing.assert_allclose(with_graphs.run(inputs)["y"], without.run(inputs)["y"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("graphs", [False, True])
def test_two_batches_at_once_keep_their_rows_apart(tmp_path: Path, graphs: bool) -> None:
    session = on_gpu(linear(tmp_path / "m.onnx"), graphs=graphs)
    for count in (1, 4, 16):
        session.prepare(ones(count))

    def ask(number: int) -> bool:
        count = (1, 4, 16, 7)[number % 4]
        return session.run(ones(count, number))["y"].ravel().tolist() == [6.0 * number] * count

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))


def test_free_inner_axes_and_outputs_of_unknown_shape_run_on_a_gpu(tmp_path: Path) -> None:
    session = on_gpu(sequences(tmp_path / "s.onnx"))
    for shape in ((2, 3), (5, 40), (1, 7)):
        values = np.random.default_rng(1).random(shape, np.float32)
        out = session.run({"values": values, "mask": np.ones(shape, bool)})
        np.testing.assert_allclose(out["total"], values.sum(1), rtol=1e-3)
    x = np.tile(np.array([1, 0, 1, 0], np.float32), (3, 1))
    assert on_gpu(cut(tmp_path / "c.onnx")).run({"x": x})["y"].shape == (3, 2)


def test_text_runs_on_a_gpu_by_onnx_runtimes_own_copies(tmp_path: Path) -> None:
    session = on_gpu(attention(tmp_path / "m.onnx"))
    assert isinstance(session._runner, PlainRunner)
    inputs: dict[str, Array] = {
        "values": np.ones((2, 3), np.float32),
        "mask": np.ones((2, 3), bool),
        "label": np.array([["a"], ["b"]], object),
    }
    assert session.run(inputs)["total"].tolist() == [3, 3]


def test_memory_that_runs_out_is_typed_and_the_next_batch_runs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [
            node("Expand", ["x", "shape"], ["wide"]),
            node("Exp", ["wide"], ["e"]),
            node("ReduceSum", ["e", "one"], ["y"], keepdims=0),
        ],
        [("x", "FP32", ("rows", 1))],
        [("y", "FP32", ("rows",))],
        {"shape": np.array([1, 1 << 20], np.int64), "one": np.array([1], np.int64)},
    )
    session = on_gpu(path, memory_limit=256 << 20)
    with pytest.raises(DeviceOutOfMemoryError, match="cuda:0 is out of memory for this batch"):
        session.run({"x": np.zeros((512, 1), np.float32)})
    assert session.run({"x": np.zeros((4, 1), np.float32)})["y"].tolist() == [1 << 20] * 4


def test_a_model_with_control_flow_is_served_without_graphs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from onnx import TensorProto, helper

    def branch(name: str, kind: str) -> object:
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["rows", 3])
        return helper.make_graph([node(kind, ["x"], [f"{name}_y"])], name, [], [value])

    path = write(
        tmp_path / "m.onnx",
        [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Greater", ["most", "zero"], ["positive"]),
            node("If", ["positive"], ["y"], then_branch=branch("a", "Identity"), else_branch=branch("b", "Neg")),
        ],
        [("x", "FP32", ("rows", 3))],
        [("y", "FP32", ("rows", 3))],
        {"zero": np.array(0, np.float32)},
    )
    with caplog.at_level(logging.WARNING):
        session = on_gpu(path, graphs=True)
    assert "no CUDA graphs, this model runs without" in caplog.text
    assert session.run(ones(2, -2.0))["y"].tolist() == [[2.0] * 3] * 2


def test_a_model_is_warmed_up_and_captured_on_each_bucket(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    path = perceptron(tmp_path / "m.onnx")
    store.add_onnx("m", "1", path, signature_of(path), batching=BatchLimits(max_rows=64, buckets=(1, 16, 64)))
    model = LoadedModel.load(store, "m", "1", "cuda", options=DeviceOptions(graphs=True))
    assert runner(model.session).graphs == [((1, 64),), ((16, 64),), ((64, 64),)]
    plain = LoadedModel.load(store, "m", "1", "cpu")
    for count in (1, 3, 16, 50):
        got, expected = (one.run([rows_of(count)])[0]["y"] for one in (model, plain))
        np.testing.assert_allclose(got, expected, rtol=5e-3, atol=5e-3)
