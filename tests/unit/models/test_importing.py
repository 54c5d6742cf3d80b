"""What comes from outside: files, folders, MLflow models and archives, and what of them is refused in one line."""

from __future__ import annotations

import io
import json
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_onnx import linear

from models.errors import ArtifactError, ManifestError, StoreError
from models.folder import ModelStore
from models.importing import About, Source, source_of
from models.loading import LoadedModel
from models.manifest import Manifest
from models.registry import Registry
from models.unpacking import Limits, unpack


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store", tmp_path / "cache")


def add(registry: Registry, path: Path, limits: Limits | None = None) -> Manifest:
    with source_of(path, "late", "1", None, limits or Limits()) as source:
        return registry.add(source.folder, source.manifest)


def refused(registry: Registry, path: Path, limits: Limits | None = None) -> str:
    """Why it is, in one line; nothing of it is in the store."""
    with pytest.raises(ArtifactError) as caught:
        add(registry, path, limits)
    assert "\n" not in str(caught.value)
    assert registry.names() == []
    assert [*registry._objects.walk("")] == []
    return str(caught.value)


def mlflow_folder(path: Path, data: str = "model.onnx", flavors: str = "") -> Path:
    """A folder as mlflow.onnx.save_model leaves it (MLflow 3), with weights beside the model."""
    path.mkdir()
    model = onnx.load(linear(path / "plain.onnx", weights=[1.0] * 400))
    onnx.save(model, path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path / "plain.onnx").unlink()
    own = f"""
  onnx:
    code: null
    data: {data}
    onnx_version: 1.23.2
    providers:
    - CPUExecutionProvider
    onnx_session_options: null"""
    (path / "MLmodel").write_text(
        f"""artifact_path: model
flavors:{flavors or own}
  python_function:
    data: {data}
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: 3.11.9
mlflow_version: 3.4.0
model_id: m-0123
model_size_bytes: 1820
model_uuid: 6d1c
run_id: 0af3
utc_time_created: '2026-11-25 06:00:00.000000'
"""
    )
    for name in ("conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json"):
        (path / name).write_text("{}")
    return path


def test_an_mlflow_model_comes_with_its_weights_and_its_run(registry: Registry, tmp_path: Path) -> None:
    manifest = add(registry, mlflow_folder(tmp_path / "ml"))
    assert [one.path for one in manifest.files] == ["model.onnx", "weights.bin"]
    assert manifest.lineage["mlflow"] == {
        "artifact_path": "model",
        "mlflow_version": "3.4.0",
        "model_id": "m-0123",
        "model_uuid": "6d1c",
        "onnx_version": "1.23.2",
        "run_id": "0af3",
        "utc_time_created": "2026-11-25 06:00:00.000000",
    }
    model = LoadedModel.load(registry, "late", "1", "cpu")
    assert model.run_merged({"x": np.ones((1, 400), np.float32)}, 1)["y"].tolist() == [[400.0]]


def test_an_mlflow_model_that_is_none_for_us_says_what_it_lacks(registry: Registry, tmp_path: Path) -> None:
    other = mlflow_folder(tmp_path / "sk", flavors="\n  sklearn: {pickled_model: model.pkl}")
    said = refused(registry, other)
    assert "it has no flavor onnx, which is all that is imported; flavors: sklearn, python_function" in said
    assert "is not a path inside" in refused(registry, mlflow_folder(tmp_path / "up", data="../secret.onnx"))
    assert "but there is no such file" in refused(registry, mlflow_folder(tmp_path / "none", data="other.onnx"))
    broken = mlflow_folder(tmp_path / "broken")
    (broken / "MLmodel").write_text("flavors: [")
    assert "it cannot be read as YAML" in refused(registry, broken)


def test_a_version_of_ours_is_imported_under_the_name_it_is_given(registry: Registry, tmp_path: Path) -> None:
    ModelStore(tmp_path / "old").add_onnx("early", "7", linear(tmp_path / "m.onnx"), metrics={"auc": 0.7})
    manifest = add(registry, tmp_path / "old/early/7")
    assert (manifest.name, manifest.version, manifest.metrics) == ("late", "1", {"auc": 0.7})
    with source_of(tmp_path / "old/early/7", "late", "2", About(metrics={"auc": 0.8})) as source:
        assert source.manifest.metrics == {"auc": 0.8}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "in a folder"])
@pytest.mark.parametrize("kind", ["zip", "gztar", "tar"])
def test_archives_are_unpacked_and_imported_as_folders_are(
    registry: Registry, tmp_path: Path, kind: str, nested: bool
) -> None:
    folder = mlflow_folder(tmp_path / "ml")
    where = (tmp_path, "ml") if nested else (folder, ".")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, *where))
    assert [one.path for one in add(registry, archive).files] == ["model.onnx", "weights.bin"]
    registry.verify("late", "1")


def test_a_folder_that_holds_no_single_model_says_what_it_holds(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    assert "expected manifest.json, MLmodel or one .onnx file; .onnx files: none" in refused(registry, tmp_path / "two")
    for name in ("a.onnx", "b.onnx"):
        linear(tmp_path / "two" / name)
    archive = Path(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "two"))
    said = refused(registry, archive)
    assert said == f"{archive}: expected manifest.json, MLmodel or one .onnx file; .onnx files: a.onnx, b.onnx"
    assert "there is no such file or folder" in refused(registry, tmp_path / "none")


