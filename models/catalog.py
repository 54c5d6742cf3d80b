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
from time import monotonic
from typing import Final

from models.errors import DeviceError, ModelError, StoreError, UnknownModelError, shown
from models.live import Live
from models.loading import LoadedModel
from models.store import Store

log = logging.getLogger(__name__)

# The store is asked again after this long, so that a new version is seen without a restart.
LISTING_SECONDS: Final = 2.0
# A remote store takes its time, and money, to be listed: from a thread of its own, and less often.
REMOTE_LISTING_SECONDS: Final = 10.0
# A version that serves nothing and that nobody asked for in so long is unloaded; asked for again it is loaded again.
UNUSED_SECONDS: Final = 600.0
# A version that could not be loaded is tried again after this long.
RETRY_SECONDS: Final = 10.0

Loader = Callable[[str, str], LoadedModel]


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
        on_swap: Callable[[str, str, str], None] = lambda _model, _before, _after: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`on_ready` is called, from the loading thread, when a version became ready or failed.

        `on_gone`: when one was unloaded, having been taken out of the store, or unused for long. `on_swap(model,
        before, after)`: when another version began to serve by default.
        """
        self._store = store
        self._load = load
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_swap = on_swap
        self._clock = clock
        self._live: Mapping[str, Live] = {}
        self._candidates_now: Mapping[str, str] = {}
        self._began: dict[tuple[str, str], float] = {}
        self._took: dict[tuple[str, str], float] = {}
        self._serving: dict[str, str] = {}
        self._listing: dict[str, _Listed] = {}
        self.store_problem = ""
        self._listed = float("-inf")
        self._loading: dict[tuple[str, str], Future[LoadedModel]] = {}
        self._failed_at: dict[tuple[str, str], float] = {}
        self._asked_at: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "load")
        self._lister = ThreadPoolExecutor(1, "list")
        self._listing_now: Future[None] | None = None

    def set_live(self, live: Mapping[str, Live]) -> None:
        """The version that serves each model by default, where control says so; elsewhere the newest released does."""
        self._live = dict(live)

    def set_candidates(self, candidates: Mapping[str, str]) -> None:
        """The version of each model that is being rolled out: it is loaded, and stays, beside the one that serves.

        One that is new here and failed before is tried again at once.
        """
        before, self._candidates_now = self._candidates_now, dict(candidates)
        with self._lock:
            for key in candidates.items() - before.items():
                if key in self._failed_at and self._loading[key].done():
                    del self._loading[key], self._failed_at[key]

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
        if serving == wanted and self._is_ready(model, wanted):
            return wanted
        if self._state(model, wanted) == "ready":
            self._serving[model] = wanted
            if serving is not None and serving != wanted:
                log.info("model %s: version %s serves, after %s", model, wanted, serving)
                self._on_swap(model, serving, wanted)
            return wanted
        if serving is not None and self._is_ready(model, serving):
            return serving
        return self._last_good(model, listed, wanted)

    def refresh(self) -> None:
        """Begin to load what is to serve by default, and switch to what became ready, also while nobody asks."""
        for model in self._models():
            # It may have been taken out since it was listed.
            with suppress(UnknownModelError):
                self.resolve(model)
        for model, version in self._rolled_out():
            self._begin(model, version)

    def ready(self, model: str, version: str) -> LoadedModel | None:
        """The loaded version, or None while it is being loaded. Raises `UnavailableModelError` saying why not."""
        self._asked_at[(model, version)] = self._clock()
        future = self._begin(model, version)
        if not future.done():
            return None
        error = future.exception()
        if error is not None:
            raise UnavailableModelError(f"model {model!r} version {version!r} cannot serve: {error}")
        return future.result()

    def state(self) -> tuple[int, list[str]]:
        """How many versions serve, and one line for each that was to and cannot."""
        with self._lock:
            known = dict(self._loading)
        done = {key: one for key, one in known.items() if one.done() and not one.cancelled()}
        problems = [
            f"{model} {version}: {error}" for (model, version), one in done.items() if (error := one.exception())
        ]  # fmt: skip
        return len(done) - len(problems), problems

    def names(self) -> list[str]:
        """The models that are served here."""
        return list(self._listing)

    def serving(self, model: str) -> str:
        """The version that answers by default now; empty before any does."""
        return self._serving.get(model, "")

    def loads(self, model: str) -> dict[str, float | str]:
        """Seconds that each version took from being asked for to ready, or why it is not."""
        with self._lock:
            known = {version: one for (own, version), one in self._loading.items() if own == model}
        done = {version: one for version, one in known.items() if one.done() and not one.cancelled()}
        return {
            version: self._took.get((model, version), 0.0) if (error := one.exception()) is None else str(error)
            for version, one in done.items()
        }

    def candidate_problem(self, model: str) -> str:
        """Why the version of a model that is being rolled out cannot serve here; empty where it can, or loads."""
        version = self._candidates_now.get(model)
        found = self.loads(model).get(version, 0.0) if version is not None else 0.0
        return found if isinstance(found, str) else ""

    def await_candidates(self) -> list[str]:
        """Load what is being rolled out, and wait; one line for each that cannot serve."""
        problems = []
        for model, version in self._rolled_out():
            error = self._begin(model, version).exception()
            if error is not None:
                problems.append(f"{model} {version}: {error}")
        return problems

    def preload(self) -> tuple[list[LoadedModel], list[str]]:
        """Load every model's default version, or else the last good one, and wait: those that are ready.

        Also one line for each version that was tried and is not. Raises `DeviceError` where the device that was asked
        for cannot be had: no version could then serve.
        """
        loaded, problems = [], []
        for model, listed in self._models().items():
            for version in self._candidates(model, listed, self._wanted(model, listed)):
                try:
                    found = self._begin(model, version).result()
                except DeviceError:
                    raise
                except (ModelError, OSError) as error:
                    problems.append(f"{model} {version}: {error}")
                else:
                    loaded.append(found)
                    self._serving[model] = version
                    break
        return loaded, problems

    def close(self) -> None:
        """Wait for what is being loaded."""
        self._lister.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, model: str, version: str) -> Future[LoadedModel]:
        """The load of a version, started where it was not, or where it failed a while ago."""
        key = (model, version)
        with self._lock:
            future = self._loading.get(key)
            failed_at = self._failed_at.get(key)
            if future is not None and (failed_at is None or self._clock() - failed_at <= RETRY_SECONDS):
                return future
            self._failed_at.pop(key, None)
            self._asked_at.setdefault(key, self._clock())
            self._began[key] = self._clock()
            future = self._loading[key] = self._pool.submit(self._open, model, version)
        # Outside the lock: a load that is already over calls back at once, and on_ready asks again.
        future.add_done_callback(lambda _: self._on_ready(model, version))
        return future

    def _open(self, model: str, version: str) -> LoadedModel:
        try:
            loaded = self._load(model, version)
        except Exception as error:
            log.error("model %s version %s refused: %s", model, version, error)
            self._failed_at[(model, version)] = self._clock()
            raise
        self._took[(model, version)] = self._clock() - self._began[(model, version)]
        return loaded

    def _rolled_out(self) -> list[tuple[str, str]]:
        """The candidates of the models that are served here."""
        listing = self._models()
        return [(model, version) for model, version in self._candidates_now.items() if model in listing]

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
            state = self._state(model, version)
            if state == "ready":
                self._serving[model] = version
                log.error("model %s: version %s cannot serve, %s goes on", model, wanted, version)
            if state != "failed":
                return version
        return wanted

    def _is_ready(self, model: str, version: str) -> bool:
        """Whether it is loaded; a look that begins nothing and takes no lock, for every poll's sake."""
        future = self._loading.get((model, version))
        return future is not None and future.done() and not future.cancelled() and future.exception() is None

    def _state(self, model: str, version: str) -> str:
        """ready, failed, or loading, which it is from now on."""
        future = self._begin(model, version)
        if not future.done():
            return "loading"
        return "failed" if future.cancelled() or future.exception() is not None else "ready"

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
            gone = [key for key in self._loading if self._is_done_with(*key)]
            for key in gone:
                del self._loading[key]
                self._failed_at.pop(key, None)
                self._asked_at.pop(key, None)
        for key in gone:
            log.info("model %s version %s is unloaded: it serves nothing", *key)
            self._on_gone(*key)

    def _is_done_with(self, model: str, version: str) -> bool:
        key = (model, version)
        if self.store_problem or not self._loading[key].done():
            return False
        listed = self._listing.get(model)
        if listed is None:
            return True
        if version in (self._serving.get(model), self._wanted(model, listed), self._candidates_now.get(model)):
            return False
        return version not in listed.versions or self._clock() - self._asked_at[key] > UNUSED_SECONDS

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
