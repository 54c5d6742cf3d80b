"""Brings what is kept of a run up to date: a look folds in what has come since the last one and nothing else.

1. Slots with predictions that have not been folded are found (counted by a projection, so that asking costs next to
   nothing), and late outcomes; slots that hold units about which either tells something else are noted as changed,
   before anything is written that would make them look the same.
2. New and changed exposures are folded.
3. Slots that changed since they were computed are computed: unit counts at once, a metric's statistics when the slot is
   mature, that is when every window has closed and the maturity delay has passed. Metrics for which the same slots are
   due are computed in one pass (`analytics.experiment_events`).
4. What was computed is sealed: only then does it count.

A look that is broken off is finished by the next; two looks at a time do work twice and harm nothing. However
predictions and outcomes arrive, the statistics of a slot become those that a computation over all of it would give, but
for one case: see `experiment_sql.late_outcomes`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, Final

import pyarrow as pa

from analytics import experiment_events as events
from analytics import experiment_sql as sql
from analytics.assignments import Assignment, assignment_at
from analytics.definitions import DefinitionError, Metric, Plan
from analytics.warehouse import Warehouse

# Ingest may be this far behind the newest outcome it has written; Kafka keeps outcomes no longer.
INGEST_LAG: Final = timedelta(days=8)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FOREVER: Final = datetime(2100, 1, 1, tzinfo=UTC)
# Slots are taken together up to about so many predictions to be folded, and to so many numbers gathered of them (times
# and values, where there is at most an outcome a prediction): 1.2 GB of memory.
FOLDED_AT_ONCE: Final = 5_000_000
GATHERED_AT_ONCE: Final = 40_000_000
# A slot's sums of squares are smaller where no value is absurd: larger ones are an earlier release's, and do not hold.
IMPOSSIBLE: Final = 1e100
# Below this part of all slots, to pick their users first costs less than it saves.
NARROW: Final = 1 / 8


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
            values["metric_key"] = definition.metric_key(metric)
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


@dataclass(frozen=True, slots=True)
class _Fold:
    """What is known of a slot: predictions folded; when (microseconds) these, or its units' outcomes, changed last."""

    rows: int
    changed: int
    reported: int

    def later(self, other: _Fold) -> _Fold:
        """Both notes as one, as experiment_folds merges them."""
        return _Fold(max(self.rows, other.rows), max(self.changed, other.changed), max(self.reported, other.reported))


_UNKNOWN: Final = _Fold(0, 0, 0)


