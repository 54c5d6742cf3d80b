"""Brings what is kept of a run up to date: a look folds in what has come since the last one and nothing else.

1. Slots with predictions that have not been folded (counted by a projection, so that asking costs next to nothing);
   slots that hold units about which those predictions tell something else, and slots with late outcomes, are noted as
   changed, before anything is written that would make them look the same.
2. New and changed exposures are folded.
3. Slots that changed since they were computed are computed: unit counts at once, a metric's statistics when the slot is
   mature, that is when every window has closed and the maturity delay has passed.
4. What was computed is sealed: only then does it count.

A look that is broken off is finished by the next; two looks at a time do work twice and harm nothing. However
predictions
and outcomes arrive, the statistics of a slot become those that a computation over all of it would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, Final

import pyarrow as pa

from analytics import experiment_sql as sql
from analytics.assignments import Assignment, assignment_at
from analytics.definitions import DefinitionError, Metric, Plan
from analytics.warehouse import Warehouse

# Ingest may be this far behind the newest outcome it has written; Kafka keeps outcomes no longer.
INGEST_LAG: Final = timedelta(days=8)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FOREVER: Final = datetime(2100, 1, 1, tzinfo=UTC)
# A metric that looks at the score of each request is computed for about so many predictions at a time.
PREDICTIONS_AT_ONCE: Final = 3_000_000


@dataclass(frozen=True, slots=True)
class Advance:
    """What a look had to do: slots folded, slots computed by metric, and slots that late outcomes changed."""

    folded: int
    computed: Mapping[str, int]
    late: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a plan and its parameters in SQL."""

    plan: Plan
    started_at: datetime

    @classmethod
    def of(cls, plan: Plan) -> Run:
        """The plan's run. Raises `DefinitionError` where it has not been started."""
        if plan.started_at is None:
            raise DefinitionError(f"experiment {plan.definition.name!r} has not been started")
        return cls(plan, plan.started_at)

    @property
    def grain(self) -> int:
        """Seconds of a slot."""
        return round(self.plan.definition.slot.total_seconds())

    def parameters(self, metric: Metric | None = None) -> dict[str, Any]:
        """What the statements' places are filled with."""
        definition = self.plan.definition
        values: dict[str, Any] = {
            "experiment": definition.name,
            "model": definition.model,
            "started_at": self.started_at,
            "ended_at": self.plan.stopped_at or FOREVER,
            "grain": self.grain,
        }
        if metric is not None:
            values |= {"metric": metric.name, "metric_key": definition.metric_key(metric)}
            values["y_outcome"] = metric.source.outcome
            values["x_outcome"] = metric.denominator.outcome if metric.denominator else ""
        return values

    def mature_until(self, metric: Metric, at: datetime) -> float:
        """Seconds since the epoch: slots that begin before are mature at `at`."""
        definition = self.plan.definition
        return (at - metric.window - definition.maturity_delay - definition.slot).timestamp() + 1e-6


def microseconds() -> int:
    """The time."""
    return time_ns() // 1000


def advance(warehouse: Warehouse, plan: Plan, at: datetime, *, clock: Callable[[], int] = microseconds) -> Advance:
    """Bring the run's state to the time `at` (aware). `clock`: microseconds since the epoch, one for all processes.

    Raises `DefinitionError` where the plan has not been started, and `WarehouseError`.
    """
    run = Run.of(plan)
    return _Look(warehouse, run, at, clock).advance()


