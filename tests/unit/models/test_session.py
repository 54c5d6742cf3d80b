"""ONNX Runtime behind `Session`: every datatype, the device it took, typed failures, and signatures read from files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import attention, identity, linear, lookup, node, write

from models.errors import ArtifactError, DeviceError, DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.runtime import typed
from models.session import Session, signature_of
from models.signature import Signature, TensorSpec
from schemas.tensors import DATATYPES


def has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.parametrize("datatype", [*DATATYPES, "BYTES"])
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    path = identity(tmp_path / "m.onnx", datatype)
    signature = signature_of(path)
    assert signature == Signature((TensorSpec("x", datatype, ("rows", 3)),), (TensorSpec("y", datatype, ("rows", 3)),))
    given = np.array([[0, 1, 1], [1, 0, 1]])
    array = given.astype(str).astype(object) if datatype == "BYTES" else given.astype(DATATYPES[datatype])
    out = Session.open(path, signature, "cpu").run({"x": array})["y"]
    assert out.dtype == array.dtype
    assert np.array_equal(out, array)


def test_a_read_only_and_a_strided_array_are_as_good(tmp_path: Path) -> None:
    path = identity(tmp_path / "m.onnx")
    session = Session.open(path, signature_of(path), "cpu")
    whole = np.arange(12, dtype=np.float32).reshape(2, 6)
    read_only = np.frombuffer(whole.tobytes(), np.float32).reshape(4, 3)
    assert np.array_equal(session.run({"x": read_only})["y"], read_only)
    assert np.array_equal(session.run({"x": whole[:, ::2]})["y"], whole[:, ::2])


def test_several_inputs_and_outputs_keep_their_symbols(tmp_path: Path) -> None:
    signature = signature_of(attention(tmp_path / "m.onnx"))
    assert [one.shape for one in signature.inputs] == [("rows", "seq"), ("rows", "seq"), ("rows", 1)]
    assert [one.shape for one in signature.outputs] == [("rows", "seq"), ("rows",), ("rows", 1)]
    assert signature.fixed_rows is None


def test_unnamed_axes_are_any_and_fixed_rows_are_known(tmp_path: Path) -> None:
    assert signature_of(identity(tmp_path / "a.onnx", shape=(None, 3, None))).inputs[0].shape == (-1, 3, -1)
    assert signature_of(linear(tmp_path / "b.onnx", rows=4)).fixed_rows == 4


def test_an_output_that_declares_no_shape_is_found_by_running(tmp_path: Path) -> None:
    def branch(name: str, nodes: list) -> onnx.GraphProto:
        return onnx.helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=f"{name}_out")])

    path = write(
        tmp_path / "m.onnx",
        [
            node("ReduceMax", ["x"], ["top"], keepdims=0),
            node("Less", ["top", "ten"], ["small"]),
            # Branches of different ranks: no shape can be inferred.
            node(
                "If",
                ["small"],
                ["y"],
                then_branch=branch("same", [node("Identity", ["x"], ["same_out"])]),
                else_branch=branch("flat", [node("ReduceMax", ["x"], ["flat_out"], keepdims=0)]),
            ),
            node("ReduceMean", ["x"], ["mean"], keepdims=0),
        ],
        [("x", "FP32", ("rows", "w", "w"))],
        [("y", "FP32", None), ("mean", "FP32", None)],
        {"ten": np.array(10, np.float32)},
    )
    assert signature_of(path).outputs == (TensorSpec("y", "FP32", (-1, -1, -1)),)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("x", "BF16", ("rows", 2))], "input 'x' is tensor(bfloat16); Penstock takes tensor(float16)"),
        ([("x", "FP32", ())], "input 'x' has no rows axis, or declares no shape"),
        ([("x", "FP32", ("rows", 2)), ("k", "FP32", (1,))], "inputs fix different numbers of rows"),
    ],
)
def test_a_model_that_cannot_be_batched_is_refused(tmp_path: Path, inputs: list, message: str) -> None:
    nodes = [node("Identity", [name], [f"{name}_out"]) for name, *_ in inputs]
    path = write(tmp_path / "m.onnx", nodes, inputs, [(f"{name}_out", kind, shape) for name, kind, shape in inputs])
    with pytest.raises(ArtifactError) as caught:
        signature_of(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model at all" * 20])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it") as caught:
        signature_of(path)
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_a_model_that_raises_says_why(tmp_path: Path) -> None:
    path = lookup(tmp_path / "m.onnx")
    session = Session.open(path, signature_of(path), "cpu")
    with pytest.raises(InferenceError, match="indices element out of data bounds") as caught:
        session.run({"x": np.array([0, 5])})
    assert not isinstance(caught.value, DeviceOutOfMemoryError | DeviceLostError)
    assert session.run({"x": np.array([1, 0])})["y"].tolist() == [20, 10]


def test_running_out_of_memory_has_a_type_of_its_own(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [node("Expand", ["one", "x"], ["y"])],
        [("x", "INT64", ("rows",))],
        [("y", "FP32", ("any",))],
        {"one": np.array([1], np.float32)},
    )
    session = Session.open(path, signature_of(path), "cpu")
    with pytest.raises(DeviceOutOfMemoryError, match="cpu is out of memory for this batch"):
        session.run({"x": np.array([1 << 40])})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9",
            DeviceOutOfMemoryError,
        ),
        ("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc(...)", DeviceOutOfMemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", DeviceOutOfMemoryError),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceLostError),
        ("Non-zero status code returned while running Gather node", InferenceError),
    ],
)
def test_failures_of_cuda_are_told_apart_by_what_they_say(text: str, kind: type[Exception]) -> None:
    assert type(typed(RuntimeError(text), "cuda:0")) is kind


def test_a_closed_session_does_not_run(tmp_path: Path) -> None:
    path = identity(tmp_path / "m.onnx")
    session = Session.open(path, signature_of(path), "cpu")
    session.close()
    session.close()
    with pytest.raises(InferenceError, match="closed"):
        session.run({"x": np.zeros((1, 3), np.float32)})


def test_auto_says_which_device_it_took_and_why(tmp_path: Path) -> None:
    path = identity(tmp_path / "m.onnx")
    session = Session.open(path, signature_of(path), "auto")
    if session.device == "cpu":
        assert session.why.startswith("cpu, because ")
    else:
        assert (session.device, session.why) == ("cuda:0", "CUDA loaded on GPU 0")
    assert Session.open(path, signature_of(path), "cpu").device == "cpu"


@pytest.mark.skipif("has_cuda()")
def test_cuda_fails_loudly_where_it_cannot_be_had(tmp_path: Path) -> None:
    path = identity(tmp_path / "m.onnx")
    with pytest.raises(
        DeviceError, match="device cuda was asked for, and cannot be had: this ONNX Runtime has no CUDA"
    ):
        Session.open(path, signature_of(path), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif("not has_cuda()", reason="this ONNX Runtime has no CUDA")
def test_cuda_computes_what_the_cpu_computes(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    on_gpu = Session.open(path, signature_of(path), "cuda")
    assert on_gpu.device == "cuda:0"
    x = np.random.default_rng(1).random((100, 3), np.float32)
    expected = Session.open(path, signature_of(path), "cpu").run({"x": x})["y"]
    np.testing.assert_allclose(on_gpu.run({"x": x})["y"], expected, rtol=1e-3)


def test_a_device_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = identity(tmp_path / "m.onnx")
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda, tensorrt, cuda:N or tensorrt:N, got 'tpu'"):
        Session.open(path, signature_of(path), "tpu")


def test_importing_models_does_not_import_onnx_runtime() -> None:
    code = "import models.loading, models.registry, sys; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_failures_print_nothing(tmp_path: Path) -> None:
    path = lookup(tmp_path / "m.onnx")
    code = (
        "import sys, numpy as np; from models.session import *\n"
        "s = Session.open(sys.argv[1], signature_of(sys.argv[1]), 'auto')\n"
        "try: s.run({'x': np.array([9])})\n"
        "except InferenceError: sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
