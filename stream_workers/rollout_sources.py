"""What the driver of rollouts reads from Kafka while one is on: summaries from when a step began, and who lives."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from producers.kafka import Config, client_config, unreachable
from schemas.codec import Codec, DecodeError
from schemas.records import BatchSummary
from schemas.topics import Topics
from stream_workers.rollout import Seen
from stream_workers.worker_state import WorkerState, WorkerStates

log = logging.getLogger(__name__)
ASK_SECONDS: Final = 10.0
MOST: Final = 5000
# What a step began with may be published by a worker whose clock is behind ours.
SKEW_MS: Final = 10_000


class RolloutSources:
    """The `Sources` of a running driver. No group is joined, no offset committed: every driver reads all there is."""

    def __init__(self, config: Config, codec: Codec, topics: Topics, bulk: frozenset[str], since: int) -> None:
        """Reads on from `since` (microseconds since the epoch). Raises `BrokerUnavailableError`.

        `bulk`: the topics of bulk batches, of every pool: nobody waits for those, and they tell of no request.
        """
        own: dict[str, Any] = {
            "group.id": "penstock-rollouts",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
        self._codec = codec
        self._topics = topics
        self._bulk = bulk
        self._consumer = Consumer(client_config(config, own))
        try:
            self._consumer.assign(self._places(max(0, since // 1000 - SKEW_MS)))
        except KafkaException as error:
            self._consumer.close()
            raise unreachable(config, error) from None
        self._workers = WorkerStates(config, codec, topics.workers)

    def summaries(self, models: Iterable[str]) -> list[Seen]:
        """See `rollout.Sources`."""
        keys = {name.encode() for name in models}
        found: list[Seen] = []
        for message in self._consumer.consume(MOST, 0):
            if message.error() is not None or message.key() not in keys:
                continue
            try:
                one = self._codec.decode(BatchSummary, message.value())
            except DecodeError as error:
                log.warning("%s offset %s is left out: %s", message.topic(), message.offset(), error)
                continue
            if one.topic not in self._bulk:
                found.append((one, message.offset() or 0, message.topic() == self._topics.shadow_summaries))
        return found

    def workers(self) -> Mapping[str, WorkerState] | None:
        """See `rollout.Sources`."""
        self._workers.poll()
        return self._workers.live() if self._workers.at_end else None

    def close(self) -> None:
        """See `rollout.Sources`."""
        self._workers.close()
        self._consumer.close()

    def _places(self, since_ms: int) -> list[TopicPartition]:
        wanted = []
        for name in (self._topics.summaries, self._topics.shadow_summaries):
            known = self._consumer.list_topics(name, timeout=ASK_SECONDS).topics[name].partitions
            wanted += [TopicPartition(name, number, since_ms) for number in known]
        found = self._consumer.offsets_for_times(wanted, timeout=ASK_SECONDS)
        # A broker that does not know begins at the beginning: a record of before the step is passed over.
        return [
            TopicPartition(one.topic, one.partition, one.offset if one.error is None else OFFSET_BEGINNING)
            for one in found
        ]
