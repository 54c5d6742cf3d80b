"""From the store to an answer: what does not match never serves, what serves was warm before, neighbours do no harm."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from small_onnx import attention, identity, linear, lookup, node, write

from models.batching import BatchLimits
from models.errors import ArtifactError, InferenceError, UnknownModelError
from models.loading import LoadedModel
from models.registry import ModelStore
from models.signature import AxisBuckets, FeatureSpec, Score, Signature, TensorSpec
from schemas.tensors import to_tensor


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def load(store: ModelStore, path: Path, signature: Signature | None = None, **more: object) -> LoadedModel:
    store.add_onnx("m", "1", path, signature, **more)
    return LoadedModel.load(store, "m", "1", "cpu")


def test_requests_are_answered_each_with_its_own_rows(store: ModelStore, tmp_path: Path) -> None:
    model = load(store, linear(tmp_path / "m.onnx"))
    parts = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 3, 2)]
    assert [one["y"].ravel().tolist() for one in model.run(parts)] == [[6], [18, 18, 18], [12, 12]]
    assert model.run([]) == []
    assert (model.name, model.version, model.device) == ("m", "1", "cpu")


def test_merged_rows_are_padded_to_their_bucket_and_cropped(store: ModelStore, tmp_path: Path) -> None:
    model = load(store, linear(tmp_path / "m.onnx"), batching=BatchLimits(buckets=(2, 8)))
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    out = model.run_merged({"x": x}, 5)
    assert np.array_equal(out["y"][:, 0], x @ np.array([1, 2, 3], np.float32))
    assert [model.padded_rows(rows) for rows in (1, 3, 9)] == [2, 8, 9]
    with pytest.raises(InferenceError, match="m 1: expected inputs of 4 rows, got 5"):
        model.run_merged({"x": x}, 4)


def test_every_bucket_is_warm_before_it_serves(store: ModelStore, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    times = iter(range(100))
    store.add_onnx("buckets", "1", path, batching=BatchLimits(buckets=(1, 4, 16)))
    model = LoadedModel.load(store, "buckets", "1", "cpu", clock=lambda: float(next(times)))
    assert model.warm_up == [(1, 1.0), (4, 1.0), (16, 1.0)]
    store.add_onnx("limits", "1", path, batching=BatchLimits(max_rows=32))
    assert [rows for rows, _ in LoadedModel.load(store, "limits", "1", "cpu").warm_up] == [1, 32]
    store.add_onnx("single", "1", path, batching=BatchLimits(max_rows=1))
    assert [rows for rows, _ in LoadedModel.load(store, "single", "1", "cpu").warm_up] == [1]


def test_a_model_without_limits_is_warmed_up_to_what_a_run_may_take(store: ModelStore, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    store.add_onnx("m", "1", path)
    # Every run takes a millisecond, then a second.
    quick = LoadedModel.load(store, "m", "1", "cpu", clock=count(step=0.001).__next__)
    assert [rows for rows, _ in quick.warm_up] == [1, 8, 64, 512, 4096]
    slow = LoadedModel.load(store, "m", "1", "cpu", clock=count().__next__)
    assert slow.warm_up == [(1, 1.0)], "a run of a second is longer than any batch should be"


def test_sequences_of_several_inputs_come_back_cropped(store: ModelStore, tmp_path: Path) -> None:
    path = attention(tmp_path / "m.onnx")
    model = load(store, path)

    def part(rows: int, length: int, text: str) -> dict[str, np.ndarray]:
        return {
            "values": np.full((rows, length), 2, np.float32),
            "mask": np.ones((rows, length), bool),
            "label": np.full((rows, 1), text, object),
        }

    parts = [part(1, 2, "a"), part(2, 5, "é"), part(1, 1, "")]
    for part_, answer in zip(parts, model.run(parts), strict=True):
        assert answer["masked"].tolist() == part_["values"].tolist()
        assert answer["total"].tolist() == part_["values"].sum(axis=1).tolist()
        assert answer["echo"].tolist() == part_["label"].tolist()
    alone = [model.run([one])[0] for one in parts]
    together = model.run(parts)
    for one, other in zip(alone, together, strict=True):
        assert {name: array.tolist() for name, array in one.items()} == {
            name: array.tolist() for name, array in other.items()
        }


def test_axis_buckets_are_warmed_up_and_padded_to(store: ModelStore, tmp_path: Path) -> None:
    path = attention(tmp_path / "m.onnx")
    seen: list[tuple[int, int]] = []
    store.add_onnx("m", "1", path)
    declared = store.manifest("m", "1").signature
    store.add_onnx(
        "m",
        "2",
        path,
        Signature(declared.inputs, declared.outputs, axes=(AxisBuckets("seq", (4, 16)),)),
        BatchLimits(buckets=(1, 8)),
    )
    model = LoadedModel.load(store, "m", "2", "cpu")
    run = model.session.run

    def watched(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["values"].shape)
        return run(inputs)

    model.session.run = watched  # type: ignore[method-assign]
    model._warm(lambda: 0.0)
    assert set(seen) == {(1, 4), (1, 16), (8, 4), (8, 16)}
    out = model.run_merged({one.name: one.sample(3, 5) for one in declared.inputs}, 3)
    assert seen[-1] == (8, 16)
    assert out["masked"].shape == (3, 5)


def test_a_model_of_fixed_rows_is_run_as_often_as_needed(store: ModelStore, tmp_path: Path) -> None:
    model = load(store, linear(tmp_path / "m.onnx", rows=2))
    assert [rows for rows, _ in model.warm_up] == [2]
    parts = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 4)]
    assert [one["y"].ravel().tolist() for one in model.run(parts)] == [[6], [24] * 4]


def test_tensors_and_features_of_one_row_score_alike(store: ModelStore, tmp_path: Path) -> None:
    signature = Signature(
        (TensorSpec("x", "FP32", ("rows", 3)),),
        (TensorSpec("y", "FP32", ("rows", 1)),),
        tuple(FeatureSpec(name, "x", at) for at, name in enumerate("abc")),
        Score("y"),
    )
    model = load(store, linear(tmp_path / "m.onnx"), signature)
    by_tensor = signature.check([to_tensor("x", np.array([[1, 2, 3]], np.float32))])
    by_name = signature.assemble([{"c": 3, "a": 1, "b": 2}]).inputs
    scores = [signature.scores(model.run_merged(one, 1), 1).tolist() for one in (by_tensor, by_name)]
    assert scores == [[14.0], [14.0]]


def test_a_model_that_raises_names_the_culprit_s_fault_and_serves_on(store: ModelStore, tmp_path: Path) -> None:
    model = load(store, lookup(tmp_path / "m.onnx"))
    with pytest.raises(InferenceError, match="indices element out of data bounds"):
        model.run([{"x": np.array([1])}, {"x": np.array([7])}])
    assert model.run([{"x": np.array([1])}])[0]["y"].tolist() == [20]


def test_changed_bytes_never_serve(store: ModelStore, tmp_path: Path) -> None:
    store.add_onnx("m", "1", linear(tmp_path / "m.onnx"))
    other = linear(tmp_path / "n.onnx", weights=(9.0, 2.0, 3.0))
    (store.root / "m/1/m.onnx").write_bytes(other.read_bytes())
    with pytest.raises(ArtifactError, match="should have SHA-256"):
        LoadedModel.load(store, "m", "1", "cpu")
    with pytest.raises(UnknownModelError):
        LoadedModel.load(store, "m", "2", "cpu")


X = TensorSpec("x", "FP32", ("rows", 3))
Y = TensorSpec("y", "FP32", ("rows", 1))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (Signature((TensorSpec("z", "FP32", ("rows", 3)),), (Y,)), "its signature has the inputs z, its ONNX file x"),
        (
            Signature((TensorSpec("x", "FP64", ("rows", 3)),), (Y,)),
            "input 'x' is FP64 ['rows', 3] in its signature, tensor(float) ['rows', 3] in its ONNX file",
        ),
        (Signature((TensorSpec("x", "FP32", ("rows", -1)),), (Y,)), "input 'x' is FP32 ['rows', -1] in its signature"),
        (Signature((TensorSpec("x", "FP32", ("rows", 4)),), (Y,)), "input 'x' is FP32 ['rows', 4] in its signature"),
        (Signature((TensorSpec("x", "FP32", ("rows",)),), (Y,)), "input 'x' is FP32 ['rows'] in its signature"),
        (Signature((X,), (TensorSpec("q", "FP32", ("rows", 1)),)), "its ONNX file has no output 'q'; it has ['y']"),
        (Signature((X,), (TensorSpec("y", "INT64", ("rows", 1)),)), "output 'y' is INT64"),
        (
            Signature((X,), (TensorSpec("y", "FP32", ("rows", 2)),)),
            "output 'y' is FP32 [rows, 2] in its signature, the model gave FP32 [1, 1] for 1 rows",
        ),
    ],
)
def test_a_signature_that_the_model_does_not_keep_is_refused(
    store: ModelStore, tmp_path: Path, signature: Signature, message: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        load(store, linear(tmp_path / "m.onnx"), signature)
    assert message in str(caught.value)


def test_an_output_without_a_row_for_each_row_is_found_at_warm_up(store: ModelStore, tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [node("ReduceMean", ["x", "zero"], ["y"], keepdims=1)],
        [("x", "FP32", ("rows", 3))],
        [("y", "FP32", ("n", 3))],
        {"zero": np.array([0], np.int64)},
    )
    with pytest.raises(InferenceError, match=r"m 1 failed its warm-up on cpu: output 'y': expected 8 rows"):
        load(store, path)


def test_a_model_that_raises_on_every_sample_does_not_serve(store: ModelStore, tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [node("Add", ["x", "seven"], ["index"]), node("Gather", ["table", "index"], ["y"])],
        [("x", "INT64", ("rows",))],
        [("y", "FP32", ("rows",))],
        {"table": np.zeros(2, np.float32), "seven": np.array([7], np.int64)},
    )
    with pytest.raises(
        InferenceError, match=r"m 1 failed its warm-up on cpu: the model raised: .*out of data bounds, idx=7"
    ):
        load(store, path)


def test_models_that_zeros_or_single_pixels_do_not_suit_are_warmed_up_with_what_does(
    store: ModelStore, tmp_path: Path
) -> None:
    image = write(
        tmp_path / "image.onnx",
        [node("Conv", ["x", "w"], ["maps"]), node("GlobalAveragePool", ["maps"], ["y"])],
        [("x", "FP32", ("rows", 1, "height", "width"))],
        [("y", "FP32", ("rows", 1, 1, 1))],
        {"w": np.ones((1, 1, 5, 5), np.float32)},
    )
    parts = [{"x": np.ones((1, 1, size, size), np.float32)} for size in (5, 9)]
    assert load(store, image).run(parts[1:])[0]["y"].ravel().tolist() == [25.0]
    text = write(
        tmp_path / "text.onnx",
        [node("Cast", ["t"], ["y"], to=1)],
        [("t", "BYTES", ("rows",))],
        [("y", "FP32", ("rows",))],
    )
    store.add_onnx("text", "1", text)
    out = LoadedModel.load(store, "text", "1", "cpu").run_merged({"t": np.array(["2.5", "1"], object)}, 2)
    assert out["y"].tolist() == [2.5, 1.0]


def test_every_declared_output_is_given(store: ModelStore, tmp_path: Path) -> None:
    model = load(store, identity(tmp_path / "m.onnx", "FP16", ("rows", 2, 2)))
    out = model.run_merged({"x": np.ones((3, 2, 2), np.float16)}, 3)
    assert out["y"].dtype == np.float16
    assert out["y"].shape == (3, 2, 2)
    model.close()
    with pytest.raises(InferenceError, match="closed"):
        model.run_merged({"x": np.ones((3, 2, 2), np.float16)}, 3)
