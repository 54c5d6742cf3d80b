"""The Kafka clients of a scoring worker: its consumers and producers, as its config and its guarantees have them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer

from schemas.topics import MAX_MESSAGE_BYTES
from stream_workers.commit import AtLeastOnce, Delivery, ExactlyOnce
from stream_workers.errands import Errands
from stream_workers.librdkafka import OnFailure
from stream_workers.ops import Health
from stream_workers.outputs import OnGivenUp
from stream_workers.reply_producers import ReplyProducer, reply_producer
from stream_workers.scoring_config import ScoringConfig

# What librdkafka has to say, in the process's own format.
KAFKA_LOG: Final = logging.getLogger("librdkafka")

# A dead worker's transaction holds up read_committed consumers for this long, unless it comes back under its name.
TRANSACTION_TIMEOUT_MS: Final = 10_000
# How long a fetch may wait for a first record; Kafka answers as soon as there is one.
REQUEST_WAIT_MS: Final = 100
BULK_WAIT_MS: Final = 500
# How much a fetch brings, and waits here. A larger answer is mapped anew each time, and every page of it faults.
# Requests are scored no faster for reading further ahead, and take more memory: librdkafka fetches as much as may wait,
# or `message.max.bytes` where an operator sets that to more. Kafka sends a larger record all the same.
BULK_FETCH_BYTES: Final = 2 * MAX_MESSAGE_BYTES
REQUESTS_AHEAD: Final[Mapping[str, int]] = {"queued.max.messages.kbytes": 4 << 10}
ASK_SECONDS: Final = 5.0
# How long the worker waits for Kafka and its topics before it says what is missing and ends.
START_SECONDS: Final = 10.0


class WorkerStartError(RuntimeError):
    """The worker cannot begin: Kafka does not answer, or lacks its topics."""


class ScoringClients:
    """Makes a worker's clients."""

    def __init__(self, config: ScoringConfig) -> None:
        self._config = config
        # A handle of its own that nobody polls: a call on a polled one waits for the poll. Its log lines would pile up.
        asking = {"allow.auto.create.topics": False, "log_level": 0}
        self._asker = Consumer(dict(config.consumer(f"{config.group}-topics", **asking)))

    def await_topics(self, health: Health, stop: threading.Event) -> bool:
        """Wait a while for Kafka and its topics; False where `stop` came first. Raises `WorkerStartError`."""
        own = self._config.topics
        needed = {own.requests, own.bulk, own.predictions, own.summaries, own.dead_letters, own.control}
        needed |= {own.workers, own.shadow_predictions, own.shadow_summaries}
        end = monotonic() + START_SECONDS
        while not stop.is_set():
            try:
                missing = needed - self._asker.list_topics(timeout=1.0).topics.keys()
                why = f"Kafka has no topic {', '.join(sorted(missing))}; `penstock topics` creates what is missing"
            except KafkaException as error:
                servers = self._config.consumer(self._config.group)["bootstrap.servers"]
                missing, why = needed, f"Kafka does not answer at {servers}: {error.args[0].str()}"
            if not missing:
                health.forget("kafka")
                return True
            health.set("kafka", False, why)
            if monotonic() > end:
                raise WorkerStartError(why)
            stop.wait(0.5)
        return False

    def partitions(self, topic: str) -> int:
        """Partitions of a topic; 0 where there is none. Raises KafkaException where the cluster does not say."""
        found = self._asker.list_topics(topic, timeout=ASK_SECONDS).topics.get(topic)
        return 0 if found is None or found.error is not None else len(found.partitions)

    def requests(self) -> Consumer:
        """The member of the group that scores requests."""
        return self._consumer(self._config.group, REQUEST_WAIT_MS, REQUESTS_AHEAD)

    def bulk(self) -> Consumer:
        """The member of the group that scores bulk."""
        group = f"{self._config.group}-bulk"
        # librdkafka refuses a consumer that fetches less at once than a record may have.
        largest = int(self._config.consumer(group).get("message.max.bytes", 0))
        return self._consumer(group, BULK_WAIT_MS, {"fetch.max.bytes": max(BULK_FETCH_BYTES, largest)})

    def control(self) -> dict[str, Any]:
        """The properties of a consumer that follows control."""
        return dict(self._config.consumer("penstock-control", logger=KAFKA_LOG))

    def delivery(self, name: str, consumer: Consumer, errands: Errands, on_given_up: OnGivenUp) -> Delivery:
        """How the pipeline `name` makes outputs and offsets durable. `on_given_up`: see `commit.ExactlyOnce`."""
        config = self._config
        # Commits are grouped already, so what is left to linger for is one record more.
        own: dict[str, Any] = {"linger.ms": 1, "compression.type": "lz4", "logger": KAFKA_LOG}
        if config.delivery == "at-least-once":
            return AtLeastOnce(Producer(dict(config.producer(**own))), consumer, errands, on_given_up)
        own |= {
            "transactional.id": f"{config.group}-{name}-{config.name}",
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        }
        return ExactlyOnce(Producer(dict(config.producer(**own))), consumer, errands, on_given_up)

    def replies(self, on_failure: OnFailure) -> ReplyProducer:
        """A producer of replies."""
        own = {
            # A micro-batch is queued in one call: there is nothing to wait for.
            "linger.ms": 0,
            "queue.buffering.max.messages": 500_000,
            # A topic that was deleted is given up after this long, and until then holds up its epoch.
            "topic.metadata.propagation.max.ms": 5_000,
            "delivery.report.only.error": True,
        }
        return reply_producer(self._config.producer(**own), on_failure, logger=KAFKA_LOG)

    def shadow(self) -> Producer:
        """A producer of what is for the record only."""
        return Producer(dict(self._config.producer(**{"compression.type": "lz4", "logger": KAFKA_LOG})))

    def _consumer(self, group: str, wait_ms: int, ahead: Mapping[str, int]) -> Consumer:
        over = {
            "fetch.wait.max.ms": wait_ms,
            **ahead,
            "allow.auto.create.topics": False,
            "logger": KAFKA_LOG,
        }
        return Consumer(dict(self._config.consumer(group, **over)))
