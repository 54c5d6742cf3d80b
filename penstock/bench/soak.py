"""`penstock bench soak`: a worker under steady load for minutes, to see that its memory stays where it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import Producer

from penstock.bench.bed import Bed, BenchError
from penstock.bench.feed import Progress, marks_of
from penstock.bench.figures import slope
from penstock.bench.workload import RequestMaker

_TICK: Final = 0.05
_SAMPLE_SECONDS: Final = 1.0
# Pools and caches fill for a while after the start; growth is looked for after that.
_SETTLING: Final = 0.2
_MIB: Final = 2**20
Say = Callable[[str], None]


def run_soak(bed: Bed, minutes: float, rate: float, say: Say) -> dict[str, Any]:
    """Load one worker at `rate` requests a second and sample its memory. Raises `BenchError` where it falls behind."""
    topic, group = bed.topics.requests, bed.settings.worker.group
    bed.start_workers(1, "exactly-once")
    worker = bed.workers[0]
    producer = Producer({**bed.producer(), "linger.ms": 5})
    maker = RequestMaker(bed.settings.codec(), bed.workload, bed.run_id, bed.topics.replies, 8)
    starts = marks_of(bed, topic)()
    progress = Progress(bed, group, topic)
    sent, most_behind, said = 0, 0, 0.0
    times: list[float] = []
    sizes: list[float] = []
    begin = time.monotonic()
    pause = threading.Event()
    while (now := time.monotonic() - begin) < minutes * 60:
        due = int(now * rate) - sent
        if due > 0:
            values, keys = maker.many(sent % 10**8, due)
            for value, key in zip(values, keys, strict=True):
                producer.produce(topic, value, key)
            sent += due
        producer.poll(0)
        if not times or now - times[-1] >= _SAMPLE_SECONDS:
            times.append(now)
            sizes.append(worker.rss() / _MIB)
            most_behind = max(most_behind, sent - progress.done(starts))
        if now - said >= 60:
            said = now
            say(f"{now / 60:.0f} min: {sizes[-1]:.1f} MiB, {sent:,} requests")
        pause.wait(_TICK)
    if producer.flush(60):
        raise BenchError("the broker does not take the requests")
    progress.wait(starts, sent, 60)
    settled = [at for at, moment in enumerate(times) if moment >= times[-1] * _SETTLING]
    growth = slope([times[at] for at in settled], [sizes[at] for at in settled]) * 60
    bed.stop_workers()
    return {
        "delivery": "exactly-once",
        "workers": 1,
        "minutes": minutes,
        "requests_per_second": rate,
        "requests": sent,
        "most_uncommitted": most_behind,
        "rss_mib": {
            "start": round(sizes[0], 1),
            "settled": round(sizes[settled[0]], 1),
            "end": round(sizes[-1], 1),
            "max": round(max(sizes), 1),
            "growth_per_minute_once_settled": round(growth, 3),
        },
        "samples": [[round(a, 1), round(b, 1)] for a, b in zip(times, sizes, strict=True)],
        "doubts": ["less than 5 minutes say little about growth"] if minutes < 5 else [],
    }
