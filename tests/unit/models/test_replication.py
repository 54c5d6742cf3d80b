"""A replica gets what it lacks, whatever breaks off on the way, and its lag is that of the oldest it still lacks."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
from small_onnx import linear

from models.errors import StoreError, UnknownModelError
from models.importing import source_of
from models.objects import Objects
from models.registry import Registry
from models.replication import Replication


class Region:
    """A source in a folder, a replica behind fsspec, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.source = Registry(folder / "store", folder / "cache")
        self.replica = Registry(f"memory://{uuid.uuid4().hex}", folder / "cache-2")
        self.replication = Replication(self.source, self.replica, lambda: self.now)

    def add(self, version: str, name: str = "late") -> float:
        """When it was added."""
        path = linear(self.folder / "m.onnx", weights=(1.0, 1.0, float(version)))
        with source_of(path, name, version) as source:
            self.source.add(source.folder, source.manifest)
        return self.source.added_at(name, version)


class Flaky:
    """A store that breaks off at the `at`-th blob, in its middle."""

    def __init__(self, inner: Objects, at: int) -> None:
        self._inner, self.at, self.puts = inner, at, 0
        self.url = inner.url

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        self.puts += 1
        if self.puts == self.at:
            raise StoreError(f"the store {self.url} cannot be written: timed out")
        self._inner.put(path, chunks)


@pytest.fixture
def region(tmp_path: Path) -> Region:
    return Region(tmp_path)


def test_what_is_missing_is_copied_once_and_answers_there(region: Region) -> None:
    for version in ("1", "2"):
        region.add(version)
    done = region.replication.round()
    assert done.versions == ("late 1", "late 2")
    assert (done.bytes, done.missing, done.lag, done.problems) == (222, 0, 0.0, ())
    assert region.replica.versions("late") == ["1", "2"]
    for version in ("1", "2"):
        assert region.replica.manifest("late", version) == region.source.manifest("late", version)
        assert (
            region.replica.artifact("late", version).read_bytes()
            == region.source.artifact("late", version).read_bytes()
        )
    assert region.replication.round(verify=True).bytes == 0


def test_a_round_that_breaks_off_leaves_no_half_version_and_the_next_one_goes_on(region: Region) -> None:
    added = [region.add(version) for version in ("1", "2", "3")]
    flaky = Flaky(region.replica._objects, 2)
    replication = Replication(region.source, Registry(flaky, region.folder / "cache-3"), lambda: region.now)
    region.now = max(added) + 100
    done = replication.round()
    assert done.versions == ("late 1", "late 3")
    assert done.missing == 1
    assert done.lag == region.now - added[1]
    assert done.problems[0].endswith("cannot be written: timed out")
    assert region.replica.versions("late") == ["1", "3"]
    done = replication.round()
    assert (done.versions, done.missing, done.lag) == (("late 2",), 0, 0.0)
    assert flaky.puts == 4, "what was there is not copied again"


def test_a_spoilt_source_is_not_copied_and_its_lag_grows(region: Region) -> None:
    added = region.add("1")
    (entry,) = region.source.manifest("late", "1").files
    region.source._objects.put(f".blobs/sha256/{entry.sha256[:2]}/{entry.sha256}", iter([b"spoilt"]))
    for later in (10.0, 1000.0):
        region.now = added + later
        done = region.replication.round()
        assert (done.missing, done.lag) == (1, pytest.approx(later))
        assert "late 1: model late 1: m.onnx should have" in done.problems[0]
    assert region.replica.names() == []


def test_while_the_replica_does_not_answer_its_lag_grows_from_when_it_was_complete(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.now = region.add("1")
    region.replication.round()
    complete = region.now

    def away() -> list[str]:
        raise StoreError("the store eu cannot be read: timed out")

    monkeypatch.setattr(region.replica, "names", away)
    for later in (60.0, 900.0):
        region.now = complete + later
        done = region.replication.round()
        assert (done.lag, done.problems) == (later, ("the store eu cannot be read: timed out",))


def test_a_replica_with_other_content_or_more_versions_is_told_of_and_left_alone(region: Region) -> None:
    region.add("1")
    path = linear(region.folder / "other.onnx", weights=(9.0, 9.0, 9.0))
    for version in ("1", "5"):
        with source_of(path, "late", version) as source:
            region.replica.add(source.folder, source.manifest)
    done = region.replication.round()
    assert done.problems == ("late 1: the replica has it with other content",)
    assert done.only_there == ("late 5",)
    assert region.replica.versions("late") == ["1", "5"]


def test_only_the_models_that_are_named_are_copied(region: Region) -> None:
    region.add("1")
    region.add("1", "early")
    assert region.replication.round(("early",)).versions == ("early 1",)
    assert region.replica.names() == ["early"]
    with pytest.raises(UnknownModelError, match="there is no model 'never'"):
        region.replication.round(("never",))
