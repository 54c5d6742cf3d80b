"""What a record costs as more of them wait: the same worker on backlogs of 10^4 to 10^7 rows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

from penstock.bench.bed import Bed, BenchError
from penstock.bench.check import check_round
from penstock.bench.comparison import Goal
from penstock.bench.cpu import processor_seconds
from penstock.bench.feed import Feed, Progress, marks_of
from penstock.bench.workload import RequestMaker

SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
# A small backlog is worked off in a moment; so many rows of each size tell what one costs.
_AT_LEAST: Final = 200_000
# A worker's memory grows with the first large backlogs, and its pages' first touch is no cost of the size that is next.
_WARM_UP: Final = 1_000_000
_IDLE_SECONDS: Final = 5.0
_PUT: Final = 50_000
_SLOWEST: Final = 2000.0
Say = Callable[[str], None]


def run_in_flight(bed: Bed, sizes: Sequence[int], rounds: int, say: Say) -> dict[str, Any]:
    """Work off each backlog, in each round from the smallest to the largest and back.

    Raises `BenchError` where something is not answered.
    """
    topic, group = bed.topics.requests, bed.settings.worker.group
    feed, progress = Feed(bed, topic), Progress(bed, group, topic)
    codec = bed.settings.codec()
    bed.start_workers(1, "exactly-once")
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    wall: dict[int, list[float]] = {size: [] for size in sizes}
    runs, idle = 0, 0.0

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
        used = _processor(bed) - before - idle * took
        checked = check_round(bed, run, size, *starts, twice_is_wrong=True)
        if checked.faults:
            raise BenchError(f"{size:,} rows: not all requests were answered and logged once: {checked.to_json()}")
        return used, took

    for size in (min(sizes), min(max(sizes), _WARM_UP)):
        backlog(size)
    idle = _idle(bed)
    for number in range(rounds):
        found: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        # There and back, so that a machine that becomes slower does so for all of them.
        for size in (*sizes, *reversed(sizes[:-1])):
            found[size] += [backlog(size) for _ in range(math.ceil(_AT_LEAST / size))]
        for size in sizes:
            # Of a backlog that is worked off in 30 ms a busy neighbour may make 40.
            cpu[size].append(median(one for one, _ in found[size]) / size * 1e6)
            wall[size].append(median(one for _, one in found[size]) / size * 1e6)
            say(
                f"round {number + 1}: {size:,} rows in flight: {cpu[size][-1]:.2f} us of processor each, "
                f"{wall[size][-1]:.2f} us of time ({len(found[size])} times)"
            )
    bed.stop_workers()
    middle = {size: median(cpu[size]) for size in sizes}
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
        "idle_ms_per_s": round(idle * 1e3, 2),
        "us_per_record": {str(size): [round(one, 3) for one in wall[size]] for size in sizes},
        "notes": [
            f"Of each size at least {_AT_LEAST:,} rows are worked off on the way up and again on the way down; a "
            "round's figure is the median of its backlogs. The time of a small one holds the waits for its fetch and "
            "its commit, which do not grow with it.",
            "Processor time is what the worker took beyond what it takes in as long with nothing to do: "
            f"{idle * 1e3:.1f} ms a second.",
        ],
        "goals": [goal.to_json()],
        "doubts": [],
    }


def _processor(bed: Bed) -> float:
    """Processor seconds of the workers so far. Their own /metrics cost them more than a thousand records do."""
    return sum(processor_seconds(worker.pid) for worker in bed.workers)


def _idle(bed: Bed) -> float:
    """Processor seconds a second that the workers take while nothing is there to do."""
    before, began = _processor(bed), time.perf_counter()
    threading.Event().wait(_IDLE_SECONDS)
    return (_processor(bed) - before) / (time.perf_counter() - began)


def _shown(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
