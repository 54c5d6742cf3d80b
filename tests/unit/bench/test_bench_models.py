"""The ONNX files that the benchmark writes by hand are what the onnx package would have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.session import Session, signature_of
from penstock.bench.onnx_file import mlp


@pytest.mark.parametrize("sizes", [(32, 64, 32, 1), (3, 2), (256, 300, 7)])
def test_the_onnx_package_finds_nothing_wrong_with_the_file(sizes: tuple[int, ...]) -> None:
    model = onnx.load_from_string(mlp(sizes))
    onnx.checker.check_model(model, full_check=True)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("n", sizes[0])


def test_onnx_runtime_computes_what_the_layers_say(tmp_path: Path) -> None:
    raw = mlp((5, 4, 2), seed=3)
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(raw).graph.initializer}
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    hidden = np.maximum(x @ weights["w0"] + weights["b0"], 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights["w1"] + weights["b1"])))
    session = Session.open(path, signature_of(path), "cpu")
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5)


def test_a_seed_gives_the_same_bytes_each_time() -> None:
    assert mlp((8, 4, 1)) == mlp((8, 4, 1))
    assert mlp((8, 4, 1)) != mlp((8, 4, 1), seed=1)
