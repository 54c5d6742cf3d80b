"""Summaries as workers send them, and rules that a test sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.records import BatchSummary
from stream_workers.guardrails import Limits
from stream_workers.monitor_shift import Reference
from stream_workers.monitor_windows import MICRO, Series

NOON = 1_800_000_000 * MICRO


def summary(
    at: float = 0.0,
    rows: int = 100,
    failed: int = 0,
    *,
    variant: str = "",
    version: str = "1",
    code: str = "INFERENCE_FAILED",
    bucket: int = 3,
    infer_us: int = 1000,
    scores: tuple[int, ...] = (),
    features: Mapping[str, tuple[int, ...]] | None = None,
) -> BatchSummary:
    """A batch scored `at` seconds after noon, all rows in one latency bucket."""
    return BatchSummary(
        batch_id=f"b-{at}",
        worker="w",
        device="cpu",
        model="m",
        version=version,
        experiment="e" if variant else "",
        variant=variant,
        topic="scoring.requests",
        scored_at=NOON + round(at * MICRO),
        requests=rows,
        rows=rows,
        infer_us=infer_us,
        latency_histogram=(*[0] * bucket, rows),
        score_count=sum(scores),
        score_histogram=scores,
        errors={code: failed} if failed else {},
        feature_histograms=features or {},
    )


@dataclass
class FixedRules:
    """The same limits for every series."""

    limits_: Limits = field(default_factory=lambda: Limits(p99_ms=100.0, error_rate=0.05, min_rows=50))
    references: dict[str, Reference] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=lambda: {"e": "control"})

    def limits(self, series: Series) -> Limits:
        del series
        return self.limits_

    def reference(self, series: Series) -> Reference | None:
        return self.references.get(series.version)

    def control(self, experiment: str) -> str:
        return self.controls.get(experiment, "")
