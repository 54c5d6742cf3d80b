"""Promote, roll back, remove: what serves changes as it was meant to, and nothing that is used goes away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from memory_topic import MemoryTopic
from onnx_models import linear, lookup

from models.errors import ArtifactError, UnknownModelError
from models.importing import About, source_of
from models.registry import Registry
from penstock.live_models import LiveModels, RefusedError
from producers.errors import ControlConflictError
from schemas.records import Control

MODEL = "late"


class World:
    """A registry with versions 1, 2 and 3 of a model, and a control topic."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry(folder / "store", folder / "cache")
        self.topic = MemoryTopic()
        self.ours = LiveModels(self.topic, self.registry)
        for version in ("1", "2", "3"):
            self.add(version)

    def add(self, version: str, path: Path | None = None, **about: Any) -> None:
        made = path or linear(self.folder / "m.onnx", weights=(1.0, 1.0, float(version.split("-")[0])))
        with source_of(made, MODEL, version, About(**about)) as source:
            self.registry.add(source.folder, source.manifest, new_signature=True)

    def spoil(self, version: str) -> None:
        (entry,) = self.registry.manifest(MODEL, version).files
        self.registry._objects.put(f".blobs/sha256/{entry.sha256[:2]}/{entry.sha256}", iter([b"spoilt"]))

    @property
    def entry(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.topic.entries()[("model", MODEL)].body)
        return body


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_promoted_version_is_live_and_a_rollback_leads_to_the_one_before(world: World) -> None:
    done = world.ours.promote(MODEL, "2")
    assert (done.version, done.before) == ("2", "3")
    assert world.topic.worker.live == {MODEL: "2"}
    world.ours.promote(MODEL, "1")
    back = world.ours.rollback(MODEL)
    assert (back.version, back.before) == ("2", "1")
    assert world.entry == {"version": "2", "history": ["3"], "rolled_back": ["1"]}
    assert world.ours.rollback(MODEL).version == "3"
    with pytest.raises(RefusedError, match="there is no version of model 'late' to go back to from 3"):
        world.ours.rollback(MODEL)
    assert world.topic.restarted_worker().models == world.topic.worker.models


def test_a_rollback_passes_over_what_is_spoilt_removed_or_a_candidate(world: World) -> None:
    for version in ("1", "2", "3"):
        world.ours.promote(MODEL, version)
    world.add("0-candidate", stage="candidate")
    world.spoil("2")
    assert world.ours.rollback(MODEL).version == "1"
    world.spoil("1")
    world.ours.promote(MODEL, "3")
    with pytest.raises(RefusedError, match=r"to go back to from 3: model late 1: .*; model late 2: "):
        world.ours.rollback(MODEL)
    assert world.entry["version"] == "3"


def test_what_served_by_default_is_what_a_first_rollback_comes_from(world: World) -> None:
    done = world.ours.rollback(MODEL)
    assert (done.before, done.version) == ("3", "2")
    assert world.entry == {"version": "2", "rolled_back": ["3"]}


def test_a_version_that_is_unknown_spoilt_or_live_is_not_promoted(world: World) -> None:
    with pytest.raises(UnknownModelError, match="has no version '9'; there are: 1, 2, 3"):
        world.ours.promote(MODEL, "9")
    world.spoil("2")
    with pytest.raises(ArtifactError, match=r"late 2: m\.onnx should have"):
        world.ours.promote(MODEL, "2")
    assert world.topic.entries() == {}
    # It serves by default already; from now on it does so whatever is added.
    world.ours.promote(MODEL, "3")
    assert world.entry == {"version": "3"}
    with pytest.raises(RefusedError, match="version 3 of model 'late' is live already"):
        world.ours.promote(MODEL, "3")
    with pytest.raises(RefusedError, match="version 3 of model 'late' is live, not 2; nothing was changed"):
        world.ours.promote(MODEL, "1", expect="2")
    world.ours.promote(MODEL, "1", expect="3")


def test_another_signature_than_the_live_one_s_has_to_be_meant(world: World) -> None:
    world.add("4", lookup(world.folder / "other.onnx"), stage="candidate")
    with pytest.raises(RefusedError, match=r"would not suit the callers of version 3: input 'x' was FP32 .*--new-sig"):
        world.ours.promote(MODEL, "4")
    assert world.ours.promote(MODEL, "4", new_signature=True).version == "4"


