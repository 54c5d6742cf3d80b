"""Records onto topics without losing one: a typed, idempotent producer, and the creation of the topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from producers.errors import BrokerUnavailableError
from producers.kafka import Config, address_of, client_config, partitions_of, topics_at, unreachable
from schemas.codec import Codec
from schemas.partitioning import PARTITIONER, record_key
from schemas.records import Control, Outcome, Record, ScoreRequest
from schemas.topics import MAX_MESSAGE_BYTES, Topics, TopicSpec, topic_specs

Delivered = Callable[[KafkaError | None, Message], None]
Headers = Mapping[str, str | bytes]

DEFAULTS: Final[Config] = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 5,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "socket.nagle.disable": True,
    "reconnect.backoff.max.ms": 1000,
}
# Every producer must agree on the partition of a key, or a user's records lose their order.
FIXED: Final[Config] = {"partitioner": PARTITIONER}


class DeliveryError(RuntimeError):
    """Records that Kafka did not take. `failures` holds a line for each of the first few; `count` is all of them."""

    def __init__(self, count: int, failures: Iterable[str]) -> None:
        self.count = count
        self.failures = tuple(failures)
        super().__init__(f"{count} record(s) were not delivered: {'; '.join(self.failures)}")


def key_of(record: Record) -> bytes | None:
    """The Kafka key a record goes under: its user and experiment, or a control entry's kind and name."""
    if isinstance(record, ScoreRequest | Outcome):
        return record_key(record.user_id, record.experiment)
    if isinstance(record, Control):
        return f"{record.kind}/{record.name}".encode()
    return None


class Publisher:
    """Sends records of any type. Thread-safe. A failed delivery is raised by the next `send` or by `flush`.

    `config`: librdkafka properties; those of a producer override `DEFAULTS`.
    """

    def __init__(self, config: Config, codec: Codec) -> None:
        self._config = config
        self._codec = codec
        self._producer = Producer(client_config(config, DEFAULTS, FIXED))
        self._lock = threading.Lock()
        self._failed = 0
        self._failures: list[str] = []

    def send(
        self,
        topic: str,
        record: Record,
        *,
        key: bytes | None = None,
        partition: int = -1,
        headers: Headers | None = None,
        on_delivery: Delivered | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Queue a record under `key` (default: `key_of`); returns before Kafka has it.

        With `on_delivery` its failure is the caller's, else it is collected and raised. Raises `DeliveryError` for
        earlier failures, `EncodeError`, and `BrokerUnavailableError` when the local queue stays full for `timeout` s.
        """
        self.raise_failures()
        value = self._codec.encode(record)
        self.send_bytes(
            topic,
            value,
            key=key if key is not None else key_of(record),
            partition=partition,
            headers=headers,
            on_delivery=on_delivery,
            timeout=timeout,
        )

    def send_bytes(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = -1,
        headers: Headers | None = None,
        on_delivery: Delivered | None = None,
        timeout: float = 30.0,
    ) -> None:
        """`send` for an encoded record; None is a tombstone. Raises `KafkaException` for one over the size limit."""
        give_up = time.monotonic() + timeout
        while True:
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition=partition,
                    headers=dict(headers) if headers else None,
                    on_delivery=on_delivery or self._collect,
                )
            except BufferError:
                if time.monotonic() > give_up:
                    raise BrokerUnavailableError(
                        f"the local queue to {address_of(self._config)} stayed full for {timeout:g} s; is it reachable?"
                    ) from None
                self._producer.poll(0.05)
            else:
                self._producer.poll(0)
                return

    def partitions(self, topic: str, timeout: float) -> int:
        """How many partitions a topic has. Raises `BrokerUnavailableError` without an answer or the topic."""
        return partitions_of(topics_at(self._producer, self._config, timeout), topic, self._config)

    def poll(self, timeout: float = 0.0) -> int:
        """Serve delivery reports for up to `timeout` seconds; returns how many."""
        return self._producer.poll(timeout)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until Kafka has everything. Raises `DeliveryError`, or `BrokerUnavailableError` after `timeout` s."""
        left = self._producer.flush(timeout)
        self.raise_failures()
        if left:
            raise BrokerUnavailableError(
                f"{left} record(s) not taken by {address_of(self._config)} within {timeout:g} s; is it reachable?"
            )

    def raise_failures(self) -> None:
        """Raise `DeliveryError` if deliveries have failed since the last time, and forget them."""
        with self._lock:
            if not self._failed:
                return
            error = DeliveryError(self._failed, self._failures)
            self._failed, self._failures = 0, []
        raise error

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.flush()

    def _collect(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        with self._lock:
            self._failed += 1
            if len(self._failures) < 5:
                self._failures.append(f"{message.topic()}: {error.str()}")


def create_topics(
    address_or_config: str | Config,
    topics: Topics | Iterable[TopicSpec],
    partitions: int = 8,
    *,
    replication: int = -1,
    timeout: float = 15.0,
) -> tuple[str, ...]:
    """Create the topics that are missing and wait until each has a leader; returns the names it created.

    Existing topics are left as they are. `replication` -1 is the broker's default. Raises `BrokerUnavailableError`
    where the broker cannot be reached or refuses, within about `timeout` seconds.
    """
    specs = topic_specs(topics, partitions) if isinstance(topics, Topics) else tuple(topics)
    admin = AdminClient(client_config(address_or_config, {"reconnect.backoff.max.ms": 1000}))
    give_up = time.monotonic() + timeout
    existing = topics_at(admin, address_or_config, timeout)
    missing = [one for one in specs if one.name not in existing]
    if not missing:
        return ()
    futures: Mapping[str, Future[None]] = admin.create_topics(
        [NewTopic(one.name, one.partitions, replication, config=dict(one.config)) for one in missing],
        operation_timeout=timeout,
        request_timeout=timeout,
    )
    created = []
    for name, future in futures.items():
        try:
            future.result(timeout)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            raise BrokerUnavailableError(
                f"topic {name!r} could not be created at {address_of(address_or_config)}: {reason.str()}"
            ) from None
        created.append(name)
    _wait_for_leaders(admin, address_or_config, {one.name for one in missing}, give_up)
    return tuple(created)


def _wait_for_leaders(admin: AdminClient, config: str | Config, names: set[str], give_up: float) -> None:
    # Creation is answered by the controller; brokers learn of it a moment later, and there is no event to wait for.
    pause = threading.Event()
    while True:
        known = topics_at(admin, config, max(1.0, give_up - time.monotonic()))
        waiting = {name for name in names if name not in known or not known[name].led}
        if not waiting:
            return
        if time.monotonic() > give_up:
            raise unreachable(config, f"topic {min(waiting)!r} has no leader yet")
        pause.wait(0.05)
