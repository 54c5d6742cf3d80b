"""Rollouts as operators begin and end them: what is refused, what is written, and who wins of two at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_topic import MemoryTopic
from onnx_models import linear, lookup
from test_model_commands import answer, penstock, refusal, weights

from models.errors import ArtifactError
from models.importing import About, source_of
from models.live import Live
from models.registry import Registry
from models.rollout import BUCKETS, LOADING, Guard, Rollout
from penstock.live_models import LiveModels, RefusedError
from penstock.live_rollouts import LiveRollouts, Terms
from producers.errors import ControlConflictError

MODEL = "late"
TERMS = Terms((100, BUCKETS), 60.0, 500, Guard())


class World:
    """A registry with version 1 and the candidates 2 and 3, and a control topic that names nothing yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry(folder / "store", folder / "cache")
        self.topic = MemoryTopic()
        self.live = LiveModels(self.topic, self.registry, self.topic.now)
        self.ours = LiveRollouts(self.topic, self.registry, self.topic.now)
        for version in ("1", "2", "3"):
            self.add(version, linear(folder / "m.onnx", weights=(1.0, 1.0, float(version))))

    def add(self, version: str, path: Path) -> None:
        with source_of(path, MODEL, version, About(stage="released" if version == "1" else "candidate")) as source:
            self.registry.add(source.folder, source.manifest, new_signature=True)

    @property
    def rollout(self) -> Rollout:
        return Rollout.from_json(self.topic.entries()["rollout", MODEL].body)

    def step(self) -> None:
        """What a driver does."""
        self.topic.put("rollout", MODEL, self.rollout.stepped(self.topic.now()).to_json())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_rollout_begins_beside_the_version_that_serves_which_control_names_from_then_on(world: World) -> None:
    begun = world.ours.begin(MODEL, "2", TERMS)
    assert (begun.current, begun.candidate, begun.step, begun.share) == ("1", "2", LOADING, 0.0)
    assert world.rollout == begun
    assert world.topic.worker.models == {MODEL: Live("1")}
    assert world.topic.worker.rollouts == {MODEL: begun}
    # A release that comes meanwhile serves nobody.
    with source_of(linear(world.folder / "n.onnx"), MODEL, "9", About()) as source:
        world.registry.add(source.folder, source.manifest)
    assert world.topic.worker.live == {MODEL: "1"}


def test_two_rollouts_have_two_salts(world: World) -> None:
    first = world.ours.begin(MODEL, "2", TERMS)
    world.ours.change(MODEL, "abort")
    assert world.ours.begin(MODEL, "2", TERMS).salt != first.salt


def test_what_cannot_be_rolled_out_is_refused_in_a_line_and_nothing_is_written(world: World) -> None:
    with pytest.raises(RefusedError, match="version 1 of model 'late' serves already, as the newest released one"):
        world.ours.begin(MODEL, "1", TERMS)
    with pytest.raises(RefusedError, match="version 1 of model 'late' is live, not 7; nothing was changed"):
        world.ours.begin(MODEL, "2", TERMS, expect="7")
    with pytest.raises(RefusedError, match="min_requests: expected at least"):
        world.ours.begin(MODEL, "2", replace(TERMS, min_requests=1))
    world.add("4", lookup(world.folder / "other.onnx"))
    with pytest.raises(RefusedError, match=r"would not suit the callers of version 1: .*--new-signature"):
        world.ours.begin(MODEL, "4", TERMS)
    (entry,) = world.registry.manifest(MODEL, "3").files
    world.registry._objects.put(f".blobs/sha256/{entry.sha256[:2]}/{entry.sha256}", iter([b"spoilt"]))
    with pytest.raises(ArtifactError):
        world.ours.begin(MODEL, "3", TERMS)
    assert world.topic.log == []
    world.ours.begin(MODEL, "2", TERMS)
    with pytest.raises(RefusedError, match=r"version 2 of model 'late' is being rolled out already, to 0.00% of users"):
        world.ours.begin(MODEL, "3", TERMS)


def test_of_two_who_begin_at_once_one_succeeds(world: World) -> None:
    class Meanwhile(MemoryTopic):
        def swap_all(self, swaps: Any, *, author: str = "") -> Any:
            super().swap_all(swaps, author="somebody")
            return super().swap_all(swaps, author=author)

    topic = Meanwhile()
    with pytest.raises(ControlConflictError, match="somebody else changed model/late at the same time"):
        LiveRollouts(topic, world.registry).begin(MODEL, "2", TERMS)
    assert topic.worker.rollouts[MODEL].candidate == "2"


def test_it_is_paused_resumed_and_aborted(world: World) -> None:
    with pytest.raises(RefusedError, match="no version of model 'late' is being rolled out"):
        world.ours.change(MODEL, "abort")
    world.ours.begin(MODEL, "2", TERMS)
    with pytest.raises(RefusedError, match="is not paused"):
        world.ours.change(MODEL, "resume")
    world.step()
    assert world.ours.change(MODEL, "pause").state == "paused"
    assert world.topic.worker.rollouts[MODEL].share == 0.01
    assert world.ours.change(MODEL, "resume").state == "running"
    over = world.ours.change(MODEL, "abort", "it was the wrong one")
    assert (over.state, over.reason) == ("aborted", "it was the wrong one")
    assert not world.topic.worker.rollouts[MODEL].meets("user")


