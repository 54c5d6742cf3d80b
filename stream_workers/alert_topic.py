"""The topic of alerts: writes one and waits until Kafka has it, and reads back how each stands."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from producers.kafka import Config, client_config, unreachable
from producers.publisher import Publisher
from schemas.codec import Codec, DecodeError
from schemas.records import Alert


class AlertTopic:
    """The topic, which has one partition; `config`: librdkafka properties of any client."""

    def __init__(
        self, config: Config, codec: Codec, topic: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._codec = codec
        self._topic = topic
        self._clock = clock

    def put(self, alert: Alert) -> None:
        """Write an alert under its id; returns when Kafka has it. Raises `BrokerUnavailableError`, `DeliveryError`."""
        with Publisher(self._config, self._codec) as publisher:
            publisher.send(self._topic, alert, key=alert.alert_id.encode())

    def states(self, timeout: float = 15.0) -> dict[str, str]:
        """The last state of each alert by its id. Raises `BrokerUnavailableError` where that takes longer."""
        own = {
            "group.id": "penstock-alerts",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        consumer = Consumer(client_config(self._config, own))
        found: dict[str, str] = {}
        end = self._clock() + timeout
        try:
            consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
            while self._clock() < end:
                message = consumer.poll(0.2)
                error = None if message is None else message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return found
                if error is not None:
                    raise unreachable(self._config, error.str())
                if message is not None and message.value() is not None:
                    try:
                        alert = self._codec.decode(Alert, message.value())
                    except DecodeError:
                        continue  # not ours, or of a later release: it is none of our ids
                    found[alert.alert_id] = alert.state
        except KafkaException as error:
            raise unreachable(self._config, error) from None
        finally:
            consumer.close()
        raise unreachable(self._config, f"topic {self._topic} was not read within {timeout:g} s")
