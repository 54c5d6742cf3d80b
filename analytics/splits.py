"""Whether users were split as planned, looked at as often as one likes: over all units and slice by slice.

The evidence against the planned shares (`sample_ratio.log_evidence`) of each look is kept, and the largest so far
counts: an alarm stays. At most alpha of healthy experiments ever raise any alarm. Each kind of slice (all, day,
partition, worker, version) has a fifth of alpha; slices of a kind share it evenly, days by 1 / (number · (number + 1)),
as there will be more of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from analytics.definitions import Definition
from analytics.experiment_store import SliceCounts
from analytics.readings import SplitReading
from analytics.sample_ratio import ALPHA, log_evidence

KINDS: Final = ("all", "day", "partition", "worker", "version")
Slice = tuple[str, str]


def read_splits(
    counts: Iterable[SliceCounts], definition: Definition, before: Mapping[Slice, float]
) -> tuple[SplitReading, ...]:
    """All slices that can be judged, all units first. `before`: the largest evidence of earlier looks.

    A slice in which one arm alone can have units (a version that is one arm's) is no split and is left out, as are
    units that a ramp brought.
    """
    found = [one for one in (_judgeable(one, definition) for one in counts) if one is not None]
    found.sort(key=lambda one: (KINDS.index(one.kind), one.value))
    ranks: dict[str, int] = {}
    readings = []
    for one in found:
        ranks[one.kind] = ranks.get(one.kind, 0) + 1
        alike = sum(other.kind == one.kind for other in found)
        weight = ranks[one.kind] * (ranks[one.kind] + 1) if one.kind == "day" else alike
        readings.append(_reading(one, len(KINDS) * weight, before.get((one.kind, one.value), 0.0)))
    return tuple(readings)


def _judgeable(one: SliceCounts, definition: Definition) -> SliceCounts | None:
    if one.kind not in KINDS:
        return None
    expected = {arm: buckets for arm, buckets in one.expected.items() if buckets > 0}
    if one.kind == "version":
        own = definition.versions()
        expected = {arm: buckets for arm, buckets in expected.items() if own.get(arm) == one.value}
    if len(expected) < 2 and one.kind != "all":
        return None
    return SliceCounts(one.kind, one.value, {arm: one.units.get(arm, 0) for arm in expected}, expected)


def _reading(one: SliceCounts, weight: int, before: float) -> SplitReading:
    total = sum(one.expected.values())
    shares = {arm: buckets / total for arm, buckets in one.expected.items()}
    if len(shares) < 2:
        return SplitReading(one.kind, one.value, one.units, shares, None, mismatch=False, evidence=before)
    units: Sequence[int] = [one.units[arm] for arm in shares]
    evidence = max(before, log_evidence(units, list(shares.values())))
    p_value = min(1.0, weight * math.exp(-evidence))
    known = p_value if sum(units) or before else None
    return SplitReading(one.kind, one.value, one.units, shares, known, mismatch=p_value <= ALPHA, evidence=evidence)
