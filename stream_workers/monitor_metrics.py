"""What the monitor shows its operators: every window's figures as gauges, and what it raised and stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from stream_workers.guardrails import Breach, Reading
from stream_workers.monitor_watch import Watch
from stream_workers.monitor_windows import MICRO, Series
from stream_workers.ops_histogram import BatchHistogram

SERIES: Final = ("model", "version", "experiment", "variant", "lane")


class MonitorMetrics:
    """Gauges of every live window are written anew at each look, so that what has left is gone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str, labels: Sequence[str] = SERIES) -> Gauge:
            return Gauge(f"penstock_monitor_{name}", documentation, labels, registry=registry)

        self._rows = gauge("rows_per_second", "Rows in the window by its length")
        self._batch = gauge("batch_rows", "Mean rows of a batch in the window")
        self._score = gauge("score_mean", "Mean score in the window")
        self._value = gauge("reading", "What each rule measures in the window", (*SERIES, "rule", "feature"))
        self._open = gauge("breaches", "Breaches that are on", ("rule",))
        self._gauges = (self._rows, self._batch, self._score, self._value, self._open)
        self.late = gauge("late_records", "Records too old for their window since the start", ())
        self.partitions = gauge("partitions", "Partitions of the summaries that are this process's", ())
        self._records = Counter("penstock_monitor_records_total", "Summaries counted", registry=registry)
        self._unreadable = Counter("penstock_monitor_unreadable_total", "Records left out", registry=registry)
        self._alerts = Counter(
            "penstock_monitor_alerts_total", "Alerts published, by rule and state", ("rule", "state"), registry=registry
        )
        self._stops = Counter(
            "penstock_monitor_stops_total", "Stops of a variant, by whether they were needed and could be done",
            ("outcome",), registry=registry,
        )  # fmt: skip
        self.step_seconds = BatchHistogram(
            "penstock_monitor_step_seconds", "One batch, from its records to its acknowledgement", registry=registry
        )

    def counted(self, records: int, unreadable: int) -> None:
        """A batch of records."""
        self._records.inc(records)
        self._unreadable.inc(unreadable)

    def alert(self, rule: str, state: str) -> None:
        """An alert is out."""
        self._alerts.labels(rule, state).inc()

    def stop(self, outcome: str) -> None:
        """A stop was asked for: done, nothing left to do, or failed."""
        self._stops.labels(outcome).inc()

    def show(self, watches: Iterable[Watch]) -> None:
        """Every window as it stands."""
        for one in self._gauges:
            one.clear()
        late, count = 0, 0
        for watch in watches:
            count += 1
            late += watch.windows.late
            self._windows(watch)
            self._breaches(watch.breaches.values())
        self.late.set(late)
        self.partitions.set(count)

    def _windows(self, watch: Watch) -> None:
        seconds = watch.span.width / MICRO
        for series, figures in watch.windows.totals():
            labels = _labels(series)
            self._rows.labels(*labels).set(figures.rows / seconds)
            self._batch.labels(*labels).set(figures.rows / figures.batches if figures.batches else 0.0)
            if figures.scored:
                self._score.labels(*labels).set(figures.score_micros / MICRO / figures.scored)
            for reading in watch.readings.get(series, ()):
                self._reading(labels, reading)

    def _reading(self, labels: tuple[str, ...], reading: Reading) -> None:
        if not math.isnan(reading.value):
            self._value.labels(*labels, reading.rule, reading.feature).set(reading.value)

    def _breaches(self, breaches: Iterable[Breach]) -> None:
        for one in breaches:
            self._open.labels(one.rule).inc()


def _labels(series: Series) -> tuple[str, ...]:
    lane = "bulk" if series.bulk else "requests"
    return (series.model, series.version, series.experiment, series.variant, lane)
