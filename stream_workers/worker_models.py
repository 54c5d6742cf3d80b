"""What a worker does about its models when control changes: what it loads, when it may serve, what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.catalog import Catalog
from models.live import Live
from models.rollout import KIND as ROLLOUT
from models.rollout import LOADING, Rollout
from schemas.records import Control
from stream_workers.control import ControlState
from stream_workers.ops import WorkerMetrics
from stream_workers.worker_state import Changes, ModelState, WorkerState


class RolloutLoadError(RuntimeError):
    """A rollout's candidate cannot serve in this worker, whose users it would have to answer with another version."""


class WorkerModels:
    """Follows live versions and rollouts for the catalog, and keeps what is told of them. Safe from any thread.

    `users_met`: set by who routes; how many users a model's candidate had in this step.
    """

    def __init__(
        self, catalog: Catalog, metrics: WorkerMetrics, name: str, run_id: str, wall: Callable[[], int]
    ) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._name = name
        self._run_id = run_id
        self._changes = Changes(wall)
        self._live: Mapping[str, Live] = {}
        self._rollouts: Mapping[str, Rollout] = {}
        self._entries: Mapping[tuple[str, str], Control] = {}
        self._before: Mapping[str, Rollout] = {}
        self._obeyed: Mapping[str, Rollout] = {}
        self.users_met: Callable[[str], int] = lambda _model: 0

    def obey(self, state: ControlState) -> None:
        """Load what is to serve. Nobody is sent to it yet."""
        self._before, self._rollouts = self._rollouts, dict(state.rollouts)
        self._live, self._entries = state.models, dict(state.entries)
        self._catalog.set_live(state.models)
        self._catalog.set_candidates({name: one.candidate for name, one in state.rollouts.items() if one.is_on})

    def obeyed(self) -> None:
        """Users are sent by it now: note how long that took."""
        self._obeyed = self._rollouts
        for name, now in self._rollouts.items():
            before = self._before.get(name)
            same = before is not None and before.salt == now.salt
            moved = now.buckets - (before.buckets if same and before is not None else 0)
            # Done is no change for anybody: all users meet the candidate already.
            if moved and now.state != "done" and before is not None:
                self._note(name, self._entries[(ROLLOUT, name)].changed_at, back=moved < 0)
        shares = {(name, one.candidate): one.share for name, one in self._rollouts.items() if one.is_on}
        self._metrics.rollouts(shares)

    def swapped(self, model: str, before: str, after: str) -> None:
        """For the catalog: another version serves by default."""
        live, entry = self._live.get(model), self._entries.get(("model", model))
        if live is None or entry is None or live.version != after:
            return
        self._note(model, entry.changed_at, back=before in live.rolled_back)

    def must_leave(self) -> BaseException | None:
        """Why this worker cannot stay in its group: a rollout's users would be answered by the wrong version."""
        for name, one in self._rollouts.items():
            if one.buckets and (why := self._catalog.candidate_problem(name)):
                return RolloutLoadError(
                    f"model {name!r}: version {one.candidate} is being rolled out and cannot serve here: {why}"
                )
        return None

    def await_candidates(self) -> str:
        """Load what users meet already, and wait; why one cannot serve, in a line, or nothing."""
        problems = self._catalog.await_candidates()
        on = {f"{name} {one.candidate}:" for name, one in self._rollouts.items() if one.is_on and one.step != LOADING}
        return "; ".join(one for one in problems if one.startswith(tuple(on))) if on else ""

    def state(self) -> WorkerState:
        """What is told of this worker."""
        models = {}
        for name in sorted({*self._catalog.names(), *self._rollouts}):
            loads = self._catalog.loads(name)
            known = self._changes.of(name)
            rollout = self._obeyed.get(name)
            on = rollout is not None and rollout.is_on
            models[name] = ModelState(
                ready={version: round(took, 6) for version, took in loads.items() if isinstance(took, float)},
                failed={version: why for version, why in loads.items() if isinstance(why, str)},
                serves=self._catalog.serving(name),
                swap_ms=known.swap_ms,
                rollback_ms=known.rollback_ms,
                swaps=known.swaps,
                rollout=rollout.salt if rollout is not None and on else "",
                step=rollout.step if rollout is not None and on else LOADING,
                users=self.users_met(name) if on else 0,
            )
        return WorkerState(self._name, self._run_id, models)

    def _note(self, model: str, written_at: int, *, back: bool) -> None:
        self._changes.swapped(model, written_at, back=back)
        self._metrics.swap(model, "rollback" if back else "swap")
