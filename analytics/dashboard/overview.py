"""Asks ClickHouse how serving goes: rates, errors, latency by stage, batches, versions and devices of a window of time.

Counts and latencies come from the projection per_minute and stages from batch_summaries, so that the cost is one of
minutes and batches and not of predictions. A stage's quantile is over rows, each of which counts with its batch's mean
(of queue and batch), its batch's run (inference), or its batch's way into the log (publish). Of small batches that were
summed up together each counts as their mean.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from analytics.dashboard.spans import Span, Window, moment, window
from analytics.warehouse import Answer, Warehouse
from schemas.codes import Code

OK: Final = str(Code.OK)
STAGES: Final = ("queue", "batch", "inference", "publish")
_MINUTE: Final = "toStartOfMinute(scored_at)"
_LATENCY: Final = "dateDiff('microsecond', sent_at, scored_at)"
_WITHIN: Final = f"{_MINUTE} >= {{start:DateTime64(6, 'UTC')}} AND {_MINUTE} < {{end:DateTime64(6, 'UTC')}}"
_STEP: Final = f"toStartOfInterval({_MINUTE}, INTERVAL {{step:UInt32}} SECOND)"
# A version with its variant, as one number: what is rolled up in every way needs few keys.
_KEY: Final = "cityHash64(model, version, experiment, variant)"
_COUNTS: Final = f"""
SELECT {_STEP} AS at, model, version, experiment, variant, code, {_KEY} AS key, count() AS rows FROM predictions
WHERE {_WITHIN} GROUP BY at, model, version, experiment, variant, code ORDER BY at
"""  # noqa: S608 - texts of ours, as all below
# By step, by version, and over all, in one pass: merging the digests of a week's minutes is most of what a page costs.
_LATENCIES: Final = f"""
SELECT {_STEP} AS at, {_KEY} AS key, grouping(at) AS every_step, grouping(key) AS every_key,
    quantilesTDigest(0.5, 0.9, 0.99)({_LATENCY}) AS us
FROM predictions WHERE {_WITHIN} GROUP BY CUBE(at, key)
"""  # noqa: S608
# For each step and for all of it; `bulk` batches have no request that waits.
_STAGES: Final = """
SELECT
    match(topic, {bulk:String}) AS is_bulk,
    toStartOfInterval(toDateTime(scored_at, 'UTC'), INTERVAL {step:UInt32} SECOND) AS at,
    grouping(is_bulk) AS every_kind,
    grouping(at) AS every_step,
    sum(b.rows) AS all_rows,
    sum(b.batches) AS all_batches,
    sum(padded_rows) AS padded,
    quantilesExactWeighted(0.5, 0.95)(b.rows / greatest(b.batches, 1), toUInt64(greatest(b.batches, 1))) AS sizes,
    quantilesTDigestWeighted(0.5, 0.99)(queue_us / greatest(b.rows, 1), toUInt64(b.rows)) AS queue,
    quantilesTDigestWeighted(0.5, 0.99)(batch_us / greatest(b.rows, 1), toUInt64(b.rows)) AS batch,
    quantilesTDigestWeighted(0.5, 0.99)(infer_us / greatest(b.batches, 1), toUInt64(b.rows)) AS inference,
    quantilesTDigestWeighted(0.5, 0.99)(
        toFloat64(greatest(dateDiff('microsecond', scored_at, toDateTime64(log_time, 6, 'UTC')), 0)), toUInt64(b.rows)
    ) AS publish
FROM batch_summaries AS b
WHERE scored_at >= {start:DateTime64(6, 'UTC')} AND scored_at < {end:DateTime64(6, 'UTC')}
GROUP BY ROLLUP(is_bulk, at)
"""
_WORKERS: Final = """
SELECT
    worker, device, sum(b.batches) AS all_batches, sum(b.rows) AS all_rows, sum(infer_us) AS us, max(scored_at) AS last
