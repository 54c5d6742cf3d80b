"""The models of a worker: which version answers, loaded once, in the background, never served before its warm-up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Final

from models.errors import DeviceError, ModelError, UnknownModelError, shown
from models.loading import LoadedModel
from models.registry import ModelStore

log = logging.getLogger(__name__)

# The store is asked again after this long, so that a new version is seen without a restart.
LISTING_SECONDS: Final = 2.0
# A version that could not be loaded is tried again after this long.
RETRY_SECONDS: Final = 10.0

Loader = Callable[[str, str], LoadedModel]


class UnavailableModelError(RuntimeError):
    """The version exists but cannot serve; the message says why."""


class Catalog:
    """Resolves a model's name to a version, and a version to a loaded model. Safe from any thread."""

    def __init__(
        self,
        store: ModelStore,
        load: Loader,
        *,
        on_ready: Callable[[str, str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`on_ready` is called, from the loading thread, when a version became ready or failed."""
        self._store = store
        self._load = load
        self._on_ready = on_ready
        self._clock = clock
        self._live: Mapping[str, str] = {}
        self._listing: dict[str, tuple[str, ...]] = {}
        self._listed = float("-inf")
        self._loading: dict[tuple[str, str], Future[LoadedModel]] = {}
        self._failed_at: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "load")

    def set_live(self, live: Mapping[str, str]) -> None:
        """The version that serves each model by default, where control says so; elsewhere the newest does."""
        self._live = dict(live)

    def resolve(self, model: str, version: str = "") -> str:
        """The version that answers. Raises `UnknownModelError` naming the models or versions there are."""
        versions = self._versions().get(model)
        if not versions:
            known = ", ".join(sorted(self._versions())) or "none"
            raise UnknownModelError(f"there is no model {shown(model)}; models: {known}")
        if version:
            if version not in versions:
                there = ", ".join(versions)
                raise UnknownModelError(f"model {model!r} has no version {shown(version)}; versions: {there}")
            return version
        live = self._live.get(model)
        return live if live in versions else versions[-1]

    def ready(self, model: str, version: str) -> LoadedModel | None:
        """The loaded version, or None while it is being loaded. Raises `UnavailableModelError` saying why not."""
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

    def preload(self) -> tuple[list[LoadedModel], list[str]]:
        """Load every model's default version and wait: those that are ready, and one line for each that is not.

        Raises `DeviceError` where the device that was asked for cannot be had: no version could then serve.
        """
        loaded, problems = [], []
        for model in self._versions():
            version = self.resolve(model)
            self._begin(model, version)
            try:
                loaded.append(self._loading[(model, version)].result())
            except DeviceError:
                raise
            except (ModelError, OSError) as error:
                problems.append(f"{model} {version}: {error}")
        return loaded, problems

    def close(self) -> None:
        """Wait for what is being loaded."""
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
            future = self._loading[key] = self._pool.submit(self._open, model, version)
        # Outside the lock: a load that is already over calls back at once, and on_ready asks again.
        future.add_done_callback(lambda _: self._on_ready(model, version))
        return future

    def _open(self, model: str, version: str) -> LoadedModel:
        try:
            return self._load(model, version)
        except Exception as error:
            log.error("model %s version %s refused: %s", model, version, error)
            self._failed_at[(model, version)] = self._clock()
            raise

    def _versions(self) -> dict[str, tuple[str, ...]]:
        with self._lock:
            if self._clock() - self._listed > LISTING_SECONDS:
                self._listing = self._list()
                self._listed = self._clock()
            return self._listing

    def _list(self) -> dict[str, tuple[str, ...]]:
        listing = {}
        try:
            for name in self._store.names():
                # Its last version may be removed between the two questions.
                with suppress(UnknownModelError):
                    listing[name] = tuple(self._store.versions(name))
        except OSError as error:
            log.warning("the model store cannot be listed, what it held before is served: %s", error)
            return self._listing
        return listing
