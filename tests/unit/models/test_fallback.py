"""A fallback is there and suits the callers, or the version that names it is not taken; nobody removes it then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_topic import MemoryTopic
from onnx_models import linear, lookup

from models.errors import ArtifactError, ManifestError
from models.fallback import check_fallback, fallback_fault
from models.importing import About, source_of
from models.manifest import Manifest
from models.registry import Registry
from models.signature import FeatureSpec, Signature, TensorSpec
from penstock.live_models import LiveModels, RefusedError


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry(folder / "store", folder / "cache")
        self.live = LiveModels(MemoryTopic(), self.registry)
        self.add("1")

    def add(self, version: str, path: Path | None = None, name: str = "late", **about: Any) -> Manifest:
        made = path or linear(self.folder / "m.onnx", (1.0, 2.0, float(ord(version[0]))))
        with source_of(made, name, version, About(**about)) as source:
            return self.registry.add(source.folder, source.manifest, new_signature=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_version_with_a_fallback_that_suits_is_taken_and_says_so_when_it_is_read_again(world: World) -> None:
    added = world.add("2", fallback="late/1", last_answer_seconds=60.0)
    again = Manifest.parse(added.encoded(), "here")
    assert (again.fallback, again.fallback_version, again.last_answer_seconds) == ("late/1", ("late", "1"), 60.0)
    assert again == added
    plain = world.registry.manifest("late", "1").to_json()
    assert not {"fallback", "last_answer_seconds"} & plain.keys(), "older releases read it"
    world.live.promote("late", "2")


@pytest.mark.parametrize(
    ("fallback", "said"),
    [
        ("late/9", "its fallback late/9 cannot be had: model 'late' has no version '9'"),
        ("other/1", "cannot answer its callers: input 'x' was FP32"),
        ("late", "fallback: expected NAME/VERSION, got 'late'"),
        ("late/../x", "fallback: expected NAME/VERSION"),
        ("late/2", "fallback: a version cannot be its own"),
    ],
)
def test_one_that_does_not_is_refused_and_nothing_is_added(world: World, fallback: str, said: str) -> None:
    world.add("1", lookup(world.folder / "other.onnx"), "other")
    with pytest.raises(ArtifactError) as caught:
        world.add("2", fallback=fallback)
    assert said in str(caught.value)
    assert world.registry.versions("late") == ["1"]


def test_what_is_a_fallback_is_not_removed_and_without_it_nothing_is_promoted(world: World) -> None:
    world.add("2", fallback="late/1")
    with pytest.raises(RefusedError, match="in use: it is the fallback of late 2"):
        world.live.remove("late", "1", force=True)
    world.registry.remove("late", "1")
    with pytest.raises(ArtifactError, match="its fallback late/1 cannot be had"):
        world.live.promote("late", "2")


def test_a_fallback_whose_files_are_spoilt_lets_nothing_be_promoted(world: World) -> None:
    world.add("2", fallback="late/1")
    (entry,) = world.registry.manifest("late", "1").files
    world.registry._objects.put(f".blobs/sha256/{entry.sha256[:2]}/{entry.sha256}", iter([b"spoilt"]))
    with pytest.raises(ArtifactError, match="late 1"):
        world.live.promote("late", "2")


def test_a_time_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(ManifestError, match="last_answer_seconds: expected 0 seconds or more"):
        world.add("2", last_answer_seconds=-1.0)


def test_features_have_to_be_put_into_tensors_alike() -> None:
    x, y = TensorSpec("x", "FP32", ("rows", 2)), TensorSpec("y", "FP32", ("rows", 1))
    ours = Signature((x,), (y,), (FeatureSpec("a", "x", 0), FeatureSpec("b", "x", 1)))
    turned = replace(ours, features=(FeatureSpec("a", "x", 1), FeatureSpec("b", "x", 0)))
    assert fallback_fault(ours, ours) == ""
    assert fallback_fault(ours, replace(ours, outputs=(y, TensorSpec("z", "FP32", ("rows", 1))))) == ""
    assert fallback_fault(ours, turned) == "it orders or encodes its features otherwise"
    assert fallback_fault(replace(ours, allow_nan=True), ours) == "it takes no NaN"


def test_a_version_without_a_fallback_asks_nobody(world: World) -> None:
    class Nobody:
        def manifest(self, name: str, version: str) -> Manifest:
            raise AssertionError(name, version)

    check_fallback(Nobody(), world.registry.manifest("late", "1"))
