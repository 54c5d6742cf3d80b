"""Sums of made-up experiments, as ClickHouse would return them, and looks at them one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics.definition_reader import read as read_definition
from analytics.definitions import Definition, Plan
from analytics.experiment_store import BinnedUnits, Crossed, DayUnits, SliceCounts, UnitSums
from analytics.look_records import Record, record
from analytics.reading import Summed, read
from analytics.readings import Reading

START = datetime(2026, 3, 2, tzinfo=UTC)
BOUGHT: dict[str, Any] = {"name": "bought", "kind": "proportion", "outcome": "bought", "window": "2h", "mde": "10%"}
SPENT: dict[str, Any] = {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h"}
SLOW: dict[str, Any] = {
    "name": "slow",
    "kind": "mean",
    "prediction": "latency_ms",
    "window": "1h",
    "direction": "decrease",
}
ERRORS: dict[str, Any] = {
    "name": "errors",
    "kind": "mean",
    "prediction": "error",
    "window": "1h",
    "direction": "decrease",
}
GUARDED = {"guardrails": [{"metric": "errors", "margin": 0.01}]}


def definition(
    *metrics: dict[str, Any], arms: str = "ab", test: Mapping[str, Any] | None = None, **more: Any
) -> Definition:
    """An experiment of arms a (the control) and b, or more."""
    body = {
        "name": "exp",
        "hypothesis": "b is better",
        "model": "m",
        "control": "a",
        "variants": [{"name": arm, "version": str(at + 1), "share": 1 / len(arms)} for at, arm in enumerate(arms)],
        "metrics": list(metrics) or [BOUGHT],
        "test": test or {"kind": "group-sequential"},
        **more,
    }
    return read_definition(body, "test")


def started(some: Definition) -> Plan:
    return Plan(some).start(START)


def counts(metric: str, **arms: tuple[int, float]) -> list[UnitSums]:
    """Units and those of value 1, of all arms on one metric; the others have 0."""
    return [UnitSums(metric, arm, n, n, float(y), yy=float(y)) for arm, (n, y) in arms.items()]


def values(metric: str, **arms: tuple[int, float, float]) -> list[UnitSums]:
    """Units, mean and standard deviation, of all arms on one metric."""
    return [
        UnitSums(metric, arm, n, n, n * mean, yy=(n - 1) * deviation**2 + n * mean**2)
        for arm, (n, mean, deviation) in arms.items()
    ]


def summed(
    *sums: Sequence[UnitSums],
    units: Mapping[str, int] | None = None,
    slices: Sequence[SliceCounts] = (),
    crossed: int = 0,
    bins: Sequence[BinnedUnits] = (),
    exposures: Sequence[DayUnits] = (),
) -> Summed:
    """What a look gets. `units` of each arm are those of the first metric unless given."""
    flat = [one for some in sums for one in some]
    if units is None:
        units = {one.variant: one.n for one in flat if one.metric == flat[0].metric}
    expected = dict.fromkeys(units, 10_000 // len(units))
    whole = SliceCounts("all", "", dict(units), expected)
    return Summed(flat, bins, [whole, *slices], Crossed(sum(units.values()) + crossed, crossed), exposures)


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def looks(plan: Plan, *steps: tuple[float, Summed]) -> list[Reading]:
    """A reading at each step (days since the start, sums), each with those before it in mind."""
    past: list[Record] = []
    found = []
    for number, (days, some) in enumerate(steps, 1):
        found.append(read(plan, number, at(days), some, past))
        past.append(record(found[-1]))
    return found


def one_look(plan: Plan, days: float, some: Summed) -> Reading:
    return looks(plan, (days, some))[0]
