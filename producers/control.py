"""Writes and lists the entries of the compacted control topic: experiments, default versions, schemas."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from producers.errors import ControlConflictError
from producers.kafka import Config, client_config, unreachable
from producers.publisher import DEFAULTS, FIXED, Publisher, key_of
from schemas.codec import Codec, DecodeError
from schemas.records import Control

Entries = dict[tuple[str, str], Control]
# A rollout ends in a change of the live version, so both are changed under one lock.
_ABOUT: Final = {"rollout": "model"}
END_WAIT_MS: Final = 10
# What Kafka says to a transactional producer when another one has begun under its name.
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})


@dataclass(frozen=True, slots=True)
class Swap:
    """An entry in place of the one of revision `expected` (None: of none). Body None: it must hold, and stays."""

    kind: str
    name: str
    body: Any
    expected: int | None


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class ControlTopic:
    """The control topic, one entry a kind and name; the last one written holds."""

    def __init__(
        self,
        config: Config,
        codec: Codec,
        topic: str,
        *,
        now_us: Callable[[], int] = now_us,
        timeout: float = 15.0,
    ) -> None:
        """`config`: librdkafka properties of any client. `timeout`: seconds that reading the topic may take."""
        self._config = config
        self._codec = codec
        self._topic = topic
        self._now_us = now_us
        self._timeout = timeout

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

    def swap(self, kind: str, name: str, body: Any, *, expected: int | None, author: str = "") -> Control:
        """Write an entry where the one that holds has the revision `expected`; None: where there is none.

        Of several who swap one entry at once one succeeds. Raises `ControlConflictError` for the others, and
        `BrokerUnavailableError`.
        """
        return self.swap_all([Swap(kind, name, body, expected)], author=author)[0]

    def swap_all(self, swaps: Sequence[Swap], *, author: str = "") -> list[Control]:
        """Several swaps of entries about one thing, in their order: all of them, or none.

        Whoever swaps these shares a transactional id, so that whoever begins ends the transactions of those before;
        what it reads then stays so until it commits or is ended itself. Returns what was written, once whoever reads
        the topic finds it. Raises as `swap`.
        """
        first = swaps[0]
        names = {f"penstock-{self._topic}-{_ABOUT.get(one.kind, one.kind)}-{one.name}" for one in swaps}
        if len(names) > 1:
            raise ValueError(f"entries that are not about one thing cannot be swapped together: {sorted(names)}")
        own = {"transactional.id": names.pop(), "transaction.timeout.ms": 10_000}
        producer = Producer(client_config(self._config, DEFAULTS, {**FIXED, **own}))
        written = []
        try:
            producer.init_transactions(self._timeout)
            entries = self.entries()
            for one in swaps:
                held = entries.get((one.kind, one.name))
                if (None if held is None else held.revision) != one.expected:
                    raise ControlConflictError(one.kind, one.name, held)
            now = self._now_us()
            producer.begin_transaction()
            for one in swaps:
                if one.body is None:
                    continue
                text = one.body if isinstance(one.body, str) else json.dumps(one.body)
                # A clock that is behind must not make the newer entry look older.
                entry = Control(one.kind, one.name, max(now, (one.expected or 0) + 1), text, now, author)
                producer.produce(self._topic, self._codec.encode(entry), key_of(entry))
                written.append(entry)
            producer.commit_transaction(self._timeout)
            self._await(written)
        except KafkaException as error:
            if error.args[0].code() in _FENCED:
                raise ControlConflictError(first.kind, first.name, None) from None
            raise unreachable(self._config, error) from None
        return written

    def _await(self, written: Sequence[Control]) -> None:
        """Return when everybody reads it: Kafka answers a commit before it has marked the records as committed."""
        end = time.monotonic() + self._timeout
        while time.monotonic() < end:
            held = self.entries()
            # A newer one in its place will do: somebody has read this one.
            if all((found := held.get((one.kind, one.name))) and found.revision >= one.revision for one in written):
                return
        raise unreachable(self._config, f"topic {self._topic} does not show what was committed to it")

    def remove(self, kind: str, name: str) -> None:
        """Write a tombstone and wait until Kafka has it."""
        entry = Control(kind, name, 0, "", 0)
        with Publisher(self._config, self._codec) as publisher:
            publisher.send_bytes(self._topic, None, key=key_of(entry))

    def entries(self) -> Entries:
        """The entries that hold now. Raises `BrokerUnavailableError` where the topic was not read in time."""
        timeout = self._timeout
        own = {
            "group.id": "penstock-control",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        # Of a partition that is being made, or whose leader changes, librdkafka may not learn the beginning, and then
        # goes by the reset policy. The end is told by an empty fetch, which would wait for half a second.
        consumer = Consumer(client_config(self._config, {**own, "fetch.wait.max.ms": END_WAIT_MS}))
        found: dict[bytes, bytes | None] = {}
        end = time.monotonic() + timeout
        try:
            # A partition whose leader is not known when it is assigned is looked at again after half a second.
            consumer.list_topics(self._topic, timeout)
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
