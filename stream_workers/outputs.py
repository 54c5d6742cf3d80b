"""Hands the outputs of an epoch to a producer, and gives up those that a sender's own topic refuses for good.

A bulk batch names the topic of its result, and one that takes no such record would fail its transaction, and with it
those of everybody else, again and again. A topic that may be described and not written is not found out here: within a
transaction Kafka does not say which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from stream_workers.ledger import Epoch, Output

OnDelivery = Callable[[KafkaError | None, Message], None]
OnGivenUp = Callable[[str, str], None]
# What is said of all records that were sent together, where one of them or their sum is too much.
_OF_ALL: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD})
# What a topic says that it will say again, however often and by itself a record is sent.
FOR_GOOD: Final = _OF_ALL | {
    KafkaError.POLICY_VIOLATION, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION
}  # fmt: skip


def produce_all(
    producer: Producer, outputs: Sequence[Output], callback: Callable[[Output], OnDelivery | None] = lambda _: None
) -> None:
    """Queue every output, waiting for room where the queue is full. `callback`: what is told of its delivery."""
    for output in outputs:
        more: dict[str, Any] = {"headers": [*output.headers]} if output.headers else {}
        if told := callback(output):
            more["on_delivery"] = told
        while True:
            try:
                producer.produce(output.topic, output.value, output.key, output.partition, **more)
                break
            except BufferError:
                producer.poll(0.05)
    producer.poll(0)


class Attempt:
    """One attempt to publish an epoch's outputs, by one thread."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._refused: list[tuple[Output, KafkaError]] = []
        self.failed: list[KafkaError] = []

    def produce(self, producer: Producer, timeout: float, *, tell_all: bool) -> None:
        """Queue every output. `tell_all`: `failed` will have every delivery that failed, at the price of a callback
        each; else only what senders' topics refuse is noted. `timeout`: seconds for each that is sent alone.
        """

        def callback(output: Output) -> OnDelivery | None:
            return partial(self._delivered, output) if tell_all or output.senders else None

        produce_all(producer, self._epoch.outputs, callback)
        for output in self._epoch.alone:
            producer.flush(timeout)
            produce_all(producer, [output], callback)

    def give_up(self, tell: OnGivenUp) -> int:
        """Take what was refused out of the epoch, or set it apart to be sent alone; how many outputs that were.

        `tell` gets topic and reason of each that is given up.
        """
        refused, self._refused = {id(one): (one, error) for one, error in self._refused}, []
        epoch = self._epoch
        together = {id(one) for one in epoch.outputs}
        epoch.outputs[:] = [one for one in epoch.outputs if id(one) not in refused]
        epoch.alone[:] = [one for one in epoch.alone if id(one) not in refused]
        for one, error in refused.values():
            if id(one) in together and error.code() in _OF_ALL:
                epoch.alone.append(one)
            else:
                tell(one.topic, error.name())
        return len(refused)

    def _delivered(self, output: Output, error: KafkaError | None, message: Message) -> None:
        del message
        if error is None:
            return
        if output.senders and error.code() in FOR_GOOD:
            self._refused.append((output, error))
        else:
            self.failed.append(error)
