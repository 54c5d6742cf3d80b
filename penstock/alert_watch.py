"""Runs the alert engine in the process that holds the warehouse: a thread that judges, and one for each receiver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from analytics.alert_history import AlertHistory
from analytics.alert_outbox import Policy
from analytics.alert_rules import Rule
from analytics.alert_samples import Figures, Sampler
from analytics.readonly import QueryLimits, ReadOnlySql
from analytics.warehouse import Warehouse, WarehouseError
from stream_workers.alert_engine import AlertEngine, Told
from stream_workers.alert_receivers import AlertmanagerReceiver, LogReceiver, WebhookReceiver
from stream_workers.alert_reports import AlertReports
from stream_workers.ops_alerts import AlertMetrics
from stream_workers.ops_health import Health

if TYPE_CHECKING:
    from penstock.settings import AlertSettings, Settings

log = logging.getLogger(__name__)
# How long a round waits for reports: what the live monitor raises is heard within it.
_ROUND_SECONDS: Final = 1.0
# A round asks every rule's question; one that hangs for longer than this is to be noticed.
_SILENT_SECONDS: Final = 300.0
# What a rule's own question may cost.
_LIMITS: Final = QueryLimits(seconds=20.0, rows=1000, at_once=1)


def figures_in(registry: CollectorRegistry) -> Figures:
    """The gauges of a registry, summed by the labels that are asked for."""

    def figures(series: str, labels: tuple[str, ...]) -> list[tuple[dict[str, str], float]]:
        found: dict[tuple[str, ...], float] = {}
        for family in registry.collect():
            for sample in family.samples:
                if sample.name == series:
                    key = tuple(sample.labels.get(name, "") for name in labels)
                    found[key] = found.get(key, 0.0) + sample.value
        return [(dict(zip(labels, key, strict=True)), value) for key, value in found.items()]

    return figures


def receivers_of(section: AlertSettings) -> dict[str, Told]:
    """Everybody that the settings name."""
    link = section.link
    people = Policy(
        group_by=section.group_by,
        wait=timedelta(seconds=section.group_wait_seconds),
        interval=timedelta(seconds=section.group_interval_seconds),
        repeat=timedelta(seconds=section.repeat_seconds),
    )
    refresh = timedelta(seconds=section.alertmanager_refresh_seconds)
    found: dict[str, Told] = {}
    for number, url in enumerate(section.alertmanager):
        name = "alertmanager" if not number else f"alertmanager-{number + 1}"
        found[name] = Told(AlertmanagerReceiver(url, refresh, link=link), Policy(refresh=refresh))
    for name, one in section.webhooks.items():
        found[name] = Told(WebhookReceiver(one.url, one.form, link=link, headers=one.headers), people)
    if section.log:
        at_once = Policy(group_by=people.group_by, wait=timedelta(), interval=timedelta(), repeat=people.repeat)
        found["log"] = Told(LogReceiver(), at_once)
    return found


class AlertWatch:
    """A context manager. Rules are looked at every `seconds`; what fails is logged and tried again."""

    def __init__(
        self,
        engine: AlertEngine,
        seconds: float,
        *,
        closing: Callable[[], None] = lambda: None,
        beat: Callable[[str, float], None] = lambda _name, _seconds: None,
    ) -> None:
        """`closing` is called when all threads have ended: for what the engine was made of. `beat(name, s)`: a thread
        turns, and will again within so many seconds."""
        self.engine = engine
        self._seconds = seconds
        self._closing = closing
        self._beat = beat
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._judge, name="alerts", daemon=True)]
        self._threads += [
            threading.Thread(target=self._tell, args=(name,), name=f"alerts-{name}", daemon=True)
            for name in engine.receivers
        ]

    def _judge(self) -> None:
        next_look = monotonic()
        while not self._stop.is_set():
            self._beat("alerts", _SILENT_SECONDS)
            look = monotonic() >= next_look
            try:
                self.engine.round(_ROUND_SECONDS, look)
            except WarehouseError as error:
                log.warning("alerts are not judged yet, trying again: %s", error)
                self._stop.wait(_ROUND_SECONDS)
                continue
            if look:
                next_look = monotonic() + self._seconds

    def _tell(self, name: str) -> None:
        # Groups that wait, repeats and pauses end by the clock, so somebody has to look at it.
        while not self._stop.wait(_ROUND_SECONDS / 2):
            self._beat(f"alerts-{name}", _SILENT_SECONDS)
            self.engine.tell(name)

    def __enter__(self) -> AlertWatch:
        if self._seconds:
            for one in self._threads:
                one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        alive = False
        for one in self._threads:
            if one.is_alive():
                one.join(15)
                alive = alive or one.is_alive()
        if not alive:
            self.engine.close()
            self._closing()


def watch(
    settings: Settings,
    rules: tuple[Rule, ...],
    session: Callable[[], Warehouse],
    registry: CollectorRegistry,
    health: Health,
) -> AlertWatch:
    """The engine as the settings want it. `session` opens a session with the warehouse. Raises `WarehouseError`."""
    section = settings.alerts
    metrics = AlertMetrics(registry)
    ours, questions = session(), session()
    readonly = ReadOnlySql(questions, _LIMITS)
    kafka = settings.kafka
    reports = AlertReports(
        kafka.consumer(section.group),
        settings.codec(),
        kafka.topics.alerts,
        alone=not settings.clickhouse.url,
        unreadable=metrics.unreadable.inc,
    )
    told = receivers_of(section)
    sampler = Sampler(ours, readonly, figures_in(registry))
    engine = AlertEngine(rules, sampler, AlertHistory(ours), reports, told, metrics)

    def closing() -> None:
        readonly.close()
        questions.close()
        ours.close()

    return AlertWatch(engine, section.watch_seconds, closing=closing, beat=health.beat)
