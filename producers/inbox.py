"""Where answers arrive: one partition of a reply topic, read from its end, without a consumer group."""

from __future__ import annotations

import random
import threading
import time
import uuid
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.errors import BrokerUnavailableError
from producers.kafka import Config, client_config, partitions_of, topics_at, unreachable

DEFAULTS: Final[Config] = {
    # Kafka answers a fetch as soon as there is a record; this is how often it is asked while there is none.
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 20,
    "reconnect.backoff.max.ms": 1000,
    "socket.nagle.disable": True,
}
FIXED: Final[Config] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "allow.auto.create.topics": False,
    # Where the place read from is gone (a broker that lost its memory), read all: ids that are unknown are dropped.
    "auto.offset.reset": "earliest",
}
_PASSING: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)


class Inbox:
    """Reads a partition of `topic` from where it ended at `open`: whatever is sent after that is seen.

    Other readers may share the partition. `poll` belongs to one thread at a time.
    """

    def __init__(self, config: Config, topic: str, *, committed_only: bool = False, rng: random.Random) -> None:
        isolation = {"isolation.level": "read_committed" if committed_only else "read_uncommitted"}
        # librdkafka wants a group id, and never joins it: partitions are assigned, not subscribed to.
        group = {"group.id": f"penstock-inbox-{uuid.uuid4().hex}"}
        self._config = config
        self._settings = client_config(config, DEFAULTS, {**FIXED, **isolation, **group})
        self._consumer: Consumer | None = None
        self._rng = rng
        self.topic = topic
        self.partition = -1

    def open(self, timeout: float) -> int:
        """Choose a partition and its starting offset; returns the partition. Raises `BrokerUnavailableError`."""
        give_up = time.monotonic() + timeout
        consumer = Consumer(self._settings)
        try:
            count = partitions_of(topics_at(consumer, self._config, timeout), self.topic, self._config)
            partition = TopicPartition(self.topic, self._rng.randrange(count))
            partition.offset = self._end(consumer, partition, give_up)
            consumer.assign([partition])
        except BrokerUnavailableError:
            consumer.close()
            raise
        self._consumer = consumer
        self.partition = partition.partition
        return self.partition

    def _end(self, consumer: Consumer, partition: TopicPartition, give_up: float) -> int:
        # A leader that has just changed is not known everywhere yet: asking again is all that helps.
        pause = threading.Event()
        while True:
            left = give_up - time.monotonic()
            try:
                marks = consumer.get_watermark_offsets(partition, timeout=max(left, 0.1))
            except KafkaException as error:
                if left <= 0 or error.args[0].code() not in _PASSING:
                    raise unreachable(self._config, error) from None
            else:
                if marks is not None:
                    return marks[1]
                if left <= 0:
                    raise unreachable(self._config, f"no offsets of {self.topic} [{partition.partition}] in time")
            pause.wait(0.05)

    def poll(self, timeout: float, limit: int = 1000) -> list[bytes]:
        """Values that have come, up to `limit`; waits up to `timeout` seconds for the first. [] where none came.

        Errors that Kafka clients recover from by themselves are passed over. Raises `KafkaException` for the rest.
        """
        assert self._consumer is not None, "open the inbox first"  # noqa: S101 - narrows the type
        first = self._consumer.poll(timeout)
        if first is None:
            return []
        # `consume` alone would wait for a full batch.
        return [value for one in (first, *self._consumer.consume(limit, 0)) if (value := _value(one)) is not None]

    def close(self) -> None:
        """Stop reading."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _value(message: Message) -> bytes | None:
    error = message.error()
    if error is None:
        return message.value()
    if error.fatal() or error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION):
        raise KafkaException(error)
    return None
