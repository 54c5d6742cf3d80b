"""Holds `penstock plan capacity` to a real run: `python -m benchmarks.planning`.

Workers whose model takes a known time, a broker, and a client that asks at a steady rate; the simulation is told the
rate and the time. Writes benchmarks/results/DATE-planning.json; exits 1 where a figure is off by more than 15%.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from penstock.bench.batching import WORKER
from penstock.bench.bed import Bed, machine
from penstock.bench.planning import WITHIN, measure
from penstock.settings import load

RESULTS: Final = Path(__file__).parent / "results"
# Requests a second, and workers: one alone, one with larger batches, and the batching example.
LOADS: Final = ((100.0, 1), (300.0, 1), (1000.0, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--broker", default="embedded", help="embedded, kafka or HOST:PORT")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load, all rounds together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/DATE-planning.json")
    options = parser.parse_args(arguments)
    document: dict[str, object] = {"benchmark": "planning", "within": WITHIN, "loads": []}
    loads = []
    for rate, workers in LOADS:
        _say(f"{rate:,.0f} requests/s to {workers} worker(s):")
        with Bed(load(None, stack=False), options.broker, "mlp", say=_say, worker_module=WORKER) as bed:
            document.setdefault("broker", bed.broker)
            document.setdefault("machine", machine(bed.settings, options.broker))
            found = measure(bed, rate, options.seconds, options.rounds, workers, _say)
        loads.append(found)
        for one in found["compared"]:
            measured = one["measured"]["median"]
            _say(f"  {one['figure']}: simulated {one['simulated']}, measured {measured}, off by {one['off']:+.1%}")
        for one in found["as_read"]:
            said, measured = one["simulated"]["median"], one["measured"]["median"]
            _say(f"  {one['figure']}, as read: simulated {said}, measured {measured}, off by {one['off']:+.1%}")
        for line in found["doubts"]:
            _say(f"  do not trust this: {line}")
    document["loads"] = loads
    date = str(document["machine"]["date"])[:10]  # type: ignore[index]
    path = options.output or RESULTS / f"{date}-planning.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    judged = [one for found in loads for one in (*found["compared"], *found["as_read"])]
    off = [one for one in judged if not one["within"]]
    _say(f"{len(off)} of {len(judged)} figures are off by more than {WITHIN:.0%}; written to {path}")
    return 1 if off else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
