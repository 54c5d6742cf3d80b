"""The figures of `penstock models replicate --watch`: how far each replica of the registry is behind."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ReplicaMetrics:
    """What replication tells, by replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        own = ("replica",)
        self._lag = Gauge(
            "penstock_replica_lag_seconds", "Since the oldest missing version was added", own, registry=registry
        )
        self._missing = Gauge("penstock_replica_missing_versions", "Versions not there", own, registry=registry)
        self._bytes = Counter("penstock_replica_bytes_total", "Bytes copied", own, registry=registry)
        self._problems = Counter("penstock_replica_problems_total", "What went wrong in rounds", own, registry=registry)

    def round(self, replica: str, *, lag: float, missing: int, copied: int, problems: int) -> None:
        """A round is over."""
        self._lag.labels(replica).set(lag)
        self._missing.labels(replica).set(missing)
        self._bytes.labels(replica).inc(copied)
        self._problems.labels(replica).inc(problems)
