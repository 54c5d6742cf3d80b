"""Reads of a polled Kafka message, with the types that a consumed one always has."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Message


def headers_of(message: Message) -> list[tuple[str, bytes]]:
    """The headers that have a value, in their order."""
    given = message.headers()
    if not given:
        return []
    pairs = given.items() if isinstance(given, dict) else given
    return [(name, own.encode() if isinstance(own, str) else own) for name, own in pairs if own is not None]


def ends_of(messages: Sequence[Message]) -> dict[tuple[str, int], int]:
    """The offset after the last message of each topic and partition; messages of a partition come in order."""
    return {(message.topic() or "", message.partition() or 0): (message.offset() or 0) + 1 for message in messages}
