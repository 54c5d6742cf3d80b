"""What a worker brought from a store leaves the cache when it was not used for long, never while somebody uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.fetching import Cache
from models.manifest import FileEntry, Manifest
from models.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", ("rows", 3)),), (TensorSpec("y", "FP32", ("rows", 1)),))


class World:
    """A store of versions of 1,000 bytes each, and when each was last used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.manifests: dict[str, Manifest] = {}

    def get(self, cache: Cache, version: str) -> Path:
        source = self.folder / "source" / version
        if version not in self.manifests:
            source.mkdir(parents=True)
            (source / "m.onnx").write_bytes(version.encode() * 1_000)
            self.manifests[version] = Manifest("late", version, (FileEntry.of(source, "m.onnx"),), "m.onnx", SIGNATURE)

        def chunks(entry: FileEntry) -> Iterator[bytes]:
            self.fetched.append(version)
            yield (source / entry.path).read_bytes()

        return cache.artifact(self.manifests[version], chunks)

    def used(self, version: str, at: float) -> None:
        (folder,) = (self.folder / "cache" / "late").glob(f"{version}-*")
        os.utime(folder, (at, at))

    def there(self) -> list[str]:
        return sorted(one.name[0] for one in (self.folder / "cache" / "late").iterdir())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_over_its_limit_the_least_recently_used_goes_and_is_fetched_again_when_it_is_needed(world: World) -> None:
    cache = Cache(world.folder / "cache", 2_500)
    for at, version in enumerate("12"):
        world.get(cache, version)
        cache.release("late", version)
        world.used(version, 100.0 + at)
    world.get(cache, "1")
    cache.release("late", "1")
    world.get(cache, "3")
    assert world.there() == ["1", "3"]
    assert world.fetched == ["1", "2", "3"]
    world.get(cache, "2")
    assert world.fetched == ["1", "2", "3", "2"]


def test_what_is_in_use_stays_however_old_and_however_full(world: World) -> None:
    cache = Cache(world.folder / "cache", 1_500)
    for at, version in enumerate("123"):
        world.get(cache, version)
        world.used(version, 100.0 + at)
    assert world.there() == ["1", "2", "3"]
    cache.release("late", "2")
    cache.release("late", "2")
    assert cache.prune(1_500) == 1_000
    assert world.there() == ["1", "3"]


def test_what_another_process_uses_stays_until_that_process_ends(world: World) -> None:
    cache = Cache(world.folder / "cache")
    world.get(cache, "1")
    cache.release("late", "1")
    (folder,) = (world.folder / "cache" / "late").iterdir()
    holds = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH); "
        "print(flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", holds, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    assert cache.prune(0) == 0
    other.communicate()
    assert cache.prune(0) == 1_000
    assert world.there() == []


def test_without_a_limit_nothing_goes(world: World) -> None:
    cache = Cache(world.folder / "cache")
    for version in "123":
        world.get(cache, version)
        cache.release("late", version)
    assert world.there() == ["1", "2", "3"]


def test_what_a_killed_fetch_left_goes_after_a_day(world: World) -> None:
    cache = Cache(world.folder / "cache", 10_000)
    world.get(cache, "1")
    incoming = world.folder / "cache" / ".incoming"
    for name, age in (("old", 90_000.0), ("new", 60.0)):
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, (time.time() - age,) * 2)
    world.get(cache, "2")
    assert [one.name for one in incoming.iterdir()] == ["new"]
