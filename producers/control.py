"""Writes and lists the entries of the compacted control topic: experiments, default versions, schemas."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from producers.kafka import Config, client_config, unreachable
from producers.publisher import Publisher, key_of
from schemas.codec import Codec, DecodeError
from schemas.records import Control

Entries = dict[tuple[str, str], Control]


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class ControlTopic:
    """The control topic, one entry a kind and name; the last one written holds."""

    def __init__(self, config: Config, codec: Codec, topic: str, *, now_us: Callable[[], int] = now_us) -> None:
        """`config`: librdkafka properties of any client."""
        self._config = config
        self._codec = codec
        self._topic = topic
        self._now_us = now_us

    def put(self, kind: str, name: str, body: Any, *, author: str = "", at: int | None = None) -> Control:
        """Write an entry and wait until Kafka has it. `body` becomes JSON, unless it is text already.

        Its revision is its time, so that it follows whatever was written before: now, unless `at` (microseconds since
        the epoch) says otherwise. Raises `BrokerUnavailableError`.
        """
        now = self._now_us() if at is None else at
        text = body if isinstance(body, str) else json.dumps(body)
        entry = Control(kind, name, now, text, now, author)
        with Publisher(self._config, self._codec) as publisher:
            publisher.send(self._topic, entry)
        return entry

    def remove(self, kind: str, name: str) -> None:
        """Write a tombstone and wait until Kafka has it."""
        entry = Control(kind, name, 0, "", 0)
        with Publisher(self._config, self._codec) as publisher:
            publisher.send_bytes(self._topic, None, key=key_of(entry))

    def entries(self, timeout: float = 15.0) -> Entries:
        """The entries that hold now. Raises `BrokerUnavailableError` where the topic was not read in time."""
        own = {"group.id": "penstock-control", "enable.auto.commit": False, "enable.partition.eof": True}
        consumer = Consumer(client_config(self._config, own))
        found: dict[bytes, bytes | None] = {}
        end = time.monotonic() + timeout
        try:
            consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
            while time.monotonic() < end:
                message = consumer.poll(0.2)
                error = None if message is None else message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return self._decoded(found)
                if error is not None:
                    raise unreachable(self._config, error.str())
                if message is not None:
                    found[message.key() or b""] = message.value()
        except KafkaException as error:
            raise unreachable(self._config, error) from None
        finally:
            consumer.close()
        raise unreachable(self._config, f"topic {self._topic} was not read within {timeout:g} s")

    def _decoded(self, found: dict[bytes, bytes | None]) -> Entries:
        entries: Entries = {}
        for value in found.values():
            if value is None:
                continue
            try:
                entry = self._codec.decode(Control, value)
            except DecodeError:
                # The workers leave it out as well, and say so in their logs.
                continue
            entries[(entry.kind, entry.name)] = entry
        return entries
