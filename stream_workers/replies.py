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
from typing import Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaException

from schemas.byte_columns import BytesColumn
from stream_workers.librdkafka import OnFailure
from stream_workers.ops import OncePer, WorkerMetrics
from stream_workers.reply_producers import ReplyProducer
from stream_workers.work import Headers

log = logging.getLogger(__name__)

KNOWN_SECONDS: Final = 60.0
UNKNOWN_SECONDS: Final = 2.0
# As long as nobody can say how many there are, the producer finds out.
ANY_PARTITION: Final = 2**31 - 1
# What Kafka takes as a topic's name; asking for another one is in vain, or an error.
_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")
# Kafka's own topics, which take nothing from anybody.
_KAFKAS: Final = "__"

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
        if _NAME.fullmatch(topic) is None or topic in (".", "..") or topic.startswith(_KAFKAS):
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
        self, make_producer: Callable[[OnFailure], ReplyProducer], topics: ReplyTopics, metrics: WorkerMetrics
    ) -> None:
        """`make_producer` gets what its producer is to tell of each reply that was not delivered."""
        self._producers = (make_producer(self._failed), make_producer(self._failed))
        self._topics = topics
        self._metrics = metrics
        self._due = OncePer(60.0)
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def send(
        self,
        parity: int,
        topic: str,
        values: BytesColumn,
        partitions: npt.NDArray[np.int64],
        keys: Sequence[bytes | None] = (),
        headers: Sequence[Headers] | None = None,
    ) -> None:
        """Publish n replies to one topic; a partition below 0 leaves the choice to the key, so keys are needed then."""
        if not topic:
            return
        highest = int(partitions.max())
        known = self._topics.partitions(topic, max(highest, -1))
        if not known:
            self._undeliverable("UNKNOWN_TOPIC", topic, len(values))
            return
        if highest >= known:
            fits = np.flatnonzero(partitions < known)
            self._undeliverable("UNKNOWN_PARTITION", topic, len(values) - len(fits))
            if not len(fits):
                return
            values, partitions = values.take(fits), partitions[fits]
            keys = [keys[i] for i in fits.tolist()] if keys else ()
            headers = None if headers is None else [headers[i] for i in fits.tolist()]
        if headers is not None:
            self._producers[parity].send_with_headers(topic, values, partitions, keys, headers)
        else:
            self._producers[parity].send(topic, values, partitions, keys)

    def flush(self, parity: int, timeout: float) -> int:
        """Wait for the deliveries of one parity; returns how many are still under way."""
        return self._producers[parity].flush(timeout)

    def close(self) -> None:
        """Nothing is sent any more."""
        for producer in self._producers:
            producer.close()

    def _failed(self, reason: str, topic: str) -> None:
        self._undeliverable(reason, topic, 1)

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
