"""Asks ClickHouse about a run: sufficient statistics, unit counts for the sample-ratio check, exposures by day, looks.

Everything is a sum over slots that `analytics.experiment_state.advance` has computed, so that a question costs what it
answers and not what was measured. `at` is the time of the look: slots that were not mature then are left out, so an
earlier look can be asked again (late outcomes that have come since are in it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Final

from analytics import experiment_sql as sql
from analytics.assignments import Assignment, assignment_at
from analytics.definitions import Metric, Plan
from analytics.experiment_state import Run
from analytics.warehouse import Warehouse

# More units in two variants than this share of all is an alarm: the split is broken.
CROSSED_ALARM: Final = 0.01
_SUMS: Final = ("y", "x", "c", "d", "yy", "xx", "cc", "dd", "yx", "yc", "yd", "xc", "xd", "cd")


@dataclass(frozen=True, slots=True)
class UnitSums:
    """Sufficient statistics of one arm on one metric; two of them add up with `+`.

    Over `n` units: y is the unit's number (of a ratio its numerator), x a ratio's denominator, c and d the same two
    before the exposure (CUPED's covariate); yy is the sum of squares of y, yx of the products, and so on. `events` is
    how many events the units had. Of anything but a ratio x is 0: its denominator is the unit.
    """

    metric: str
    variant: str
    n: int = 0
    events: int = 0
    y: float = 0.0
    x: float = 0.0
    c: float = 0.0
    d: float = 0.0
    yy: float = 0.0
    xx: float = 0.0
    cc: float = 0.0
    dd: float = 0.0
    yx: float = 0.0
    yc: float = 0.0
    yd: float = 0.0
    xc: float = 0.0
    xd: float = 0.0
    cd: float = 0.0

    def __add__(self, other: UnitSums) -> UnitSums:
        """The two groups of units as one. Raises `ValueError` where they are of different metrics or arms."""
        if (self.metric, self.variant) != (other.metric, other.variant):
            raise ValueError(f"{self.metric}/{self.variant} and {other.metric}/{other.variant} do not add up")
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("n", "events", *_SUMS)}
        return replace(self, **sums)

    def capped(self, cap: float) -> UnitSums:
        """The same units, each with `cap` for its y."""
        return replace(
            self,
            y=cap * self.n,
            yy=cap * cap * self.n,
            yx=cap * self.x,
            yc=cap * self.c,
            yd=cap * self.d,
        )


@dataclass(frozen=True, slots=True)
class BinnedUnits:
    """How the units of one arm are spread over a metric's values: `values` ascend, each stands for `counts` units.

    A value is within 1% of every unit's that it stands for.
    """

    metric: str
    variant: str
    values: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def n(self) -> int:
        """Units."""
        return sum(self.counts)

    def at_rank(self, rank: int) -> float:
        """The value of the unit at a rank (1 is the smallest). Raises `ValueError` outside 1 to n."""
        if not 1 <= rank <= self.n:
            raise ValueError(f"rank {rank} of {self.n} units")
        seen = 0
        for value, count in zip(self.values, self.counts, strict=True):
            seen += count
            if seen >= rank:
                return value
        raise AssertionError("counts changed")  # frozen


@dataclass(frozen=True, slots=True)
class DaySums:
    """`sums` of the units whose first exposure was on `day` (UTC)."""

    day: date
    sums: UnitSums


@dataclass(frozen=True, slots=True)
class DayUnits:
    """Units first exposed on `day` (UTC) to a variant; '' are those that met two."""

    day: date
    variant: str
    units: int


@dataclass(frozen=True, slots=True)
class SliceCounts:
    """Units by variant in one slice of the run, such as partition 3, for the sample-ratio check.

    `kind`: all, day, partition, worker, version or joined. `expected` is the buckets of each variant from the start of
    the run; only where every unit had a variant from the start (`joined` 'start') can counts be held against it.
    """

    kind: str
    value: str
    units: dict[str, int]
    expected: dict[str, int]


@dataclass(frozen=True, slots=True)
class Crossed:
    """Units of the run, and those of them that met two variants, which no statistic counts."""

    units: int
    crossed: int

    @property
    def share(self) -> float:
        """Part of the units that met two variants; 0 where there are none."""
        return self.crossed / self.units if self.units else 0.0

    @property
    def alarm(self) -> bool:
        """Whether that is too many to trust the split."""
        return self.share > CROSSED_ALARM


class ExperimentStore:
    """Questions about runs. Each raises `DefinitionError` for a plan that was not started, and `WarehouseError`."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def sums(self, plan: Plan, at: datetime) -> list[UnitSums]:
        """Statistics of each metric and arm at a look; an arm without units has zeros. Winsorised as defined."""
        return [total for one in plan.definition.metrics for total in self._metric(plan, one, at)]

    def sums_by_day(self, plan: Plan, at: datetime) -> list[DaySums]:
        """The same by day of first exposure, for post-stratification: they add up to `sums`, but for a percentile cap,
        which is that of all days."""
        found: list[DaySums] = []
        for metric in plan.definition.metrics:
            by_day: dict[tuple[date, str], UnitSums] = {}
            for day, part in self._capped(plan, metric, at, "toDate(slot)"):
                key = (day, part.variant)
                by_day[key] = by_day[key] + part if key in by_day else part
            found += [DaySums(day, one) for (day, _), one in sorted(by_day.items(), key=lambda pair: pair[0])]
        return found

    def timeseries(self, plan: Plan, at: datetime) -> list[DaySums]:
        """What `sums` was at the end of each day: the units first exposed up to and with that day."""
        total: dict[tuple[str, str], UnitSums] = {}
        found = []
        for one in self.sums_by_day(plan, at):
            key = (one.sums.metric, one.sums.variant)
            total[key] = total[key] + one.sums if key in total else one.sums
            found.append(DaySums(one.day, total[key]))
        return found

    def bins(self, plan: Plan, metric: Metric, at: datetime) -> list[BinnedUnits]:
        """The spread of a metric's values by arm: for quantiles and caps. Empty arms have no values."""
        by_arm: dict[str, list[tuple[float, int]]] = {arm.name: [] for arm in plan.definition.variants}
        for _, number, one in self._rows(plan, metric, at, "0", "bin"):
            if one.n and one.variant in by_arm:
                by_arm[one.variant].append((sql.bin_value(number), one.n))
        found = []
        for arm, pairs in by_arm.items():
            pairs.sort()
            found.append(
                BinnedUnits(metric.name, arm, tuple(value for value, _ in pairs), tuple(count for _, count in pairs))
            )
        return found

    def exposures_by_day(self, plan: Plan, at: datetime) -> list[DayUnits]:
        """Units by day of first exposure (UTC) and variant."""
        return [
            DayUnits(day, variant, int(units))
            for day, variant, units in self._counts(plan, at, "toDate(slot)", "slice = 'all'")
        ]

    def crossed(self, plan: Plan, at: datetime) -> Crossed:
        """Units, and those that met two variants."""
        by_variant = {variant: int(units) for _, variant, units in self._counts(plan, at, "0", "slice = 'all'")}
        return Crossed(sum(by_variant.values()), by_variant.get("", 0))

    def unit_counts(self, plan: Plan, at: datetime) -> list[SliceCounts]:
        """Units by variant for the sample-ratio check: all, and by day, partition, worker and version.

        Units that met two variants are left out, and those that a ramp brought in: a bucket that had its variant later
        than others had less time to show its users. `version` holds one variant a slice where each has its own.
        """
        expected = self._assignment(plan).buckets
        slices: dict[tuple[str, str], dict[str, int]] = {}
        for (kind, value), variant, units in self._counts(plan, at, "(slice, value)", "slice != 'all'"):
            if variant:
                slices.setdefault((kind, value), {})[variant] = int(units)
        for day, variant, units in self._counts(plan, at, "toDate(slot)", "slice = 'joined' AND value = 'start'"):
            if variant:
                slices.setdefault(("day", day.isoformat()), {})[variant] = int(units)
        whole = slices.get(("joined", "start"), {})
        named = {name: buckets for name, buckets in expected.items() if buckets}
        return [
            SliceCounts(kind, value, {arm: units.get(arm, 0) for arm in {**named, **units}}, named)
            for (kind, value), units in [(("all", ""), whole), *sorted(slices.items())]
        ]

    def _assignment(self, plan: Plan) -> Assignment:
        return assignment_at(self._warehouse, plan.definition, Run.of(plan).started_at)

    def _metric(self, plan: Plan, metric: Metric, at: datetime) -> list[UnitSums]:
        total = {arm.name: UnitSums(metric.name, arm.name) for arm in plan.definition.variants}
        for _, part in self._capped(plan, metric, at, "0"):
            total[part.variant] = total.get(part.variant, UnitSums(metric.name, part.variant)) + part
        return list(total.values())

    def _capped(self, plan: Plan, metric: Metric, at: datetime, group: str) -> list[tuple[Any, UnitSums]]:
        """Sums by group and arm, some in two parts: units above the metric's percentile have it for their number."""
        if metric.cap_percentile is None:
            return [(key, one) for key, _, one in self._rows(plan, metric, at, group, "0")]
        units: dict[int, int] = {}
        for _, number, one in self._rows(plan, metric, at, "0", "bin"):
            units[number] = units.get(number, 0) + one.n
        cap = _bin_at_percentile(units, metric.cap_percentile)
        return [
            (key, one.capped(sql.bin_edge(cap)) if above else one)
            for key, above, one in self._rows(plan, metric, at, group, f"bin > {cap}")
        ]

    def _rows(self, plan: Plan, metric: Metric, at: datetime, group: str, bins: str) -> list[tuple[Any, int, UnitSums]]:
        """Sums by two SQL expressions, the second a number, and by arm: the coarser they are, the fewer the rows."""
        run = Run.of(plan)
        until = f"slot <= toDateTime({max(0, int(run.mature_until(metric, at)))}, 'UTC')"
        columns = ", ".join(f"sum({one}) AS s_{one}" for one in ("n", "events", *_SUMS))
        answer = self._warehouse.query(
            f"SELECT {group} AS g, toInt32({bins}) AS b, variant, {columns} FROM experiment_stats "  # noqa: S608 - see experiment_sql
            f"WHERE {sql.RUN} AND metric_key = {{metric_key:String}} AND {until} "
            f"AND (slot, computed) IN ({sql.sealed('{metric_key:String}', until)}) "
            "GROUP BY g, b, variant ORDER BY g, variant, b",
            run.parameters(metric),
        )
        return [
            (
                row[0],
                int(row[1]),
                UnitSums(metric.name, row[2], int(row[3]), int(row[4]), *(float(value) for value in row[5:])),
            )
            for row in answer.rows
        ]

    def _counts(self, plan: Plan, at: datetime, group: str, which: str) -> Sequence[tuple[Any, str, int]]:
        run = Run.of(plan)
        until = f"slot <= toDateTime({int(at.astimezone(UTC).timestamp()) - run.grain}, 'UTC')"
        rows: Iterable[Any] = self._warehouse.query(
            f"SELECT {group} AS g, variant, sum(units) FROM experiment_counts "  # noqa: S608 - see experiment_sql
            f"WHERE {sql.RUN} AND {which} AND {until} AND (slot, computed) IN ({sql.sealed(chr(39) * 2, until)}) "
            "GROUP BY g, variant ORDER BY g, variant",
            run.parameters(),
        ).rows
        return [(row[0], row[1], row[2]) for row in rows]


def _bin_at_percentile(units: Mapping[int, int], percentile: float) -> int:
    """The bin of the value that so many percent of the units do not exceed; that of 0 where there are none."""
    rank = percentile / 100 * sum(units.values())
    seen = 0
    for number in sorted(units):
        seen += units[number]
        if seen >= rank and seen:
            return number
    return 0
