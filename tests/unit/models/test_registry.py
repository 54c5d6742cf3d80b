"""The registry, in a folder and behind fsspec: a version appears whole, once, and stays as it was added."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_onnx import identity, linear

from models.errors import ArtifactError, ManifestError, StoreError, UnknownModelError
from models.folder import ModelStore
from models.importing import About, source_of
from models.loading import LoadedModel
from models.manifest import CANDIDATE, Manifest
from models.objects import FolderObjects, Objects, RemoteObjects, objects_at
from models.registry import KNOWN, Registry

DAY = 86_400.0


@pytest.fixture(params=["folder", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "folder":
        yield Registry(tmp_path / "store", tmp_path / "cache")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield Registry(url, tmp_path / "cache")
    import fsspec

    fsspec.filesystem("memory").rm(url, recursive=True)


def add(store: Registry, path: Path, version: str = "1", new_signature: bool = False, **about: object) -> Manifest:
    with source_of(path, "late", version, About(**about)) as source:  # type: ignore[arg-type]
        return store.add(source.folder, source.manifest, new_signature=new_signature)


def everything(store: Registry) -> dict[str, int]:
    return {one.path: one.size for one in store._objects.walk("")}


def test_an_added_version_is_there_whole_and_answers(registry: Registry, tmp_path: Path) -> None:
    added = add(registry, linear(tmp_path / "m.onnx"), metrics={"auc": 0.7}, profile={"x": 1}, lineage={"run": "a"})
    again = Registry(registry._objects, tmp_path / "elsewhere")
    assert (again.names(), again.versions("late"), again.default_version("late")) == (["late"], ["1"], "1")
    assert again.manifest("late", "1") == added
    assert (added.metrics, added.profile, added.lineage) == ({"auc": 0.7}, {"x": 1}, {"run": "a"})
    assert again.artifact("late", "1").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert LoadedModel.load(again, "late", "1", "cpu").warm_up
    assert set(everything(registry)) == {
        "late/1/manifest.json",
        f".blobs/sha256/{added.files[0].sha256[:2]}/{added.files[0].sha256}",
    }


def test_the_same_again_changes_nothing_and_other_content_is_refused(registry: Registry, tmp_path: Path) -> None:
    first = add(registry, linear(tmp_path / "m.onnx"))
    before = everything(registry)
    assert add(registry, linear(tmp_path / "m.onnx")) == first
    assert everything(registry) == before
    with pytest.raises(ArtifactError, match="has a version '1' already, with other files; a version never changes"):
        add(registry, linear(tmp_path / "n.onnx", weights=(3.0, 3.0, 3.0)))
    with pytest.raises(ArtifactError, match="has a version '1' already, with another metrics"):
        add(registry, linear(tmp_path / "m.onnx"), metrics={"auc": 1})
    assert everything(registry) == before


def test_versions_share_what_they_have_in_common(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    for version in ("1", "2", "3"):
        add(registry, path, version)
    assert sum(one.startswith(".blobs") for one in everything(registry)) == 1


def test_of_writers_at_once_one_content_wins_and_its_twins_are_content(registry: Registry, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    paths = [linear(tmp_path / str(at % 2) / "m.onnx", weights=(1.0, 1.0, float(at % 2))) for at in range(6)]
    gate = threading.Barrier(len(paths))
    results: list[Manifest | ArtifactError] = []

    def write(path: Path) -> None:
        gate.wait()
        try:
            results.append(add(registry, path))
        except ArtifactError as error:
            results.append(error)

    threads = [threading.Thread(target=write, args=(path,)) for path in paths]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    won = registry.manifest("late", "1")
    assert sorted(one == won for one in results) == [False] * 3 + [True] * 3
    assert all("already, with other files" in str(one) for one in results if one != won)
    registry.verify("late", "1")


class Breaks:
    """A store whose writer dies, or whose disk is full, at the `at`-th write."""

    def __init__(self, inner: Objects, at: int, error: BaseException) -> None:
        self._inner, self._left, self._error = inner, at, error
        self.url = inner.url

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        def half() -> Iterator[bytes]:
            for chunk in chunks:
                yield chunk[: len(chunk) // 2]
                self._count()
                yield chunk[len(chunk) // 2 :]

        self._inner.put(path, half())

    def create(self, path: str, data: bytes) -> bool:
        self._count()
        return self._inner.create(path, data)


def external(path: Path) -> Path:
    """A model whose weights lie beside it."""
    import onnx

    model = onnx.load(linear(path.with_name("plain.onnx"), weights=[1.0] * 400))
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=str)
def test_a_writer_that_ends_anywhere_leaves_nothing_half_added(
    registry: Registry, tmp_path: Path, error: BaseException
) -> None:
    path = external(tmp_path / "m.onnx")
    for at in range(3):  # within either file, before the manifest
        broken = Registry(Breaks(registry._objects, at, error), tmp_path / "cache")
        with pytest.raises((KeyboardInterrupt, StoreError, OSError)) as caught:
            add(broken, path)
        if isinstance(error, OSError) and at < 2:
            assert "cannot be written" in str(caught.value)
            assert "No space left on device" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert registry.names() == []
        registry.collect(-1)
        assert everything(registry) == {}
    add(registry, path)
    assert registry.verify("late", "1").files[1].path == "m.onnx.data"


def test_garbage_is_collected_once_it_is_old_and_nothing_needs_it(tmp_path: Path) -> None:
    now = [0.0]
    registry = Registry(tmp_path / "store", tmp_path / "cache", clock=lambda: now[0])
    kept = add(registry, linear(tmp_path / "m.onnx"))
    broken = Registry(Breaks(registry._objects, 1, KeyboardInterrupt()), tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        add(broken, linear(tmp_path / "n.onnx", weights=(2.0, 2.0, 2.0)), "2")
    blobs = list(registry._objects.walk(".blobs"))
    now[0] = max(one.modified for one in blobs) + DAY / 2
    assert registry.collect() == (0, 0), "a writer may still be about to name it"
    now[0] += DAY
    (spare,) = [one for one in blobs if not one.path.endswith(kept.files[0].sha256)]
    assert registry.collect() == (1, spare.size)
    registry.verify("late", "1")


def test_a_writer_does_not_rely_on_a_blob_that_may_be_collected(tmp_path: Path) -> None:
    now = [0.0]
    registry = Registry(tmp_path / "store", tmp_path / "cache", clock=lambda: now[0])
    add(registry, linear(tmp_path / "m.onnx"))
    registry.remove("late", "1")
    (old,) = registry._objects.walk(".blobs")
    now[0] = old.modified + DAY * 0.9
    add(registry, linear(tmp_path / "m.onnx"), "2")
    (new,) = registry._objects.walk(".blobs")
    assert new.modified > old.modified


def test_a_spoilt_blob_is_refused_and_mended_by_adding_it_again(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    entry = add(registry, path).files[0]
    blob = f".blobs/sha256/{entry.sha256[:2]}/{entry.sha256}"
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    registry._objects.put(blob, iter([bytes(spoilt)]))
    for ask in (registry.artifact, registry.verify):
        with pytest.raises(ArtifactError, match=r"late 1: m\.onnx should have SHA-256 .*; add it again"):
            ask("late", "1")
    add(registry, path)
    registry.verify("late", "1")
    registry.artifact("late", "1")
    registry._objects.delete(blob)
    with pytest.raises(ArtifactError, match=r"late 1: its file m\.onnx is missing from the store"):
        registry.verify("late", "1")


def test_what_is_spoilt_or_foreign_in_the_cache_is_fetched_again_or_refused(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    add(registry, path)
    local = registry.artifact("late", "1")
    local.write_bytes(b"\0" * path.stat().st_size)
    assert registry.artifact("late", "1").read_bytes() == path.read_bytes()
    (local.parent / "m.onnx.data").write_bytes(b"weights of somebody else")
    with pytest.raises(ArtifactError, match=r"holds m\.onnx\.data, which its manifest does not list"):
        registry.artifact("late", "1")


def test_a_plain_folder_is_a_registry_to_begin_with(tmp_path: Path) -> None:
    ModelStore(tmp_path / "store").add_onnx("late", "1", linear(tmp_path / "m.onnx"))
    registry = Registry(tmp_path / "store", tmp_path / "cache")
    assert registry.artifact("late", "1") == tmp_path / "store/late/1/m.onnx"
    assert add(registry, linear(tmp_path / "n.onnx", weights=(2.0, 2.0, 2.0)), "2").version == "2"
    assert registry.versions("late") == ["1", "2"]
    (tmp_path / "store/late/1/m.onnx").unlink()
    (tmp_path / "store/late/1/m.onnx").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="is a link out of"):
        registry.artifact("late", "1")
    registry.artifact("late", "2")
    add(registry, linear(tmp_path / "m.onnx"))
    assert registry.artifact("late", "1").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_a_file_that_somebody_puts_beside_a_manifest_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    add(registry, path)
    registry._objects.put("late/1/m.onnx", iter([b"weights of somebody else"]))
    registry.verify("late", "1")
    assert registry.artifact("late", "1").read_bytes() == path.read_bytes()
    registry.remove("late", "1")
    assert not [one for one in everything(registry) if one.startswith("late")]


def test_links_out_of_the_store_are_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "store", tmp_path / "cache")
    entry = add(registry, linear(tmp_path / "m.onnx")).files[0]
    (tmp_path / "store/late/2").symlink_to(tmp_path / "store/late", target_is_directory=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "store/late/3").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(ArtifactError, match="is a link out of"):
        registry.manifest("late", "3")
    blob = tmp_path / f"store/.blobs/sha256/{entry.sha256[:2]}/{entry.sha256}"
    blob.unlink()
    blob.symlink_to(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="is a link out of"):
        registry.artifact("late", "1")


def test_a_removed_version_is_gone_and_its_name_stays_taken(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    add(registry, path)
    registry.remove("late", "1")
    with pytest.raises(UnknownModelError, match="there are: none"):
        registry.manifest("late", "1")
    with pytest.raises(ArtifactError, match="had a version '1' with other content, which was removed"):
        add(registry, linear(tmp_path / "n.onnx", weights=(2.0, 2.0, 2.0)))
    add(registry, path)
    registry.verify("late", "1")
    with pytest.raises(UnknownModelError, match=r"has no version '7'; there are: 1"):
        registry.remove("late", "7")


def test_a_candidate_serves_only_where_it_is_named(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    add(registry, path, "1", stage=CANDIDATE)
    assert registry.default_version("late") == "1", "there is no other"
    add(registry, path, "2")
    add(registry, path, "3", stage=CANDIDATE)
    assert registry.default_version("late") == "2"
    assert registry.manifest("late", "3").stage == CANDIDATE
    with pytest.raises(ManifestError, match="stage: expected released or candidate, got 'new'"):
        replace(registry.manifest("late", "2"), stage="new")


def test_another_signature_than_the_newest_version_s_has_to_be_meant(registry: Registry, tmp_path: Path) -> None:
    add(registry, linear(tmp_path / "m.onnx"))
    for path, said in (
        (linear(tmp_path / "wide.onnx", weights=[1.0] * 4), r"input 'x' was FP32 \[any, 3\], it is FP32 \[any, 4\]"),
        (identity(tmp_path / "echo.onnx"), r"output 'y' was FP32 \[any, 1\], it is FP32 \[any, 3\]"),
    ):
        with pytest.raises(ArtifactError, match=f"would not suit the callers of version 1: {said}; --new-signature"):
            add(registry, path, "2")
    assert registry.versions("late") == ["1"]
    add(registry, tmp_path / "echo.onnx", "2", new_signature=True)
    add(registry, tmp_path / "echo.onnx", "3")


@pytest.mark.parametrize("name", ["../late", "..", "a/b", ".removed", ".blobs"])
def test_names_that_are_no_names_reach_nothing(registry: Registry, tmp_path: Path, name: str) -> None:
    add(registry, linear(tmp_path / "m.onnx"))
    for ask in (registry.manifest, registry.artifact, registry.remove):
        with pytest.raises(UnknownModelError):
            ask(name, "1")
        with pytest.raises(UnknownModelError):
            ask("late", name)


def test_a_store_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    class Away:
        def __getattr__(self, name: str) -> object:
            def fail(*_: object, **__: object) -> object:
                raise ConnectionError("Connection refused\nby peer")

            return fail

    registry = Registry(RemoteObjects(Away(), "bucket", "s3://bucket"), tmp_path / "cache")
    for ask in (registry.names, lambda: registry.manifest("late", "1"), lambda: registry.collect()):
        with pytest.raises(StoreError) as caught:
            ask()
        assert str(caught.value) == "the store s3://bucket cannot be read: Connection refused by peer"
    with pytest.raises(StoreError, match=r"s3://bucket cannot be"):
        add(registry, linear(tmp_path / "m.onnx"))


def test_a_url_that_nothing_here_speaks_names_what_to_install() -> None:
    with pytest.raises(StoreError, match=r"^nothing://there: it is no address of a store: "):
        objects_at("nothing://somebody:secret@there")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        FolderObjects(tmp_path / "file" / "store").put("a", iter([b"b"]))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    registry = Registry(tmp_path / "store", tmp_path / "file" / "cache")
    add(registry, linear(tmp_path / "m.onnx"))
    with pytest.raises(StoreError, match=r"^the cache of models .*/file/cache cannot be written: Not a directory$"):
        registry.artifact("late", "1")


_BIG = """
import resource, sys
from pathlib import Path
from models.importing import source_of
from models.registry import KNOWN, Registry
folder = Path(sys.argv[1])
store = Registry(folder / "store", folder / "cache")
store.names()
def add(path, version):
    with source_of(path, "big", version) as source:
        store.add(source.folder, source.manifest)
        store.artifact("big", version)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small, large = add(folder / "small.onnx", "1"), add(folder / "large.onnx", "2")
