"""A small world for tests of experiments: predictions and outcomes as rows, and what a look must make of them.

`expected` computes a metric's statistics in plain Python, unit by unit, from all rows at once: the reference that
incremental looks are held to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from analytics.definition_reader import read
from analytics.definitions import Definition, Metric, Source
from analytics.experiment_sql import sources
from analytics.warehouse import Warehouse

# Predictions older than their time to live are gone as they are inserted.
DAY0 = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=30)
HOUR = timedelta(hours=1)


def at(hours: float) -> datetime:
    """A moment, in hours since the world began."""
    return DAY0 + timedelta(hours=hours)


@dataclass(frozen=True, slots=True)
class Seen:
    """A prediction."""

    user: str
    hours: float
    variant: str
    request: str = ""
    score: float = 0.5
    experiment: str = "exp"
    version: str = "1"
    worker: str = "w0"
    partition: int = 0
    code: str = "OK"
    latency_ms: float = 5.0
    model: str = "m"


@dataclass(frozen=True, slots=True)
class Happened:
    """An outcome; `arrives` is when it is logged, in hours, and is its own time unless given."""

    user: str
    hours: float
    value: float = 1.0
    id: str = ""
    name: str = "bought"
    request: str = ""
    experiment: str = "exp"
    arrives: float | None = None
    model: str = "m"


class World:
    """Writes rows as ingest would, with offsets that grow."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.predictions: list[Seen] = []
        self.outcomes: list[Happened] = []
        self._offset = 0

    def see(self, *rows: Seen) -> None:
        some = [replace(one, request=one.request or f"r{len(self.predictions) + n}") for n, one in enumerate(rows)]
        self.predictions += some
        moments = [at(one.hours) for one in some]
        self.warehouse.insert(
            "predictions",
            pa.table(
                {
                    "request_id": [one.request for one in some],
                    "user_id": [one.user for one in some],
                    "model": [one.model for one in some],
                    "version": [one.version for one in some],
                    "experiment": [one.experiment for one in some],
                    "variant": [one.variant for one in some],
                    "partition": pa.array([one.partition for one in some], pa.int32()),
                    "sent_at": _times(
                        [
                            moment - timedelta(milliseconds=one.latency_ms)
                            for moment, one in zip(moments, some, strict=True)
                        ]
                    ),
                    "scored_at": _times(moments),
                    "code": [one.code for one in some],
                    "score": [one.score for one in some],
                    "worker": [one.worker for one in some],
                    **self._places(moments),
                }
            ),
        )

    def happen(self, *rows: Happened) -> None:
        some = [replace(one, id=one.id or f"o{len(self.outcomes) + n}") for n, one in enumerate(rows)]
        self.outcomes += some
        self.warehouse.insert(
            "outcomes",
            pa.table(
                {
                    "outcome_id": [one.id for one in some],
                    "request_id": [one.request for one in some],
                    "user_id": [one.user for one in some],
                    "experiment": [one.experiment for one in some],
                    "model": [one.model for one in some],
                    "name": [one.name for one in some],
                    "value": pa.array([one.value for one in some], pa.float64()),
                    "occurred_at": _times([at(one.hours) for one in some]),
                    "sent_at": _times([at(one.hours) for one in some]),
                    **self._places([at(one.hours if one.arrives is None else one.arrives) for one in some]),
                }
            ),
        )

    def _places(self, moments: Sequence[datetime]) -> dict[str, pa.Array]:
        offsets = range(self._offset, self._offset + len(moments))
        self._offset += len(moments)
        return {
            "log": pa.array(["t@i"] * len(moments)),
            "log_partition": pa.array([0] * len(moments), pa.int32()),
            "log_offset": pa.array(offsets, pa.int64()),
            "log_time": pa.array(moments, pa.timestamp("ms", "UTC")),
        }


def _times(moments: Iterable[datetime]) -> pa.Array:
    return pa.array(list(moments), pa.timestamp("us", "UTC"))


def definition(*metrics: dict[str, Any], **more: Any) -> Definition:
    """An experiment `exp` of arms a (control) and b on model m, slots of an hour, mature an hour after the window."""
    body = {
        "name": "exp",
        "hypothesis": "b is better",
        "model": "m",
        "control": "a",
        "variants": [{"name": "a", "version": "1", "share": 0.5}, {"name": "b", "version": "2", "share": 0.5}],
        "metrics": list(metrics) or [{"name": "bought", "kind": "proportion", "outcome": "bought", "window": "2h"}],
        **more,
    }
    return read(body, "test")


