"""Tells of versions that are refused: in metrics, and on the topic of alerts, where they fire until one loads.

An alert's id is made of the version and of when it was refused first, so that each time is an alert of its own. A
worker that was started again does not know what its predecessor raised; it looks once, and resolves what has become
good.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from producers.errors import BrokerUnavailableError
from producers.publisher import DeliveryError
from schemas.records import Alert
from stream_workers.ops import WorkerMetrics

log = logging.getLogger(__name__)

RULE: Final = "version-refused"
SOURCE: Final = "worker"


class Alerts(Protocol):
    """What is needed of `alert_topic.AlertTopic`."""

    def put(self, alert: Alert) -> None:
        """Write an alert. Raises `BrokerUnavailableError`, `DeliveryError`."""

    def states(self) -> Mapping[str, str]:
        """The last state of each alert by its id. Raises `BrokerUnavailableError`."""


class Refusals:
    """Safe from any thread; none of its methods waits for Kafka."""

    def __init__(self, alerts: Alerts, metrics: WorkerMetrics, worker: str, now_us: Callable[[], int]) -> None:
        self._alerts = alerts
        self._metrics = metrics
        self._worker = worker
        self._now_us = now_us
        self._raised: dict[tuple[str, str], Alert] = {}
        self._older: list[str] | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "alerts")

    def refused(self, model: str, version: str, why: str) -> None:
        """A version was not what it must be."""
        with self._lock:
            self._metrics.refused(model, version, True)
            if (model, version) in self._raised:
                return
            now = self._now_us()
            alert = Alert(
                alert_id=f"{_prefix(model, version)}{now:x}",
                rule=RULE,
                state="firing",
                raised_at=now,
                severity="critical",
                source=SOURCE,
                labels={"model": model, "version": version},
                summary=f"model {model} version {version} is refused, and what served before goes on: {why}",
                value=1.0,
                evidence=json.dumps({"worker": self._worker, "why": why}, ensure_ascii=False),
            )
            self._raised[(model, version)] = alert
        self._pool.submit(self._put, alert)

    def over(self, model: str, version: str) -> None:
        """A version was loaded, or is gone."""
        with self._lock:
            self._metrics.refused(model, version, False)
            raised = self._raised.pop((model, version), None)
        self._pool.submit(self._resolve, model, version, raised)

    def close(self) -> None:
        """Say no more; a worker that ends does not wait for an alert."""
        self._pool.shutdown(cancel_futures=True)

    def _resolve(self, model: str, version: str, raised: Alert | None) -> None:
        prefix = _prefix(model, version)
        earlier = self._earlier()
        ids = {one for one in earlier if one.startswith(prefix)} | ({raised.alert_id} if raised else set())
        if self._older is not None:
            self._older = [one for one in earlier if one not in ids]
        for alert_id in sorted(ids):
            self._put(
                Alert(
                    alert_id=alert_id,
                    rule=RULE,
                    state="resolved",
                    raised_at=self._now_us(),
                    severity="critical",
                    source=SOURCE,
                    labels={"model": model, "version": version},
                    summary=f"model {model} version {version} is refused no more",
                )
            )

    def _earlier(self) -> list[str]:
        """Alerts that were on when this worker began. Read once, by the only thread of the pool."""
        if self._older is None:
            try:
                states = self._alerts.states()
            except BrokerUnavailableError as error:
                log.warning("alerts that were on before cannot be read: %s", error)
                return []
            self._older = [one for one, state in states.items() if state == "firing" and one.startswith(f"{RULE}/")]
        return self._older

    def _put(self, alert: Alert) -> None:
        try:
            self._alerts.put(alert)
        except (BrokerUnavailableError, DeliveryError) as error:
            log.warning("alert %s (%s) could not be published: %s", alert.alert_id, alert.state, error)


def _prefix(model: str, version: str) -> str:
    return f"{RULE}/{hashlib.sha256(f'{model}/{version}'.encode()).hexdigest()[:16]}/"
