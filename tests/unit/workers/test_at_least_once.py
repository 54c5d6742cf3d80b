"""Without transactions too, no offset is committed before every output is acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from stream_workers.commit import AtLeastOnce, CommitFailedError
from stream_workers.errands import Errands
from stream_workers.ledger import Epoch, Output

EPOCH = Epoch(0, offsets={("requests", 1): 7}, outputs=[Output("predictions", b"a"), Output("gone", b"b")])


class Broker:
    """A producer and a consumer in one, that notes what is asked of it in order."""

    def __init__(self, refuses: str = "", queue: int = 10, unacknowledged: int = 0) -> None:
        self.refuses, self.room, self.left = refuses, queue, unacknowledged
        self.events: list[str] = []
        self._callbacks: list[tuple[Callable[..., Any], KafkaError | None]] = []

    def produce(self, topic: str, value: bytes, key: bytes | None, partition: int, on_delivery: Any = None) -> None:
        del value, key, partition
        if self.room == 0:
            raise BufferError
        self.room -= 1
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if topic == self.refuses else None
        self._callbacks.append((on_delivery, error))
        self.events.append(f"produce {topic}")

    def poll(self, timeout: float) -> int:
        del timeout
        self.room += 1
        return 0

    def flush(self, timeout: float) -> int:
        del timeout
        for callback, error in self._callbacks:
            if callback is not None:
                callback(error, None)
        self.events.append("flush")
        return self.left

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        self.events.append(f"commit {[(one.topic, one.partition, one.offset) for one in offsets]}")


def delivery(broker: Broker) -> AtLeastOnce:
    errands = Errands()
    errands.own()
    return AtLeastOnce(broker, broker, errands, timeout=1)  # type: ignore[arg-type]


def test_outputs_are_acknowledged_before_the_offsets_are_committed() -> None:
    broker = Broker(queue=1)
    delivery(broker).commit(EPOCH)
    assert broker.events == ["produce predictions", "produce gone", "flush", "commit [('requests', 1, 7)]"]


@pytest.mark.parametrize("broker", [Broker(refuses="gone"), Broker(unacknowledged=1)], ids=["refused", "slow"])
def test_without_the_outputs_no_offset_is_committed(broker: Broker) -> None:
    with pytest.raises(CommitFailedError):
        delivery(broker).commit(EPOCH)
    assert broker.events[-1] == "flush"
