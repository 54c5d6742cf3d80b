"""What a look writes down of itself."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from experiment_figures import counts, definition, one_look, started, summed

from analytics.experiment_store import SliceCounts
from analytics.look_records import rows


def test_the_split_p_of_a_look_is_that_of_the_slice_which_is_broken() -> None:
    plan = started(definition())
    kept = [SliceCounts("partition", str(one), {"a": 4000, "b": 4000}, {"a": 5000, "b": 5000}) for one in (1, 2)]
    broken = SliceCounts("partition", "3", {"a": 5000, "b": 3000}, {"a": 5000, "b": 5000})
    found = counts("bought", a=(13_000, 650), b=(13_000, 650))

    def look_of(*slices: SliceCounts) -> list[dict[str, Any]]:
        return rows(one_look(plan, 3, summed(found, units={"a": 13_000, "b": 13_000}, slices=slices))).to_pylist()

    assert [(one["decision"], one["srm_p"]) for one in look_of(*kept)] == [("keep going", 1.0)]
    [row] = look_of(*kept, broken)
    assert row["decision"] == "unhealthy"
    assert json.loads(row["details"])["mismatches"] == [["partition", "3"]]
    assert 0 < row["srm_p"] < 1e-80
    # Five kinds of slices share the error, and three partitions their part of it.
    evidence = next(size for kind, _, size in json.loads(row["details"])["splits"] if kind == "partition" and size > 1)
    assert row["srm_p"] == pytest.approx(5 * 3 * math.exp(-evidence))
