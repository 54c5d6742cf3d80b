"""What the ingest tests send to Kafka, and how they configure clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.codec import Codec
from schemas.records import Record
from schemas.topics import Topics, topic_specs

CODEC = Codec()


def client(address: str) -> dict[str, object]:
    """Any client."""
    return {"bootstrap.servers": address, "log_level": 0, "reconnect.backoff.max.ms": 500}


def consumer(address: str, group: str) -> dict[str, object]:
    """A member of an ingest group."""
    return {
        **client(address),
        "group.id": group,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "topic.metadata.refresh.interval.ms": 1000,
    }


def send(address: str, topic: str, records: Iterable[Record | bytes], partitions: int = 4) -> None:
    """Records, or raw bytes, in turn to each partition; returns when all are acknowledged."""
    producer = Producer({**client(address), "enable.idempotence": True})
    for number, record in enumerate(records):
        value = record if isinstance(record, bytes) else CODEC.encode(record)
        producer.produce(topic, value, b"key", partition=number % partitions)
        producer.poll(0)
    assert producer.flush(30) == 0


def committed(address: str, group: str, topic: str, partitions: Sequence[int] = (0, 1, 2, 3)) -> dict[int, int]:
    """The group's committed offsets."""
    reader = Consumer({**client(address), "group.id": group})
    try:
        found = reader.committed([TopicPartition(topic, number) for number in partitions], timeout=10)
        return {one.partition: one.offset for one in found}
    finally:
        reader.close()


def create_topics(address: str, topics: Topics) -> None:
    """Every topic of `topics`, 4 partitions each where a topic may have several."""
    wanted = [NewTopic(one.name, one.partitions, 1, config=dict(one.config)) for one in topic_specs(topics, 4)]
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    for created in admin.create_topics(wanted).values():
        created.result(30)
