"""What is in memory stays within its budget; what made room waits for a new load, and what is busy is finished."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small_onnx import node, write

from models.batching import BatchLimits
from models.catalog import LISTING_SECONDS, Catalog, Holding, UnavailableModelError
from models.errors import BudgetError
from models.eviction import Key
from models.folder import ModelStore
from models.loading import LoadedModel
from models.residency import RELOAD_SECONDS, RETRY_SECONDS, Residency
from models.resident import resident_bytes

MB = 1_000_000


class Loaded(str):
    """What a load gave."""

    __slots__ = ()
    device = "cpu"


class Device:
    """Loads that take what they are told to, work that is busy until told otherwise, a clock that stands still."""

    def __init__(self, budget: int, **sizes: int) -> None:
        self.now = 0.0
        self.sizes = sizes
        self.grows: dict[str, int] = {}
        self.fixed: set[Key] = set()
        self.busy: set[Key] = set()
        self.memory = 0
        self.loads: list[str] = []
        self.told: list[tuple[str, ...]] = []
        self.asked_busy = threading.Event()
        self._changed = threading.Condition()
        self.residency = Residency(
            self._load,
            self,
            budget=budget,
            on_ready=lambda *key: self._tell("ready", *key),
            on_gone=lambda *key: self._tell("gone", *key),
            events=self,
            clock=lambda: self.now,
            resident=lambda: self.memory,
        )

    def _load(self, model: str, version: str) -> Any:
        self.loads.append(model)
        self.memory += self.grows.get(model, self.sizes[model])
        return Loaded(f"{model} {version}")

    def _tell(self, *what: str) -> None:
        with self._changed:
            if what[0] == "gone":
                self.memory -= self.grows.get(what[1], self.sizes[what[1]])
            self.told.append(what)
            self._changed.notify_all()

    def size(self, key: Key) -> int:
        return self.sizes[key[0]]

    def is_fixed(self, key: Key) -> bool:
        return key in self.fixed

    def is_busy(self, key: Key) -> bool:
        if key in self.busy:
            self.asked_busy.set()
        return key in self.busy

    def loaded(self, model: str, version: str, _seconds: float) -> None:
        self.told.append(("loaded", model, version))

    def evicted(self, model: str, version: str) -> None:
        self.told.append(("evicted", model, version))

    def use(self, model: str) -> str:
        """Ask for a model and wait until its load is over; what came of it."""
        self.now += 1
        key = (model, "1")
        if self.residency.ask(key) is None:
            self.settle(model)
        future = self.residency.ask(key)
        assert future is not None
        error = future.exception()
        return str(error) if error else str(future.result())

    def settle(self, model: str) -> None:
        with self._changed:
            before = self.told.count(("ready", model, "1"))
            assert self._changed.wait_for(
                lambda: self.residency.begin((model, "1")).done() or self.told.count(("ready", model, "1")) > before, 20
            )

    def await_told(self, *what: str, times: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.told.count(what) >= times, 20), self.told

    def held(self) -> set[str]:
        return {model for (model, _), error in self.residency.settled().items() if error is None}


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(100, a=40, b=40, c=40, d=10, huge=101)
    yield made
    made.residency.close()


def test_the_least_recently_used_makes_room_and_comes_back_when_it_is_asked_for(device: Device) -> None:
    assert [device.use(model) for model in "abac"] == ["a 1", "b 1", "a 1", "c 1"]
    assert device.held() == {"a", "c"}
    assert ("evicted", "b", "1") in device.told
    assert device.residency.held_bytes() == 80
    assert device.use("b") == "b 1"
    assert device.held() == {"b", "c"}
    assert device.loads == ["a", "b", "c", "b"]


def test_what_is_fixed_stays_and_what_then_never_fits_is_refused_naming_need_and_budget(device: Device) -> None:
    device.fixed = {("a", "1"), ("b", "1")}
    device.use("a")
    device.use("b")
    assert device.use("d") == "d 1"
    assert device.use("c") == (
        "model c 1 needs 0.0 MB of memory, the budget is 0.0 MB, "
        "of which 0.0 MB are of what is never evicted (a 1, b 1)"
    )
    assert device.held() == {"a", "b", "d"}, "nothing was evicted in vain"
    assert device.use("huge").startswith("model huge 1 needs")
    assert "c" not in device.loads
    assert "huge" not in device.loads


def test_a_version_that_takes_more_than_its_files_is_measured_once_and_then_known(device: Device) -> None:
    device.grows = {"d": 70}
    device.use("a")
    assert device.use("d") == "d 1"
    assert device.held() == {"d"}, "with 70 bytes it does not fit beside a"
    assert device.residency.held_bytes() == 70
    assert device.use("a") == "a 1"
    assert device.held() == {"a"}


def test_a_version_that_turns_out_too_large_is_given_up_and_not_loaded_again_and_again(device: Device) -> None:
    device.grows = {"d": 120}
    assert device.use("d").startswith("model d 1 needs")
    device.now += RETRY_SECONDS + 1
    assert device.use("d").startswith("model d 1 needs")
    assert device.loads == ["d"]
    device.grows = {}
    device.now += RELOAD_SECONDS
    assert device.use("d") == "d 1"


def test_what_is_busy_takes_nothing_new_is_finished_leaves_and_is_loaded_again_for_who_asked(device: Device) -> None:
    device.use("a")
    device.use("b")
    device.busy = {("a", "1"), ("b", "1")}
    device.asked_busy.clear()
    assert device.residency.ask(("c", "1")) is None
    assert device.asked_busy.wait(20)
    # A second look at what is busy means that the first has said who is to leave.
    device.asked_busy.clear()
    device.residency.look_again()
    assert device.asked_busy.wait(20)
    assert device.residency.ask(("a", "1")) is None, "it leaves"
    assert device.residency.ask(("b", "1")) is not None, "it stays"
    assert ("evicted", "a", "1") not in device.told
    device.busy = {("b", "1")}
    device.residency.look_again()
    device.await_told("ready", "c", "1")
    assert ("evicted", "a", "1") in device.told
    # It was asked for while it left, so it comes back; c, which nobody asks for any more, makes room for it.
    device.await_told("ready", "a", "1", times=2)
    assert device.held() == {"a", "b"}


def test_what_was_to_leave_and_need_not_serves_again(device: Device) -> None:
    device.use("a")
    device.use("b")
    device.fixed = {("b", "1")}
    device.busy = {("a", "1")}
    device.asked_busy.clear()
    device.residency.ask(("c", "1"))
    assert device.asked_busy.wait(20)
    device.asked_busy.clear()
    device.residency.look_again()
    assert device.asked_busy.wait(20)
    assert device.residency.ask(("a", "1")) is None
    before = device.told.count(("ready", "a", "1"))
    device.fixed.add(("a", "1"))
    device.residency.look_again()
    device.await_told("ready", "c", "1")
    device.await_told("ready", "a", "1", times=before + 1)
    assert device.residency.ask(("a", "1")) is not None
    assert device.loads == ["a", "b"]


# From here on with real models in a catalog.


def mlp(path: Path, layers: int, seed: int) -> Path:
    """y [rows, 1024]: `layers` dense layers of 4.2 MB."""
    one = np.random.default_rng(seed).standard_normal((1024, 1024), np.float32) / 32
    # Of equal weights ONNX Runtime keeps one.
    weights = {f"w{i}": np.roll(one, i) for i in range(layers)}
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    return write(path, nodes, [("x", "FP32", ("rows", 1024))], [("y", "FP32", ("rows", 1024))], weights)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Three models of 33.6 MB, and a version 2 of the first."""
    folder = tmp_path_factory.mktemp("large")
    made = ModelStore(folder / "store")
    for seed, (name, version) in enumerate([("a", "1"), ("b", "1"), ("c", "1")]):
        made.add_onnx(name, version, mlp(folder / "m.onnx", 8, seed), batching=BatchLimits(max_rows=16))
    return made


