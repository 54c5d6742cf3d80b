"""The figures each process publishes for Prometheus, named once; every method is made to be called once a batch."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from models.ladder import Shown
from stream_workers.ops_gpu import GpuCollector
from stream_workers.ops_histogram import ROWS, BatchHistogram

Values = npt.NDArray[Any]
# Requests that reach no version carry a model name that anybody may make up: so many names get a series, no more.
MAX_UNSERVED_MODELS: Final = 100
OTHER: Final = "other"


def new_registry() -> CollectorRegistry:
    """A registry with what every process shows: memory, CPU, open files, Python's version and garbage collection."""
    # The _created series double every counter and say nothing that a restart does not.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _Lag:
    """A gauge by topic and partition that forgets the partitions a process gave back."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._gauge = Gauge(name, documentation, ("topic", "partition"), registry=registry)
        self._lock = threading.Lock()
        self._known: set[tuple[str, int]] = set()

    def put(self, topic: str, partition: int, records: int) -> None:
        with self._lock:
            self._known.add((topic, partition))
            self._gauge.labels(topic, str(partition)).set(records)

    def keep(self, assigned: set[tuple[str, int]], topics: Collection[str] | None = None) -> None:
        """Forget the partitions that are not among those assigned; of these topics only, where they are said."""
        with self._lock:
            gone = {one for one in self._known - assigned if topics is None or one[0] in topics}
            for topic, partition in gone:
                self._gauge.remove(topic, str(partition))
            self._known -= gone


class WorkerMetrics:
    """What a scoring worker counts and times. Times are seconds; arrays hold one value a row or a request."""

    def __init__(self, registry: CollectorRegistry, worker: str) -> None:
        served = ("model", "version", "variant")
        info = Gauge("penstock_worker_info", "Always 1; names the worker", ("worker",), registry=registry)
        info.labels(worker).set(1)
        self.queue_seconds = BatchHistogram(
            "penstock_queue_seconds", "From the client's send to the worker's poll", ("model",), registry=registry
        )
        self.batch_seconds = BatchHistogram(
            "penstock_batch_seconds", "From the worker's poll to the batch's dispatch", ("model",), registry=registry
        )
        self.inference_seconds = BatchHistogram(
            "penstock_inference_seconds", "The model's run, once a batch", ("model", "version"), registry=registry
        )
        self.publish_seconds = BatchHistogram(
            "penstock_publish_seconds", "Making outputs and offsets durable, once a transaction", registry=registry
        )
        self.batch_rows = BatchHistogram(
            "penstock_batch_rows", "Rows in a batch", ("model", "version"), bounds=ROWS, registry=registry
        )
        self._requests = Counter(
            "penstock_requests_total", "Requests by how they ended", (*served, "code"), registry=registry
        )
        self._rows = Counter("penstock_rows_total", "Rows scored", served, registry=registry)
        self._undeliverable = Counter(
            "penstock_replies_undeliverable_total", "Replies no topic took, by reason", ("reason",), registry=registry
        )
        self._dead = Counter(
            "penstock_dead_letters_total", "Records that could not be read, by reason", ("reason",), registry=registry
        )
        self.commits = Counter("penstock_commits_total", "Transactions committed", registry=registry)
        self.rebalances = Counter("penstock_rebalances_total", "Assignments received", registry=registry)
        self._lag = _Lag("penstock_lag", "Records between the worker and the end of a partition", registry)
        self.rows_in_flight = Gauge("penstock_rows_in_flight", "Rows taken and not yet published", registry=registry)
        self.paused = Gauge("penstock_paused", "1 while back-pressure holds partitions back", registry=registry)
        self._handed_on = Counter(
            "penstock_handed_on_total", "Records of other pools' models, handed on to their topic", ("topic",),
            registry=registry,
        )  # fmt: skip
        self.models_loaded = Gauge("penstock_models_loaded", "Versions in memory", registry=registry)
        self.models_bytes = Gauge(
            "penstock_models_bytes", "What versions in memory take, where there is a budget", registry=registry
        )
        self.models_budget = Gauge("penstock_models_budget_bytes", "What they may take; 0: no limit", registry=registry)
        self.load_seconds = BatchHistogram(
            "penstock_model_load_seconds", "From the first wish for a version to its being ready", ("model", "version"),
            registry=registry,
        )  # fmt: skip
        self._evicted = Counter(
            "penstock_model_evictions_total", "Versions that made room for another", ("model", "version"),
            registry=registry,
        )  # fmt: skip
        self._pool = Gauge("penstock_pool_info", "Always 1; names the worker's pool", ("pool",), registry=registry)
        self._device = Gauge("penstock_device_info", "1 for the device that scores", ("device",), registry=registry)
        self._gpu = GpuCollector(registry)
        self._level = Gauge(
            "penstock_degradation_level",
            "0 full, 1 half batches, 2 CPU, 3 fallback, 4 last answers or UNAVAILABLE",
            ("model", "version"),
            registry=registry,
        )
        self._degraded = Counter(
            "penstock_degraded_rows_total",
            "Rows answered and marked as degraded",
            ("model", "version", "level"),
            registry=registry,
        )
        self._breaker = Gauge(
            "penstock_breaker_state",
            "0 closed, 1 half-open, 2 open",
            ("model", "version", "device"),
            registry=registry,
        )
        self._row_limit = Gauge(
            "penstock_row_limit",
            "Rows that fit into the device's memory, where it ran out",
            ("model", "version"),
            registry=registry,
        )
        self._refused = Gauge(
            "penstock_version_refused", "1 while a version is refused", ("model", "version"), registry=registry
        )
        self._swaps = Counter(
            "penstock_swaps_total", "Times another version began to answer, wholly or for more users",
            ("model", "kind"), registry=registry,
        )  # fmt: skip
        self._share = Gauge(
            "penstock_rollout_share", "Share of users that meet a rollout's candidate here", ("model", "candidate"),
            registry=registry,
        )  # fmt: skip
        self.shadow_dropped = Counter(
            "penstock_shadow_dropped_total", "Rows that a shadow did not score, for want of time", ("model",),
            registry=registry,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._unserved: set[str] = set()
        self._stood: set[tuple[Gauge, tuple[str, ...]]] = set()

    def batch(
        self,
        model: str,
        version: str,
        variant: str,
        *,
        rows: int,
        inference_seconds: float,
        queue_seconds: Values,
        batch_seconds: Values,
        codes: Mapping[str, int],
        runs: int = 1,
    ) -> None:
        """A micro-batch has been scored: `rows` rows, and how many requests ended with each code.

        `runs`: as many batches of about the same size, told together.
        """
        self.queue_seconds.observe_many(queue_seconds, (model,))
        self.batch_seconds.observe_many(batch_seconds, (model,))
        self.inference_seconds.observe(inference_seconds / runs, (model, version), runs)
        self.batch_rows.observe(rows / runs, (model, version), runs)
        self._rows.labels(model, version, variant).inc(rows)
        for code, count in codes.items():
            self._requests.labels(model, version, variant, str(code)).inc(count)

    def requests(self, code: str, count: int = 1, *, model: str = "", version: str = "", variant: str = "") -> None:
        """Requests that ended without a batch: refused, late, unreadable. Without a version, `model` may be made up."""
        if not version and model:
            with self._lock:
                if len(self._unserved) < MAX_UNSERVED_MODELS:
                    self._unserved.add(model)
                elif model not in self._unserved:
                    model = OTHER
        self._requests.labels(model, version, variant, str(code)).inc(count)

    def undeliverable(self, reason: str, count: int = 1) -> None:
        """Replies that no topic took; `reason` is Kafka's error name, never a topic name (those are the sender's)."""
        self._undeliverable.labels(reason).inc(count)

    def dead_letters(self, reason: str, count: int = 1) -> None:
        """Records sent to the dead-letter topic."""
        self._dead.labels(reason).inc(count)

    def lag(self, topic: str, partition: int, records: int) -> None:
        """How far behind the end of a partition the worker is."""
        self._lag.put(topic, partition, records)

    def assigned(self, topics: Collection[str], partitions: set[tuple[str, int]]) -> None:
        """The (topic, partition)s of these topics that are the worker's now; others' lag is somebody else's to tell.

        A worker's consumers speak each of its own topics: one must not silence the other.
        """
        self._lag.keep(partitions, topics)

    def standings(self, shown: Iterable[Shown]) -> None:
        """How each version stands; those that are not named any more are forgotten."""
        now: set[tuple[Gauge, tuple[str, ...]]] = set()

        def put(gauge: Gauge, value: float, *labels: str) -> None:
            gauge.labels(*labels).set(value)
            now.add((gauge, labels))

        for one in shown:
            put(self._level, one.level, one.model, one.version)
            for device, state in one.breakers.items():
                put(self._breaker, state, one.model, one.version, device)
            if one.rows is not None:
                put(self._row_limit, one.rows, one.model, one.version)
        for gauge, labels in self._stood - now:
            gauge.remove(*labels)
        self._stood = now

    def degraded(self, model: str, version: str, level: str, rows: int) -> None:
        """Rows that were answered, and not as they should be."""
        self._degraded.labels(model, version, level).inc(rows)

    def refused(self, model: str, version: str, refused: bool) -> None:
        """Whether a version is refused."""
        if refused:
            self._refused.labels(model, version).set(1)
        else:
            self._refused.remove_by_labels({"model": model, "version": version})

    def handed_on(self, topic: str, count: int = 1) -> None:
        """Records of models of another pool went to its topic."""
        self._handed_on.labels(topic).inc(count)

    def loaded(self, model: str, version: str, seconds: float) -> None:
        """A version is in memory, `seconds` after it was asked for."""
        self.load_seconds.observe(seconds, (model, version))

    def evicted(self, model: str, version: str) -> None:
        """A version left memory for another one."""
        self._evicted.labels(model, version).inc()

    def pool(self, name: str) -> None:
        """The pool this worker is of."""
        self._pool.labels(name).set(1)

    def swap(self, model: str, kind: str) -> None:
        """Another version began to answer: kind swap, or rollback."""
        self._swaps.labels(model, kind).inc()

    def rollouts(self, shares: Mapping[tuple[str, str], float]) -> None:
        """The share of each (model, candidate) that is being rolled out."""
        self._share.clear()
        for (model, candidate), share in shares.items():
            self._share.labels(model, candidate).set(share)

    def device(self, name: str) -> None:
        """The device that scores: cpu, cuda:N or tensorrt:N."""
        self._device.clear()
        self._device.labels(name).set(1)
        self._gpu.watch(name)


class IngestMetrics:
    """What ingest counts and times."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Counter("penstock_ingest_rows_total", "Rows inserted", ("table",), registry=registry)
        self._blocks = Counter("penstock_ingest_blocks_total", "Blocks inserted", ("table",), registry=registry)
        self.insert_seconds = BatchHistogram(
            "penstock_ingest_insert_seconds", "One block's insert, tries included", ("table",), registry=registry
        )
        self._failures = Counter(
            "penstock_ingest_failures_total", "Inserts that failed and were tried again", ("table",), registry=registry
        )
        self._unreadable = Counter(
            "penstock_ingest_unreadable_total",
            "Records that could not be read, by reason",
            ("reason",),
            registry=registry,
        )
        self.commits = Counter("penstock_ingest_commits_total", "Offset commits", registry=registry)
        self._lag = _Lag("penstock_ingest_lag", "Records between ingest and the end of a partition", registry)
        self.paused = Gauge(
            "penstock_ingest_paused", "1 while ClickHouse does not take what it is given", registry=registry
        )

    def block(self, table: str, rows: int, seconds: float) -> None:
        """A block is in ClickHouse."""
        self._rows.labels(table).inc(rows)
        self._blocks.labels(table).inc()
        self.insert_seconds.observe(seconds, (table,))

    def failed(self, table: str) -> None:
        """An insert failed and will be tried again."""
        self._failures.labels(table).inc()

    def unreadable(self, reason: str, count: int = 1) -> None:
        """Records that ingest could not read."""
        self._unreadable.labels(reason).inc(count)

    def lag(self, topic: str, partition: int, records: int) -> None:
        """How far behind the end of a partition ingest is."""
        self._lag.put(topic, partition, records)

    def assigned(self, partitions: set[tuple[str, int]]) -> None:
        """The (topic, partition)s that are this process's now; lag of others is forgotten."""
        self._lag.keep(partitions)