print(large - small)
"""


def test_weights_of_hundreds_of_megabytes_stream_through(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    width = 50_000_000  # 200 MB of FP32, a file without a block on the disk
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[width, 1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "large.onnx.data", "offset": "0", "length": str(4 * width)}.items():
        weights.external_data.add(key=key, value=value)
    # A table of many rows; that of the small one has two.
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    with (tmp_path / "large.onnx.data").open("wb") as file:
        file.truncate(4 * width)
    del graph.initializer[:]
    graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [1.0, 2.0]))
    small = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    small.ir_version = 10
    (tmp_path / "small.onnx").write_bytes(small.SerializeToString())
    onnx.checker.check_model(small)
    done = subprocess.run(
        [sys.executable, "-c", _BIG, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50, f"{done.stdout.strip()} MB more than for a model of 200 bytes"


def test_manifests_are_remembered_by_the_dozen_and_stages_of_all_versions(tmp_path: Path) -> None:
    store, path = Registry(tmp_path / "store", tmp_path / "cache"), linear(tmp_path / "m.onnx")
    add(store, path)
    for number in range(KNOWN + 8):
        add(store, path, f"2.{number}", stage=CANDIDATE)
    reads: list[str] = []

    class Counting(FolderObjects):
        def read(self, path: str) -> bytes | None:
            reads.append(path)
            return super().read(path)

    counted = Registry(Counting(tmp_path / "store"), tmp_path / "cache")
    # The newest released one is behind more candidates than are remembered.
    assert [counted.default_version("late") for _ in range(3)] == ["1"] * 3
    assert len(reads) == KNOWN + 9
    assert len(counted._known) == KNOWN
    # A stage that somebody changes in a folder is seen.
    newest = tmp_path / "store" / "late" / f"2.{KNOWN + 7}" / "manifest.json"
    newest.write_text(newest.read_text().replace(f'"{CANDIDATE}"', '"released"'))
    assert counted.default_version("late") == f"2.{KNOWN + 7}"