class _Look:
    def __init__(self, warehouse: Warehouse, run: Run, at: datetime, clock: Callable[[], int]) -> None:
        self._warehouse = warehouse
        self._run = run
        self._at = at
        self._clock = clock
        self._grain = run.grain
        self._metrics = run.plan.definition.metrics

    def advance(self) -> Advance:
        rows = self._slots(sql.prediction_slots(self._grain))
        known = self._folds()
        last = self._at.timestamp() - self._grain
        grown = {slot for slot, count in rows.items() if slot <= last and count > known.get(slot, (0, 0))[0]}
        late = self._late(bool(known))
        self._fold(grown, {slot for slot in grown if slot in known}, not known, late, rows)
        computed = self._compute(rows)
        return Advance(len(grown), computed, len(late))

    def _fold(
        self, grown: set[int], again: set[int], nothing_known: bool, late: set[int], rows: Mapping[int, int]
    ) -> None:
        if not grown and not late:
            return
        disturbed: set[int] = set()
        if grown and not nothing_known:
            disturbed = set(self._slots(sql.disturbed(sorted(grown), self._grain)))
        # Predictions are events too, of every unit whose window reaches into a slot that grew afterwards.
        reach = max((one.window for one in self._metrics if self._of_predictions(one)), default=timedelta())
        touched = {
            slot for slot in self._folds() for one in again if one - reach.total_seconds() - self._grain <= slot <= one
        }
        self._note(disturbed | late | touched, {}, self._clock())
        if grown:
            self._command(sql.fold(sorted(grown), self._grain, nothing_known=nothing_known))
            self._note(grown, rows, self._clock())

    def _compute(self, rows: Mapping[int, int]) -> dict[str, int]:
        began = self._clock()
        changed = {slot: when for slot, (_, when) in self._folds().items()}
        stale = self._stale(changed, "")
        if stale:
            assignment = self._assignment()
            lows, highs = zip(*assignment.ranges, strict=True) if assignment.ranges else ((), ())
            values = {"salt": assignment.salt, "lows": list(lows), "highs": list(highs), "computed": began}
            self._command(sql.count_units(stale, self._grain, narrow=2 * len(stale) < len(changed)), values)
            self._seal(stale, "", began)
        computed: dict[str, int] = {}
        for metric in self._metrics:
            key = self._run.plan.definition.metric_key(metric)
            until = self._run.mature_until(metric, self._at)
            mature = {slot: when for slot, when in changed.items() if slot <= until}
            ready = self._stale(mature, key)
            for some in self._chunks(metric, ready, rows):
                began = self._clock()
                values = {**self._run.parameters(metric), "computed": began}
                narrow = 2 * len(some) < len(changed)
                self._command(sql.compute(metric, some, self._grain, narrow=narrow), values)
                self._command(sql.compute_silent(metric, some, self._grain), values)
                self._seal(some, key, began)
            computed[metric.name] = len(ready)
        return computed

    def _chunks(self, metric: Metric, slots: list[int], rows: Mapping[int, int]) -> Iterable[list[int]]:
        if not any(source.by_request for source in sql.sources(metric)):
            return [slots] if slots else []
        chunks: list[list[int]] = []
        size = PREDICTIONS_AT_ONCE
        for slot in slots:
            if size >= PREDICTIONS_AT_ONCE:
                chunks.append([])
                size = 0
            chunks[-1].append(slot)
            size += rows.get(slot, 0)
        return chunks

    def _stale(self, changed: Mapping[int, int], metric_key: str) -> list[int]:
        text = (
            "SELECT toUnixTimestamp(slot), max(computed) FROM experiment_sealed "  # noqa: S608
            f"WHERE {sql.RUN} AND metric_key = {{metric_key:String}} GROUP BY slot"
        )
        done = dict(self._query(text, {"metric_key": metric_key}))
        return sorted(slot for slot, when in changed.items() if done.get(slot, -1) < when)

    def _late(self, looked_before: bool) -> set[int]:
        """Slots that outcomes have come for since the last look; the marks are moved behind them."""
        names = sorted({source.outcome for one in self._metrics for source in sql.sources(one) if source.outcome})
        if not names:
            return set()
        marks = {
            (log, partition): (offset, moment)
            for log, partition, offset, moment in self._query(
                "SELECT log, log_partition, max(log_offset), max(log_time) FROM experiment_marks "  # noqa: S608
                f"WHERE {sql.RUN} GROUP BY log, log_partition"
            )
        }
        newest = max((moment for _, moment in marks.values()), default=EPOCH)
        values: dict[str, Any] = {"names": names, "since": max(newest - INGEST_LAG, EPOCH)}
        ends = self._query(
            "SELECT log, log_partition, max(log_offset), max(log_time) FROM outcomes "
            "WHERE name IN {names:Array(String)} AND log_time >= {since:DateTime64(3)} GROUP BY log, log_partition",
            values,
        )
        known = {place: offset for place, (offset, _) in marks.items()}
        ends = tuple(one for one in ends if one[2] > known.get((one[0], one[1]), -1))
        slots: set[int] = set()
        if looked_before and ends:
            places = [(partition, known.get((log, partition), -1)) for log, partition, _, _ in ends]
            values |= {f"log{at}": one[0] for at, one in enumerate(ends)}
            slots = set(self._slots(sql.late_outcomes(self._metrics, places), values))
            self._note(slots, {}, self._clock())
        if ends:
            columns = list(zip(*ends, strict=True))
            self._insert(
                "experiment_marks",
                {
                    "log": pa.array(columns[0], pa.string()),
                    "log_partition": pa.array(columns[1], pa.int32()),
                    "log_offset": pa.array(columns[2], pa.int64()),
                    "log_time": pa.array(columns[3], pa.timestamp("ms", "UTC")),
                },
            )
        return slots

    def _note(self, slots: Iterable[int], rows: Mapping[int, int], changed: int) -> None:
        """Note slots as changed; `rows`: what is folded of them."""
        some = sorted(slots)
        if some:
            self._insert(
                "experiment_folds",
                {
                    "slot": pa.array([slot * 1000 for slot in some], pa.timestamp("ms", "UTC")),
                    "rows": pa.array([rows.get(slot, 0) for slot in some], pa.uint64()),
                    "changed": pa.array([changed] * len(some), pa.uint64()),
                },
            )

    def _seal(self, slots: list[int], metric_key: str, computed: int) -> None:
        self._insert(
            "experiment_sealed",
            {
                "metric_key": pa.array([metric_key] * len(slots), pa.string()),
                "slot": pa.array([slot * 1000 for slot in slots], pa.timestamp("ms", "UTC")),
                "computed": pa.array([computed] * len(slots), pa.uint64()),
            },
        )

    def _folds(self) -> dict[int, tuple[int, int]]:
        """By slot: predictions folded, and when it changed last."""
        text = (
            "SELECT toUnixTimestamp(slot), max(rows), max(changed) FROM experiment_folds "  # noqa: S608
            f"WHERE {sql.RUN} GROUP BY slot"
        )
        return {slot: (rows, changed) for slot, rows, changed in self._query(text)}

    def _assignment(self) -> Assignment:
        return assignment_at(self._warehouse, self._run.plan.definition, self._run.started_at)

    @staticmethod
    def _of_predictions(metric: Metric) -> bool:
        return any(source.prediction or source.by_request for source in sql.sources(metric))

    def _insert(self, table: str, columns: Mapping[str, pa.Array]) -> None:
        count = len(next(iter(columns.values())))
        run = {
            "experiment": pa.array([self._run.plan.definition.name] * count, pa.string()),
            "started_at": pa.array([self._run.started_at] * count, pa.timestamp("us", "UTC")),
            "grain": pa.array([self._grain] * count, pa.uint32()),
        }
        self._warehouse.insert(table, pa.table({**run, **columns}))

    def _slots(self, text: str, values: Mapping[str, Any] | None = None) -> dict[int, int]:
        return {int(row[0]): int(row[-1]) for row in self._query(text, values)}

    def _query(self, text: str, values: Mapping[str, Any] | None = None) -> tuple[tuple[Any, ...], ...]:
        return self._warehouse.query(text, {**self._run.parameters(), **(values or {})}).rows

    def _command(self, text: str, values: Mapping[str, Any] | None = None) -> None:
        self._warehouse.query(text, {**self._run.parameters(), **(values or {})})
