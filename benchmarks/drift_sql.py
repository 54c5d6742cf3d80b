"""What the drift job costs in ClickHouse: `python -m benchmarks.drift_sql`.

Ten million predictions of one day with twenty numeric features in a chDB of its own, counted by the job as it does a
day that is over; then a round that finds nothing new, and one that finds a day of a tenth more. The figures are of two
threads, with ClickHouse's `max_memory_usage` set: a query that wants more fails. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from analytics.drift_job import DriftJob, Watched
from analytics.migrate import migrate
from analytics.warehouse import Warehouse, WarehouseConfig

FEATURES: Final = 20
MEMORY: Final = 2_000_000_000
THREADS: Final = 2
START: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
_CHUNK: Final = 1_000_000
_EDGES: Final = (-1.281552, -0.841621, -0.524401, -0.253347, 0.0, 0.253347, 0.524401, 0.841621, 1.281552)


def profile(rows: int = 100_000) -> dict[str, Any]:
    """The reference: standard normals by deciles, and a score spread evenly."""
    number = {"kind": "numeric", "low": -4.5, "high": 4.5, "edges": list(_EDGES), "shares": [0.1] * 10}
    number |= {"null_share": 0.0, "mean": 0.0, "deviation": 1.0}
    score = {**number, "low": 0.0, "high": 1.0, "edges": [at / 10 for at in range(1, 10)]}
    return {"rows": rows, "features": {f"f{at:02}": number for at in range(FEATURES)}, "score": score}


def fill(warehouse: Warehouse, day: datetime, rows: int, shift: float = 0.0) -> None:
    """Predictions of a day; the first feature is shifted by `shift` deviations."""
    values = ", ".join(f"'f{at:02}', randNormal({shift if at == 0 else 0.0}, 1, {at})" for at in range(FEATURES))
    began = int(day.timestamp()) * 1_000_000
    for at in range(0, rows, _CHUNK):
        warehouse.command(
            f"""
            INSERT INTO predictions (request_id, user_id, model, version, topic, scored_at, code, score, features, log,
                log_offset, log_time)
            SELECT 'r' || toString(number), 'u' || toString(number % 100000), 'm', '1', 'requests',
                fromUnixTimestamp64Micro(toInt64({began} + number * {86_400_000_000 // rows}), 'UTC'),
                'OK', rand(99) / 4294967296, map({values}), 'p@1', number, now64()
            FROM numbers({at}, {min(_CHUNK, rows - at)})
            """,  # noqa: S608 - numbers of ours
        )


@contextmanager
def _timed(into: dict[str, Any], name: str) -> Iterator[None]:
    """Wall seconds as `name`; seconds of processor, of all threads, beside them: others may be on this machine."""
    began, worked = time.perf_counter(), time.process_time()
    yield
    into[f"{name}_s"] = round(time.perf_counter() - began, 3)
    into[f"{name}_cpu_s"] = round(time.process_time() - worked, 3)


def measure(warehouse: Warehouse, rows: int) -> dict[str, Any]:
    """Fill, count, count again, add a day, count. The warehouse must be migrated and otherwise empty."""
    found: dict[str, Any] = {"rows": rows, "features": FEATURES}
    fill(warehouse, START, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = [Watched("m", "1", profile(), {})]
    job = DriftJob(warehouse, lambda: ours)
    with _timed(found, "first_round"):
        [first] = job.run()
    found["peak_rss_grew_mb"] = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    found["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    with _timed(found, "idle_round"):
        [idle] = job.run()
    fill(warehouse, START + timedelta(days=1), rows // 10, 0.5)
    with _timed(found, "next_round"):
        [after] = job.run()
    found["days"] = {"first": first.days, "idle": idle.days, "next": after.days}
    found["alarms"] = {"first": len(first.alarms), "next": sorted({one.figure.feature for one in after.alarms})}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    settings = {"max_memory_usage": str(MEMORY), "max_threads": str(THREADS)}
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        Warehouse.open(WarehouseConfig(path=folder, settings=settings)) as warehouse,
    ):
        migrate(warehouse)
        found: dict[str, Any] = {"benchmark": "drift_sql", "date": datetime.now(UTC).isoformat(timespec="seconds")}
        found |= {"machine": {"cores": os.cpu_count(), "system": platform.platform()}}
        found |= {"clickhouse": warehouse.version(), "threads": THREADS, "memory_limit": MEMORY}
        found |= measure(warehouse, options.rows)
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
