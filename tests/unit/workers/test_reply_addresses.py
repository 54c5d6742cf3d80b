"""Where a reply goes: by the record or by Spring's headers, and never to a place that costs others anything."""

from __future__ import annotations

import struct

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from stream_workers.intake import reply_address
from stream_workers.replies import ANY_PARTITION, KNOWN_SECONDS, UNKNOWN_SECONDS, ReplyTopics

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("headers", [[], [("other", b"x")], [("traceparent", b"not a trace")]], ids=str)
def test_headers_that_say_nothing_of_replies_are_no_address(headers: list[tuple[str, bytes]]) -> None:
    assert reply_address(headers) is None


@given(
    topic=st.text(min_size=1, max_size=5).filter(lambda text: text.isascii()),
    correlation=st.binary(max_size=20),
    partition=st.integers(0, 2**31 - 1),
)
def test_springs_headers_are_topic_correlation_and_four_bytes_of_partition(
    topic: str, correlation: bytes, partition: int
) -> None:
    address = reply_address(
        [
            ("kafka_replyTopic", topic.encode()),
            ("kafka_correlationId", correlation),
            ("kafka_replyPartition", struct.pack(">i", partition)),
        ]
    )
    assert address is not None
    assert (address.topic, address.partition) == (topic, partition)
    assert address.headers == [("kafka_correlationId", correlation)]


@pytest.mark.parametrize("raw", [None, b"", b"\0", b"\0" * 8, struct.pack(">i", -1), struct.pack(">i", -(2**31))])
def test_without_a_partition_that_makes_sense_the_key_decides(raw: bytes | None) -> None:
    headers = [("kafka_replyTopic", b"replies")]
    address = reply_address(headers + ([] if raw is None else [("kafka_replyPartition", raw)]))
    assert address is not None
    assert address.partition == -1


def test_a_trace_alone_leaves_the_records_own_address_and_travels_on() -> None:
    address = reply_address([("traceparent", TRACE)])
    assert address is not None
    assert address.topic is None
    assert address.headers == [("traceparent", TRACE)]


class Cluster:
    """Says how many partitions a topic has, and how often it was asked."""

    def __init__(self, **topics: int) -> None:
        self.topics = topics
        self.asked = 0
        self.away = False
        self.now = 0.0

    def __call__(self, topic: str) -> int:
        self.asked += 1
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return self.topics.get(topic, 0)


def test_a_known_topic_is_asked_for_once_in_a_while() -> None:
    cluster = Cluster(replies=4)
    topics = ReplyTopics(cluster, lambda: cluster.now)
    assert [topics.partitions("replies", n) for n in (0, 3, -1)] == [4, 4, 4]
    assert cluster.asked == 1
    cluster.now += KNOWN_SECONDS
    topics.partitions("replies")
    assert cluster.asked == 2


def test_a_topic_that_grows_is_seen_as_soon_as_somebody_waits_on_a_new_partition() -> None:
    cluster = Cluster(replies=1)
    topics = ReplyTopics(cluster, lambda: cluster.now)
    assert topics.partitions("replies", 0) == 1
    cluster.topics["replies"] = 8
    assert topics.partitions("replies", 5) == 1
    cluster.now += UNKNOWN_SECONDS
    assert topics.partitions("replies", 5) == 8
    assert cluster.asked == 2


def test_a_topic_that_was_missing_is_found_once_it_is_there() -> None:
    cluster = Cluster()
    topics = ReplyTopics(cluster, lambda: cluster.now)
    assert topics.partitions("late") == 0
    cluster.topics["late"] = 2
    assert topics.partitions("late") == 0
    cluster.now += UNKNOWN_SECONDS
    assert topics.partitions("late") == 2


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a\0b", "ü", "a/b", "x" * 250, "a\n"], ids=ascii)
def test_what_can_be_no_topics_name_is_not_even_asked_for(name: str) -> None:
    cluster = Cluster()
    assert ReplyTopics(cluster, lambda: 0.0).partitions(name) == 0
    assert cluster.asked == 0


def test_while_the_cluster_is_away_nothing_is_given_up_and_nothing_waits_twice() -> None:
    cluster = Cluster(replies=4)
    topics = ReplyTopics(cluster, lambda: cluster.now)
    assert topics.partitions("replies") == 4
    cluster.away = True
    cluster.now += KNOWN_SECONDS
    assert topics.partitions("replies", 3) == 4
    assert topics.partitions("new", 7) == ANY_PARTITION
    asked = cluster.asked
    assert topics.partitions("new", 7) == ANY_PARTITION
    assert cluster.asked == asked
