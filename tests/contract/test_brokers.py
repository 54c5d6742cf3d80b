"""Both local brokers start, answer, die and come back as their users expect."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock.brokers import ApacheKafka, BrokerError, EmbeddedBroker, LocalBroker, free_port
from schemas.topics import Topics, topic_specs

pytestmark = pytest.mark.kafka


def create(address: str, topic: str, partitions: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        created.result(30)


def produce(address: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0


def read(address: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": uuid.uuid4().hex, "log_level": 0})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages: list[Message] = []
        while len(messages) < count and (message := consumer.poll(30)) is not None:
            if message.error() is None:
                messages.append(message)
        return [message.value() for message in messages]
    finally:
        consumer.close()


def test_every_topic_of_the_design_exists_with_its_partitions(broker: LocalBroker, topics: Topics) -> None:
    found = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=30).topics
    assert {one.name: one.partitions for one in topic_specs(topics, 4)} == {
        name: len(topic.partitions) for name, topic in found.items() if name.startswith(topics.prefix)
    }


def test_a_broker_gives_back_what_was_produced_up_to_the_record_limit(broker: LocalBroker, topics: Topics) -> None:
    values = [b"first", b"x" * 900_000]
    produce(broker.address, topics.requests, values)
    assert read(broker.address, topics.requests, 2) == values


@pytest.mark.apache
def test_apache_kafka_keeps_records_and_address_over_kill_and_restart(own_kafka: ApacheKafka) -> None:
    address = own_kafka.address
    create(address, "kept")
    produce(address, "kept", [b"before"])
    own_kafka.kill()
    assert own_kafka.pid is None
    own_kafka.start()
    produce(own_kafka.address, "kept", [b"between"])
    own_kafka.restart()
    assert own_kafka.address == address
    assert read(address, "kept", 2) == [b"before", b"between"]


def test_the_embedded_broker_forgets_everything_over_a_restart(tmp_path: Path) -> None:
    with EmbeddedBroker(log=tmp_path / "tansu.log") as broker:
        create(broker.address, "gone")
        broker.restart()
        assert "gone" not in AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=30).topics


def test_stopping_a_broker_twice_is_as_good_as_once(tmp_path: Path) -> None:
    broker = EmbeddedBroker(log=tmp_path / "tansu.log").start()
    assert broker.pid is not None
    broker.stop()
    broker.stop()
    assert broker.pid is None


def test_a_broker_whose_port_is_taken_is_not_mistaken_for_the_one_that_has_it(tmp_path: Path) -> None:
    with EmbeddedBroker(log=tmp_path / "first.log") as first:
        second = EmbeddedBroker(first.port, log=tmp_path / "second.log")
        with pytest.raises(BrokerError, match=f"cannot start: port {first.port} of 127.0.0.1 is taken"):
            second.start(5)
    assert second.pid is None


def test_a_broker_that_ends_at_once_names_its_log_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no memory engine\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    broker = EmbeddedBroker(log=tmp_path / "tansu.log")
    with pytest.raises(BrokerError) as caught:
        broker.start()
    assert "ended with status 3" in str(caught.value)
    assert f"{tmp_path / 'tansu.log'}: no memory engine" in str(caught.value)


@pytest.mark.apache
@pytest.mark.usefixtures("kafka_runs_here")
def test_a_kafka_with_a_broken_storage_names_its_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    broker = ApacheKafka(tmp_path / "kafka")
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=7\n")
    with pytest.raises(BrokerError, match=r"ended with status .*kafka\.log"):
        broker.start()
    assert broker.pid is None


def test_free_ports_are_out_of_the_range_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))
