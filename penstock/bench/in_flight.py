"""What a record costs as more of them wait: the same worker on backlogs of 10^4 to 10^7 rows.

A shared machine may be a seventh slower in one minute than in the next, and a round takes minutes. So each turn of a
size is compared with backlogs of `REFERENCE` rows just before and just after it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any, Final

from penstock.bench.bed import Bed, BenchError
from penstock.bench.check import check_round
from penstock.bench.comparison import Goal
from penstock.bench.cpu import Processor, processor_seconds
from penstock.bench.feed import Feed, Progress, marks_of
from penstock.bench.figures import Spread, doubts
from penstock.bench.workload import RequestMaker

SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
REFERENCE: Final = 1_000_000
# A small backlog is worked off in a moment; so many rows of each size tell what one costs.
_AT_LEAST: Final = 500_000
# More of the smallest, each filled and checked, would take longer than they tell.
_MOST_TIMES: Final = 20
_IDLE_SECONDS: Final = 5.0
_PUT: Final = 50_000
_SLOWEST: Final = 2000.0
Say = Callable[[str], None]


class Backlogs:
    """Backlogs that one worker works off; each is checked."""

    def __init__(self, bed: Bed) -> None:
        """Starts the worker."""
        topic = bed.topics.requests
        self._bed = bed
        self._feed, self._progress = Feed(bed, topic), Progress(bed, bed.settings.worker.group, topic)
        self._marks = [marks_of(bed, name) for name in (bed.topics.replies, bed.topics.predictions)]
        self._runs = 0
        self._by_thread: dict[int, dict[str, list[float]]] = {}
        self.idle = 0.0
        bed.start_workers(1, "exactly-once")

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Work off one of each size: what a worker's memory grows by is no cost of what comes next.

        Then find out what it takes with nothing to do.
        """
        for size in sizes:
            self._work_off(size)
        self._by_thread.clear()
        self.idle = _idle(self._bed)

    def turn(self, size: int) -> tuple[float, float]:
        """Microseconds a record: of the worker's processor, beyond what it takes idle, and of time.

        Medians of as many backlogs as it takes to tell. Raises `BenchError` where a request is not answered and logged
        once.
        """
        times = min(_MOST_TIMES, math.ceil(_AT_LEAST / size))
        found = [self._work_off(size) for _ in range(times)]
        # Of a backlog that is worked off in 30 ms a busy neighbour may make 40.
        return median(one for one, _ in found), median(one for _, one in found)

    def by_thread(self) -> dict[str, dict[str, float]]:
        """Microseconds a record that each kind of the worker's threads worked, by size: medians of its backlogs.

        What the idle worker takes is in it.
        """
        return {
            str(size): {name: round(median(values), 3) for name, values in kinds.items()}
            for size, kinds in sorted(self._by_thread.items())
        }

    def _work_off(self, size: int) -> tuple[float, float]:
        bed, feed = self._bed, self._feed
        self._runs += 1
        run = f"{bed.run_id[:24]}{self._runs:08x}"
        maker = RequestMaker(bed.settings.codec(), bed.workload, run, bed.topics.replies, 8)
        feed.begin()
        for at in range(0, size, _PUT):
            feed.put(*maker.many(at, min(_PUT, size - at)))
        feed.close()
        replies, log = (marks() for marks in self._marks)
        threads, before = _threads(bed), _processor(bed)
        began = feed.open()
        took = self._progress.wait(feed.starts, size, 120 + size / _SLOWEST) - began
        used = _processor(bed) - before - self.idle * took
        own = _threads(bed).since(threads, size).get("worker", {"threads": {}})
        for name, one in own["threads"].items():
            self._by_thread.setdefault(size, {}).setdefault(name, []).append(float(one["worked"]))
        checked = check_round(bed, run, size, replies, log, twice_is_wrong=True)
        if checked.faults:
            raise BenchError(f"{size:,} rows: not all requests were answered and logged once: {checked.to_json()}")
        return used / size * 1e6, took / size * 1e6


