"""The straight loop: consume, fastavro, ONNX Runtime, fastavro, produce, commit, as one writes it in an afternoon.

Settings after librdkafka's "Configuration properties" and "Introduction to librdkafka" (the sections on high
throughput and on the idempotent producer), and confluent-kafka-python's "API documentation": batches from
`consume`, an idempotent producer that lingers 5 ms, offsets committed after a flush once a second or when there is
nothing to do.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, Producer
from scoring import Scorer, Settings

BATCH = 1000
COMMIT_SECONDS = 1.0


def main() -> None:
    """Score until killed."""
    settings = Settings.given()
    scorer = Scorer(settings)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": settings.group,
            "auto.offset.reset": "latest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "session.timeout.ms": settings.session_timeout_ms,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": settings.bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    consumer.subscribe([settings.requests])
    uncommitted, last = 0, time.monotonic()
    while True:
        messages = consumer.consume(BATCH, 0.05)
        values = []
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            values.append(message.value())
        if values:
            for reply in scorer.score(values):
                producer.produce(reply.topic, reply.value, partition=reply.partition)
            producer.poll(0)
            uncommitted += len(values)
        if uncommitted and (not values or time.monotonic() - last > COMMIT_SECONDS):
            producer.flush()
            consumer.commit(asynchronous=False)
            uncommitted, last = 0, time.monotonic()


if __name__ == "__main__":
    main()
