"""What the commands of `penstock models` ask of control and of workers, and how they show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock import console

if TYPE_CHECKING:
    from models.rollout import Rollout
    from penstock.live_models import Change, LiveModels
    from penstock.live_rollouts import LiveRollouts
    from producers.control import ControlTopic
    from stream_workers.worker_state import WorkerState


def live_models(timeout: float = 15.0) -> LiveModels:
    """What is live, by the settings."""
    from penstock.live_models import LiveModels
    from penstock.model_store import open_store

    return LiveModels(_topic(timeout), open_store(console.settings().models))


def live_rollouts() -> LiveRollouts:
    """Rollouts, by the settings."""
    from penstock.live_rollouts import LiveRollouts
    from penstock.model_store import open_store

    return LiveRollouts(_topic(15.0), open_store(console.settings().models))


def worker_states(timeout: float) -> dict[str, WorkerState]:
    """What the workers that live say of themselves. Raises `BrokerUnavailableError`."""
    import time

    from stream_workers.worker_state import WorkerStates

    settings = console.settings()
    states = WorkerStates(settings.kafka.client(), settings.codec(), settings.kafka.topics.workers)
    try:
        states.read_to_end(timeout)
        return states.lately(time.time_ns() // 1000)
    finally:
        states.close()


def _topic(timeout: float) -> ControlTopic:
    from producers.control import ControlTopic

    settings = console.settings()
    return ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control, timeout=timeout)


def tell(done: Change, as_json: bool) -> None:
    """What was changed."""
    if as_json:
        console.print_json(
            {"model": done.model, "version": done.version, "before": done.before, "revision": done.revision}
        )
    else:
        console.note(f"{done.model}: version {done.version} serves, after {done.before}")


def shown(one: Rollout) -> dict[str, Any]:
    """A rollout as the commands' JSON has it."""
    import json

    body: dict[str, Any] = json.loads(one.to_json())
    del body["baseline"]
    return {**body, "share": one.share, "steps": [buckets / 10_000 for buckets in one.steps]}


def workers_lines(name: str, states: dict[str, WorkerState]) -> list[dict[str, Any]]:
    """What each worker that lives says of a model: seconds from load to ready by version, swap and rollback times."""
    found = []
    for worker, state in states.items():
        model = state.models.get(name)
        if model is not None:
            found.append(
                {
                    "worker": worker,
                    "serves": model.serves,
                    "load_to_ready_seconds": dict(model.ready),
                    "failed": dict(model.failed),
                    "swap_ms": None if model.swap_ms < 0 else model.swap_ms,
                    "rollback_ms": None if model.rollback_ms < 0 else model.rollback_ms,
                    "swaps": model.swaps,
                }
            )
    return found