def run_in_flight(bed: Bed, sizes: Sequence[int], rounds: int, say: Say) -> dict[str, Any]:
    """In each round every size, from the smallest to the largest and back, with the reference between any two.

    Raises `BenchError` where something is not answered.
    """
    reference = min(REFERENCE, max(sizes))
    others = [size for size in sizes if size != reference]
    backlogs = Backlogs(bed)
    backlogs.warm_up((min(sizes), reference))
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    wall: dict[int, list[float]] = {size: [] for size in sizes}
    ratios: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds):
        turns: dict[int, list[tuple[float, float, float]]] = {size: [] for size in sizes}
        before = backlogs.turn(reference)
        for size in (*others, *reversed(others[:-1])):
            own, after = backlogs.turn(size), backlogs.turn(reference)
            turns[size].append((*own, own[0] / fmean((before[0], after[0]))))
            turns[reference].append((*before, 1.0))
            before = after
        turns[reference].append((*before, 1.0))
        for size in sizes:
            for where, values in zip((cpu, wall, ratios), zip(*turns[size], strict=True), strict=True):
                where[size].append(fmean(values))
            say(
                f"round {number + 1}: {size:,} rows in flight: {cpu[size][-1]:.2f} us of processor each, "
                f"{ratios[size][-1]:.3f} of the reference beside; {wall[size][-1]:.2f} us of time"
            )
    bed.stop_workers()
    middle = {size: median(ratios[size]) for size in sizes}
    apart = max(middle.values()) / min(middle.values()) - 1
    goal = Goal("rows in flight", "cost of a record apart between sizes", 0.10, apart, at_most=True)
    return {
        "title": "One worker, exactly once, on backlogs of single-row requests; processor time a record",
        "table": [
            f"| rows in flight | of {reference:,} beside | us of processor a record | us of time a record |",
            "|---:|---|---|---|",
            *(
                f"| {size:,} | {_shown(ratios[size], 3)} | {_shown(cpu[size])} | {_shown(wall[size])} |"
                for size in sizes
            ),
        ],
        "reference": reference,
        "ratios": {str(size): [round(one, 4) for one in ratios[size]] for size in sizes},
        "cpu_us_per_record": {str(size): [round(one, 3) for one in cpu[size]] for size in sizes},
        "processor_us_per_row": backlogs.by_thread(),
        "idle_ms_per_s": round(backlogs.idle * 1e3, 2),
        "us_per_record": {str(size): [round(one, 3) for one in wall[size]] for size in sizes},
        "notes": [
            f"Of each size {_AT_LEAST:,} rows, or {_MOST_TIMES} backlogs, are worked off on the way up and again on "
            f"the way down, with {reference:,} before and after; a round's figures are means of its turns, a turn's "
            "the median of its backlogs. The time of a small one holds the waits for its fetch and its commit, which "
            "do not grow with it.",
            "Processor time is what the worker took beyond what it takes in as long with nothing to do: "
            f"{backlogs.idle * 1e3:.1f} ms a second.",
        ],
        "goals": [goal.to_json()],
        "doubts": doubts(**{f"ratio of {size:,} rows": Spread(tuple(ratios[size])) for size in sizes}),
    }


def _processor(bed: Bed) -> float:
    """Processor seconds of the workers so far. Their own /metrics cost them more than a thousand records do."""
    return sum(processor_seconds(worker.pid) for worker in bed.workers)


def _threads(bed: Bed) -> Processor:
    return Processor.now({"worker": bed.workers[0].pid})


def _idle(bed: Bed) -> float:
    """Processor seconds a second that the workers take while nothing is there to do."""
    before, began = _processor(bed), time.perf_counter()
    threading.Event().wait(_IDLE_SECONDS)
    return (_processor(bed) - before) / (time.perf_counter() - began)


def _shown(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
