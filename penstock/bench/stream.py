"""`penstock bench stream`: single-row requests through workers, beside the raw limit of the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from penstock.bench.bed import Bed, BenchError, Usage
from penstock.bench.check import Checked, check_round
from penstock.bench.feed import Feed, Progress, marks_of
from penstock.bench.figures import Spread, doubts
from penstock.bench.warming import warm_up
from penstock.bench.workload import POOL, RequestMaker

# Slower than this many records a second is a fault, not a measurement.
_SLOWEST: Final = 200.0
_PUT: Final = 50_000
_WARM_UP: Final = 100_000
_MOST_WARM_UPS: Final = 10
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One round: records a second of the raw loop and of the workers, and what these used for it."""

    raw: float
    raw_cpu_us: float
    workers: float
    usage: Usage
    broker_cpu_us: float | None
    checked: Checked

    @property
    def ratio(self) -> float:
        """Of the raw limit."""
        return self.workers / self.raw

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "raw_records_per_second": round(self.raw),
            "raw_cpu_us_per_record": round(self.raw_cpu_us, 3),
            "records_per_second": round(self.workers),
            "ratio": round(self.ratio, 3),
            # Of processor time instead of the clock's: other programs on the machine change it less.
            "cpu_ratio": round(self.raw_cpu_us / max(self.usage.cpu / self.usage.rows * 1e6, 1e-9), 3),
            "profile": {
                **self.usage.to_json(),
                "broker_cpu_us_per_record": None if self.broker_cpu_us is None else round(self.broker_cpu_us, 3),
            },
            "check": self.checked.to_json(),
        }


def run_stream(bed: Bed, records: int, rounds: int, delivery: str, workers: int, say: Say) -> dict[str, Any]:
    """Measure and check. Raises `BenchError` where a worker or the broker does not do its work."""
    topic, group = bed.topics.requests, bed.settings.worker.group
    feed, progress = Feed(bed, topic), Progress(bed, group, topic)
    marks = {name: marks_of(bed, name) for name in (bed.topics.replies, bed.topics.predictions)}
    say(f"starting {workers} worker(s), {delivery}")
    bed.start_workers(workers, delivery)

    def fill(number: int) -> None:
        _fill(bed, feed, f"{'w' * 24}{number:08x}", min(records, _WARM_UP))

    def once(_number: int) -> None:
        feed.open()
        progress.wait(feed.starts, feed.records, 60 + feed.records / _SLOWEST)

    # Of two workers the second may have no partitions yet the first time.
    warm_up(once, bed.processes, least=2, most=_MOST_WARM_UPS, prepare=fill)
    if workers > 1:
        bed.await_shares(topic)
    done: list[Round] = []
    for number in range(rounds):
        run = f"{bed.run_id[:24]}{number:08x}"
        _fill(bed, feed, run, records)
        replies, log = marks[bed.topics.replies](), marks[bed.topics.predictions]()
        # By turns, so that neither always finds the machine as the other left it.
        raw = raw_copy(bed, topic, feed) if number % 2 else {}
        before, broker = bed.usage(), bed.broker_cpu()
        began = feed.open()
        took = progress.wait(feed.starts, records, 60 + records / _SLOWEST) - began
        used = bed.usage().since(before)
        broker_used = None if broker is None else ((bed.broker_cpu() or 0.0) - broker) / records * 1e6
        raw = raw or raw_copy(bed, topic, feed)
        checked = check_round(bed, run, records, replies, log, twice_is_wrong=delivery == "exactly-once")
        one = Round(
            records / raw["seconds"], raw["cpu_seconds"] / records * 1e6, records / took, used, broker_used, checked
        )
        done.append(one)
        say(f"round {number + 1}: raw {one.raw:,.0f}/s, workers {one.workers:,.0f}/s, ratio {one.ratio:.3f}")
        if checked.faults:
            raise BenchError(f"round {number + 1}: not all requests were answered and logged once: {checked.to_json()}")
    bed.stop_workers()
    raw_all, own = Spread(tuple(one.raw for one in done)), Spread(tuple(one.workers for one in done))
    ratio = Spread(tuple(one.ratio for one in done))
    return {
        "rows_per_record": 1,
        "features": bed.workload.width,
        "records": records,
        "delivery": delivery,
        "workers": workers,
        "raw_records_per_second": raw_all.to_json(0),
        "records_per_second": own.to_json(0),
        "ratio": ratio.to_json(3),
        "onnxruntime_alone_rows_per_second": onnx_alone(bed)["rows_per_second"],
        "doubts": doubts(ratio=ratio, raw_limit=raw_all, records_per_second=own),
        "rounds": [one.to_json() for one in done],
    }


def onnx_alone(bed: Bed, seconds: float = 0.5) -> dict[str, float]:
    """ONNX Runtime on rows in memory, one thread, nothing else: the best of several batch sizes."""
    session, inputs = bed.workload.session(), bed.workload.inputs
    best = {"rows_per_second": 0.0, "batch_rows": 0.0}
    for rows in (64, 256, 1024, POOL):
        part = {name: array[:rows] for name, array in inputs.items()}
        session.run(part)
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            session.run(part)
            count += rows
        if count / took > best["rows_per_second"]:
            best = {"rows_per_second": round(count / took), "batch_rows": rows}
    session.close()
    return best


def _fill(bed: Bed, feed: Feed, run: str, records: int) -> None:
    maker = RequestMaker(bed.settings.codec(), bed.workload, run, bed.topics.replies, 8)
    feed.begin()
    for at in range(0, records, _PUT):
        feed.put(*maker.many(at, min(_PUT, records - at)))
    feed.close()


def raw_copy(bed: Bed, topic: str, feed: Feed) -> dict[str, float]:
    """Copy what is behind the gate, open or not, in a process of its own: its `seconds` and `cpu_seconds`."""
    limit = 60 + feed.records / _SLOWEST
    command = [
        *(sys.executable, "-m", "penstock.bench.raw", "copy", "--bootstrap", bed.bootstrap),
        *("--source", topic, "--target", bed.copies, "--starts", ",".join(map(str, feed.starts))),
        *("--records", str(feed.records), "--seconds", str(limit)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit + 30)
    except subprocess.TimeoutExpired:
        raise BenchError(f"the raw loop did not end within {limit:.0f} s") from None
    if done.returncode:
        raise BenchError(f"the raw loop failed: {' '.join(done.stderr.split())[-300:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
