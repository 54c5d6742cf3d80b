"""Sends replies, at once and at least once; what cannot be delivered is counted and never stops the stream.

Two idempotent producers take turns by epoch. Waiting until every reply of one epoch is acknowledged then never waits
for those of the next, which go on flowing meanwhile.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream_workers.ops import OncePer, WorkerMetrics
from stream_workers.work import Headers

log = logging.getLogger(__name__)

KNOWN_SECONDS: Final = 60.0
UNKNOWN_SECONDS: Final = 2.0
QUEUE_WAIT_SECONDS: Final = 0.05
# As long as nobody can say how many there are, the producer finds out.
ANY_PARTITION: Final = 2**31 - 1
# What Kafka takes as a topic's name; asking for another one is in vain, or an error.
_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")

PartitionsOf = Callable[[str], int]


class ReplyTopics:
    """How many partitions a reply topic has, asked once a while: a wrong reply address must not cost others time."""

    def __init__(self, ask: PartitionsOf, clock: Callable[[], float] = monotonic) -> None:
        """`ask` returns the partitions of a topic, 0 where there is no such topic."""
        self._ask = ask
        self._clock = clock
        self._known: dict[str, tuple[int, float]] = {}  # partitions, and when that was asked

    def partitions(self, topic: str, wanted: int = -1) -> int:
        """Partitions of the topic; 0 where replies cannot go there. `wanted`: a partition somebody waits on."""
        if _NAME.fullmatch(topic) is None or topic in (".", ".."):
            return 0
        now = self._clock()
        count, asked = self._known.get(topic, (0, float("-inf")))
        # A topic may just have been created, or have grown.
        if now - asked < (KNOWN_SECONDS if 0 <= wanted < count or wanted < 0 < count else UNKNOWN_SECONDS):
            return count
        try:
            count = self._ask(topic)
        except KafkaException:
            # The cluster does not answer: what was true a minute ago is the best guess, and the producer waits.
            count = count or ANY_PARTITION
        # Made-up topic names come without end: forget all rather than grow.
        if len(self._known) > 10_000:
            self._known.clear()
        self._known[topic] = (count, now)
        return count


class ReplySender:
    """The two producers and the topics they may write to."""

    def __init__(
        self, make_producer: Callable[[Callable[[KafkaError | None, Message], None]], Producer],
        topics: ReplyTopics, metrics: WorkerMetrics,
    ) -> None:  # fmt: skip
        """`make_producer` gets the delivery callback, which is only to be called for failures."""
        self._producers = (make_producer(self._delivered), make_producer(self._delivered))
        self._topics = topics
        self._metrics = metrics
        self._due = OncePer(60.0)
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def send(
        self,
        parity: int,
        topic: str,
        values: Sequence[bytes],
        partitions: npt.NDArray[np.int64],
        keys: Sequence[bytes | None] = (),
        headers: Sequence[Headers] | None = None,
    ) -> None:
        """Publish n replies to one topic; a partition below 0 leaves the choice to the key, so keys are needed then."""
        if not topic:
            return
        targets = np.maximum(partitions, -1)
        highest = int(targets.max())
        known = self._topics.partitions(topic, highest)
        if not known:
            self._undeliverable("UNKNOWN_TOPIC", topic, len(values))
            return
        if highest >= known:
            self._undeliverable("UNKNOWN_PARTITION", topic, int((targets >= known).sum()))
        producer = self._producers[parity]
        keys = keys or [None] * len(values)
        if headers is not None:
            for value, target, key, own in zip(values, targets.tolist(), keys, headers, strict=True):
                if target < known:
                    self._produce(producer, topic, value, key, target, own)
            producer.poll(0)
            return
        order = np.argsort(targets, kind="stable")
        for where in np.split(order, np.flatnonzero(np.diff(targets[order])) + 1):
            target = int(targets[where[0]])
            if target < 0:
                self._produce_batch(producer, topic, target, [{"value": values[i], "key": keys[i]} for i in where])
            elif target < known:
                self._produce_batch(producer, topic, target, [{"value": values[i]} for i in where.tolist()])

    def flush(self, parity: int, timeout: float) -> int:
        """Wait for the deliveries of one parity; returns how many are still under way."""
        return int(self._producers[parity].flush(timeout))

    def _produce_batch(self, producer: Producer, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
        # librdkafka takes one partition for a batch: a message's own is documented, and ignored (confluent-kafka 2.16).
        while messages:
            queued = producer.produce_batch(topic, messages, partition=partition)
            producer.poll(0)
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
                    self._undeliverable(error.name(), topic, 1)
            if full:
                producer.poll(QUEUE_WAIT_SECONDS)
            messages = full

    def _produce(
        self, producer: Producer, topic: str, value: bytes, key: bytes | None, partition: int, headers: Headers
    ) -> None:
        while True:
            try:
                producer.produce(topic, value, key, partition, headers=[*headers])
            except BufferError:
                producer.poll(QUEUE_WAIT_SECONDS)
            except KafkaException as error:
                self._undeliverable(error.args[0].name(), topic, 1)
                return
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._undeliverable(error.name(), message.topic() or "", 1)

    def _undeliverable(self, reason: str, topic: str, count: int) -> None:
        self._metrics.undeliverable(reason, count)
        with self._lock:
            # By reason alone: the topics are the senders', and there is no end to what they may be called.
            due = self._due.due(reason)
            self._held[reason] = self._held.get(reason, 0) + count
            lost = self._held.pop(reason) if due else 0
        if due:
            log.warning(
                "replies cannot be delivered: %s (%d since last said, the last to topic %.249r)", reason, lost, topic
            )
