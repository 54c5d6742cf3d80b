"""`penstock bench reply`: requests at a steady rate, each timed from the moment it was due, beside a raw echo.

The rate does not give way: a slow answer does not keep the next request from being sent, and a request that was sent
late has waited since it was due. So a stall counts for all whom it would have met ("coordinated omission" left out).
"""

from __future__ import annotations

import asyncio
import gc
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from penstock.bench.asking import Asker
from penstock.bench.bed import PARTITIONS, Bed, BenchError
from penstock.bench.feed import marks_of
from penstock.bench.figures import GIVEN_UP_SECONDS, Latency, Spread, doubts
from penstock.bench.warming import warm_up
from penstock.bench.workload import RequestMaker
from penstock.supervisor import Program

_WARM_UP_SECONDS: Final = 2.0
Say = Callable[[str], None]


async def paced(
    rate: float,
    count: int,
    ask: Callable[[int], Awaitable[bool]],
    until: Callable[[], bool] = lambda: False,
) -> Latency:
    """Call `ask(i)` at `rate` a second, whatever becomes of the calls before; latencies from when each was due.

    After `count` calls it ends, or earlier, when `until` says so. Raises what `ask` raised first.
    """
    seconds: list[float] = []
    begun = 0
    under_way: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def one(number: int, due: float) -> None:
        if await ask(number):
            seconds.append(time.perf_counter() - due)

    def ended(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            failures.append(failure)

    def begin(number: int, due: float) -> None:
        nonlocal begun
        begun += 1
        task = loop.create_task(one(number, due))
        under_way.add(task)
        task.add_done_callback(ended)

    def keep_pace() -> None:
        start = time.perf_counter() + 0.05
        for number in range(count):
            due = start + number / rate
            if over.wait(max(0.0, due - time.perf_counter())):
                return
            if until():
                break
            loop.call_soon_threadsafe(begin, number, due)
        loop.call_soon_threadsafe(all_begun.set)

    loop, all_begun, over = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    # The event loop's own timers are rounded up to whole milliseconds, which nobody who is called asks for.
    pace = threading.Thread(target=keep_pace, name="pace", daemon=True)
    # Python's collector would stop this process for 45 to 95 ms every three seconds, to walk all that is imported here.
    gc.collect()
    gc.freeze()
    pace.start()
    try:
        await all_begun.wait()
        await asyncio.gather(*under_way, return_exceptions=True)
    finally:
        over.set()
        pace.join()
        gc.unfreeze()
    if failures:
        raise failures[0]
    return Latency.of(seconds, begun - len(seconds))


def run_reply(bed: Bed, rate: float, seconds: float, rounds: int, workers: int, say: Say) -> dict[str, Any]:
    """Measure the echo and the workers by turns. Raises `BenchError`, and a client's errors at the start."""
    bed.start_workers(workers, "exactly-once")
    count = max(1, round(rate * seconds / rounds))
    warm = max(1, round(rate * _WARM_UP_SECONDS))
    # In all as long as the rounds at most.
    most = max(1, round(seconds / _WARM_UP_SECONDS))
    echoes: list[Latency] = []
    answers: list[Latency] = []
    with Asker(bed) as asker, Echo(bed) as echo:
        asker.await_first()

        def once(_number: int) -> None:
            asyncio.run(paced(rate, warm, asker.ask))
            asyncio.run(paced(rate, warm, echo.ask))

        warm_up(once, bed.processes, least=1, most=most)
        asker.forget()
        before = bed.usage()
        for number in range(rounds):
            echoes.append(asyncio.run(paced(rate, count, echo.ask)))
            answers.append(asyncio.run(paced(rate, count, asker.ask)))
            say(
                f"round {number + 1}: echo p50 {echoes[-1].p50:.1f} ms, p99 {echoes[-1].p99:.1f} ms; "
                f"workers p50 {answers[-1].p50:.1f} ms, p99 {answers[-1].p99:.1f} ms"
            )
    used = bed.usage().since(before)
    bed.stop_workers()
    figures = {
        f"{who}_{name}_ms": Spread(tuple(getattr(one, name) for one in own))
        for who, own in (("echo", echoes), ("reply", answers))
        for name in ("p50", "p99", "worst")
    }
    return {
        "rows_per_record": 1,
        "features": bed.workload.width,
        "requests_per_second": rate,
        "requests": count * rounds,
        "delivery": "exactly-once",
        "workers": workers,
        **{name: spread.to_json(2) for name, spread in figures.items()},
        "added_p50_ms": round(figures["reply_p50_ms"].median - figures["echo_p50_ms"].median, 2),
        "added_p99_ms": round(figures["reply_p99_ms"].median - figures["echo_p99_ms"].median, 2),
        "inside_worker": Latency.of(asker.inside).to_json(),
        "profile": used.to_json(),
        "errors": asker.errors,
        "doubts": doubts(
            **{f"{who}_{name}": figures[f"{who}_{name}_ms"] for who in ("echo", "reply") for name in ("p50", "p99")}
        ),
        "rounds": [{"echo": a.to_json(), "reply": b.to_json()} for a, b in zip(echoes, answers, strict=True)],
    }


class Echo:
    """Questions to the echo process, answered by its bytes coming back. A context manager."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._source, self._target = bed.echo_topics
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = {}
        self._numbers = 0
        self._stop = threading.Event()
        self._answered = threading.Event()
        self._padding = RequestMaker(bed.settings.codec(), bed.workload, "e" * 32, "", 1).many(0, 1)[0][0]
        self._process = Program(
            "echo",
            [
                *(sys.executable, "-m", "penstock.bench.raw", "echo", "--bootstrap", bed.bootstrap),
                *("--source", self._source, "--target", self._target),
            ],
            bed.folder / "logs" / "echo.log",
        )

    def __enter__(self) -> Echo:
        bed = self._bed
        starts = marks_of(bed, self._target)()
        self._producer = Producer({**bed.client(), "linger.ms": 0, "enable.idempotence": True})
        self._consumer = Consumer(
            {**bed.client(), "group.id": "penstock-bench-answers", "fetch.wait.max.ms": 2, "enable.auto.commit": False}
        )
        self._consumer.assign([TopicPartition(self._target, number, at) for number, at in enumerate(starts)])
        self._thread = threading.Thread(target=self._read, name="echo", daemon=True)
        self._process.start()
        self._thread.start()
        self._await_first()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()
        self._process.stop()

    async def ask(self, number: int) -> bool:
        """One question; whether its answer came."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._numbers += 1
        name = self._numbers
        self._waiting[name] = (loop, future)
        self._send(name, number)
        try:
            async with asyncio.timeout(GIVEN_UP_SECONDS):
                await future
        except TimeoutError:
            self._waiting.pop(name, None)
            return False
        return True

    def _send(self, name: int, number: int) -> None:
        value = struct.pack("<q", name) + self._padding
        self._producer.produce(self._source, value, partition=number % PARTITIONS)
        self._producer.poll(0)

    def _await_first(self, seconds: float = 60.0) -> None:
        # The echo begins at the topic's end as it finds it, so that what is sent before is lost.
        end = time.monotonic() + seconds
        while not self._answered.wait(0.2):
            self._send(0, 0)
            if self._process.pid is None or time.monotonic() > end:
                raise BenchError(f"the raw echo does not answer; its log is {self._process.log}")

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.05)
            if message is None or message.error() is not None:
                continue
            self._answered.set()
            (name,) = struct.unpack_from("<q", message.value() or bytes(8))
            waiting = self._waiting.pop(name, None)
            if waiting is not None:
                loop, future = waiting
                loop.call_soon_threadsafe(_done, future)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
