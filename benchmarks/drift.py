"""How often windows without drift give alarm, and how often a shift is found: `python -m benchmarks.drift`.

Each window has twenty features, fourteen numbers of several shapes and six categories of 3 to 90 values, and a
reference of 20,000 rows that is drawn anew for each. A window is judged as the drift job judges one, and gives alarm
where any of its figures is in drift. Exits 1 where a figure does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from analytics.drift_axes import Axis, CategoryAxis, NumberAxis
from analytics.drift_figures import DRIFT, Limits, whole
from analytics.profiles import Profile, Reference

SEED: Final = 20_130_208
ROWS: Final = 20_000
NUMBERS: Final = 14
VALUES: Final = (3, 7, 16, 24, 48, 90)
SIZES: Final = (100, 1_000, 10_000)
# What must hold: false alarms at most, and shifts found at least, of all windows.
FALSE: Final = 0.02
FOUND: Final = 0.99

_SHAPES: Final[Sequence[Callable[[np.random.Generator, int], Any]]] = (
    lambda rng, n: rng.normal(size=n),
    lambda rng, n: rng.lognormal(size=n),
    lambda rng, n: rng.exponential(size=n),
    lambda rng, n: np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
    lambda rng, n: rng.poisson(2.0, n).astype(float),
    lambda rng, n: rng.uniform(size=n),
    lambda rng, n: rng.standard_t(3, n),
)


def sample(rng: np.random.Generator, rows: int, shift: float = 0.0) -> dict[str, Any]:
    """Rows by feature; the first, a standard normal, is shifted by `shift` deviations."""
    found: dict[str, Any] = {f"x{at:02}": _SHAPES[at % len(_SHAPES)](rng, rows) for at in range(NUMBERS)}
    found["x00"] = found["x00"] + shift
    for at, values in enumerate(VALUES):
        shares = 1.0 / np.arange(1, values + 1)  # a few values are frequent and many are rare
        found[f"c{at}"] = rng.choice([f"v{one}" for one in range(values)], rows, p=shares / shares.sum())
    return found


def profile_of(rows: dict[str, Any]) -> Profile:
    """The reference profile of these rows, by deciles."""
    references = []
    for name, values in rows.items():
        if values.dtype.kind == "f":
            known = values[~np.isnan(values)]
            edges = np.unique(np.quantile(known, np.arange(1, 10) / 10, method="inverted_cdf"))
            axis: Axis = NumberAxis(name, known.min(), known.max(), tuple(edges[edges < known.max()].tolist()))
            deviation = float(known.std())
        else:
            axis, deviation = CategoryAxis(name, tuple(np.unique(values).tolist())), float("nan")
        references.append(Reference(axis, tuple(axis.count(values)), 0.0, deviation))
    return Profile("m", "1", len(next(iter(rows.values()))), tuple(references))


def alarms(rng: np.random.Generator, n: int, windows: int, shift: float = 0.0) -> list[set[tuple[str, str]]]:
    """The figures in drift (feature, metric) of each of `windows` windows of n rows."""
    found = []
    for at in range(windows):
        if at % 10 == 0:  # a reference is drawn for ten windows: each is far larger than they are
            profile = profile_of(sample(rng, ROWS))
        rows = sample(rng, n, shift)
        counts = {one.axis.name: one.axis.count(rows[one.axis.name]) for one in profile.features}
        found.append({(one.feature, one.metric) for one in whole(profile, counts, Limits()) if one.verdict == DRIFT})
    return found


def measure(windows: int) -> dict[str, Any]:
    """False alarms at each size, and shifts of half a deviation found in a thousand rows."""
    results: dict[str, Any] = {
        "windows": windows,
        "features": NUMBERS + len(VALUES),
        "reference_rows": ROWS,
        "seed": SEED,
    }
    for n in SIZES:
        quiet = alarms(np.random.default_rng([SEED, n]), n, windows)
        results[f"false_alarms_{n}"] = sum(bool(one) for one in quiet) / windows
    shifted = alarms(np.random.default_rng([SEED, 1]), 1_000, windows, 0.5)
    results["shift_found_1000"] = sum(any(feature == "x00" for feature, _ in one) for one in shifted) / windows
    results["shift_found_by_psi_alone"] = sum(("x00", "psi") in one for one in shifted) / windows
    results["wrong_feature_1000"] = sum(any(feature != "x00" for feature, _ in one) for one in shifted) / windows
    return results


def holds(results: dict[str, Any]) -> bool:
    """Whether what must hold does."""
    return results["shift_found_1000"] >= FOUND and all(results[f"false_alarms_{n}"] <= FALSE for n in SIZES)


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200)
    results = measure(parser.parse_args().windows)
    json.dump({**results, "holds": holds(results)}, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0 if holds(results) else 1


if __name__ == "__main__":
    sys.exit(main())
