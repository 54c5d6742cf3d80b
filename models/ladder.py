"""The ladder of each version that serves: which loaded model runs its next batch, and what is known against the others.

A version stands on its device until that fails it. Then the same version is loaded on the CPU, beside the batches;
until it is there, and where it may not be, the fallback of the manifest serves. Breakers, one for each version and
device, keep batches away from what fails; probes with a sample find out when it works again. `models.degradation` and
`models.breaker` decide; here are the models, the threads that load and probe, and the clock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from models.breaker import Breaker, BreakerState
from models.catalog import UnavailableModelError
from models.degradation import (
    CPU,
    Footing,
    Level,
    Readiness,
    RowLimit,
    Rung,
    choose,
    fallback_name,
    level_of,
)
from models.errors import ArtifactError, DeviceLostError, InferenceError, ModelError
from models.fallback import fallback_fault
from models.loading import LoadedModel

log = logging.getLogger(__name__)

# A copy on the CPU is kept for so long after the device works again, and one that could not be loaded tried again.
KEEP_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 10.0
# A device is dead once so many probes in a row found it lost, and nothing has run on it since.
DEAD_PROBES: Final = 2

LoadCpu = Callable[[str, str], LoadedModel]
# A loaded version; None while it is being loaded. Raises what says that it cannot be.
Find = Callable[[str, str], LoadedModel | None]


@dataclass(frozen=True, slots=True)
class Pick:
    """What runs a batch. `model` None: nothing can; with `wait` something will be able to soon, or others can.

    `degraded` is what the reply says of it; `seen` the number of changes that it was made after.
    """

    rung: Rung | None
    model: LoadedModel | None
    degraded: str = ""
    wait: bool = False
    seen: int = 0
    why: str = ""


@dataclass(slots=True, eq=False)
class _Standing:
    """A version: its model on its device, and perhaps a copy on the CPU."""

    model: LoadedModel
    limit: RowLimit
    breakers: dict[str, Breaker]
    pick: Pick
    copy: Future[LoadedModel] | None = None
    copy_failed_at: float | None = None
    well_since: float = 0.0
    lost: bool = False
    probed_at: float = float("inf")

    @property
    def own(self) -> Breaker:
        """The breaker of its device."""
        return self.breakers[self.model.device]


@dataclass(frozen=True, slots=True)
class Shown:
    """How a version stands, for metrics. `rows`: what fits into memory, as far as it is known. `breakers` by device."""

    model: str
    version: str
    level: Level
    rows: int | None
    breakers: dict[str, BreakerState] = field(default_factory=dict)


class Ladders:
    """Safe from any thread. Nothing here waits for a device or a load."""

    def __init__(
        self,
        *,
        load_cpu: LoadCpu | None = None,
        find: Find | None = None,
        on_change: Callable[[], None] = lambda: None,
        leaves: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`load_cpu`: loads a version on the CPU; None: it may not be. `find`: for fallbacks.

        `on_change`: called when a rung can be taken that could not before. `leaves`: the worker leaves when its device
        is dead, so that until this is known batches wait: others can score them.
        """
        self._load_cpu = load_cpu
        self._find = find
        self._on_change = on_change
        self._leaves = leaves
        self._clock = clock
        self._standings: dict[tuple[str, str], _Standing] = {}
        self._ran_at: dict[str, float] = {}
        self._changes = 0
        self._lock = threading.RLock()
        # A load takes its time, and probes must not wait for it.
        self._pool = ThreadPoolExecutor(2, "ladder")
        self.limited = False

    def pick(self, model: LoadedModel, tried: Collection[Rung] = ()) -> Pick:
        """What runs the next batch of a version, or what is left of one on rungs that were not `tried` with it."""
        standing = self._standings.get((model.name, model.version))
        if standing is not None and standing.model is model and Rung.DEVICE not in tried and standing.own.closed:
            return standing.pick
        with self._lock:
            # Before anything is begun: a load may be over at once, and its change must not be missed.
            seen = self._changes
            standing = self._standing(model)
            rungs, models, why = self._rungs(standing)
            choice = choose(rungs, tried)
            for rung in choice.load:
                self._copy(standing if rung is Rung.CPU else self._standing(models[Rung.FALLBACK]))
            if choice.rung is None:
                wait = choice.wait or (self._leaves and self._is_dying(standing))
                return Pick(None, None, wait=wait, seen=seen, why=why)
            found = models[choice.rung]
            degraded = standing.pick.degraded if choice.rung is Rung.DEVICE else CPU
            if choice.rung in (Rung.FALLBACK, Rung.FALLBACK_CPU):
                degraded = fallback_name(found.name, found.version)
            return Pick(choice.rung, found, degraded, seen=seen)

    def changed_since(self, pick: Pick) -> bool:
        """Whether a rung can be taken that could not when `pick` was made."""
        return self._changes != pick.seen

    def meet(self, model: LoadedModel) -> None:
        """A version begins to serve."""
        with self._lock:
            self._standing(model)

    def worked(self, model: LoadedModel) -> None:
        """A run of this model, on whichever device, worked."""
        self._ran_at[model.device] = self._clock()
        standing = self._standings.get((model.name, model.version))
        breaker = None if standing is None else standing.breakers.get(model.device)
        if breaker is not None:
            breaker.worked()

    def failed(self, model: LoadedModel, error: Exception) -> None:
        """A run of this model failed, and no sender is to blame."""
        lost = isinstance(error, DeviceLostError)
        with self._lock:
            standing = self._of(model)
            breaker = standing.breakers[model.device]
            if not breaker.closed:
                return  # it began before
            breaker.failed(self._clock(), str(error) or type(error).__name__, fatal=lost)
            opened = not breaker.closed
            if opened and model is standing.model:
                standing.lost, standing.probed_at = lost, float("inf")
        what = "gets no more work there until a probe works" if opened else "failed"
        log.error("model %s %s on %s %s: %s", model.name, model.version, model.device, what, error)

    def allowed(self, model: LoadedModel) -> int | None:
        """Rows that a batch of this version may have, where its device's memory limits them."""
        standing = self._standings.get((model.name, model.version))
        return None if standing is None else standing.limit.allowed(self._clock())

    def ran_out(self, model: LoadedModel, rows: int, fitted: int) -> None:
        """A run of `rows` rows found no memory, both its halves, of `fitted` rows at most, did."""
        with self._lock:
            standing = self._of(model)
            if standing.model is model:
                standing.limit.ran_out(self._clock(), rows, fitted)
                self.limited = True
        log.warning(
            "model %s %s: %d rows do not fit into the memory of %s, %d do",
            model.name, model.version, rows, model.device, fitted,
        )  # fmt: skip

    def fitted(self, model: LoadedModel, rows: int) -> None:
        """A run of `rows` rows found its memory."""
        with self._lock:
            standing = self._standings.get((model.name, model.version))
            if standing is not None and standing.model is model:
                standing.limit.fitted(self._clock(), rows)

    def forget(self, name: str, version: str) -> None:
        """A version is retired."""
        with self._lock:
            self._standings.pop((name, version), None)
            self.limited = any(one.limit.rows is not None for one in self._standings.values())

    def tick(self) -> None:
        """To be called every half second or so: begins probes that are due, keeps fallbacks loaded, drops copies."""
        now = self._clock()
        with self._lock:
            for standing in list(self._standings.values()):
                self._fallback(standing)
                for device, breaker in standing.breakers.items():
                    if breaker.begin_probe(now):
                        self._pool.submit(self._probe, standing, device, breaker)
                if standing.copy is None or not standing.copy.done():
                    continue
                failed_at = standing.copy_failed_at
                if standing.own.closed and now - standing.well_since > KEEP_SECONDS:
                    standing.copy = standing.copy_failed_at = None
                elif failed_at is not None and not standing.own.closed and now - failed_at > RETRY_SECONDS:
                    self._copy(standing)
            self.limited = any(one.limit.rows is not None for one in self._standings.values())

    def dead(self) -> str:
        """Why the device is beyond hope for this process; "" while it is not."""
        with self._lock:
            for one in self._standings.values():
                if one.own.probes_failed >= DEAD_PROBES and self._is_dying(one):
                    return f"{one.own.why} (model {one.model.name} {one.model.version}, {one.own.probes_failed} probes)"
        return ""

    def shown(self) -> list[Shown]:
        """How each version stands."""
        with self._lock:
            found = []
            for (name, version), one in list(self._standings.items()):
                rungs, _, _ = self._rungs(one)
                limited = one.limit.rows is not None
                states = {
                    device: breaker.state
                    for device, breaker in one.breakers.items()
                    if device == one.model.device or one.copy is not None
                }
                found.append(Shown(name, version, level_of(choose(rungs), limited), one.limit.rows, states))
            return found

    def close(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _standing(self, model: LoadedModel) -> _Standing:
        key = (model.name, model.version)
        found = self._standings.get(key)
        if found is None or found.model is not model:
            limits = model.manifest.batching
            limit = RowLimit(limits.max_rows, limits.buckets)
            if model.fits is not None:
                limit.ran_out(self._clock(), limits.max_rows, model.fits)
                self.limited = True
            breakers = {device: Breaker() for device in {model.device, "cpu"}}
            pick = Pick(Rung.DEVICE, model, CPU if model.stranded else "")
            found = self._standings[key] = _Standing(model, limit, breakers, pick)
        return found

    def _of(self, model: LoadedModel) -> _Standing:
        """The standing that a model belongs to, also as its copy."""
        return self._standings.get((model.name, model.version)) or self._standing(model)

    def _is_dying(self, standing: _Standing) -> bool:
        """Whether a version's device was lost, and nothing has run there since probes find it so."""
        ran_at = self._ran_at.get(standing.model.device, float("-inf"))
        return standing.lost and not standing.own.closed and ran_at <= standing.probed_at

    def _rungs(self, standing: _Standing) -> tuple[dict[Rung, Footing], dict[Rung, LoadedModel], str]:
        """How each rung stands, the models of those that are ready, and what is wrong with the others."""
        rungs: dict[Rung, Footing] = {}
        models: dict[Rung, LoadedModel] = {}
        why: list[str] = []
        fallback = self._fallback(standing)
        for own, on_device, on_cpu in ((standing, Rung.DEVICE, Rung.CPU), (fallback, Rung.FALLBACK, Rung.FALLBACK_CPU)):
            if own is None:
                if self._find is not None and standing.model.manifest.fallback_version is not None:
                    rungs[Rung.FALLBACK] = Footing(Readiness.LOADING)
                continue
            if isinstance(own, str):
                why.append(own)
                continue
            rungs[on_device] = Footing(Readiness.READY, own.own.closed)
            models[on_device] = own.model
            why.append(own.own.why)
            if self._load_cpu is not None and own.model.device != "cpu":
                readiness = _copy_readiness(own)
                rungs[on_cpu] = Footing(readiness, own.breakers["cpu"].closed)
                why.append(own.breakers["cpu"].why)
                copy = _copied(own)
                if readiness is Readiness.READY and copy is not None:
                    models[on_cpu] = copy
        return rungs, models, "; ".join(filter(None, why))

    def _fallback(self, standing: _Standing) -> _Standing | str | None:
        """How the fallback of a version stands; None while it is loaded or where there is none; or why it cannot be."""
        named = standing.model.manifest.fallback_version
        if named is None or self._find is None:
            return None
        try:
            found = self._find(*named)
        except (ModelError, UnavailableModelError) as error:
            return f"fallback {standing.model.manifest.fallback}: {error}"
        if found is None:
            return None
        # It may have been put there by hand since.
        if fault := fallback_fault(standing.model.signature, found.signature):
            return f"fallback {standing.model.manifest.fallback}: {fault}"
        return self._standing(found)

    def _copy(self, standing: _Standing) -> None:
        """Begin to load a version on the CPU."""
        if self._load_cpu is None:
            return
        name, version = standing.model.name, standing.model.version
        log.warning("model %s %s is being loaded on the CPU", name, version)
        copy = standing.copy = self._pool.submit(self._load_cpu, name, version)

        def loaded(done: Future[LoadedModel]) -> None:
            error = None if done.cancelled() else done.exception()
            if isinstance(error, ModelError | OSError | MemoryError):
                log.error("model %s %s cannot be loaded on the CPU: %s", name, version, error)
            elif error is not None:
                log.error("model %s %s cannot be loaded on the CPU", name, version, exc_info=error)
            with self._lock:
                standing.copy_failed_at = self._clock() if error is not None or done.cancelled() else None
                self._changes += 1
            self._on_change()

        copy.add_done_callback(loaded)

    def _probe(self, standing: _Standing, device: str, breaker: Breaker) -> None:
        why = "the probe did not end"
        try:
            self._model_on(standing, device).probe()
            why = ""
        except (InferenceError, ArtifactError, MemoryError) as error:
            why = str(error) or type(error).__name__
        finally:
            now = self._clock()
            with self._lock:
                breaker.end_probe(now, why)
                if not why:
                    self._ran_at[device] = standing.well_since = now
                    self._changes += 1
                elif device == standing.model.device:
                    standing.probed_at = min(standing.probed_at, now)
        name, version = standing.model.name, standing.model.version
        if why:
            log.warning("model %s %s still fails on %s: %s", name, version, device, why)
            return
        log.info("model %s %s works on %s again", name, version, device)
        self._on_change()

    def _model_on(self, standing: _Standing, device: str) -> LoadedModel:
        if device == standing.model.device:
            return standing.model
        copy = _copied(standing)
        if copy is None:
            raise ArtifactError("its copy on the CPU is not loaded")
        return copy


def _copied(standing: _Standing) -> LoadedModel | None:
    """The copy on the CPU, if it was loaded. A load that failed is done a moment before `copy_failed_at` says so."""
    copy = standing.copy
    if copy is None or not copy.done() or copy.cancelled() or copy.exception() is not None:
        return None
    return copy.result()


def _copy_readiness(standing: _Standing) -> Readiness:
    if standing.copy is None:
        return Readiness.ABSENT if standing.copy_failed_at is None else Readiness.FAILED
    # It is tried again, but nobody waits for it.
    if standing.copy_failed_at is not None or (standing.copy.done() and _copied(standing) is None):
        return Readiness.FAILED
    return Readiness.READY if standing.copy.done() else Readiness.LOADING
