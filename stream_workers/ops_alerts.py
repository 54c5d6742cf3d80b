"""The figures of the alert engine for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from stream_workers.ops_histogram import BatchHistogram


class AlertMetrics:
    """What the alert engine counts and times."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._on = Gauge("penstock_alerts", "Alerts that are on", ("state",), registry=registry)
        self._failing = Gauge(
            "penstock_alert_rule_failing", "1 while a rule cannot be looked at", ("rule",), registry=registry
        )
        self._waiting = Gauge(
            "penstock_alerts_undelivered", "Events a receiver is still to be told", ("receiver",), registry=registry
        )
        self._messages = Counter(
            "penstock_alert_messages_total",
            "Messages by receiver and how they ended",
            ("receiver", "outcome"),
            registry=registry,
        )
        self.look_seconds = BatchHistogram("penstock_alert_look_seconds", "A look at all rules", registry=registry)
        self.unreadable = Counter(
            "penstock_alert_reports_unreadable_total", "Records on alerts that could not be read", registry=registry
        )
        self.leads = Gauge(
            "penstock_alert_leader", "1 where this process judges and tells, 0 where another does", registry=registry
        )
        self.show([], {}, {})

    def show(self, states: Iterable[str], failing: dict[str, bool], waiting: dict[str, int]) -> None:
        """What is on, which rules fail, and how much each receiver is still to be told."""
        found = list(states)
        for state in ("pending", "firing"):
            self._on.labels(state).set(found.count(state))
        for rule, fails in failing.items():
            self._failing.labels(rule).set(fails)
        for receiver, events in waiting.items():
            self._waiting.labels(receiver).set(events)

    def message(self, receiver: str, outcome: str) -> None:
        """A message was taken ("sent") or not ("failed")."""
        self._messages.labels(receiver, outcome).inc()
