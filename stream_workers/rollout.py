"""The driver of rollouts: follows control and summaries, and takes each rollout on, back, or to its end by itself.

    control ───────── ControlState ─┐                          ┌─ step          rollout/MODEL
    worker.states ─── WorkerStates ─┼─ decide (models.rollout) ┼─ roll back     rollout/MODEL, then alerts
    batch.summaries ─ StepEvidence ─┘                          └─ done          model/MODEL and rollout/MODEL at once

Nothing that matters is kept here: a rollout's state is its entry on control, a step's evidence is read again from when
the step began, and an alert's id is made of the rollout it is about. So a driver that is killed anywhere is followed by
one that goes on, and several drivers, or an operator beside them, do no harm: each change names the entry that it was
decided on, and of two at once one succeeds.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from models.live import Live
from models.rollout import KIND, Decision, Evidence, Rollout, decide
from producers.control import Swap
from producers.errors import BrokerUnavailableError, ControlConflictError
from producers.publisher import DeliveryError
from schemas.records import Alert, BatchSummary, Control
from stream_workers.control import ControlState
from stream_workers.monitor_windows import MICRO
from stream_workers.rollout_evidence import StepEvidence
from stream_workers.rollout_metrics import RolloutMetrics
from stream_workers.worker_state import WorkerState

log = logging.getLogger(__name__)

AUTHOR: Final = "penstock rollout"
RULE: Final = "rollout"
LIVE: Final = "model"
LOOK_SECONDS: Final = 0.25
# An entry that somebody else changed first is looked at again after this, should control not have told by then.
AGAIN_SECONDS: Final = 2.0
# So long an alert tells of a rollout that was rolled back, unless the model's next one begins before.
ALERT_SECONDS: Final = 24 * 3600


class Topic(Protocol):
    """What is needed of `producers.control.ControlTopic`."""

    def swap(self, kind: str, name: str, body: Any, *, expected: int | None, author: str = "") -> Control:
        """Write an entry in place of one of that revision."""

    def swap_all(self, swaps: Sequence[Swap], *, author: str = "") -> list[Control]:
        """Several at once, or none."""


class Alerts(Protocol):
    """What is needed of `alert_topic.AlertTopic`."""

    def put(self, alert: Alert) -> None:
        """Write an alert and wait until Kafka has it."""

    def states(self) -> dict[str, str]:
        """The last state of each alert by its id."""


# A summary, its place in its partition, whether a shadow's.
Seen = tuple[BatchSummary, int, bool]


class Sources(Protocol):
    """What is needed of `rollout_sources.RolloutSources`: what is read while a rollout is on."""

    def summaries(self, models: Iterable[str]) -> list[Seen]:
        """The summaries of these models that have come since the last call."""

    def workers(self) -> Mapping[str, WorkerState] | None:
        """The workers that live; None where that is not known yet."""

    def close(self) -> None:
        """Disconnect."""


class RolloutDriver:
    """One driver. `look` is a round; `run` makes rounds until it is told to stop."""

    def __init__(
        self,
        state: ControlState,
        topic: Topic,
        alerts: Alerts,
        open_sources: Callable[[int], Sources],
        metrics: RolloutMetrics,
        *,
        wall: Callable[[], int],
        clock: Callable[[], float] = monotonic,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`state`: kept by a `ControlFollower`. `open_sources(since)`: reads on from `since` (microseconds)."""
        self._state = state
        self._topic = topic
        self._alerts = alerts
        self._open_sources = open_sources
        self._metrics = metrics
        self._wall = wall
        self._clock = clock
        self._beat = beat
        self._sources: Sources | None = None
        self._steps: dict[str, StepEvidence] = {}
        self._acted: dict[str, tuple[int, float]] = {}
        self._told: dict[str, str] | None = None

    def run(self, stop: threading.Event) -> None:
        """Drive until `stop` is set. What Kafka does not answer is tried again; anything else is raised."""
        try:
            while not stop.wait(LOOK_SECONDS):
                self._beat()
                try:
                    self.look()
                except (BrokerUnavailableError, DeliveryError) as error:
                    log.warning("rollouts wait: %s", error)
        finally:
            self._close()

    def look(self) -> None:
        """One round over every rollout. Raises `BrokerUnavailableError`, `DeliveryError`."""
        rollouts = dict(self._state.rollouts)
        on = {name: one for name, one in rollouts.items() if one.is_on}
        self._follow(on)
        if self._sources is not None:
            for summary, offset, shadow in self._sources.summaries(on):
                self._steps[summary.model].add(summary, offset, shadow=shadow, wall=self._wall())
            workers = self._sources.workers()
            for name, one in on.items():
                if workers is not None:
                    self._consider(name, one, workers)
        self._metrics.show(rollouts.values())
        self._tell(rollouts.values())

    def _follow(self, on: Mapping[str, Rollout]) -> None:
        """Count for the steps that are on, and for no other."""
        if not on:
            self._close()
            return
        if self._sources is None:
            self._sources = self._open_sources(min(one.since for one in on.values()))
        for name, one in on.items():
            known = self._steps.get(name)
            if known is None or (known.rollout.salt, known.rollout.step) != (one.salt, one.step):
                self._steps[name] = StepEvidence(one)
        self._steps = {name: self._steps[name] for name in on}

    def _consider(self, name: str, one: Rollout, workers: Mapping[str, WorkerState]) -> None:
        entry = self._state.entries[(KIND, name)]
        revision, at = self._acted.get(name, (-1, 0.0))
        if revision == entry.revision and self._clock() - at < AGAIN_SECONDS:
            return
        evidence = self.evidence(one, workers)
        decision = decide(one, evidence, self._wall())
        self._metrics.seen(one, evidence, decision)
        if decision.what == "hold":
            return
        self._acted[name] = (entry.revision, self._clock())
        try:
            self._act(name, one, entry.revision, evidence, decision)
        except ControlConflictError as error:
            log.info("rollout of %s %s: %s", name, one.candidate, error)

    def evidence(self, one: Rollout, workers: Mapping[str, WorkerState]) -> Evidence:
        """What is known of a rollout's step."""
        # Who has not obeyed the step that is on would be two behind with the next.
        states = {
            name: state
            for name, worker in workers.items()
            if (state := worker.models.get(one.model)) is not None
            and (state.rollout, state.step) == (one.salt, one.step)
        }
        failed = {name: state.failed[one.candidate] for name, state in states.items() if one.candidate in state.failed}
        ready = [name for name, state in states.items() if one.candidate in state.ready]
        live = self._state.models.get(one.model)
        verdict = self._steps[one.model].verdict(sum(state.users for state in states.values()))
        return Evidence(
            live="" if live is None else live.version,
            requests=verdict.requests,
            breach=verdict.breach,
            trouble=verdict.trouble,
            ready=len(ready),
            waiting=tuple(name for name in workers if name not in ready and name not in failed),
            failed=failed,
        )

    def _act(self, name: str, one: Rollout, revision: int, evidence: Evidence, decision: Decision) -> None:
        now, step = self._wall(), self._steps[name]
        seen = step.seen
        if decision.what == "step":
            after = one.stepped(now, evidence.requests, seen, step.baseline)
            self._topic.swap(KIND, name, after.to_json(), expected=revision, author=AUTHOR)
            what = "shadows requests" if one.mode == "shadow" else f"meets {after.share:.2%} of users"
            log.info("rollout of %s: version %s %s: %s", name, one.candidate, what, decision.reason)
        elif decision.what == "roll back":
            after = one.ended("rolled back", decision.reason, now, evidence.requests, seen)
            self._topic.swap(KIND, name, after.to_json(), expected=revision, author=AUTHOR)
            log.error("rollout of %s: version %s is rolled back: %s", name, one.candidate, decision.reason)
        else:
            self._finish(name, one, revision, one.ended("done", decision.reason, now, evidence.requests, seen))
            log.info("rollout of %s: version %s is done: %s", name, one.candidate, decision.reason)
        self._metrics.acted(name, decision.what)

    def _finish(self, name: str, one: Rollout, revision: int, after: Rollout) -> None:
        """The candidate is live, and its rollout over, at once; the current version is the last good one.

        The live version first: a worker that has read only that sends everybody to the candidate, as the last step did.
        """
        swaps = [Swap(KIND, name, after.to_json(), revision)]
        live, entry = self._state.models.get(name), self._state.entries.get((LIVE, name))
        before = live or Live(one.current)
        if one.mode == "canary" and before.version != one.candidate:
            body = before.promoted(one.candidate).to_json()
            swaps.insert(0, Swap(LIVE, name, body, None if entry is None else entry.revision))
        self._topic.swap_all(swaps, author=AUTHOR)

    def _tell(self, rollouts: Iterable[Rollout]) -> None:
        """An alert for each that was rolled back, for a day or until the model's next one."""
        now = self._wall()
        wanted = {
            alert_id(one): one
            for one in rollouts
            if one.state == "rolled back" and now - one.since < ALERT_SECONDS * MICRO
        }
        if self._told is None:
            states = self._alerts.states()
            self._told = {name: state for name, state in states.items() if name.startswith(f"{RULE}/")}
        for name, one in wanted.items():
            if name not in self._told:
                self._alerts.put(alert_of(name, "firing", now, one.reason, passed=json.loads(one.to_json())["passed"]))
                self._told[name] = "firing"
        for name in [name for name, state in self._told.items() if state == "firing" and name not in wanted]:
            self._alerts.put(alert_of(name, "resolved", now, "it is over"))
            self._told[name] = "resolved"

    def _close(self) -> None:
        self._steps = {}
        if self._sources is not None:
            self._sources.close()
            self._sources = None


def alert_id(one: Rollout) -> str:
    """The alert's id: the same whoever tells of it."""
    return f"{RULE}/{one.model}/{one.candidate}/{one.started}"


def alert_of(name: str, state: str, now: int, why: str, **evidence: Any) -> Alert:
    """The record of an alert of this id."""
    model, version, _ = name.removeprefix(f"{RULE}/").rsplit("/", 2)
    return Alert(
        alert_id=name,
        rule=RULE,
        state=state,
        raised_at=now,
        severity="critical",
        source="monitor",
        labels={"model": model, "version": version},
        summary=f"the rollout of {model} {version} was rolled back: {why}",
        evidence=json.dumps(evidence, ensure_ascii=False),
    )
