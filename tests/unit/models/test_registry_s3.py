"""The registry on an S3-shaped server (moto's), where that and s3fs are installed: the same promises as in a folder.

botocore holds python-dateutil below 3, which the tested set of versions does not: this runs in an environment of its
own (`pip install s3fs moto[server]`), and is skipped elsewhere.
"""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_onnx import linear

from models.errors import ArtifactError, StoreError
from models.importing import source_of
from models.manifest import Manifest
from models.objects import RemoteObjects
from models.registry import Registry
from models.replication import Replication

moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def registry(endpoint: str, tmp_path: Path) -> Registry:
    system = s3fs.S3FileSystem(key="a", secret="b", endpoint_url=endpoint, use_listings_cache=False)  # noqa: S106
    bucket = f"models-{uuid.uuid4().hex}"
    system.mkdir(bucket)
    return Registry(RemoteObjects(system, f"{bucket}/eu", f"s3://{bucket}/eu"), tmp_path / "cache")


def add(store: Registry, path: Path, version: str = "1") -> Manifest:
    with source_of(path, "late", version) as source:
        return store.add(source.folder, source.manifest)


def test_a_version_appears_whole_is_served_removed_and_collected(registry: Registry, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    added = add(registry, path)
    assert add(registry, path) == added
    assert (registry.names(), registry.versions("late")) == (["late"], ["1"])
    assert registry.artifact("late", "1").read_bytes() == path.read_bytes()
    add(registry, linear(tmp_path / "n.onnx", weights=(2.0, 2.0, 2.0)), "2")
    replica = Registry(tmp_path / "store", tmp_path / "cache-2")
    now = registry.added_at("late", "2") + 5
    assert Replication(registry, replica, lambda: now).round(verify=True).versions == ("late 1", "late 2")
    registry.remove("late", "1")
    assert registry.versions("late") == ["2"]
    assert registry.collect(-3600) == (1, added.files[0].size)
    registry.verify("late", "2")


def test_of_writers_at_once_one_wins(registry: Registry, tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        paths.append(linear(tmp_path / str(number) / "m.onnx", weights=(1.0, 1.0, float(number))))
    gate, results = threading.Barrier(len(paths)), []

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
    assert [one for one in results if isinstance(one, Manifest)] == [won]
    assert sum("already, with other files" in str(one) for one in results) == 3


def test_an_upload_that_breaks_off_leaves_no_object(registry: Registry) -> None:
    def half() -> Iterator[bytes]:
        # More than one part of a multipart upload.
        yield bytes(60 << 20)
        yield bytes(60 << 20)
        raise OSError(errno.EIO, "the disk is gone")

    with pytest.raises(StoreError, match=r"cannot be written: .*the disk is gone"):
        registry._objects.put("blob", half())
    assert registry._objects.about("blob") is None


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    once = {"retries": {"max_attempts": 1}}
    system = s3fs.S3FileSystem(anon=True, endpoint_url="http://127.0.0.1:1", config_kwargs=once)
    with pytest.raises(StoreError, match="the store s3://models cannot be read: Could not connect to the endpoint"):
        Registry(RemoteObjects(system, "models", "s3://models"), tmp_path).names()