def expected(
    world: World,
    definition: Definition,
    metric: Metric,
    started: datetime,
    looked: datetime,
    stopped: datetime | None = None,
) -> dict[str, dict[str, float]]:
    """n, events and the sums of y, x, c, d and their products, by arm; without winsorising by percentile."""
    grain = definition.slot
    firsts: dict[str, tuple[datetime, str, str]] = {}
    arms: dict[str, set[str]] = {}
    for one in world.predictions:
        moment = at(one.hours)
        if one.experiment != definition.name or not one.variant or not one.user or one.model != definition.model:
            continue
        slot = DAY0 + (moment - DAY0) // grain * grain
        if moment < started or (stopped is not None and moment >= stopped) or slot + grain > looked:
            continue
        firsts[one.user] = min(
            firsts.get(one.user, (moment, one.request, one.variant)), (moment, one.request, one.variant)
        )
        arms.setdefault(one.user, set()).add(one.variant)
    total: dict[str, dict[str, float]] = {}
    for user, (first, _, variant) in firsts.items():
        slot = DAY0 + (first - DAY0) // grain * grain
        if len(arms[user]) > 1 or slot + grain + metric.window + definition.maturity_delay > looked:
            continue
        numbers, events = _unit(world, definition, metric, user, first)
        if metric.only_with_events and not events:
            continue
        sums = total.setdefault(variant, dict.fromkeys(("n", "events"), 0.0))
        sums["n"] += 1
        sums["events"] += events
        for a, value in numbers.items():
            sums[a] = sums.get(a, 0.0) + value
            for b, other in numbers.items():
                sums[a + b] = sums.get(a + b, 0.0) + value * other
    return total


def _unit(
    world: World, definition: Definition, metric: Metric, user: str, first: datetime
) -> tuple[dict[str, float], int]:
    before = metric.covariate_window or timedelta()
    numbers: dict[str, float] = {}
    events = 0
    for name, pre, source in (("y", "c", metric.source), ("x", "d", metric.denominator)):
        if source is None:
            numbers |= {name: 0.0, pre: 0.0}
            continue
        # Both sides of a ratio of one outcome are of the same events.
        by_request = any(one.by_request and one.outcome == source.outcome for one in sources(metric))
        moments = _events(world, definition, source, user, by_request)
        post = [value for moment, value, mine in moments if first <= moment <= first + metric.window and mine]
        past = [value for moment, value, _ in moments if first - before <= moment < first] if before else []
        if name == "y":
            events = len(post)
        numbers |= {name: _aggregated(source, post), pre: _aggregated(source, past)}
    if metric.cap_value is not None:
        numbers["y"] = min(numbers["y"], metric.cap_value)
    return numbers, events


def _events(
    world: World, definition: Definition, source: Source, user: str, by_request: bool
) -> list[tuple[datetime, float, bool]]:
    found = []
    mine = [one for one in world.predictions if one.user == user and one.model == definition.model]
    if source.prediction:
        for one in mine:
            value = {"score": one.score, "latency_ms": one.latency_ms, "error": float(one.code != "OK"), "rows": 1.0}
            found.append(
                (at(one.hours), value[source.prediction], one.experiment == definition.name and one.variant != "")
            )
        return [one for one in found if math.isfinite(one[1])]
    latest: dict[tuple[str, str, str], Happened] = {}
    for one in world.outcomes:
        latest[(one.experiment, one.user, one.id)] = one
    for one in latest.values():
        if one.name != source.outcome or one.model not in (definition.model, ""):
            continue
        if by_request:
            logged = one.hours if one.arrives is None else one.arrives
            for seen in mine:
                if (
                    (seen.request, seen.user) == (one.request, one.user)
                    and seen.code == "OK"
                    and math.isfinite(seen.score)
                    and logged >= seen.hours - 1
                ):
                    call = float((seen.score > source.threshold) == (one.value > 0.5)) if source.by_request else 1.0
                    found.append((at(seen.hours), call, seen.experiment == definition.name and seen.variant != ""))
        elif one.user == user:
            value = one.value if source.value == "value" else 1.0
            found.append((at(one.hours), value, one.experiment in (definition.name, "")))
    return found


def _aggregated(source: Source, values: list[float]) -> float:
    if source.aggregate == "count":
        return float(len(values))
    if not values:
        return 0.0
    if source.aggregate == "any":
        return float(any(value > 0 for value in values))
    if source.aggregate == "max":
        return max(values)
    return sum(values) / (len(values) if source.aggregate == "mean" else 1)
