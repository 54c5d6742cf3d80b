"""The batching example: a model that takes 50 ms for one row and 60 ms for 32, at a thousand requests a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from penstock.bench.asking import Asker
from penstock.bench.bed import Bed
from penstock.bench.comparison import Goal
from penstock.bench.figures import Latency, Spread, doubts
from penstock.bench.reply import paced
from penstock.bench.slow_worker import ONE_ROW, ROWS_32

WORKER: Final = "penstock.bench.slow_worker"
# A request waits for at most one batch that runs, then for its own.
MEAN_MS: Final = 95.0
P99_MS: Final = 130.0
_WARM_UP_SECONDS: Final = 5.0
Say = Callable[[str], None]


def run_batching(bed: Bed, rate: float, seconds: float, rounds: int, workers: int, say: Say) -> dict[str, Any]:
    """Ask the slow model at `rate` requests a second. The bed's workers are to be of the module `WORKER`."""
    bed.start_workers(workers, "exactly-once")
    count = max(1, round(rate * seconds / rounds))
    found: list[Latency] = []
    answered: list[float] = []
    with Asker(bed) as asker:
        asker.await_first()
        # Both workers have their partitions then, and know how long a batch takes. As long as a round, since the
        # broker's compiler takes a tenth of a core for the first half minute.
        asyncio.run(paced(rate, max(count, round(rate * _WARM_UP_SECONDS)), asker.ask))
        if workers > 1:
            bed.await_shares(bed.topics.requests)
        asker.forget()
        before = bed.usage()
        for number in range(rounds):
            began = time.perf_counter()
            found.append(asyncio.run(paced(rate, count, asker.ask)))
            answered.append(found[-1].count / (time.perf_counter() - began))
            say(f"round {number + 1}: mean {found[-1].mean:.1f} ms, p99 {found[-1].p99:.1f} ms, {answered[-1]:,.0f}/s")
        used = bed.usage().since(before)
        errors, inside = dict(asker.errors), Latency.of(asker.inside)
    bed.stop_workers()
    mean, p99 = Spread(tuple(one.mean for one in found)), Spread(tuple(one.p99 for one in found))
    kept_up = Spread(tuple(one / rate for one in answered))
    lost = sum(one.lost for one in found)
    work = "batching"
    goals = [
        Goal(work, f"share of {rate:,.0f} requests/s answered by {workers} workers", 0.95, kept_up.median),
        Goal(work, "mean", MEAN_MS, mean.median, at_most=True, unit="ms"),
        Goal(work, "p99", P99_MS, p99.median, at_most=True, unit="ms"),
    ]
    return {
        "title": f"{rate:,.0f} requests/s to {workers} workers; a batch takes {ONE_ROW * 1e3:.0f} ms for 1 row and "
        f"{ROWS_32 * 1e3:.0f} ms for 32",
        "requests": count * rounds,
        "lost": lost,
        "errors": errors,
        "mean_ms": mean.to_json(2),
        "p99_ms": p99.to_json(2),
        "share_answered": kept_up.to_json(3),
        "inside_worker": inside.to_json(),
        "profile": used.to_json(),
        "notes": [
            f"The model waits ({WORKER}) instead of computing, as for a device of its own: on few cores one that "
            "computed would take the processors from Kafka and from the client.",
            f"Mean {mean.shown(1)} ms, p99 {p99.shown(1)} ms, {lost} requests lost, "
            f"{used.to_json()['rows_per_batch']:.0f} rows a batch.",
        ],
        "goals": [one.to_json() for one in goals],
        "doubts": doubts(mean_ms=mean, p99_ms=p99),
        "rounds": [one.to_json() for one in found],
    }
