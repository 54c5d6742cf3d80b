"""Asks workers at a steady rate, whatever becomes of the answers, and keeps every one: a process of its own.

`python -m benchmarks.swap_load PLAN` reads the plan (JSON: see `Plan`), asks until SIGTERM, waits for what is under way
and writes an .npz of `Answers`. A request is timed from when it was due, so that a stall counts for all whom it met.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from penstock.bench.workload import POOL, RequestMaker, make_workload, number_of
from schemas.codec import Codec
from schemas.partitioning import record_key
from schemas.records import ScoreReply
from schemas.tensors import Array, from_tensor

MOST: Final = 2_000_000
DRAIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask: `users` by turns, at `rate` a second. `out`: where answers go; `store`: where the model is."""

    producer: dict[str, Any]
    consumer: dict[str, Any]
    requests: str
    replies: str
    run: str
    model: str
    store: str
    rate: float
    users: int
    out: str

    def write(self, path: Path) -> None:
        """For the process."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The reverse."""
        return cls(**json.loads(path.read_text("utf-8")))


@dataclass(frozen=True, slots=True)
class Answers:
    """Request i of n: arrays [n]. Times in microseconds since the epoch.

    `due`, `sent`, and `answered` (0: never); `replies`: how many came; `code`, `version` and `degraded` of the first
    one as places in the lists; `score`: its first output.
    """

    run: str
    users: int
    due: Array
    sent: Array
    answered: Array
    replies: Array
    code: Array
    version: Array
    degraded: Array
    score: Array
    codes: list[str]
    versions: list[str]
    levels: list[str]

    @classmethod
    def read(cls, path: Path, run: str, users: int) -> Self:
        """What the process wrote."""
        with np.load(path) as found:
            arrays = {name: found[name] for name in ("due", "sent", "answered", "replies", "code", "version")}
            more = {name: found[name] for name in ("degraded", "score")}
            lists = {name: found[name].tolist() for name in ("codes", "versions", "levels")}
        return cls(run, users, **arrays, **more, **lists)

    def user(self) -> Array:
        """The user of each request."""
        return np.arange(len(self.due)) % self.users

    def row(self) -> Array:
        """The row of the workload that each request asked about."""
        return np.arange(len(self.due)) % POOL


class Load:
    """The requests and the answers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._codec = Codec()
        folder = Path(plan.out).parent
        workload = make_workload(plan.model, folder, plan.store)
        self._maker = RequestMaker(self._codec, workload, plan.run, plan.replies, 1)
        self._producer = Producer({**plan.producer, "linger.ms": 0, "log_level": 0})
        self._inbox = Consumer({**plan.consumer, "isolation.level": "read_uncommitted", "log_level": 0})
        self._inbox.assign([TopicPartition(plan.replies, 0, OFFSET_END)])
        self._inbox.consume(1, 2.0)  # it begins at the end as it finds it
        self._due, self._sent, self._answered, self._replies = (np.zeros(MOST, np.int64) for _ in range(4))
        self._code, self._version, self._degraded = (np.full(MOST, -1, np.int16) for _ in range(3))
        self._score = np.full(MOST, np.nan)
        self._places: tuple[dict[str, int], ...] = ({}, {}, {})
        self._asked = self._got = 0
        self._stop, self._closed = threading.Event(), threading.Event()

    def run(self) -> None:
        """Until SIGTERM; then wait for the answers, and write."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: self._stop.set())
        reader = threading.Thread(target=self._read, name="answers")
        reader.start()
        began, wall = time.perf_counter() + 0.1, time.time_ns() // 1000 + 100_000
        while not self._stop.is_set() and self._asked < MOST:
            due = began + self._asked / self._plan.rate
            if (early := due - time.perf_counter()) > 0:
                self._producer.poll(0)
                self._stop.wait(early)
                continue
            self._due[self._asked] = wall + round(self._asked / self._plan.rate * 1e6)
            self._ask(self._asked)
        self._producer.flush(DRAIN_SECONDS)
        end = time.monotonic() + DRAIN_SECONDS
        pause = threading.Event()
        while self._got < self._asked and time.monotonic() < end:
            pause.wait(0.05)
        self._closed.set()
        reader.join()
        self._write()

    def _ask(self, number: int) -> None:
        plan = self._plan
        user = f"u{number % plan.users:05d}"
        request = replace(self._maker.one(number), user_id=user, reply_partition=0)
        self._sent[number] = request.sent_at
        self._asked = number + 1
        while True:
            try:
                self._producer.produce(plan.requests, self._codec.encode(request), record_key(user))
            except BufferError:
                self._producer.poll(0.01)
            else:
                return

    def _read(self) -> None:
        while not self._closed.is_set():
            message = self._inbox.poll(0.05)
            if message is None or message.error() is not None:
                continue
            now = time.time_ns() // 1000
            reply = self._codec.decode(ScoreReply, message.value() or b"")
            if reply.request_id.startswith(self._plan.run):
                self._take(number_of(reply.request_id.encode()), reply, now)

    def _take(self, number: int, reply: ScoreReply, now: int) -> None:
        self._replies[number] += 1
        if self._replies[number] > 1:
            return
        self._answered[number] = now
        words = (str(reply.code), reply.version, getattr(reply, "degraded", ""))
        for array, places, word in zip((self._code, self._version, self._degraded), self._places, words, strict=True):
            array[number] = places.setdefault(word, len(places))
        if reply.outputs:
            self._score[number] = float(from_tensor(reply.outputs[0]).ravel()[0])
        self._got += 1

    def _write(self) -> None:
        n = self._asked
        lists = dict(zip(("codes", "versions", "levels"), map(list, self._places), strict=True))
        np.savez(
            self._plan.out,
            due=self._due[:n],
            sent=self._sent[:n],
            answered=self._answered[:n],
            replies=self._replies[:n],
            code=self._code[:n],
            version=self._version[:n],
            degraded=self._degraded[:n],
            score=self._score[:n],
            **{name: np.array(words, str) for name, words in lists.items()},
        )


if __name__ == "__main__":
    Load(Plan.read(Path(sys.argv[1]))).run()