class Shelf:
    """A catalog of real models whose gone ones are noted."""

    def __init__(self, store: ModelStore, holding: Holding) -> None:
        self.now = 0.0
        self.gone: list[str] = []
        self.ready = threading.Condition()
        self.catalog = Catalog(
            store,
            lambda model, version: LoadedModel.load(store, model, version, "cpu"),
            on_ready=self._ready,
            on_gone=lambda model, _version: self.gone.append(model),
            holding=holding,
            clock=lambda: self.now,
        )

    def _ready(self, _model: str, _version: str) -> None:
        with self.ready:
            self.ready.notify_all()

    def use(self, model: str) -> LoadedModel:
        self.now += 0.1
        version = self.catalog.resolve(model)
        with self.ready:
            assert self.ready.wait_for(lambda: self.catalog.ready(model, version) is not None, 30)
        found = self.catalog.ready(model, version)
        assert found is not None
        return found


@pytest.fixture
def shelf(store: ModelStore, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    made = Shelf(store, request.param)
    yield made
    made.catalog.close()


@pytest.mark.parametrize("shelf", [Holding(75 * MB, preload=False)], indirect=True)
def test_an_evicted_model_s_memory_goes_back_to_the_system_and_the_need_is_what_it_took(shelf: Shelf) -> None:
    process = psutil.Process()
    assert [one.name for one in shelf.catalog.preload()[0]] == ["a"], "to know the device; the others wait"
    shelf.use("b")
    two = process.memory_info().rss
    held = shelf.catalog.residency.held_bytes()
    assert 67 * MB <= held <= 75 * MB
    for model in ("c", "a", "b", "c", "a"):
        shelf.use(model)
    assert shelf.gone == ["a", "b", "c", "a", "b"]
    assert shelf.catalog.residency.held_bytes() <= 75 * MB
    assert abs(process.memory_info().rss - two) < 20 * MB, "seven loads of 34 MB, two of them held"
    # The loading thread lets go of what it loaded last only after it has said that it is ready.
    shelf.catalog.residency._pool.submit(gc.collect).result()
    full = process.memory_info().rss
    shelf.catalog.residency.drop(lambda _key: True)
    # glibc may keep the end of the loading thread's heap, which the next load takes first.
    assert full - resident_bytes() > 0.6 * held


@pytest.mark.parametrize("shelf", [Holding(75 * MB, preload=False, pinned=("b*",))], indirect=True)
def test_what_is_pinned_is_loaded_first_and_stays(shelf: Shelf) -> None:
    assert [one.name for one in shelf.catalog.preload()[0]] == ["b"]
    for model in ("a", "c", "a", "c"):
        shelf.use(model)
    assert shelf.gone == ["a", "c", "a"]


@pytest.mark.parametrize("shelf", [Holding(75 * MB)], indirect=True)
def test_of_what_is_preloaded_that_which_does_not_fit_is_refused_and_nothing_leaves_for_it(shelf: Shelf) -> None:
    loaded, problems = shelf.catalog.preload()
    assert [one.name for one in loaded] == ["a", "b"]
    (problem,) = problems
    assert problem.startswith("c 1: model c 1 needs 33.")
    assert problem.endswith("are of what is never evicted (a 1, b 1)")
    assert "the budget is 75.0 MB" in problem
    with pytest.raises(UnavailableModelError, match=r"needs 33\.\d MB of memory, the budget is 75\.0 MB"):
        shelf.use("c")
    assert shelf.gone == []


@pytest.mark.parametrize("shelf", [Holding(75 * MB, preload=False)], indirect=True)
def test_looking_at_the_store_loads_nothing_that_nobody_asked_for(shelf: Shelf) -> None:
    shelf.catalog.preload()
    for _ in range(3):
        shelf.now += LISTING_SECONDS + 1
        shelf.catalog.refresh()
    assert shelf.catalog.state() == (1, [])
    shelf.use("b")
    shelf.use("c")
    assert shelf.gone == ["a"]
    shelf.now += LISTING_SECONDS + 1
    shelf.catalog.refresh()
    assert shelf.gone == ["a"], "it is not loaded again for having served once"


@pytest.mark.parametrize("shelf", [Holding()], indirect=True)
def test_models_of_others_are_not_loaded_until_somebody_asks_for_them_here(shelf: Shelf) -> None:
    shelf.catalog.set_mine(lambda model: model == "c")
    assert [one.name for one in shelf.catalog.preload()[0]] == ["c"]
    shelf.now += LISTING_SECONDS + 1
    shelf.catalog.refresh()
    assert shelf.catalog.state() == (1, [])
    assert shelf.use("a").name == "a"


def test_a_refusal_is_of_the_tree_of_model_errors() -> None:
    assert str(BudgetError("model a 1\nneeds room")) == "model a 1 needs room"
