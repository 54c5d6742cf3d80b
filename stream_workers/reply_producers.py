"""Two ways to hand a micro-batch's replies to Kafka: through confluent-kafka, and, where that is possible, past it.

Both are idempotent producers that report failures only; which one a worker has shows in its speed and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.byte_columns import BytesColumn
from stream_workers.librdkafka import NativeProducer, OnFailure, library
from stream_workers.work import Headers

QUEUE_WAIT_SECONDS: Final = 0.05
Ints = npt.NDArray[np.int64]
Keys = Sequence[bytes | None]


class ReplyProducer(Protocol):
    """Queues and delivers replies; tells its maker of each that was not delivered: the error's name and the topic."""

    def send(self, topic: str, values: BytesColumn, partitions: Ints, keys: Keys = ()) -> None:
        """Queue n values, each for its partition [n]; below 0 its key decides."""

    def send_with_headers(
        self, topic: str, values: BytesColumn, partitions: Ints, keys: Keys, headers: Sequence[Headers]
    ) -> None:
        """The same, each with headers of its own."""

    def flush(self, timeout: float) -> int:
        """Wait for all deliveries, `timeout` seconds at most; returns how many are still under way."""

    def close(self) -> None:
        """Nothing is sent any more."""


def reply_producer(config: Mapping[str, Any], on_failure: OnFailure, **python_only: Any) -> ReplyProducer:
    """The faster of the two that this installation has.

    `config`: librdkafka's properties; `python_only`: what only confluent-kafka takes besides (`logger`).
    """
    found = library()

    def plain() -> PlainProducer:
        return PlainProducer({**config, **python_only}, on_failure)

    return plain() if found is None else FastProducer(NativeProducer(found, config, on_failure), plain)


class PlainProducer:
    """Through confluent-kafka: a dict a message."""

    def __init__(self, config: Mapping[str, Any], on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._producer = Producer({**config, "on_delivery": self._delivered})

    def send(self, topic: str, values: BytesColumn, partitions: Ints, keys: Keys = ()) -> None:
        """See `ReplyProducer`."""
        each, targets = values.tolist(), np.maximum(partitions, -1)
        # produce_batch takes one partition for a batch: a message's own is documented, and ignored (confluent-kafka
        # 2.16).
        order = np.argsort(targets, kind="stable")
        for where in np.split(order, np.flatnonzero(np.diff(targets[order])) + 1):
            target = int(targets[where[0]])
            keyed = target < 0 and bool(keys)
            batch = [{"value": each[i], "key": keys[i]} if keyed else {"value": each[i]} for i in where.tolist()]
            self._send_batch(topic, target, batch)

    def send_with_headers(
        self, topic: str, values: BytesColumn, partitions: Ints, keys: Keys, headers: Sequence[Headers]
    ) -> None:
        """See `ReplyProducer`."""
        keys = keys or [None] * len(values)
        for value, target, key, own in zip(values, partitions.tolist(), keys, headers, strict=True):
            self._send_one(topic, value, key, max(target, -1), own)
        self._producer.poll(0)

    def flush(self, timeout: float) -> int:
        """See `ReplyProducer`."""
        return int(self._producer.flush(timeout))

    def close(self) -> None:
        """See `ReplyProducer`; confluent-kafka gives back what is not referred to any more."""

    def _send_batch(self, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
        while messages:
            queued = self._producer.produce_batch(topic, messages, partition=partition)
            self._producer.poll(0)
            if queued == len(messages):
                return
            full = []
            for message in messages:
                error: KafkaError | None = message.pop("_error", None)
                if error is None:
                    continue
                if error.code() == KafkaError._QUEUE_FULL:
                    full.append(message)
                else:
                    self._on_failure(error.name(), topic)
            if full:
                self._producer.poll(QUEUE_WAIT_SECONDS)
            messages = full

    def _send_one(self, topic: str, value: bytes, key: bytes | None, partition: int, headers: Headers) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=[*headers])
            except BufferError:
                self._producer.poll(QUEUE_WAIT_SECONDS)
            except KafkaException as error:
                self._on_failure(error.args[0].name(), topic)
                return
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._on_failure(error.name(), message.topic() or "")


class FastProducer:
    """Through librdkafka itself; what has headers goes through confluent-kafka, which is made when that first comes."""

    def __init__(self, native: NativeProducer, make_plain: Callable[[], PlainProducer]) -> None:
        self._native = native
        self._make_plain = make_plain
        self._plain: PlainProducer | None = None

    def send(self, topic: str, values: BytesColumn, partitions: Ints, keys: Keys = ()) -> None:
        """See `ReplyProducer`."""
        self._native.produce(topic, values, partitions, keys)

    def send_with_headers(
        self, topic: str, values: BytesColumn, partitions: Ints, keys: Keys, headers: Sequence[Headers]
    ) -> None:
        """See `ReplyProducer`."""
        if self._plain is None:
            self._plain = self._make_plain()
        self._plain.send_with_headers(topic, values, partitions, keys, headers)

    def flush(self, timeout: float) -> int:
        """See `ReplyProducer`."""
        left = self._native.flush(timeout)
        return left + (self._plain.flush(timeout) if self._plain is not None else 0)

    def close(self) -> None:
        """See `ReplyProducer`."""
        self._native.close()
