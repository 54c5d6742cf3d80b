"""What a record costs as more of them wait: the same worker on backlogs of 10^4 to 10^7 rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import psutil

from penstock.bench.bed import Bed, BenchError
from penstock.bench.check import check_round
from penstock.bench.comparison import Goal
from penstock.bench.feed import Feed, Progress, marks_of
from penstock.bench.workload import RequestMaker

SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
# A small backlog is worked off in a moment; so many rows of each size tell what one costs.
_AT_LEAST: Final = 200_000
_PUT: Final = 50_000
_SLOWEST: Final = 2000.0
Say = Callable[[str], None]


def run_in_flight(bed: Bed, sizes: Sequence[int], rounds: int, say: Say) -> dict[str, Any]:
    """Work off each backlog, sizes by turns in each round. Raises `BenchError` where something is not answered."""
    topic, group = bed.topics.requests, bed.settings.worker.group
    feed, progress = Feed(bed, topic), Progress(bed, group, topic)
    codec = bed.settings.codec()
    bed.start_workers(1, "exactly-once")
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    wall: dict[int, list[float]] = {size: [] for size in sizes}
    runs = 0

    def backlog(size: int) -> tuple[float, float]:
        nonlocal runs
        runs += 1
        run = f"{bed.run_id[:24]}{runs:08x}"
        maker = RequestMaker(codec, bed.workload, run, bed.topics.replies, 8)
        feed.begin()
        for at in range(0, size, _PUT):
            feed.put(*maker.many(at, min(_PUT, size - at)))
        feed.close()
        starts = [marks_of(bed, name)() for name in (bed.topics.replies, bed.topics.predictions)]
        before = _processor(bed)
        began = feed.open()
        took = progress.wait(feed.starts, size, 120 + size / _SLOWEST) - began
        used = _processor(bed) - before
        checked = check_round(bed, run, size, *starts, twice_is_wrong=True)
        if checked.faults:
            raise BenchError(f"{size:,} rows: not all requests were answered and logged once: {checked.to_json()}")
        return used, took

    backlog(min(sizes))
    for number in range(rounds):
        for size in sizes if number % 2 == 0 else tuple(reversed(sizes)):
            times = math.ceil(_AT_LEAST / size)
            found = [backlog(size) for _ in range(times)]
            cpu[size].append(sum(one for one, _ in found) / (size * times) * 1e6)
            wall[size].append(sum(one for _, one in found) / (size * times) * 1e6)
            say(
                f"round {number + 1}: {size:,} rows in flight: {cpu[size][-1]:.2f} us of processor each, "
                f"{wall[size][-1]:.2f} us of time"
            )
    bed.stop_workers()
    middle = {size: sorted(cpu[size])[len(cpu[size]) // 2] for size in sizes}
    apart = max(middle.values()) / min(middle.values()) - 1
    goal = Goal("rows in flight", "cost of a record apart between sizes", 0.10, apart, at_most=True)
    return {
        "title": "One worker, exactly once, on backlogs of single-row requests; processor time a record",
        "table": [
            "| rows in flight | us of processor a record | us of time a record |",
            "|---:|---|---|",
            *(f"| {size:,} | {_shown(cpu[size])} | {_shown(wall[size])} |" for size in sizes),
        ],
        "cpu_us_per_record": {str(size): [round(one, 3) for one in cpu[size]] for size in sizes},
        "us_per_record": {str(size): [round(one, 3) for one in wall[size]] for size in sizes},
        "notes": [
            f"A size below {_AT_LEAST:,} rows is worked off so often that as many are measured; the time of a small "
            "one holds the waits for its fetch and its commit, which do not grow with it."
        ],
        "goals": [goal.to_json()],
        "doubts": [],
    }


def _processor(bed: Bed) -> float:
    """Processor seconds of the workers so far. Their own /metrics cost them more than a thousand records do."""
    each = [psutil.Process(worker.pid).cpu_times() for worker in bed.workers]
    return sum(float(one.user + one.system) for one in each)


def _shown(values: Sequence[float]) -> str:
    return f"{sorted(values)[len(values) // 2]:.2f} ({min(values):.2f} to {max(values):.2f})"
