"""A smaller version is measured against its original on real rows, and one that does not agree is not made."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.agreement import agreement_of, auc, concordance, rank_correlation
from models.errors import ArtifactError
from models.importing import source_of
from models.manifest import CANDIDATE, Manifest
from models.quantization import METHODS, Method, Sample, quantized
from models.registry import Registry
from models.signature import Score, Signature, TensorSpec

WIDTH, HIDDEN = 32, 256


def perceptron(path: Path, scale: float = 1.0) -> Path:
    """x [rows, 32] through 256 hidden units to a probability [rows, 1]."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    weights = {
        "w1": rng.normal(size=(WIDTH, HIDDEN)) / np.sqrt(WIDTH),
        "w2": scale * rng.normal(size=(HIDDEN, 1)) / np.sqrt(HIDDEN),
    }
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Sample]:
    folder = tmp_path_factory.mktemp("original")
    registry = Registry(folder / "store", folder / "cache")
    with source_of(perceptron(folder / "m.onnx"), "late", "1") as source:
        manifest = registry.add(source.folder, source.manifest)
    x = np.random.default_rng(3).normal(size=(600, WIDTH)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(np.float64)
    labels[:5] = np.nan
    return registry.artifact("late", "1"), manifest, Sample({"x": x}, len(x), labels)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_a_smaller_version_that_answers_alike(
    original: tuple[Path, Manifest, Sample], tmp_path: Path, method: Method
) -> None:
    path, manifest, sample = original
    made, measured = quantized(path, manifest, "1-small", method, sample, tmp_path, clock=count().__next__)
    assert measured.bytes_after < measured.bytes_before * (0.7 if method == "fp16" else 0.5)
    assert 0.99 < measured.agreement.agreement <= 1
    assert measured.agreement.rank_correlation > 0.99
    assert measured.agreement.max_abs < 0.05
    assert abs(measured.agreement.auc_before - measured.agreement.auc_after) < 0.01
    assert (measured.seconds_before, measured.speedup) == (1 / 600, 1.0)
    assert (made.stage, made.signature, made.version) == (CANDIDATE, manifest.signature, "1-small")
    assert made.lineage["quantized"]["from"] == "1"
    registry = Registry(tmp_path / "store", tmp_path / "cache")
    registry.add(tmp_path, made)
    assert registry.manifest("late", "1-small") == made


def test_a_version_that_does_not_agree_is_refused_with_its_figures(
    original: tuple[Path, Manifest, Sample], tmp_path: Path
) -> None:
    path, manifest, sample = original
    with pytest.raises(ArtifactError, match=r"int8-dynamic version agrees with version 1 by 0\.\d+ on 600 rows .*less"):
        quantized(path, manifest, "2", "int8-dynamic", sample, tmp_path, least=1.0)


def test_answers_that_are_no_finite_numbers_are_no_answers() -> None:
    signature = Signature((TensorSpec("x", "FP32", ("rows", 2)),), (TensorSpec("y", "FP32", ("rows", 1)),))
    before = {"y": np.ones((4, 1), np.float32)}
    for bad in (np.inf, np.nan):
        after = {"y": np.array([[1], [bad], [1], [bad]], np.float32)}
        with pytest.raises(ArtifactError, match="output 'y' has 2 values that are no finite numbers"):
            agreement_of(signature, before, after, 4)


def test_a_sample_without_rows_or_a_model_that_is_none_is_refused(
    original: tuple[Path, Manifest, Sample], tmp_path: Path
) -> None:
    path, manifest, sample = original
    with pytest.raises(ArtifactError, match="the sample has no rows that the model takes"):
        quantized(path, manifest, "2", "fp16", Sample({"x": np.zeros((0, WIDTH), np.float32)}, 0), tmp_path)
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match=r"junk\.onnx: it is no ONNX file: "):
        quantized(tmp_path / "junk.onnx", manifest, "2", "int8-dynamic", sample, tmp_path)


def test_concordance_is_lin_s_and_falls_with_noise_shift_and_scale() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert concordance(x, x) == 1.0
    # 2 * 1.25 / (1.25 + 1.25 + 1) by hand.
    assert concordance(x, x + 1) == pytest.approx(2.5 / 3.5)
    # 2 * 2.5 / (1.25 + 5 + 6.25).
    assert concordance(x, 2 * x) == pytest.approx(5 / 12.5)
    assert concordance(x, x[::-1]) == -1.0
    assert concordance(np.ones(3), np.ones(3)) == 1.0
    assert concordance(np.ones(3), np.array([1.0, 2.0, 3.0])) == 0.0


def test_ranks_and_areas_are_scipy_s_and_know_ties() -> None:
    from scipy.stats import mannwhitneyu, spearmanr

    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 6, 80).astype(float), rng.integers(0, 6, 80).astype(float)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    labels = (rng.random(80) < 0.3).astype(float)
    expected = mannwhitneyu(x[labels == 1], x[labels == 0]).statistic / (labels.sum() * (labels == 0).sum())
    assert auc(x, labels) == pytest.approx(expected)
    labels[:10] = np.nan
    assert 0 <= auc(x, labels) <= 1
    assert np.isnan(auc(x, np.ones(80)))
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_without_a_score_the_output_that_agrees_least_counts() -> None:
    outputs = tuple(TensorSpec(name, "FP32", ("rows", 2)) for name in ("a", "b"))
    signature = Signature((TensorSpec("x", "FP32", ("rows", 2)),), outputs)
    before = {"a": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.array([[1.0, 2.0], [3.0, 4.0]])}
    after = {"a": before["a"], "b": before["b"] + 1}
    found = agreement_of(signature, before, after, 2)
    assert found.agreement == pytest.approx(2.5 / 3.5)
    assert (found.mean_abs, found.max_abs) == (0.5, 1.0)
    assert set(found.to_json()) == {"rows", "agreement", "mean_abs", "max_abs"}
    with pytest.raises(ArtifactError, match="there is nothing to compare"):
        agreement_of(Signature(signature.inputs, outputs, score=Score("a", 0)), before, after, 0)
