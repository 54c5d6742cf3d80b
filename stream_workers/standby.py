"""What a worker has for the time when a version, its model or its device fails: ladders, last answers, alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from models.answers import AnswerCache
from models.errors import ArtifactError, DeviceLostError, InferenceError, StoreError, UnknownModelError
from models.ladder import Find, Ladders
from models.loading import LoadedModel
from models.store import Store
from schemas.codec import Codec
from stream_workers.alert_topic import AlertTopic
from stream_workers.ops import WorkerMetrics
from stream_workers.refusals import Refusals
from stream_workers.scoring_config import ScoringConfig

log = logging.getLogger(__name__)


class Standby:
    """Loads versions for the catalog, and knows what each falls back on. Safe from any thread.

    `serves`: to be set once the worker takes requests.
    """

    def __init__(
        self,
        config: ScoringConfig,
        codec: Codec,
        store: Store,
        metrics: WorkerMetrics,
        *,
        find: Find,
        on_change: Callable[[], None],
        now_us: Callable[[], int],
    ) -> None:
        """`find` and `on_change`: see `Ladders`."""
        self._config = config
        self._store = store
        self._metrics = metrics
        self._fallbacks: dict[tuple[str, str], tuple[str, str] | None] = {}
        self._refusals = Refusals(
            AlertTopic(config.client(), codec, config.topics.alerts), metrics, config.name, now_us
        )
        self._leaves = config.on_device_loss == "leave"
        on_cpu = partial(LoadedModel.load, store, device="cpu", threads=config.threads)
        self._load_cpu = on_cpu if config.cpu_on_failure else None
        self._lost = ""
        self.serves = False
        self.answers = AnswerCache(config.last_answer_bytes)
        self.ladders = Ladders(load_cpu=self._load_cpu, find=find, on_change=on_change, leaves=self._leaves)

    def load(self, model: str, version: str) -> LoadedModel:
        """A version on the worker's device; whether it is refused is told, and what it falls back on remembered."""
        try:
            # Also of one whose files are not what they should be.
            self._fallbacks[(model, version)] = self._store.manifest(model, version).fallback_version
            found = self._on_device(model, version)
        except (StoreError, UnknownModelError, DeviceLostError):
            raise  # it says nothing about the version
        except (ArtifactError, InferenceError) as error:
            self._refusals.refused(model, version, str(error))
            raise
        self._refusals.over(model, version)
        return found

    def _on_device(self, model: str, version: str) -> LoadedModel:
        own = self._config
        try:
            found = LoadedModel.load(
                self._store, model, version, device=own.device, threads=own.threads, options=own.device_options
            )
        except DeviceLostError as error:
            self._lost = str(error)
            # A worker that is to leave takes no requests before its device works. One that has taken some answers them.
            if self._load_cpu is None or (self._leaves and not self.serves):
                raise
            log.error("model %s version %s is loaded on the CPU, since its device failed: %s", model, version, error)
            found = self._load_cpu(model, version)
            found.stranded = True
        else:
            self._lost = ""
        return found

    def fallback_of(self, model: str, version: str) -> tuple[str, str] | None:
        """What a version declared, also one that could not be loaded."""
        return self._fallbacks.get((model, version))

    def forget(self, model: str, version: str) -> None:
        """A version is retired."""
        self.answers.forget(model, version)
        self._fallbacks.pop((model, version), None)
        self._refusals.over(model, version)

    def tick(self) -> DeviceLostError | None:
        """To be called every half second or so. Returns why this worker has to leave the group, where it has to."""
        self.ladders.tick()
        self._metrics.standings(self.ladders.shown())
        why = (self.ladders.dead() or self._lost) if self._leaves else ""
        return DeviceLostError(f"the worker leaves its groups, because its device is dead: {why}") if why else None

    def close(self) -> None:
        """Begin nothing any more."""
        self.ladders.close()
        self._refusals.close()
