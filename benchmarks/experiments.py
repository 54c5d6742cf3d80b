"""Simulates experiments and writes down how often each method is wrong: `python -m benchmarks.experiments`.

Every figure is seeded by its own name, so that it comes out the same alone or among the others. Exits 1 where a figure
does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import intervals, peeking, splits
from benchmarks.figures import Figure

Simulation = Callable[[np.random.Generator, float], Iterator[Figure]]

SEED: Final = 20_130_101
RESULTS: Final = Path(__file__).parent / "results"
SIMULATIONS: Final[dict[str, Simulation]] = {
    "false_positives": peeking.false_positives,
    "false_positives_as_operated": peeking.false_positives_as_operated,
    "power": peeking.power,
    "ratio": intervals.ratio,
    "sample_ratio": splits.false_alarms,
    "sample_ratio_by_slice": splits.false_alarms_by_slice,
    "sample_ratio_found": splits.found,
    "coverage": intervals.one_look,
    "coverage_after_stopping": intervals.after_stopping,
    "coverage_at_every_look": intervals.at_every_look,
}


def rng_for(name: str, seed: int = SEED) -> np.random.Generator:
    """The random numbers of one simulation."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def simulate(name: str, scale: float = 1.0, seed: int = SEED) -> list[Figure]:
    """All figures of one simulation; `scale` times the usual number of runs."""
    return list(SIMULATIONS[name](rng_for(name, seed), scale))


def machine() -> dict[str, Any]:
    """Where it ran; the figures do not depend on it, the time does."""
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of runs")
    parser.add_argument("--only", choices=sorted(SIMULATIONS), nargs="+", help="some of the simulations")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/DATE-experiments.json")
    options = parser.parse_args(arguments)
    began, now = time.monotonic(), datetime.now(UTC)
    figures: list[Figure] = []
    seconds: dict[str, float] = {}
    for name in options.only or SIMULATIONS:
        started = time.monotonic()
        for figure in SIMULATIONS[name](rng_for(name, options.seed), options.scale):
            figures.append(figure)
            sys.stdout.write(figure.line() + "\n")
            sys.stdout.flush()
        seconds[name] = round(time.monotonic() - started, 1)
    document = {
        "benchmark": "experiments",
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "seed": options.seed,
        "scale": options.scale,
        "seconds": {**seconds, "all": round(time.monotonic() - began, 1)},
        "figures": [figure.as_dict() for figure in figures],
        "units_at_the_end_by_those_of_one_look": peeking.saved(rng_for("saved", options.seed), options.scale),
    }
    path = options.output or RESULTS / f"{now:%Y-%m-%d}-experiments.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    broken = [figure.name for figure in figures if not figure.holds]
    sys.stdout.write(f"{len(figures) - len(broken)} of {len(figures)} figures hold; written to {path}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
