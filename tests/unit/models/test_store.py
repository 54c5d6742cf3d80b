"""The store of versions: what is not byte for byte what its manifest says is refused, and a version appears whole."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_onnx import identity, linear

from models.batching import BatchLimits
from models.errors import ArtifactError, ManifestError, UnknownModelError
from models.manifest import FileEntry, Manifest
from models.registry import ModelStore, natural
from models.signature import Score, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", ("rows", 3)),), (TensorSpec("y", "FP32", ("rows", 1)),))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    return linear(tmp_path / "model.onnx")


def folder(path: Path, name: str = "late", version: str = "1") -> Path:
    """A folder ready for `add`: an ONNX file, a vocabulary beside it, and the manifest."""
    (path / "extra").mkdir(parents=True)
    linear(path / "model.onnx")
    (path / "extra" / "notes.txt").write_text("trained on January")
    files = tuple(FileEntry.of(path, one) for one in ("model.onnx", "extra/notes.txt"))
    Manifest(name, version, files, "model.onnx", SIGNATURE).write(path / "manifest.json")
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_an_added_folder_is_there_whole_and_verified(store: ModelStore, tmp_path: Path) -> None:
    manifest = store.add(folder(tmp_path / "new"))
    assert store.names() == ["late"]
    assert store.versions("late") == ["1"]
    assert store.manifest("late", "1") == manifest
    assert store.artifact("late", "1") == store.root / "late" / "1" / "model.onnx"
    assert (store.root / "late/1/extra/notes.txt").read_text() == "trained on January"
    assert [one.name for one in store.root.iterdir()] == ["late"]


def test_a_file_that_is_no_model_is_named_once_and_by_its_own_path(store: ModelStore, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_text("junk")
    with pytest.raises(ArtifactError) as caught:
        store.add_onnx("late", "1", junk)
    assert str(caught.value) == f"{junk}: ONNX Runtime cannot load it: Protobuf parsing failed."
    assert store.names() == []


def test_any_onnx_file_can_be_added_without_a_signature(store: ModelStore, onnx: Path) -> None:
    manifest = store.add_onnx(
        "late", "v1", onnx, batching=BatchLimits(max_rows=7, buckets=(1, 7)), metrics={"auc": 0.7}, lineage={"run": "x"}
    )
    assert manifest.signature == replace(SIGNATURE, score=Score("y", None))
    again = store.manifest("late", "v1")
    assert again == manifest
    assert (again.batching.buckets, again.metrics, again.lineage) == ((1, 7), {"auc": 0.7}, {"run": "x"})
    assert store.artifact("late", "v1").read_bytes() == onnx.read_bytes()


def test_external_data_beside_the_file_comes_along(store: ModelStore, tmp_path: Path) -> None:
    import onnx as onnx_package

    model = onnx_package.load(linear(tmp_path / "plain.onnx", weights=[1.0] * 400))
    path = tmp_path / "big.onnx"
    onnx_package.save(model, path, save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    manifest = store.add_onnx("late", "1", path)
    assert [one.path for one in manifest.files] == ["big.onnx", "big.onnx.data"]
    (store.root / "late/1/big.onnx.data").write_bytes(b"\0" * manifest.files[1].size)
    with pytest.raises(ArtifactError, match=r"big\.onnx\.data should have SHA-256"):
        store.artifact("late", "1")


def test_a_given_signature_is_kept(store: ModelStore, onnx: Path) -> None:
    signature = Signature(SIGNATURE.inputs, SIGNATURE.outputs, score=Score("y"))
    assert store.add_onnx("late", "1", onnx, signature).signature == signature


def test_a_file_that_does_not_load_never_enters_the_store(store: ModelStore, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing like it")
    for signature in (None, SIGNATURE):
        with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
            store.add_onnx("late", "1", path, signature)
    with pytest.raises(ArtifactError, match="there is no such ONNX file"):
        store.add_onnx("late", "1", tmp_path / "none.onnx")
    assert list(store.root.iterdir()) == []


def test_bytes_that_do_not_match_their_checksum_are_refused(store: ModelStore, onnx: Path) -> None:
    entry = store.add_onnx("late", "1", onnx).files[0]
    path = store.root / "late/1/model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"late 1: model.onnx should have SHA-256 {entry.sha256}, it has "):
        store.artifact("late", "1")


def test_a_truncated_file_is_refused_by_its_size(store: ModelStore, onnx: Path) -> None:
    size = store.add_onnx("late", "1", onnx).files[0].size
    path = store.root / "late/1/model.onnx"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match=f"late 1: model.onnx should have {size} bytes, it has {size - 5}"):
        store.artifact("late", "1")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"late 1: its file model\.onnx is missing"):
        store.artifact("late", "1")


def test_a_file_that_no_checksum_covers_is_refused(store: ModelStore, onnx: Path) -> None:
    store.add_onnx("late", "1", onnx)
    (store.root / "late/1/model.onnx.data").write_bytes(b"weights of somebody else")
    with pytest.raises(ArtifactError, match=r"holds model.onnx.data, which its manifest does not list"):
        store.artifact("late", "1")


@pytest.mark.parametrize(
    "path",
    ["../secret", "a/../../secret", "/etc/passwd", "a//b", "./model.onnx", "", "a\\b", "a\0b", "manifest.json", "a/.."],
)
def test_a_path_out_of_the_folder_is_refused_in_the_manifest(store: ModelStore, tmp_path: Path, path: str) -> None:
    source = folder(tmp_path / "new")
    (tmp_path / "secret").write_text("secret")
    edit(source / "manifest.json", lambda one: one["files"].append({"path": path, "sha256": "0" * 64, "size": 6}))
    with pytest.raises(ManifestError, match="files: "):
        store.add(source)
    assert not store.root.exists()


def test_links_out_of_the_folder_are_refused(store: ModelStore, onnx: Path, tmp_path: Path) -> None:
    store.add_onnx("late", "1", onnx)
    inside = store.root / "late/1/model.onnx"
    inside.unlink()
    inside.symlink_to(onnx)  # the same bytes, but not ours to keep
    with pytest.raises(ArtifactError, match="is a link out of"):
        store.artifact("late", "1")
    outside = folder(tmp_path / "outside", version="2")
    (store.root / "late/2").symlink_to(outside, target_is_directory=True)
    for ask in (store.manifest, store.artifact):
        with pytest.raises(ArtifactError, match="is a link out of"):
            ask("late", "2")


def test_links_out_of_an_added_folder_are_refused(store: ModelStore, tmp_path: Path) -> None:
    source = folder(tmp_path / "new")
    target = source / "extra/notes.txt"
    target.rename(tmp_path / "notes.txt")
    target.symlink_to(tmp_path / "notes.txt")
    with pytest.raises(ArtifactError, match="is a link out of"):
        store.add(source)


@pytest.mark.parametrize("name", ["../late", "..", ".", "", "a/b", "/etc", "late\n", "é", ".hidden", "x" * 101])
def test_names_that_are_no_names_are_unknown_and_cannot_be_added(store: ModelStore, onnx: Path, name: str) -> None:
    store.add_onnx("late", "1", onnx)
    with pytest.raises(UnknownModelError, match=r"there is no model .* in the store .*; there are: late"):
        store.artifact(name, "1")
    with pytest.raises(UnknownModelError, match=r"model 'late' has no version .*; there are: 1"):
        store.artifact("late", name)
    with pytest.raises(ManifestError, match="name: expected letters, digits"):
        store.add_onnx(name, "1", onnx)
    with pytest.raises(ManifestError, match="version: expected letters, digits"):
        store.add_onnx("late", name, onnx)


def test_unknown_models_and_versions_are_answered_with_those_there_are(store: ModelStore, onnx: Path) -> None:
    with pytest.raises(UnknownModelError, match="there are: none"):
        store.versions("late")
    for version in ("1", "2"):
        store.add_onnx("late", version, onnx)
    with pytest.raises(UnknownModelError, match=r"there is no model 'early' in the store .*; there are: late$"):
        store.default_version("early")
    with pytest.raises(UnknownModelError, match=r"model 'late' has no version '3'; there are: 1, 2$"):
        store.manifest("late", "3")


def test_versions_sort_as_people_count(store: ModelStore, onnx: Path) -> None:
    for version in ("10", "9", "1.10", "1.9", "v2", "v10"):
        store.add_onnx("late", version, onnx)
    assert store.versions("late") == ["1.9", "1.10", "9", "10", "v2", "v10"]
    assert store.default_version("late") == "v10"
    assert sorted(["2024-10-1", "2024-9-30"], key=natural) == ["2024-9-30", "2024-10-1"]


def test_a_version_never_changes(store: ModelStore, onnx: Path, tmp_path: Path) -> None:
    store.add_onnx("late", "1", onnx)
    before = store.artifact("late", "1").read_bytes()
    with pytest.raises(ArtifactError, match="has a version '1' already"):
        store.add_onnx("late", "1", identity(tmp_path / "other.onnx"))
    with pytest.raises(ArtifactError, match="has a version '1' already"):
        store.add(folder(tmp_path / "again"))
    assert store.artifact("late", "1").read_bytes() == before


def test_of_concurrent_adds_of_one_version_exactly_one_succeeds(store: ModelStore, tmp_path: Path) -> None:
    sources = [folder(tmp_path / str(at)) for at in range(8)]
    for at, source in enumerate(sources):
        edit(source / "manifest.json", lambda one, at=at: one["metrics"].update(by=at))
    gate = threading.Barrier(len(sources))
    results: list[Manifest | ArtifactError] = []

    def add(source: Path) -> None:
        gate.wait()
        try:
            results.append(store.add(source))
        except ArtifactError as error:
            results.append(error)

    threads = [threading.Thread(target=add, args=(source,)) for source in sources]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    won = [one for one in results if isinstance(one, Manifest)]
    assert len(won) == 1
    assert len(results) == len(sources)
    assert all("has a version '1' already" in str(one) for one in results if not isinstance(one, Manifest))
    assert store.manifest("late", "1") == won[0]
    store.artifact("late", "1")
    assert [one.name for one in store.root.iterdir()] == ["late"]


def test_a_wrong_checksum_in_a_folder_keeps_it_out(store: ModelStore, tmp_path: Path) -> None:
    source = folder(tmp_path / "new")
    (source / "extra/notes.txt").write_text("trained on Janvier")
    with pytest.raises(ArtifactError, match=r"late 1: extra/notes\.txt should have SHA-256"):
        store.add(source)
    assert store.names() == []


def test_a_manifest_in_the_wrong_place_is_refused(store: ModelStore, onnx: Path) -> None:
    store.add_onnx("late", "1", onnx)
    (store.root / "late/1").rename(store.root / "late/2")
    with pytest.raises(ManifestError, match="it is of late 1, not late 2"):
        store.artifact("late", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("signature"), "signature: it is missing"),
        (lambda one: one.update(format=2), "format: expected 1, which is all that this release reads, got 2"),
        (
            lambda one: one.update(name="a/b"),
            "name: expected letters, digits and ._- (a letter or digit first), got 'a/b'",
        ),
        (lambda one: one.update(entrypoint="b.onnx"), "entrypoint: 'b.onnx' is not among the files (model.onnx, "),
        (lambda one: one["files"][0].pop("sha256"), "files[0].sha256: it is missing"),
        (lambda one: one["files"][0].update(sha256="ab"), "needs a sha256 of 64 hex digits and a size"),
        (lambda one: one["files"].append(one["files"][0]), "files: a path is listed twice"),
        (lambda one: one["batching"].update(max_rows="7"), "batching.max_rows: expected a whole number, got '7'"),
        (lambda one: one["batching"].update(max_rows=0), "batching: max_rows must be at least 1, got 0"),
        (lambda one: one["batching"].update(rows=0), "batching.rows: no such key; there are buckets, max_in_flight, "),
        (
            lambda one: one["signature"]["inputs"][0].update(shape=[]),
            "signature: tensor 'x': its shape needs a first axis",
        ),
        (lambda one: one.update(metrics=[]), "metrics: expected an object, got []"),
        (lambda one: one.update(batchng={}), "batchng: no such key; there are batching, entrypoint, "),
    ],
)
def test_a_wrong_manifest_is_answered_with_file_and_key(tmp_path: Path, change: Any, message: str) -> None:
    path = folder(tmp_path / "new") / "manifest.json"
    edit(path, change)
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path)
    assert str(caught.value).startswith(f"{path}: {message}") or message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match="it is no JSON"):
            Manifest.read(path)
    path.write_text("[]")
    with pytest.raises(ManifestError, match=r"manifest: expected an object, got \[\]"):
        Manifest.read(path)
    with pytest.raises(ManifestError, match="it cannot be read: No such file"):
        Manifest.read(tmp_path / "none.json")


def test_metrics_that_json_cannot_carry_are_refused(store: ModelStore, onnx: Path) -> None:
    with pytest.raises(ManifestError, match="model late 1: its manifest cannot be JSON"):
        store.add_onnx("late", "1", onnx, metrics={"auc": float("nan")})
    assert store.names() == []


def test_a_histogram_takes_one_line_of_a_manifest_and_reads_back_as_it_was(
    store: ModelStore, tmp_path: Path, onnx: Path
) -> None:
    profile = {"counts": [1, -2.5, 3e-05], "none": [], "words": ["[\n 1,", "2 ]"], "nested": [[1, 2], [3]]}
    manifest = replace(store.add_onnx("m", "1", onnx), profile=profile)
    manifest.write(tmp_path / "manifest.json")
    assert '"counts": [ 1, -2.5, 3e-05 ]' in (tmp_path / "manifest.json").read_text("utf-8")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
