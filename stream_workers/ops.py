"""What every long-running process shows its operators: logs, health, metrics and traces, under one import.

The parts live in `ops_logging`, `ops_health`, `ops_metrics`, `ops_histogram` and `ops_tracing`.
"""

from opentelemetry.context import Context

from stream_workers.ops_health import Health, OpsServer, OpsServerError
from stream_workers.ops_histogram import BatchHistogram
from stream_workers.ops_logging import OncePer, configure_logging
from stream_workers.ops_metrics import IngestMetrics, WorkerMetrics, new_registry
from stream_workers.ops_replica import ReplicaMetrics
from stream_workers.ops_tracing import extract, inject, record_span

__all__ = [
    "BatchHistogram",
    "Context",
    "Health",
    "IngestMetrics",
    "OncePer",
    "OpsServer",
    "OpsServerError",
    "ReplicaMetrics",
    "WorkerMetrics",
    "configure_logging",
    "extract",
    "inject",
    "new_registry",
    "record_span",
]
