"""What the driver of rollouts shows its operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from models.rollout import Decision, Evidence, Rollout

_LABELS: Final = ("model", "candidate")


class RolloutMetrics:
    """Gauges of every rollout that is on, written anew at each look, so that what has ended is gone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._step = Gauge(
            "penstock_rollout_step", "Step of a rollout that is on, from 0; -1: workers load", _LABELS,
            registry=registry,
        )  # fmt: skip
        self._users = Gauge(
            "penstock_rollout_target_share", "Share of users that are to meet a candidate", _LABELS, registry=registry
        )
        self._requests = Gauge(
            "penstock_rollout_requests", "Requests of the candidate in the step", _LABELS, registry=registry
        )
        self._ready = Gauge(
            "penstock_rollout_workers_ready", "Workers that have the candidate ready", _LABELS, registry=registry
        )
        self._waiting = Gauge(
            "penstock_rollout_workers_waiting", "Workers that live and have not", _LABELS, registry=registry
        )
        self._acts = Counter(
            "penstock_rollout_decisions_total", "What was done with rollouts", ("model", "what"), registry=registry
        )

    def show(self, rollouts: Iterable[Rollout]) -> None:
        """All there are."""
        on = {(one.model, one.candidate): one for one in rollouts if one.is_on}
        for gauge in (self._step, self._users):
            gauge.clear()
        for labels, one in on.items():
            self._step.labels(*labels).set(one.step)
            self._users.labels(*labels).set(one.share)
        if not on:
            for gauge in (self._requests, self._ready, self._waiting):
                gauge.clear()

    def seen(self, one: Rollout, evidence: Evidence, decision: Decision) -> None:
        """What was known when something was decided."""
        del decision
        labels = (one.model, one.candidate)
        self._requests.labels(*labels).set(evidence.requests)
        self._ready.labels(*labels).set(evidence.ready)
        self._waiting.labels(*labels).set(len(evidence.waiting))

    def acted(self, model: str, what: str) -> None:
        """A decision was carried out: step, roll back or done."""
        self._acts.labels(model, what).inc()
