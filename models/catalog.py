"""The models of a worker: which version answers, loaded once, in the background, never served before its warm-up.

A version that is to serve by default takes over once it is ready. Until then, and for good where it cannot serve, the
last good one goes on: what served here before, else what control's history names, else the next older one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from time import monotonic
from typing import Final

from models.errors import DeviceError, ModelError, StoreError, UnknownModelError, shown
from models.eviction import Key
from models.live import Live
from models.loading import LoadedModel
from models.residency import RETRY_SECONDS, Events, Loader, Residency
from models.store import Store

__all__ = ["RETRY_SECONDS", "Catalog", "Holding", "UnavailableModelError"]

log = logging.getLogger(__name__)

# The store is asked again after this long, so that a new version is seen without a restart.
LISTING_SECONDS: Final = 2.0
# A remote store takes its time, and money, to be listed: from a thread of its own, and less often.
REMOTE_LISTING_SECONDS: Final = 10.0
# A version that serves nothing and that nobody asked for in so long is unloaded; asked for again it is loaded again.
UNUSED_SECONDS: Final = 600.0
# One that another took the place of, and that nobody asks for by name since, goes after this: a model that is swapped
# every minute would otherwise be in memory ten times over. The last good one stays: a rollback leads there.
SUPERSEDED_SECONDS: Final = 10.0
# What was polled before a swap asks for its version a moment after it.
_UNDER_WAY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What a worker keeps in memory.

    `budget`: bytes of all versions together; None: no limit. `preload`: every model's default version is loaded before
    anybody asks, and is never evicted; else each is loaded when it is first asked for. `pinned`: names of models, `*`
    and `?` standing for anything, whose versions are loaded in any case and never evicted.
    """

    budget: int | None = None
    preload: bool = True
    pinned: tuple[str, ...] = ()

    def pins(self, model: str) -> bool:
        """Whether this model is never evicted."""
        return any(fnmatchcase(model, one) for one in self.pinned)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A model in the store: its versions in natural order, and the one that serves where control names none."""

    versions: tuple[str, ...]
    default: str


class UnavailableModelError(RuntimeError):
    """The version exists but cannot serve; the message says why."""


class Catalog:
    """Resolves a model's name to a version, and a version to a loaded model. Safe from any thread."""

    def __init__(
        self,
        store: Store,
        load: Loader,
        *,
        on_ready: Callable[[str, str], None],
        on_gone: Callable[[str, str], None] = lambda _model, _version: None,
        is_busy: Callable[[str, str], bool] = lambda _model, _version: False,
        holding: Holding | None = None,
        events: Events | None = None,
        on_swap: Callable[[str, str, str], None] = lambda _model, _before, _after: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`on_ready` is called, from the loading thread, when a version became ready or failed.

        `on_gone`: when one was unloaded, having been taken out of the store, unused for long, or evicted.
        `on_swap(model, before, after)`: when another version began to serve by default. `is_busy`: whether work of a
        version waits for the device or runs.
        """
        self._store = store
        self._load = load
        self._gone = on_gone
        self._on_swap = on_swap
        self._busy = is_busy
        self._clock = clock
        self._holding = holding or Holding()
        self._mine: Callable[[str], bool] = lambda _model: True
        self._live: Mapping[str, Live] = {}
        self._candidates_now: Mapping[str, str] = {}
        self._serving: dict[str, str] = {}
        self._superseded_at: dict[Key, float] = {}
        self._listing: dict[str, _Listed] = {}
        self.store_problem = ""
        self._listed = float("-inf")
        self._lock = threading.Lock()
        self._lister = ThreadPoolExecutor(1, "list")
        self._listing_now: Future[None] | None = None
        self.residency = Residency(
            lambda model, version: self._load(model, version),
            self,
            budget=self._holding.budget,
            on_ready=on_ready,
            on_gone=self._left,
            events=events,
            clock=clock,
        )

    def set_mine(self, mine: Callable[[str], bool]) -> None:
        """Which models are this worker's: those of others are loaded only where somebody asks for them here."""
        self._mine = mine

    def set_live(self, live: Mapping[str, Live]) -> None:
        """The version that serves each model by default, where control says so; elsewhere the newest released does."""
        self._live = dict(live)

    def set_candidates(self, candidates: Mapping[str, str]) -> None:
        """The version of each model that is being rolled out: it is loaded, and stays, beside the one that serves.

        One that is new here and failed before is tried again at once.
        """
        before, self._candidates_now = self._candidates_now, dict(candidates)
        for key in candidates.items() - before.items():
            self.residency.retry(key)

    def resolve(self, model: str, version: str = "") -> str:
        """The version that answers. Raises `UnknownModelError` naming the models or versions there are."""
        listed = self._models().get(model)
        if listed is None:
            known = ", ".join(sorted(self._models())) or "none"
            raise UnknownModelError(f"there is no model {shown(model)}; models: {known}")
        if version:
            if version not in listed.versions:
                there = ", ".join(listed.versions)
                raise UnknownModelError(f"model {model!r} has no version {shown(version)}; versions: {there}")
            return version
        wanted = self._wanted(model, listed)
        serving = self._serving.get(model)
        if serving == wanted and self.residency.is_ready((model, wanted)):
            return wanted
        if self.residency.state((model, wanted)) == "ready":
            self._serving[model] = wanted
            self._superseded_at.pop((model, wanted), None)
            if serving is not None and serving != wanted:
                self._superseded_at[(model, serving)] = self._clock()
                log.info("model %s: version %s serves, after %s", model, wanted, serving)
                self._on_swap(model, serving, wanted)
            return wanted
        if serving is not None and self.residency.is_ready((model, serving)):
            return serving
        return self._last_good(model, listed, wanted)

    def refresh(self) -> None:
        """Begin to load what is to serve by default, and switch to what became ready, also while nobody asks.

        Of models that are loaded when they are first asked for, only of those that are.
        """
        for model in self._models():
            serving = self._serving.get(model)
            if self._is_kept(model) or (serving is not None and self.residency.is_ready((model, serving))):
                # It may have been taken out since it was listed.
                with suppress(UnknownModelError):
                    self.resolve(model)
        for key in self._rolled_out():
            self.residency.begin(key)

    def ready(self, model: str, version: str) -> LoadedModel | None:
        """The loaded version, or None while it is being loaded. Raises `UnavailableModelError` saying why not."""
        future = self.residency.ask((model, version))
        if future is None:
            return None
        error = future.exception()
        if error is not None:
            raise UnavailableModelError(f"model {model!r} version {version!r} cannot serve: {error}")
        return future.result()

    def is_ready(self, model: str, version: str) -> bool:
        """Whether a version is in memory; begins nothing."""
        return self.residency.is_ready((model, version))

    def state(self) -> tuple[int, list[str]]:
        """How many versions serve, and one line for each that was to and cannot."""
        settled = self.residency.settled()
        problems = [f"{model} {version}: {error}" for (model, version), error in settled.items() if error]
        return len(settled) - len(problems), problems

    def is_fit(self) -> bool:
        """Whether a version serves, or may be loaded when it is asked for, or none needs to serve here."""
        return self.state()[0] > 0 or not self._holding.preload or self.is_elsewhere()

    def is_elsewhere(self) -> bool:
        """Whether there are models, and all of them are somebody else's."""
        models = self._models()
        return bool(models) and not any(self._mine(model) for model in models)

    def names(self) -> list[str]:
        """The models that are served here."""
        return [model for model in self._listing if self._mine(model)]

    def serving(self, model: str) -> str:
        """The version that answers by default now; empty before any does."""
        return self._serving.get(model, "")

    def loads(self, model: str) -> dict[str, float | str]:
        """Seconds that each version took from being asked for to ready, or why it is not."""
        settled = self.residency.settled()
        return {
            version: self.residency.took((own, version)) if error is None else str(error)
            for (own, version), error in settled.items()
            if own == model
        }

    def candidate_problem(self, model: str) -> str:
        """Why the version of a model that is being rolled out cannot serve here; empty where it can, or loads."""
        version = self._candidates_now.get(model)
        found = self.loads(model).get(version, 0.0) if version is not None else 0.0
        return found if isinstance(found, str) else ""

    def await_candidates(self) -> list[str]:
        """Load what is being rolled out, and wait; one line for each that cannot serve."""
        problems = []
        for key in self._rolled_out():
            error = self.residency.begin(key).exception()
            if error is not None:
                problems.append(f"{' '.join(key)}: {error}")
        return problems

    def preload(self) -> tuple[list[LoadedModel], list[str]]:
        """Load the default version, or else the last good one, of every model that is kept, and wait for them.

        Where none is, of the first that loads: it shows which device there is, and that something can serve at all.
        Returns those that are ready, and one line for each version that was tried and is not. Raises `DeviceError`
        where the device that was asked for cannot be had: no version could then serve.
        """
        loaded, problems = [], []
        mine = [model for model in self._models() if self._mine(model)]
        kept = [model for model in mine if self._is_kept(model)]
        for model in kept or mine:
            found, refused = self._preload(model)
            problems += refused
            if found is not None:
                loaded.append(found)
                if not kept:
                    break
        return loaded, problems

    def size(self, key: Key) -> int:
        """Bytes of a version's files."""
        return sum(one.size for one in self._store.manifest(*key).files)

    def is_fixed(self, key: Key) -> bool:
        """Whether a version is never evicted: it is pinned, rolled out, or serves by default where such are kept."""
        model, version = key
        if self._candidates_now.get(model) == version:
            return self._mine(model)
        return self._is_kept(model) and (self._holding.pins(model) or self._serving.get(model) == version)

    def is_busy(self, key: Key) -> bool:
        """Whether work of a version waits for the device or runs."""
        return self._busy(*key)

    def close(self) -> None:
        """Wait for what is being loaded."""
        self._lister.shutdown(cancel_futures=True)
        self.residency.close()

    def _is_kept(self, model: str) -> bool:
        """Whether the model is in memory before anybody asks for it."""
        return self._mine(model) and (self._holding.preload or self._holding.pins(model))

    def _preload(self, model: str) -> tuple[LoadedModel | None, list[str]]:
        problems: list[str] = []
        listed = self._listing[model]
        for version in self._candidates(model, listed, self._wanted(model, listed)):
            try:
                found = self.residency.begin((model, version)).result()
            except DeviceError:
                raise
            except (ModelError, OSError) as error:
                problems.append(f"{model} {version}: {error}")
            else:
                self._serving[model] = version
                return found, problems
        return None, problems

    def _left(self, model: str, version: str) -> None:
        """A version was unloaded."""
        if self._serving.get(model) == version:
            del self._serving[model]
        self._superseded_at.pop((model, version), None)
        self._store.release(model, version)
        self._gone(model, version)

    def _rolled_out(self) -> list[tuple[str, str]]:
        """The candidates of the models that are served here."""
        listing = self._models()
        return [one for one in self._candidates_now.items() if one[0] in listing and self._mine(one[0])]

    def _wanted(self, model: str, listed: _Listed) -> str:
        live = self._live.get(model)
        return live.version if live is not None and live.version in listed.versions else listed.default

    def _candidates(self, model: str, listed: _Listed, wanted: str) -> Iterator[str]:
        """The version that is to serve, and those that may in its place, the best first."""
        yield wanted
        live = self._live.get(model, Live(wanted))
        known = {wanted}
        older = listed.versions[: listed.versions.index(wanted)][::-1]
        for version in (*live.good, *(one for one in older if one not in live.rolled_back)):
            if version in listed.versions and version not in known:
                known.add(version)
                yield version

    def _last_good(self, model: str, listed: _Listed, wanted: str) -> str:
        """In place of a version that failed: the first that does not; the version itself while that is not known."""
        for version in self._candidates(model, listed, wanted):
            state = self.residency.state((model, version))
            if state == "ready":
                self._serving[model] = version
                log.error("model %s: version %s cannot serve, %s goes on", model, wanted, version)
            if state != "failed":
                return version
        return wanted

    def _models(self) -> dict[str, _Listed]:
        remote = self._store.is_remote
        with self._lock:
            if self._clock() - self._listed <= (REMOTE_LISTING_SECONDS if remote else LISTING_SECONDS):
                return self._listing
            first = self._listed == float("-inf")
            if remote and not first:
                # Who asks is about to poll or to answer, and does not wait for a network.
                if self._listing_now is None or self._listing_now.done():
                    self._listing_now = self._lister.submit(self._look)
                return self._listing
        self._look()
        return self._listing

    def _look(self) -> None:
        """List the store, and unload what is gone from it."""
        listing = self._list()
        with self._lock:
            self._listing = listing
            self._listed = self._clock()
        if not self.store_problem:
            for key in self.residency.drop(self._is_done_with):
                log.info("model %s version %s is unloaded: it serves nothing", *key)

    def _is_done_with(self, key: Key) -> bool:
        model, version = key
        listed = self._listing.get(model)
        if listed is None:
            return True
        now = (self._serving.get(model), self._wanted(model, listed), self._candidates_now.get(model))
        if self._mine(model) and version in now:
            return False
        return version not in listed.versions or self._is_unused(key)

    def _is_unused(self, key: Key) -> bool:
        """Whether a version that serves nothing has not been asked for in so long that it may go."""
        model, version = key
        live, asked, at = self._live.get(model), self.residency.asked_at(key), self._superseded_at.get(key)
        is_last_good = live is not None and live.good[:1] == (version,)
        if at is None or is_last_good or asked > at + _UNDER_WAY_SECONDS:
            return self._clock() - asked > UNUSED_SECONDS
        return self._clock() - max(asked, at) > SUPERSEDED_SECONDS

    def _list(self) -> dict[str, _Listed]:
        listing = {}
        try:
            for name in self._store.names():
                # Its last version may be removed between the two questions.
                with suppress(UnknownModelError):
                    listing[name] = _Listed(tuple(self._store.versions(name)), self._store.default_version(name))
        except (OSError, StoreError) as error:
            if not self.store_problem:
                log.warning("the model store cannot be listed, what it held before is served: %s", error)
            self.store_problem = str(error)
            return self._listing
        self.store_problem = ""
        return listing
