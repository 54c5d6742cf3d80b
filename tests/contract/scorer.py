"""A worker small enough to be believed: answers every request with the sum of its inputs, and misbehaves on demand."""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Self

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import FeatureValue, RowError, ScoreBatch, ScoreReply, ScoreRequest
from schemas.tensors import Array, from_tensor, to_tensor
from schemas.topics import Topics


@dataclass
class Behaviour:
    """How the scorer answers. May be changed while it runs."""

    delay: float = 0.0
    copies: int = 1
    drop: Callable[[str, int], bool] = lambda _request_id, _attempt: False
    code: Code = Code.OK
    message: str = ""
    version: str = "1"
    code_of: Callable[[str], Code] | None = None


def value_of(value: FeatureValue) -> float:
    """What a named feature counts for."""
    return float("nan") if value is None else float(len(value)) if isinstance(value, str) else float(value)


def numbers(array: Array) -> Array:
    """An input or column as numbers per row; text counts by its length."""
    if array.dtype == object:
        array = np.vectorize(len, otypes=[float])(array) if array.size else np.zeros(array.shape)
    total: Array = array.reshape(len(array), -1).astype(np.float64).sum(axis=1)
    return total


def outputs_for(total: Array) -> dict[str, Array]:
    """The outputs for rows of this total: a scalar and a vector of two."""
    return {"score": total.astype(np.float32), "pair": np.stack([total, -total], axis=1)}


@dataclass
class Scorer:
    """Reads `topics.requests` and `topics.bulk` from their beginnings, in a thread of its own."""

    address: str
    topics: Topics
    behaviour: Behaviour = field(default_factory=Behaviour)
    seen: list[ScoreRequest] = field(default_factory=list)
    batches: list[tuple[int, str, int]] = field(default_factory=list)
    headers: list[dict[str, bytes]] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    most_unanswered: int = 0

    def __enter__(self) -> Self:
        self._codec = Codec()
        self._stop = threading.Event()
        self._due: list[tuple[float, int, str, int, bytes]] = []
        self._numbers = count()
        self._producer = Producer({"bootstrap.servers": self.address, "linger.ms": 0, "log_level": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "scorer",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 2,
                "log_level": 0,
            }
        )
        known = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [
                TopicPartition(topic, part, OFFSET_BEGINNING)
                for topic in (self.topics.requests, self.topics.bulk)
                for part in known[topic].partitions
            ]
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()
        self._producer.flush(5)

    def _run(self) -> None:
        while not self._stop.is_set():
            wait = min(0.05, max(0.0, self._due[0][0] - time.monotonic())) if self._due else 0.05
            message = self._consumer.poll(wait)
            if message is not None and message.error() is None:
                self._take(message)
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, topic, partition, value = heapq.heappop(self._due)
                self._producer.produce(topic, value, partition=partition)
                self.unanswered -= 1
            self._producer.poll(0)

    def _take(self, message: Message) -> None:
        value = message.value()
        if message.topic() == self.topics.requests:
            request = self._codec.decode(ScoreRequest, value)
            self.seen.append(request)
            self.partitions.append(message.partition() or 0)
            headers = message.headers() or []
            self.headers.append({key: value for key, value in headers if isinstance(value, bytes)})  # type: ignore[str-unpack]
            self._answer(request.request_id, request.reply_topic, request.reply_partition, self._reply(request))
        else:
            batch = self._codec.decode(ScoreBatch, value)
            self.batches.append((batch.sequence, batch.version, batch.rows))
            name = f"{batch.job}/{batch.sequence}"
            self._answer(name, batch.reply_topic, batch.reply_partition, self._batch_reply(name, batch))

    def _answer(self, request_id: str, topic: str, partition: int, reply: ScoreReply) -> None:
        self.attempts[request_id] += 1
        if self.behaviour.drop(request_id, self.attempts[request_id]):
            return
        value = self._codec.encode(reply)
        for _ in range(self.behaviour.copies):
            self.unanswered += 1
            entry = (time.monotonic() + self.behaviour.delay, next(self._numbers), topic, partition, value)
            heapq.heappush(self._due, entry)
        self.most_unanswered = max(self.most_unanswered, self.unanswered)

    def _failure(self, request_id: str, model: str) -> ScoreReply | None:
        code = self.behaviour.code_of(request_id) if self.behaviour.code_of else self.behaviour.code
        return None if code is Code.OK else ScoreReply(request_id, code, self.behaviour.message, model)

    def _reply(self, request: ScoreRequest) -> ScoreReply:
        failure = self._failure(request.request_id, request.model)
        if failure is not None:
            return failure
        if request.features:
            total = np.array([sum(map(value_of, request.features.values()))])
        else:
            total = np.sum([numbers(from_tensor(one)) for one in request.inputs], axis=0)
        return self._scored(request.request_id, request.model, request.version, total, ())

    def _batch_reply(self, name: str, batch: ScoreBatch) -> ScoreReply:
        failure = self._failure(name, batch.model)
        if failure is not None:
            return failure
        total = np.sum([numbers(from_tensor(one)) for one in (*batch.inputs, *batch.columns)], axis=0)
        errors = tuple(
            RowError(int(row), Code.INVALID_ARGUMENT, "features: expected a number, got NaN")
            for row in np.flatnonzero(np.isnan(total))
        )
        return self._scored(name, batch.model, batch.version, np.nan_to_num(total), errors)

    def _scored(
        self, request_id: str, model: str, version: str, total: Array, errors: tuple[RowError, ...]
    ) -> ScoreReply:
        now = time.time_ns() // 1000
        return ScoreReply(
            request_id,
            Code.OK,
            model=model,
            version=version or self.behaviour.version,
            received_at=now,
            replied_at=now,
            outputs=tuple(to_tensor(key, array) for key, array in outputs_for(total).items()),
            row_errors=errors,
        )