def test_a_rollback_ends_it_and_leaves_what_is_live(world: World) -> None:
    world.ours.begin(MODEL, "2", TERMS)
    world.step()
    done = world.live.rollback(MODEL)
    assert (done.version, done.before) == ("1", "2")
    assert (world.rollout.state, world.topic.worker.live) == ("aborted", {MODEL: "1"})


def test_a_promote_by_force_makes_it_live_before_it_ends_the_rollout(world: World) -> None:
    world.ours.begin(MODEL, "2", TERMS)
    world.step()
    before = len(world.topic.log)
    assert world.live.promote(MODEL, "2").before == "1"
    assert [one.kind for one in world.topic.history()[before:]] == ["model", "rollout"]
    assert (world.rollout.state, world.topic.worker.models[MODEL]) == ("aborted", Live("2", ("1",)))


def test_versions_of_a_rollout_that_is_on_stay_and_those_of_one_that_is_over_may_go(world: World) -> None:
    world.ours.begin(MODEL, "2", TERMS)
    with pytest.raises(RefusedError, match="version 2 of model 'late' is in use: rollout 'late'"):
        world.live.remove(MODEL, "2", force=True)
    with pytest.raises(RefusedError, match=r"it is live .*; rollout 'late'"):
        world.live.remove(MODEL, "1", force=True)
    world.ours.change(MODEL, "abort")
    world.live.remove(MODEL, "2")
    assert world.registry.versions(MODEL) == ["1", "3"]


def test_an_entry_that_cannot_be_read_is_named(world: World) -> None:
    world.topic.put("rollout", MODEL, "{}")
    with pytest.raises(RefusedError, match=r"control entry rollout/late cannot be read: rollout\.model: it is missing"):
        world.ours.begin(MODEL, "2", TERMS)


# -- the commands


@pytest.fixture
def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryTopic:
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PENSTOCK_MODELS__CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    made = MemoryTopic()
    monkeypatch.setattr("producers.control.ControlTopic", lambda *_, **__: made)
    answer("add", "late", "1", weights(tmp_path, 1, 2, 3))
    answer("add", "late", "2", weights(tmp_path, 2, 2, 3), "--candidate")
    return made


def test_promote_begins_a_rollout_on_the_terms_that_were_given_and_else_set(topic: MemoryTopic) -> None:
    begun = answer("promote", "late", "2", "--steps", "2%,0.5", "--hold", "5", "--guard", "p99_ms=80")
    assert begun["steps"] == [0.02, 0.5, 1.0]
    assert (begun["hold_seconds"], begun["min_requests"], begun["share"]) == (5.0, 1000, 0.0)
    assert begun["guard"] == {"error_rate": 0.02, "p99_ms": 80.0, "p99_ratio": 3.0, "score_psi": 0.25, "min_rows": 100}
    assert topic.worker.rollouts["late"].candidate == "2"
    assert answer("rollout", "late")["state"] == "running"
    assert answer("rollout", "late", "--pause")["state"] == "paused"
    said = penstock("models", "rollout", "late").stderr
    assert "late: version 2 beside 1, workers load it, paused" in said
    assert answer("rollout", "late", "--resume")["state"] == "running"
    assert answer("rollout", "late", "--abort")["state"] == "aborted"
    assert answer("promote", "late", "2")["steps"] == [0.01, 0.05, 0.25, 0.5, 1.0]


def test_a_shadow_has_no_steps_and_its_own_time(topic: MemoryTopic) -> None:
    begun = answer("promote", "late", "2", "--shadow", "--guard", "score_psi=0")
    assert (begun["mode"], begun["steps"], begun["hold_seconds"]) == ("shadow", [], 3600.0)
    assert begun["guard"]["score_psi"] is None
    assert topic.worker.rollouts["late"].mode == "shadow"


def test_force_is_at_once_and_says_why_not(topic: MemoryTopic) -> None:
    forced = penstock("models", "promote", "late", "2", "--force")
    assert forced.exit_code == 0
    assert "late: version 2 serves, after 1" in forced.stderr
    assert "--force: everybody met it at once, before anything was known" in forced.stderr
    assert json.loads(topic.entries()["model", "late"].body)["version"] == "2"
    assert ("rollout", "late") not in topic.entries()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--shadow", "--force"], "--shadow and --force exclude each other: a shadow serves nobody"),
        (["--force", "--hold", "1"], "--force has no steps: leave out --steps, --hold, --min-requests and --guard"),
        (["--steps", "10%,5%"], "--steps: each must be larger than the one before, got 5.00% after others"),
        (["--steps", "many"], "--steps: expected a number or a percentage, got 'many'"),
        (["--guard", "p50=1"], "--guard: expected NAME=VALUE with one of error_rate, p99_ms, p99_ratio, score_psi, "
         "min_rows, got 'p50=1'"),
        (["--guard", "error_rate=-1"], "--guard.error_rate: expected a number above 0, or null for no limit, got -1.0"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(topic: MemoryTopic, options: list[str], why: str) -> None:
    assert refusal("promote", "late", "2", *options) == why
    assert topic.log == []
