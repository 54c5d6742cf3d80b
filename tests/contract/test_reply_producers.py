"""Both reply producers deliver the same replies to the same places, and say of each that cannot be delivered so."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from penstock.brokers import LocalBroker
from schemas.byte_columns import BytesColumn
from schemas.partitioning import PARTITIONER, partition_for
from schemas.topics import Topics
from stream_workers.librdkafka import NativeProducer, NativeProducerError, library
from stream_workers.reply_producers import FastProducer, PlainProducer, ReplyProducer, reply_producer

pytestmark = pytest.mark.kafka
PARTITIONS = 4
Failures = Counter[tuple[str, str]]


@pytest.fixture
def failures() -> Failures:
    return Counter()


@pytest.fixture(params=["fast", "plain"])
def make(request: pytest.FixtureRequest, broker: LocalBroker, failures: Failures) -> Any:
    def count(reason: str, topic: str) -> None:
        failures[reason, topic] += 1

    def producer(**more: Any) -> ReplyProducer:
        config = {
            "bootstrap.servers": broker.address,
            "enable.idempotence": True,
            "partitioner": PARTITIONER,
            "delivery.report.only.error": True,
            "topic.metadata.propagation.max.ms": 2000,
            **more,
        }
        made = PlainProducer(config, count) if request.param == "plain" else reply_producer(config, count)
        # The wheels bring the library as a file of its own, so here the fast one must be had.
        assert isinstance(made, FastProducer) is (request.param == "fast")
        return made

    return producer


def read(broker: LocalBroker, topic: str, count: int) -> dict[bytes, tuple[int, bytes | None, Any]]:
    """`count` records by their values: partition, key, headers."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": uuid.uuid4().hex, "log_level": 0})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    found: dict[bytes, tuple[int, bytes | None, Any]] = {}
    while len(found) < count:
        messages = consumer.consume(count, 10)
        assert messages, f"{len(found)} of {count} came"
        for one in messages:
            assert one.error() is None
            assert one.value() not in found
            found[one.value()] = (one.partition(), one.key(), one.headers())
    consumer.close()
    return found


def replies(count: int) -> BytesColumn:
    """Of lengths that differ, and not at the beginning of their buffer."""
    return BytesColumn.of([b"before", *(b"%d" % i + b"x" * (i % 7) for i in range(count))])[1:]


def test_each_reply_goes_to_its_own_partition(make: Any, broker: LocalBroker, topics: Topics) -> None:
    values, partitions = replies(1000), np.arange(1000) * 7 % PARTITIONS
    producer = make()
    producer.send(topics.replies, values, partitions)
    assert producer.flush(20) == 0
    found = read(broker, topics.replies, 1000)
    assert {value: place for value, (place, _, _) in found.items()} == dict(
        zip(values, partitions.tolist(), strict=True)
    )
    producer.close()


def test_without_a_partition_the_key_decides_and_no_key_is_not_an_empty_one(
    make: Any, broker: LocalBroker, topics: Topics
) -> None:
    values = replies(400)
    keys = [None if i % 3 == 0 else b"" if i % 3 == 1 else b"user-%d|" % i for i in range(400)]
    partitions = np.where(np.arange(400) % 10 == 9, 2, -1)
    producer = make()
    producer.send(topics.replies, values, partitions, keys)
    assert producer.flush(20) == 0
    found = read(broker, topics.replies, 400)
    for value, key, given in zip(values, keys, partitions.tolist(), strict=True):
        place, own, _ = found[value]
        if given >= 0:
            assert place == given
        else:
            assert own == key
            assert key is None or place == partition_for(key, PARTITIONS)
    producer.close()


def test_headers_travel_with_their_reply_and_flush_waits_for_both_kinds(
    make: Any, broker: LocalBroker, topics: Topics
) -> None:
    values = replies(20)
    producer = make(**{"linger.ms": 200})
    producer.send(topics.replies, values[:10], np.zeros(10, np.int64))
    headers = [[("n", b"%d" % i)] for i in range(10)]
    producer.send_with_headers(topics.replies, values[10:], np.full(10, 3), [b"key"] * 10, headers)
    assert producer.flush(20) == 0
    found = read(broker, topics.replies, 20)
    assert [found[value][2] for value in values[:10]] == [None] * 10
    assert [found[value] for value in values[10:]] == [(3, b"key", own) for own in headers]
    producer.close()


def test_a_full_queue_is_waited_for(make: Any, broker: LocalBroker, topics: Topics, failures: Failures) -> None:
    producer = make(**{"queue.buffering.max.messages": 50, "linger.ms": 0})
    values = replies(2000)
    producer.send(topics.replies, values, np.arange(2000) % PARTITIONS)
    assert producer.flush(20) == 0
    assert read(broker, topics.replies, 2000).keys() == {*values}
    assert not failures
    producer.close()


def test_replies_that_cannot_be_delivered_are_told_one_by_one(
    make: Any, broker: LocalBroker, topics: Topics, failures: Failures
) -> None:
    producer = make(**{"message.max.bytes": 2000, "allow.auto.create.topics": False})
    large = BytesColumn.of([b"small", b"l" * 3000, b"fits"])
    producer.send(topics.replies, large, np.zeros(3, np.int64))
    gone = f"{topics.prefix}no-such-topic"
    producer.send(gone, replies(5), np.zeros(5, np.int64))
    assert producer.flush(30) == 0
    assert failures == {("MSG_SIZE_TOO_LARGE", topics.replies): 1, ("_UNKNOWN_TOPIC", gone): 5} or failures == {
        ("MSG_SIZE_TOO_LARGE", topics.replies): 1,
        ("UNKNOWN_TOPIC_OR_PART", gone): 5,
    }
    assert read(broker, topics.replies, 2).keys() == {b"small", b"fits"}
    producer.close()


def test_topics_without_end_do_not_pile_up(broker: LocalBroker) -> None:
    found = library()
    assert found is not None
    native = NativeProducer(found, {"bootstrap.servers": broker.address, "log_level": 0}, lambda *_: None)
    topic = f"kept-{uuid.uuid4().hex[:8]}"
    for number in range(2500):
        native._topic(f"{topic}-{number}")
    assert len(native._topics) <= 1000
    native.close()
    native.close()


def test_a_property_that_librdkafka_does_not_know_is_named() -> None:
    found = library()
    assert found is not None
    with pytest.raises(NativeProducerError, match=r"kafka property no\.such: .*no\.such"):
        NativeProducer(found, {"no.such": 1}, lambda *_: None)
    with pytest.raises(NativeProducerError, match=r"kafka property linger\.ms: Invalid value"):
        NativeProducer(found, {"linger.ms": "soon"}, lambda *_: None)
