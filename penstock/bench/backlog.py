"""Request/reply while a bulk job waits on its own topic: whether those who ask notice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from penstock.bench.asking import Asker
from penstock.bench.bed import PARTITIONS, Bed, BenchError
from penstock.bench.comparison import Goal
from penstock.bench.feed import Feed, Progress, marks_of, read_new
from penstock.bench.figures import Latency, Spread, doubts
from penstock.bench.reply import paced
from penstock.bench.warming import warm_up
from penstock.bench.workload import bulk_batch
from schemas.records import ScoreReply

TIMES: Final = 3.0
_WARM_UP_SECONDS: Final = 2.0
# Of a backlog, that share is worked off to warm up, as often as it takes.
_WARM_UP_SHARE: Final = 20
_MOST_WARM_UPS: Final = 8
_PUT: Final = 10_000
_SLOWEST: Final = 500.0
Say = Callable[[str], None]


def run_backlog(
    bed: Bed, requests: int, rows_each: int, rate: float, seconds: float, rounds: int, workers: int, say: Say
) -> dict[str, Any]:
    """Ask at `rate` for `seconds` on an idle system, then while `requests` bulk requests are worked off, by turns."""
    bed.start_workers(workers, "exactly-once")
    feed = Feed(bed, bed.topics.bulk)
    # A worker reads the bulk topic in a group of its own.
    progress = Progress(bed, f"{bed.settings.worker.group}-bulk", bed.topics.bulk)
    results = marks_of(bed, bed.topics.bulk_results)
    idle: list[Latency] = []
    busy: list[Latency] = []
    drained: list[float] = []
    with Asker(bed) as asker:
        asker.await_first()
        warm, few = max(1, round(rate * _WARM_UP_SECONDS)), max(1, requests // _WARM_UP_SHARE)

        def fill(number: int) -> None:
            _fill(bed, feed, f"warm-up-{number + 1}", few, rows_each)

        def once(number: int) -> None:
            starts = results()
            asyncio.run(paced(rate, warm, asker.ask))
            _under_backlog(feed, progress, few, rate, asker)
            _check(bed, f"warm-up-{number + 1}", few, starts)

        warm_up(once, bed.processes, least=1, most=_MOST_WARM_UPS, prepare=fill)
        asker.forget()
        for number in range(rounds):
            job = f"backlog-{number + 1}"
            _fill(bed, feed, job, requests, rows_each)
            idle.append(asyncio.run(paced(rate, max(1, round(rate * seconds)), asker.ask)))
            starts = results()
            under, took = _under_backlog(feed, progress, requests, rate, asker)
            busy.append(under)
            drained.append(took)
            _check(bed, job, requests, starts)
            say(
                f"round {number + 1}: p99 idle {idle[-1].p99:.1f} ms, with a backlog {under.p99:.1f} ms "
                f"({under.count:,} requests in {took:.1f} s)"
            )
        errors = dict(asker.errors)
    bed.stop_workers()
    times = Spread(tuple(b.p99 / i.p99 for b, i in zip(busy, idle, strict=True)))
    lost = sum(one.lost for one in (*idle, *busy))
    return {
        "title": f"{rate:,.0f} requests/s to {workers} worker(s), idle and with {requests:,} bulk requests "
        f"of {rows_each} row(s) waiting on the bulk topic",
        "requests": requests,
        "rows_each": rows_each,
        "lost": lost,
        "errors": errors,
        "idle_p99_ms": Spread(tuple(one.p99 for one in idle)).to_json(2),
        "backlog_p99_ms": Spread(tuple(one.p99 for one in busy)).to_json(2),
        "seconds_of_backlog": Spread(tuple(drained)).to_json(2),
        "times": times.to_json(2),
        "notes": [f"{lost} requests lost; only requests due while the backlog lasted are counted under it."],
        "goals": [Goal("backlog", "p99 with a backlog, times idle", TIMES, times.median, at_most=True).to_json()],
        "doubts": doubts(times=times),
        "rounds": [{"idle": i.to_json(), "backlog": b.to_json()} for i, b in zip(idle, busy, strict=True)],
    }


def _under_backlog(feed: Feed, progress: Progress, requests: int, rate: float, asker: Asker) -> tuple[Latency, float]:
    """Ask from the opening of the gate until the last bulk request is committed."""
    most = 120 + requests / _SLOWEST
    over = threading.Event()
    ended: list[float] = []
    failed: list[BenchError] = []

    def watch() -> None:
        try:
            ended.append(progress.wait(feed.starts, requests, most))
        except BenchError as error:
            failed.append(error)
        over.set()

    began = feed.open()
    watcher = threading.Thread(target=watch, name="backlog", daemon=True)
    watcher.start()
    # The watcher is over by then, in one way or the other.
    found = asyncio.run(paced(rate, round(rate * (most + 10)), asker.ask, over.is_set))
    watcher.join()
    if failed:
        raise failed[0]
    return found, ended[0] - began


def _fill(bed: Bed, feed: Feed, job: str, requests: int, rows_each: int) -> None:
    codec = bed.settings.codec()
    feed.begin()
    for at in range(0, requests, _PUT):
        numbers = range(at, min(at + _PUT, requests))
        feed.put(
            [
                codec.encode(
                    bulk_batch(bed.workload, job, one, rows_each, bed.topics.bulk_results, one % PARTITIONS)
                )
                for one in numbers
            ]
        )  # fmt: skip
    feed.close()


def _check(bed: Bed, job: str, requests: int, starts: list[int]) -> None:
    codec, left = bed.settings.codec(), set(range(requests))
    end = time.monotonic() + 30
    while left and time.monotonic() < end:
        for message in read_new(bed, bed.topics.bulk_results, starts, committed=True):
            name, _, sequence = codec.decode(ScoreReply, message.value()).request_id.rpartition("/")
            if name == job:
                left.discard(int(sequence))
    if left:
        raise BenchError(f"{len(left):,} of {requests:,} bulk requests have no result")
