"""Without transactions too, no offset is committed before every output is acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from stream_workers.commit import AtLeastOnce, CommitFailedError
from stream_workers.errands import Errands
from stream_workers.ledger import Epoch, Ledger, Output

EPOCH = Epoch(0, offsets={("requests", 1): 7}, outputs=[Output("predictions", b"a"), Output("gone", b"b")])


class Broker:
    """A producer and a consumer in one, that notes what is asked of it in order."""

    def __init__(self, refuses: str = "", queue: int = 10, unacknowledged: int = 0) -> None:
        self.refuses, self.room, self.left = refuses, queue, unacknowledged
        self.reason = KafkaError.UNKNOWN_TOPIC_OR_PART
        self.events: list[str] = []
        self.given_up: list[tuple[str, str]] = []
        self._callbacks: list[tuple[Callable[..., Any], KafkaError | None]] = []

    def produce(self, topic: str, value: bytes, key: bytes | None, partition: int, on_delivery: Any = None) -> None:
        del value, key, partition
        if self.room == 0:
            raise BufferError
        self.room -= 1
        error = KafkaError(self.reason) if topic == self.refuses else None
        self._callbacks.append((on_delivery, error))
        self.events.append(f"produce {topic}")

    def poll(self, timeout: float) -> int:
        del timeout
        self.room += 1
        return 0

    def flush(self, timeout: float) -> int:
        del timeout
        callbacks, self._callbacks = self._callbacks, []
        for callback, error in callbacks:
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
    return AtLeastOnce(broker, broker, errands, lambda *told: broker.given_up.append(told), timeout=1)  # type: ignore[arg-type]


def test_outputs_are_acknowledged_before_the_offsets_are_committed() -> None:
    broker = Broker(queue=1)
    delivery(broker).commit(EPOCH)
    assert broker.events == ["produce predictions", "produce gone", "flush", "commit [('requests', 1, 7)]"]


@pytest.mark.parametrize("broker", [Broker(refuses="gone"), Broker(unacknowledged=1)], ids=["refused", "slow"])
def test_without_the_outputs_no_offset_is_committed(broker: Broker) -> None:
    with pytest.raises(CommitFailedError):
        delivery(broker).commit(EPOCH)
    assert broker.events[-1] == "flush"


def test_an_epoch_forgotten_while_its_outputs_were_sent_commits_nothing() -> None:
    broker, ledger = Broker(), Ledger()
    epoch = ledger.admit({("requests", 0): 7}, 1, 10)
    ledger.finish(epoch, 1, [Output("predictions", b"a")])
    flush = broker.flush

    def lost_meanwhile(timeout: float) -> int:
        ledger.halt()
        return flush(timeout)

    broker.flush = lost_meanwhile  # type: ignore[method-assign]
    with pytest.raises(CommitFailedError, match="partitions were lost"):
        delivery(broker).commit(epoch)
    assert broker.events == ["produce predictions", "flush"]


@pytest.mark.parametrize("senders", [True, False])
def test_what_a_sender_s_topic_refuses_for_good_is_given_up_and_what_ours_refuse_is_not(senders: bool) -> None:
    broker = Broker(refuses="theirs")
    broker.reason = KafkaError.MSG_SIZE_TOO_LARGE
    epoch = Epoch(0, offsets={("bulk", 1): 7})
    epoch.outputs = [Output("theirs", b"a", senders=senders), Output("summaries", b"b")]
    if not senders:
        with pytest.raises(CommitFailedError, match="1 outputs were refused"):
            delivery(broker).commit(epoch)
        assert (broker.events[-1], broker.given_up) == ("flush", [])
        return
    with pytest.raises(CommitFailedError) as caught:
        delivery(broker).commit(epoch)
    # It may have been refused for the others that were sent with it.
    assert (caught.value.given_up, broker.given_up, len(epoch.alone)) == (1, [], 1)
    with pytest.raises(CommitFailedError) as caught:
        delivery(broker).commit(epoch)
    assert (caught.value.given_up, broker.given_up) == (1, [("theirs", "MSG_SIZE_TOO_LARGE")])
    broker.events.clear()
    delivery(broker).commit(epoch)
    assert broker.events == ["produce summaries", "flush", "commit [('bulk', 1, 7)]"]


def test_what_is_refused_for_who_sends_it_is_given_up_at_once() -> None:
    broker = Broker(refuses="theirs")
    broker.reason = KafkaError.TOPIC_AUTHORIZATION_FAILED
    epoch = Epoch(0, offsets={("bulk", 1): 7}, outputs=[Output("theirs", b"a", senders=True)])
    with pytest.raises(CommitFailedError):
        delivery(broker).commit(epoch)
    assert broker.given_up == [("theirs", "TOPIC_AUTHORIZATION_FAILED")]
    delivery(broker).commit(epoch)
    assert broker.events[-1] == "commit [('bulk', 1, 7)]"