FROM batch_summaries AS b
WHERE scored_at >= {start:DateTime64(6, 'UTC')} AND scored_at < {end:DateTime64(6, 'UTC')}
GROUP BY worker, device ORDER BY worker, device
"""
_NEWEST: Final = "SELECT count(), max(scored_at) FROM predictions"
# That of the default pool, and those that pools have unless they are given others.
_BULK_TOPIC: Final = r"scoring\.([a-z0-9_]+\.)?bulk$"


@dataclass(frozen=True, slots=True)
class Pair:
    """A half of the rows took at most `p50`, 99% of them at most `p99`, in milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the window. Counts are predictions; `bulk_rows` are rows of files, which are in no prediction log."""

    at: datetime
    rows: int
    errors: Mapping[str, int]
    by_version: Mapping[str, int]
    latency: Pair | None
    stages: Mapping[str, Pair]
    batches: int
    batch_p50: float | None
    batch_p95: float | None
    bulk_rows: int


@dataclass(frozen=True, slots=True)
class Served:
    """What a version did in the window, for one variant or for traffic without one."""

    model: str
    version: str
    experiment: str
    variant: str
    rows: int
    errors: int
    latency: Pair | None
    last: datetime


@dataclass(frozen=True, slots=True)
class Device:
    """What a worker did in the window, and on what. `microseconds` of inference a row."""

    worker: str
    device: str
    batches: int
    rows: int
    microseconds: float
    last: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """How serving went in a window. `predictions` are all there are, whenever."""

    window: Window
    predictions: int
    newest: datetime | None
    steps: tuple[Step, ...]
    latency: Pair | None
    stages: Mapping[str, Pair]
    batch_p50: float | None
    batch_p95: float | None
    padded_share: float | None
    served: tuple[Served, ...]
    devices: tuple[Device, ...]

    @property
    def rows(self) -> int:
        """Predictions in the window."""
        return sum(one.rows for one in self.steps)

    @property
    def errors(self) -> int:
        """Those of them that were answered with an error."""
        return sum(sum(one.errors.values()) for one in self.steps)

    @property
    def rate(self) -> float:
        """Predictions a second in the last whole step with any, else in the one that goes on."""
        whole = [one for one in self.steps[:-1] if one.rows]
        last = whole[-1] if whole else self.steps[-1]
        return last.rows / self.window.seconds


def overview(warehouse: Warehouse, chosen: Span, now: datetime) -> Overview:
    """What is known of the span before `now`. Raises `WarehouseError`."""
    total, newest = warehouse.query(_NEWEST).rows[0]
    newest = newest if total else None
    shown = window(chosen, now, newest)
    about = {"start": moment(shown.start), "end": moment(shown.end), "step": shown.seconds, "bulk": _BULK_TOPIC}

    def ask(sql: str) -> Answer:
        return warehouse.query(sql, {key: value for key, value in about.items() if f"{{{key}:" in sql})

    counts = ask(_COUNTS).dicts()
    latencies: dict[Any, Pair | None] = {}
    versions: dict[int, Pair | None] = {}
    overall = None
    for at, key, every_step, every_key, us in ask(_LATENCIES).rows:
        if every_step and every_key:
            overall = _pair(us)
        elif every_key:
            latencies[at] = _pair(us)
        elif every_step:
            versions[key] = _pair(us)
    stages = [one for one in ask(_STAGES).dicts() if not one["every_kind"]]
    by_step = [one for one in stages if not one["every_step"]]
    whole = next((one for one in stages if one["every_step"] and not one["is_bulk"]), None)
    return Overview(
        shown,
        int(total),
        newest,
        tuple(_steps(shown, counts, latencies, by_step)),
        overall if counts else None,
        _stages(whole) if whole else {},
        float(whole["sizes"][0]) if whole else None,
        float(whole["sizes"][1]) if whole else None,
        _share(whole["padded"], whole["all_rows"]) if whole else None,
        tuple(_served(counts, versions)),
        tuple(
            Device(worker, device, batches, rows, us / max(rows, 1), last)
            for worker, device, batches, rows, us, last in ask(_WORKERS).rows
        ),
    )


def name_of(model: str, version: str) -> str:
    """A version in a word or two."""
    return f"{model} {version}".strip() or "(no model)"


def _steps(
    shown: Window,
    counts: list[dict[str, Any]],
    latencies: Mapping[datetime, Pair | None],
    by_step: list[dict[str, Any]],
) -> Iterable[Step]:
    errors: dict[datetime, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    versions: dict[datetime, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in counts:
        versions[row["at"]][name_of(row["model"], row["version"])] += row["rows"]
        if row["code"] != OK:
            errors[row["at"]][row["code"]] += row["rows"]
    online = {_aware(row["at"]): row for row in by_step if not row["is_bulk"]}
    bulk = {_aware(row["at"]): row["all_rows"] for row in by_step if row["is_bulk"]}
    for at in shown.steps():
        found = online.get(at)
        yield Step(
            at,
            sum(versions[at].values()),
            dict(errors[at]),
            dict(versions[at]),
            latencies.get(at),
            _stages(found) if found else {},
            found["all_batches"] if found else 0,
            float(found["sizes"][0]) if found else None,
            float(found["sizes"][1]) if found else None,
            bulk.get(at, 0),
        )


def _served(counts: list[dict[str, Any]], latencies: Mapping[int, Pair | None]) -> Iterable[Served]:
    rows: dict[tuple[str, ...], int] = defaultdict(int)
    errors: dict[tuple[str, ...], int] = defaultdict(int)
    last: dict[tuple[str, ...], datetime] = {}
    found: dict[tuple[str, ...], Pair | None] = {}
    for row in counts:
        key: tuple[str, ...] = (row["model"], row["version"], row["experiment"], row["variant"])
        rows[key] += row["rows"]
        errors[key] += row["rows"] if row["code"] != OK else 0
        last[key] = row["at"]
        found[key] = latencies.get(row["key"])
    for key in sorted(rows):
        model, version, experiment, variant = key
        yield Served(model, version, experiment, variant, rows[key], errors[key], found[key], last[key])


def _stages(row: Mapping[str, Any]) -> dict[str, Pair]:
    return {name: Pair(row[name][0] / 1000, row[name][1] / 1000) for name in STAGES}


def _pair(microseconds: Any) -> Pair | None:
    first, last = float(microseconds[0]), float(microseconds[-1])
    return Pair(first / 1000, last / 1000) if math.isfinite(first) and math.isfinite(last) else None


def _share(part: float, whole: float) -> float | None:
    return part / (part + whole) if part + whole else None


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