class _Look:
    def __init__(self, warehouse: Warehouse, run: Run, at: datetime, clock: Callable[[], int]) -> None:
        self._warehouse = warehouse
        self._run = run
        self._at = at
        self._clock = clock
        self._grain = run.grain
        self._metrics = run.plan.definition.metrics
        self._folded: dict[int, _Fold] = {}
        self._done: dict[str, dict[int, int]] = {}

    def advance(self) -> Advance:
        rows = self._slots(sql.prediction_slots(self._grain))
        self._folded = self._folds()
        self._done = self._sealed()
        known = dict(self._folded)
        last = self._at.timestamp() - self._grain
        grown = {slot for slot, count in rows.items() if slot <= last and count > known.get(slot, _UNKNOWN).rows}
        late = self._late(bool(known))
        if grown:
            self._fold(sorted(grown), known, rows)
        computed = self._compute(rows)
        return Advance(len(grown), computed, len(late))

    def _fold(self, grown: list[int], known: Mapping[int, _Fold], rows: Mapping[int, int]) -> None:
        self._note(self._reaching(grown), changed=self._clock())
        if not known:
            self._command(sql.fold_all(grown, self._grain))
            self._note(grown, changed=self._clock(), rows=rows)
            return
        for some in _chunks(grown, rows, FOLDED_AT_ONCE):
            news = self._warehouse.arrow(sql.news(some, self._grain), self._run.parameters())
            disturbed = set(news["disturbed"].to_pylist()) - {0}
            self._note(disturbed, changed=self._clock())
            if news.num_rows:
                self._warehouse.insert("experiment_exposures", news.drop_columns("disturbed"))
            # Noted again, as another look may have computed these slots in between.
            self._note(disturbed | set(some), changed=self._clock(), rows={slot: rows[slot] for slot in some})

    def _reaching(self, grown: list[int]) -> set[int]:
        """Slots that were computed before these grew, of metrics whose events are predictions that may lie in these."""
        found: set[int] = set()
        for one in self._metrics:
            if not self._of_predictions(one):
                continue
            after = one.window.total_seconds() + self._grain
            before = one.covariate_window.total_seconds() + self._grain if one.covariate_window else 0.0
            for slot in self._done.get(self._run.plan.definition.metric_key(one), {}):
                at = bisect_left(grown, slot - before)
                if at < len(grown) and grown[at] <= slot + after:
                    found.add(slot)
        return found

    def _compute(self, rows: Mapping[int, int]) -> dict[str, int]:
        began = self._clock()
        changed = {slot: one.changed for slot, one in self._folded.items()}
        reported = {slot: max(one.changed, one.reported) for slot, one in self._folded.items()}
        stale = self._stale(changed, self._done.get("", {}))
        if stale:
            assignment = self._assignment()
            lows, highs = zip(*assignment.ranges, strict=True) if assignment.ranges else ((), ())
            values = {"salt": assignment.salt, "lows": list(lows), "highs": list(highs), "computed": began}
            self._command(sql.count_units(stale, self._grain, narrow=len(stale) < NARROW * len(changed)), values)
            self._seal(stale, [""], began)
        key_of = self._run.plan.definition.metric_key
        ready: dict[Metric, list[int]] = {}
        for one in self._metrics:
            until = self._run.mature_until(one, self._at)
            since = reported if self._of_outcomes(one) else changed
            mature = {slot: when for slot, when in since.items() if slot <= until}
            ready[one] = self._stale(mature, self._done.get(key_of(one), {}))
        for metrics, slots in _together(ready).items():
            for some in _chunks(slots, rows, GATHERED_AT_ONCE // events.width(metrics)):
                self._compute_slots(metrics, some, narrow=len(some) < NARROW * len(changed))
        return {one.name: len(slots) for one, slots in ready.items()}

    def _compute_slots(self, metrics: tuple[Metric, ...], slots: list[int], *, narrow: bool) -> None:
        began = self._clock()
        keys = [self._run.plan.definition.metric_key(one) for one in metrics]
        values = {"names": [one.name for one in metrics], "keys": keys, "computed": began}
        values |= {f"outcome{at}": one.outcome for at, one in enumerate(events.feeds(metrics))}
        repeats = narrow or bool(self._query(events.repeated(metrics, slots), values)[0][0])
        self._command(events.compute(metrics, slots, self._grain, narrow=narrow, repeats=repeats), values)
        self._seal(slots, keys, began)

    @staticmethod
    def _stale(changed: Mapping[int, int], done: Mapping[int, int]) -> list[int]:
        return sorted(slot for slot, when in changed.items() if done.get(slot, -1) < when)

    def _sealed(self) -> dict[str, dict[int, int]]:
        """By metric key ('' is the counts of units) and slot: the computation that holds."""
        text = (
            "SELECT metric_key, toUnixTimestamp(slot), max(computed) FROM experiment_sealed "  # noqa: S608
            f"WHERE {sql.RUN} GROUP BY metric_key, slot"
        )
        found: dict[str, dict[int, int]] = {}
        for key, slot, computed in self._query(text):
            found.setdefault(key, {})[slot] = computed
        impossible = (
            "SELECT DISTINCT metric_key, toUnixTimestamp(slot), computed FROM experiment_stats "  # noqa: S608
            f"WHERE {sql.RUN} AND NOT yy + xx + cc + dd < {IMPOSSIBLE!r}"
        )
        for key, slot, computed in self._query(impossible):
            if found.get(key, {}).get(slot) == computed:
                del found[key][slot]
        return found

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
            "WHERE name IN {names:Array(String)} AND toDate(log_time) >= toDate({since:DateTime64(3)}) "
            "GROUP BY log, log_partition",
            values,
        )
        known = {place: offset for place, (offset, _) in marks.items()}
        ends = tuple(one for one in ends if one[2] > known.get((one[0], one[1]), -1))
        slots: set[int] = set()
        if looked_before and ends:
            places = [(partition, known.get((log, partition), -1)) for log, partition, _, _ in ends]
            values |= {f"log{at}": one[0] for at, one in enumerate(ends)}
            slots = set(self._slots(sql.late_outcomes(self._metrics, places), values))
            self._note(slots, reported=self._clock())
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

    def _note(
        self, slots: Iterable[int], *, changed: int = 0, reported: int = 0, rows: Mapping[int, int] | None = None
    ) -> None:
        """Note when units or predictions of slots changed, or their outcomes; `rows`: what is folded of them."""
        noted = {slot: _Fold((rows or {}).get(slot, 0), changed, reported) for slot in sorted(slots)}
        if not noted:
            return
        self._insert(
            "experiment_folds",
            {
                "slot": pa.array([slot * 1000 for slot in noted], pa.timestamp("ms", "UTC")),
                "rows": pa.array([one.rows for one in noted.values()], pa.uint64()),
                "changed": pa.array([one.changed for one in noted.values()], pa.uint64()),
                "reported": pa.array([one.reported for one in noted.values()], pa.uint64()),
            },
        )
        for slot, one in noted.items():
            self._folded[slot] = self._folded.get(slot, _UNKNOWN).later(one)

    def _seal(self, slots: list[int], metric_keys: list[str], computed: int) -> None:
        count = len(metric_keys) * len(slots)
        self._insert(
            "experiment_sealed",
            {
                "metric_key": pa.array([key for key in metric_keys for _ in slots], pa.string()),
                "slot": pa.array([slot * 1000 for slot in slots] * len(metric_keys), pa.timestamp("ms", "UTC")),
                "computed": pa.array([computed] * count, pa.uint64()),
            },
        )

    def _folds(self) -> dict[int, _Fold]:
        text = (
            "SELECT toUnixTimestamp(slot), max(rows), max(changed), max(reported) FROM experiment_folds "  # noqa: S608
            f"WHERE {sql.RUN} GROUP BY slot"
        )
        return {slot: _Fold(*numbers) for slot, *numbers in self._query(text)}

    def _assignment(self) -> Assignment:
        return assignment_at(self._warehouse, self._run.plan.definition, self._run.started_at)

    @staticmethod
    def _of_predictions(metric: Metric) -> bool:
        return any(source.prediction or source.by_request for source in sql.sources(metric))

    @staticmethod
    def _of_outcomes(metric: Metric) -> bool:
        return any(source.outcome for source in sql.sources(metric))

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


def _together(ready: Mapping[Metric, Iterable[int]]) -> dict[tuple[Metric, ...], list[int]]:
    """Metrics that have slots in common, with these slots: they are computed in one pass. Each pair is there once."""
    by_slot: dict[int, list[Metric]] = {}
    for metric, slots in ready.items():
        for slot in slots:
            by_slot.setdefault(slot, []).append(metric)
    together: dict[tuple[Metric, ...], list[int]] = {}
    for slot in sorted(by_slot):
        together.setdefault(tuple(by_slot[slot]), []).append(slot)
    return together


def _chunks(slots: Iterable[int], rows: Mapping[int, int], most: int) -> list[list[int]]:
    chunks: list[list[int]] = []
    size = 0
    for slot in slots:
        size += rows.get(slot, 0)
        if not chunks or size > most:
            chunks.append([])
            size = rows.get(slot, 0)
        chunks[-1].append(slot)
    return chunks
