"""Which version answers: the one that is to, once it is ready; else the last good one, and none that is not whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_onnx import linear

from models.catalog import (
    LISTING_SECONDS,
    REMOTE_LISTING_SECONDS,
    RETRY_SECONDS,
    SUPERSEDED_SECONDS,
    UNUSED_SECONDS,
    Catalog,
    UnavailableModelError,
)
from models.errors import DeviceError, StoreError, UnknownModelError
from models.importing import About, source_of
from models.live import Live, last_good
from models.loading import LoadedModel
from models.registry import Registry


class World:
    """A registry, a catalog of it, and a clock that stands still until it is told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.registry = Registry(folder / "store", folder / "cache")
        self.settled: list[tuple[str, str]] = []
        self.gone: list[tuple[str, str]] = []
        self.loads: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self._changed = threading.Condition()
        self.catalog = Catalog(
            self.registry, self._load, on_ready=self._ready, on_gone=self._gone, clock=lambda: self.now
        )

    def add(self, *versions: str, spoilt: tuple[str, ...] = ()) -> None:
        for version in versions:
            path = linear(self.folder / "m.onnx", weights=(1.0, 1.0, float(version)))
            with source_of(path, "late", version) as source:
                (entry,) = self.registry.add(source.folder, source.manifest).files
            if version in spoilt:
                self.registry._objects.put(f".blobs/sha256/{entry.sha256[:2]}/{entry.sha256}", iter([b"spoilt"]))
        self.now += LISTING_SECONDS + 1

    def _load(self, model: str, version: str) -> LoadedModel:
        self.loads.append(version)
        if version in self.gates:
            assert self.gates[version].wait(20)
        return LoadedModel.load(self.registry, model, version, "cpu")

    def _ready(self, model: str, version: str) -> None:
        with self._changed:
            self.settled.append((model, version))
            self._changed.notify_all()

    def _gone(self, model: str, version: str) -> None:
        self.gone.append((model, version))

    def live(self, version: str, *history: str, rolled_back: tuple[str, ...] = ()) -> None:
        self.catalog.set_live({"late": Live(version, history, rolled_back)})

    def settle(self, version: str, times: int = 1) -> None:
        """Wait until a version became ready or failed for the `times`-th time."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.settled.count(("late", version)) >= times, 20)

    def serves(self) -> str:
        return self.catalog.resolve("late")

    def swap(self, version: str, *history: str) -> None:
        """Let a version be live, and wait until it serves."""
        self.live(version, *history)
        self.serves()
        self.settle(version)
        assert self.serves() == version


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for gate in made.gates.values():
        gate.set()
    made.catalog.close()


def test_a_new_version_takes_over_once_it_is_ready_and_not_before(world: World) -> None:
    world.add("1")
    assert [one.version for one in world.catalog.preload()[0]] == ["1"]
    world.gates["2"] = threading.Event()
    world.add("2")
    assert world.serves() == "1"
    assert world.catalog.ready("late", "1") is not None
    world.gates["2"].set()
    world.settle("2")
    assert world.serves() == "2"
    assert world.loads == ["1", "2"]


def test_versions_are_loaded_and_switched_to_also_while_nobody_asks(world: World) -> None:
    world.add("1", "2", "3")
    world.catalog.preload()
    for version in ("1", "2"):
        world.live(version)
        world.catalog.refresh()
        world.settle(version)
        world.catalog.refresh()
        assert world.catalog._serving == {"late": version}
    world.registry.remove("late", "3")
    world.now += LISTING_SECONDS + 1
    world.catalog.refresh()
    assert world.gone == [("late", "3")]


def test_a_spoilt_version_is_refused_and_the_one_before_it_goes_on(world: World) -> None:
    world.add("1", "2")
    world.catalog.preload()
    assert world.serves() == "2"
    world.add("3", spoilt=("3",))
    assert world.serves() == "2"
    world.settle("3")
    assert world.serves() == "2"
    serving, problems = world.catalog.state()
    assert serving == 1
    assert [one.startswith("late 3: model late 3: m.onnx should have") for one in problems] == [True]
    with pytest.raises(UnavailableModelError, match=r"late 3: m\.onnx should have"):
        world.catalog.ready("late", world.catalog.resolve("late", "3"))


def test_after_a_restart_control_s_history_says_which_version_was_good(world: World) -> None:
    world.add("1", "2", "3", "4", spoilt=("4",))
    world.live("4", "2", "3", rolled_back=("3",))
    loaded, problems = world.catalog.preload()
    assert [one.version for one in loaded] == ["2"]
    assert len(problems) == 1
    assert world.serves() == "2"
    assert "3" not in world.loads


def test_after_a_restart_without_history_the_next_older_version_that_is_whole_serves(world: World) -> None:
    world.add("1", "2", "3", spoilt=("2", "3"))
    loaded, problems = world.catalog.preload()
    assert [one.version for one in loaded] == ["1"]
    assert [one[:7] for one in problems] == ["late 3:", "late 2:"]
    assert world.serves() == "1"


def test_with_no_whole_version_nothing_is_loaded_and_each_is_named(world: World) -> None:
    world.add("1", "2", spoilt=("1", "2"))
    loaded, problems = world.catalog.preload()
    assert loaded == []
    assert [one[:7] for one in problems] == ["late 2:", "late 1:"]
    with pytest.raises(UnavailableModelError):
        world.catalog.ready("late", world.serves())


def test_a_version_that_is_mended_serves_at_the_next_try(world: World) -> None:
    world.add("1", "2", spoilt=("2",))
    world.catalog.preload()
    assert world.serves() == "1"
    entry = world.registry.manifest("late", "2").files[0]
    with source_of(world.folder / "m.onnx", "late", "2") as source:
        assert world.registry.add(source.folder, source.manifest).files == (entry,)
    world.now += RETRY_SECONDS + 1
    assert world.serves() == "1"
    world.settle("2", times=2)
    assert world.serves() == "2"


def test_a_candidate_does_not_serve_until_control_names_it(world: World) -> None:
    world.add("1")
    path = linear(world.folder / "m.onnx", weights=(5.0, 5.0, 5.0))
    with source_of(path, "late", "2", About(stage="candidate")) as source:
        world.registry.add(source.folder, source.manifest)
    world.catalog.preload()
    assert world.serves() == "1"
    world.live("2", "1")
    assert world.serves() == "1"
    world.settle("2")
    assert world.serves() == "2"


def test_a_version_that_is_removed_is_unloaded_unless_it_still_serves(world: World) -> None:
    world.add("1", "2")
    world.catalog.preload()
    world.catalog.ready("late", "1")
    world.settle("1")
    world.registry.remove("late", "1")
    world.now += LISTING_SECONDS + 1
    assert world.serves() == "2"
    assert world.gone == [("late", "1")]
    with pytest.raises(UnknownModelError, match="has no version '1'; versions: 2"):
        world.catalog.resolve("late", "1")
    world.registry.remove("late", "2")
    world.now += LISTING_SECONDS + 1
    with pytest.raises(UnknownModelError, match="models: none"):
        world.serves()
    assert world.gone == [("late", "1"), ("late", "2")]


def test_what_was_replaced_is_unloaded_once_nobody_asks_for_it_any_more(world: World) -> None:
    world.add("1", "2", "3")
    world.catalog.preload()
    world.live("2", "3")
    world.serves()
    world.settle("2")
    assert world.serves() == "2"
    world.catalog.ready("late", "1")
    world.settle("1")
    world.now += UNUSED_SECONDS - 1
    world.catalog.ready("late", "1")
    world.catalog.refresh()
    assert world.gone == []
    world.now += LISTING_SECONDS + 1
    world.catalog.refresh()
    assert world.gone == [("late", "3")], "an experiment may still send to 1, and 2 serves"
    world.now += UNUSED_SECONDS
    world.catalog.refresh()
    assert world.gone == [("late", "3"), ("late", "1")]
    assert world.catalog.ready("late", "3") is None, "it is loaded again"
    world.settle("3", times=2)
    assert world.catalog.ready("late", "3") is not None
    assert world.serves() == "2"


def test_while_the_store_is_away_what_was_there_is_served_and_nothing_unloaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("1")
    world.catalog.preload()

    def away() -> list[str]:
        raise StoreError("the store s3://models cannot be read: timed out")

    monkeypatch.setattr(world.registry, "names", away)
    world.now += LISTING_SECONDS + 1
    assert world.serves() == "1"
    assert world.catalog.store_problem == "the store s3://models cannot be read: timed out"
    assert world.gone == []
    monkeypatch.undo()
    world.now += LISTING_SECONDS + 1
    assert world.serves() == "1"
    assert world.catalog.store_problem == ""


def test_a_remote_store_is_listed_beside_the_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("1")
    world.catalog.preload()
    monkeypatch.setattr(Registry, "is_remote", True)
    gate, names = threading.Event(), world.registry.names

    def slow() -> list[str]:
        assert gate.wait(20)
        return names()

    monkeypatch.setattr(world.registry, "names", slow)
    world.add("2")
    world.now += REMOTE_LISTING_SECONDS
    assert world.serves() == "1"
    listing = world.catalog._listing_now
    assert listing is not None
    assert world.serves() == "1"
    assert world.catalog._listing_now is listing, "one look at a time"
    gate.set()
    listing.result(20)
    world.serves()
    world.settle("2")
    assert world.serves() == "2"


@pytest.mark.parametrize(
    ("live", "versions", "target"),
    [
        (Live("3", ("2", "1")), ["1", "2", "3"], "2"),
        (Live("3", ("2", "1")), ["1", "3"], "1"),
        (Live("3", ("2", "1"), ("2",)), ["1", "2", "3"], "1"),
        (Live("3"), ["1", "2", "3"], "2"),
        (Live("3", (), ("2",)), ["1", "2", "3"], "1"),
        (Live("1"), ["1", "2"], None),
        (Live("1", (), ("2",)), ["1", "2"], None),
    ],
)
def test_a_rollback_leads_to_the_last_good_version_there_is(
    live: Live, versions: list[str], target: str | None
) -> None:
    assert last_good(live, versions) == target


def test_history_remembers_what_served_and_what_was_rolled_back_from() -> None:
    live = Live("1").promoted("2").promoted("3")
    assert live == Live("3", ("2", "1"))
    back = live.back_to("2")
    assert back == Live("2", ("1",), ("3",))
    assert back.back_to("1") == Live("1", (), ("2", "3"))
    assert back.promoted("3") == Live("3", ("2", "1"))
    assert Live.from_json(back.to_json()) == back
    assert Live.from_json('{"version": "2"}') == Live("2")
    for body in ("[]", '{"version": 2}', '{"version": ""}', '{"version": "1", "history": "2"}'):
        with pytest.raises(ValueError, match="must be"):
            Live.from_json(body)
    many = Live("0")
    for number in range(1, 100):
        many = many.promoted(str(number))
    assert len(many.history) == 20


def test_a_device_that_cannot_be_had_is_raised_and_no_version_tried_instead(tmp_path: Path) -> None:
    made = World(tmp_path)
    made.add("1", "2")

    def load(model: str, version: str) -> LoadedModel:
        made.loads.append(version)
        raise DeviceError("no such device")

    made.catalog._load = load
    with pytest.raises(DeviceError):
        made.catalog.preload()
    assert made.loads == ["2"]
    made.catalog.close()


def test_what_was_superseded_goes_soon_and_the_last_good_version_stays(world: World) -> None:
    world.add("1", "2", "3")
    world.live("1")
    world.catalog.preload()
    # It counts from the swap, however long ago it was asked for.
    world.now += SUPERSEDED_SECONDS + LISTING_SECONDS + 1
    world.swap("2", "1")
    world.swap("3", "2", "1")
    world.now += LISTING_SECONDS + 1
    world.catalog.refresh()
    assert world.gone == []
    world.now += SUPERSEDED_SECONDS
    world.catalog.refresh()
    assert world.gone == [("late", "1")], "a rollback leads to 2"


def test_what_was_superseded_stays_while_somebody_asks_for_it_by_name(world: World) -> None:
    world.add("1", "2", "3")
    world.live("1")
    world.catalog.preload()
    world.swap("2", "1")
    world.swap("3", "2", "1")
    world.now += SUPERSEDED_SECONDS / 2
    world.catalog.ready("late", "1")
    world.now += SUPERSEDED_SECONDS + LISTING_SECONDS + 1
    world.catalog.refresh()
    assert world.gone == []
    world.now += UNUSED_SECONDS + 1
    world.catalog.refresh()
    assert ("late", "1") in world.gone
