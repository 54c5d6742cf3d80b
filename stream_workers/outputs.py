"""Hands the outputs of an epoch to a producer, and gives up those that a sender's own topic refuses for good.

A bulk batch names the topic of its result, and one that takes no such record would fail its transaction, and with it
those of everybody else, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from stream_workers.ledger import Epoch, Output

OnDelivery = Callable[[KafkaError | None, Message], None]
OnGivenUp = Callable[[str, str], None]
# What a topic says of a record, or of who writes it, that will be said again however often it is sent.
FOR_GOOD: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
    }
)


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

    def produce(self, producer: Producer, *, tell_all: bool) -> None:
        """Queue every output. `tell_all`: `failed` will have every delivery that failed, at the price of a callback
        each; else only what senders' topics refuse is noted.
        """
        produce_all(
            producer,
            self._epoch.outputs,
            lambda output: partial(self._delivered, output) if tell_all or output.senders else None,
        )

    def give_up(self, tell: OnGivenUp, cause: KafkaError | None = None) -> int:
        """Take what was refused for good out of the epoch; how many outputs that were. `tell` gets topic and reason.

        `cause` failed the transaction: one that is about a topic names it.
        """
        if cause is not None and cause.code() in FOR_GOOD:
            text = cause.str()
            self._refused += [(one, cause) for one in self._epoch.outputs if one.senders and f'"{one.topic}"' in text]
        refused, self._refused = {id(one): (one, error) for one, error in self._refused}, []
        if refused:
            self._epoch.outputs[:] = [one for one in self._epoch.outputs if id(one) not in refused]
            for one, error in refused.values():
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