class Meanwhile(MemoryTopic):
    """Another operator promotes just before this one writes."""

    def swap(self, kind: str, name: str, body: Any, *, expected: int | None, author: str = "") -> Control:
        self.put("model", MODEL, {"version": "2"}, author="somebody")
        return super().swap(kind, name, body, expected=expected, author=author)


def test_of_two_promotes_at_once_the_other_one_is_told_who_was_first(world: World) -> None:
    topic = Meanwhile()
    with pytest.raises(ControlConflictError) as caught:
        LiveModels(topic, world.registry).promote(MODEL, "1")
    assert str(caught.value) == (
        "somebody else changed model/late at the same time; model/late is now "
        '{"version": "2"} (by somebody); nothing was written, look again'
    )
    assert topic.worker.live == {MODEL: "2"}


def test_an_entry_that_cannot_be_read_is_named(world: World) -> None:
    world.topic.put("model", MODEL, "{}")
    with pytest.raises(RefusedError, match="control entry model/late cannot be read: its body must be"):
        world.ours.promote(MODEL, "1")


def test_what_is_live_is_not_removed_not_even_by_force(world: World) -> None:
    world.ours.promote(MODEL, "1")
    for force in (False, True):
        with pytest.raises(RefusedError, match=r"version 1 of model 'late' is in use: it is live \(promote another"):
            world.ours.remove(MODEL, "1", force=force)
    assert world.registry.versions(MODEL) == ["1", "2", "3"]
    world.ours.remove(MODEL, "3")
    assert world.registry.versions(MODEL) == ["1", "2"]


def test_the_newest_serves_by_default_and_goes_only_by_force(world: World) -> None:
    with pytest.raises(RefusedError, match="in use: it serves by default, as the newest; --force removes it all"):
        world.ours.remove(MODEL, "3")
    _, used = world.ours.remove(MODEL, "3", force=True)
    assert [one.what for one in used] == ["it serves by default, as the newest"]
    assert world.registry.default_version(MODEL) == "2"


VARIANTS = [{"name": "a", "version": "3"}, {"name": "b", "version": "2"}]


@pytest.mark.parametrize(
    ("kind", "name", "body", "firm"),
    [
        ("experiment", "e", {"name": "e", "model": MODEL, "variants": VARIANTS}, True),
        ("rollout", MODEL, {"from": "3", "to": "2"}, True),
        ("rollout", "r7", {"model": MODEL, "candidate": {"version": "2"}}, True),
        ("experiment-plan", "e", {"definition": {"model": MODEL, "variants": VARIANTS}}, False),
    ],
)
def test_what_an_experiment_or_a_rollout_names_is_in_use(
    world: World, kind: str, name: str, body: dict[str, Any], firm: bool
) -> None:
    # The registry's question, whatever a worker thinks of the body.
    world.topic.put(kind, name, body)
    with pytest.raises(RefusedError, match=f"version 2 of model 'late' is in use: .*'{name}'"):
        world.ours.remove(MODEL, "2")
    world.ours.remove(MODEL, "1")
    if firm:
        with pytest.raises(RefusedError, match="is in use"):
            world.ours.remove(MODEL, "2", force=True)
    else:
        world.ours.remove(MODEL, "2", force=True)
    assert ("2" in world.registry.versions(MODEL)) is firm


def test_entries_of_other_models_and_kinds_use_nothing(world: World) -> None:
    world.topic.put("experiment", "e", {"model": "other", "variants": VARIANTS})
    world.topic.put("model", "other", {"version": "2"})
    world.topic.put("schema", "late", {"version": "2", "model": MODEL})
    assert world.ours.uses(MODEL, "2") == []


def test_the_stages_that_control_knows_are_told(world: World) -> None:
    for version in ("1", "2", "3"):
        world.ours.promote(MODEL, version)
    world.ours.rollback(MODEL)
    assert world.ours.stages() == {
        (MODEL, "1"): "previous",
        (MODEL, "2"): "live",
        (MODEL, "3"): "rolled back",
    }
