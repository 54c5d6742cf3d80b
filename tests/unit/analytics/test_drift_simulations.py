"""How often windows without drift give alarm, and whether a shift is found: benchmarks/drift.py, in small."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drift import SEED, alarms


@pytest.mark.parametrize(("n", "windows"), [(100, 100), (1_000, 40), (10_000, 10)])
def test_windows_without_drift_keep_quiet(n: int, windows: int) -> None:
    found = alarms(np.random.default_rng([SEED, n, 2]), n, windows)
    # Two in a hundred; of so few windows that is at most two, at a hundred rows.
    assert sum(bool(one) for one in found) <= windows * 0.02


def test_half_a_deviation_in_one_feature_of_twenty_is_found_within_a_thousand_rows() -> None:
    found = alarms(np.random.default_rng([SEED, 3]), 1_000, 40, shift=0.5)
    assert all({feature for feature, _ in one} == {"x00"} for one in found)