def truncated(path: Path) -> Path:
    path.write_bytes(linear(path).read_bytes()[:-9])
    return path


def with_opset(path: Path, opset: int = 99) -> Path:
    model = onnx.load(linear(path))
    model.opset_import[0].version = opset
    path.write_bytes(model.SerializeToString())
    return path


def with_custom_op(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Magic", ["x"], ["y"], domain="com.acme")],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.acme", 1)])
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (truncated, "Protobuf parsing failed."),
        (with_opset, "it has opset 99 of ai.onnx, this ONNX Runtime knows up to [0-9]+: export it with that"),
        (with_custom_op, "com.acme:Magic is a custom operator, which no worker has"),
    ],
    ids=["truncated", "opset", "custom op"],
)
def test_a_file_that_does_not_load_is_refused(
    registry: Registry, tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    path = make(tmp_path / "m.onnx")
    assert re.fullmatch(f"{path}: ONNX Runtime cannot load it: {said}", refused(registry, path))


def test_a_manifest_whose_checksum_or_path_is_wrong_is_refused(registry: Registry, tmp_path: Path) -> None:
    ModelStore(tmp_path / "old").add_onnx("late", "1", linear(tmp_path / "m.onnx"))
    folder = tmp_path / "old/late/1"
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "m.onnx").write_bytes((folder / "m.onnx").read_bytes() + b"\0")
    assert "m.onnx should have" in refused(registry, folder)
    document["files"][0]["path"] = "../../secret"
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="is not a path inside the version's folder"):
        add(registry, folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "m.onnx").symlink_to(tmp_path / "m.onnx")
    assert "is a link out of" in refused(registry, tmp_path / "linked")


def tar(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """A .tar.gz of files; a text makes a link to it."""
    with tarfile.open(path, "w:gz") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """The same as a .zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, content)
    return path


@pytest.mark.parametrize(("pack", "name"), [(tar, "m.tar.gz"), (zipped, "m.zip")], ids=["tar", "zip"])
@pytest.mark.parametrize(
    "path", ["../evil.onnx", "/srv/evil.onnx", "a/../../evil.onnx", "a\\..\\evil.onnx", "a//b.onnx"]
)
def test_a_member_that_leads_out_of_the_folder_is_refused(
    registry: Registry, tmp_path: Path, pack: Callable[..., Path], name: str, path: str
) -> None:
    archive = pack(tmp_path / name, ("good.onnx", b"1"), (path, b"2"))
    assert "would be written outside its folder; nothing was added" in refused(registry, archive)
    assert not (tmp_path / "evil.onnx").exists()


@pytest.mark.parametrize(("pack", "name"), [(tar, "m.tar.gz"), (zipped, "m.zip")], ids=["tar", "zip"])
def test_links_and_twins_in_an_archive_are_refused(
    registry: Registry, tmp_path: Path, pack: Callable[..., Path], name: str, recwarn: pytest.WarningsRecorder
) -> None:
    said = refused(registry, pack(tmp_path / name, ("m.onnx", "/etc/passwd")))
    assert "its member 'm.onnx' is a link or a device" in said
    if pack is tar:  # Python's zipfile warns of what it writes twice
        assert "holds it twice" in refused(registry, pack(tmp_path / name, ("m.onnx", b"1"), ("m.onnx", b"2")))


@pytest.mark.parametrize(("pack", "name"), [(tar, "m.tar.gz"), (zipped, "m.zip")], ids=["tar", "zip"])
def test_a_bomb_is_noticed_before_it_has_unfolded(
    registry: Registry, tmp_path: Path, pack: Callable[..., Path], name: str
) -> None:
    bomb = pack(tmp_path / name, ("m.onnx", bytes(20_000_000)))
    limits = Limits(size=1 << 30, free=1 << 20)
    assert "unpacks to more than 100 times its" in refused(registry, bomb, limits)
    assert "unpacks to more than 0.0 GB; --max-unpacked-gb allows more" in refused(
        registry, bomb, Limits(size=10_000_000)
    )
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ArtifactError):
        unpack(bomb, target, limits)
    assert (target / "m.onnx").stat().st_size < 10_000_000
    many = pack(tmp_path / name, *((f"{at}.txt", b"") for at in range(20)))
    assert "holds more than 10 files" in refused(registry, many, Limits(files=10))


@pytest.mark.parametrize("name", ["m.zip", "m.tar.gz"])
def test_an_archive_that_is_broken_is_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    path = (zipped if name.endswith("zip") else tar)(tmp_path / name, ("m.onnx", np.random.default_rng(1).bytes(9_000)))
    path.write_bytes(path.read_bytes()[:5_000])
    assert f"{path}: it cannot be unpacked: " in refused(registry, path)
    path.write_bytes(b"nothing like it")
    assert f"{path}: it cannot be unpacked: " in refused(registry, path)


def test_a_disk_that_is_full_while_unpacking_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "m.zip", ("m.onnx", bytes(10_000)))
    monkeypatch.setattr("models.unpacking._new", lambda _: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(StoreError, match="no room to unpack in /dev: No space left on device"):
        unpack(archive, tmp_path)


def test_a_source_that_is_imported_is_gone_from_the_scratch_folder(tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", mlflow_folder(tmp_path / "ml")))
    with source_of(archive, "late", "1") as source:
        assert isinstance(source, Source)
        assert (source.folder / "model.onnx").is_file()
    assert not source.folder.exists()
