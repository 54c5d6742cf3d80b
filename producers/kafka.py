"""What every Kafka client here has in common: its settings, where its log lines go, how its failures read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from producers.errors import BrokerUnavailableError

LOG: Final = logging.getLogger("producers.kafka")
# librdkafka reports every reconnect attempt; without a handler of the application's own they would land on stderr.
LOG.addHandler(logging.NullHandler())

Config = Mapping[str, Any]
ADDRESS: Final = "bootstrap.servers"


def client_config(config: Config | str, defaults: Config, fixed: Config | None = None) -> dict[str, Any]:
    """`defaults`, then the caller's librdkafka properties, then what must not be changed.

    `config` may be a bare "host:port".
    """
    own = {ADDRESS: config} if isinstance(config, str) else dict(config)
    return {**defaults, **own, **(fixed or {}), "logger": LOG}


def address_of(config: Config | str) -> str:
    """The broker's address, for messages."""
    return config if isinstance(config, str) else str(config.get(ADDRESS, "no bootstrap.servers"))


def unreachable(config: Config | str, detail: object) -> BrokerUnavailableError:
    """One line for a broker that does not answer."""
    return BrokerUnavailableError(
        f"no Kafka broker answers at {address_of(config)}: {_reason(detail)}; "
        "start one with `penstock up`, or point kafka.bootstrap_servers at one"
    )


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the cluster sees it: its partitions, and whether each has a leader."""

    partitions: int
    led: bool


def topics_at(client: Consumer | Producer | AdminClient, config: Config | str, timeout: float) -> dict[str, TopicState]:
    """The cluster's topics, within `timeout` seconds. Raises `BrokerUnavailableError`."""
    try:
        found = client.list_topics(timeout=timeout).topics
    except KafkaException as error:
        raise unreachable(config, error) from None
    return {
        name: TopicState(len(one.partitions), all(part.leader >= 0 for part in one.partitions.values()))
        for name, one in found.items()
        if one.error is None and one.partitions
    }


def partitions_of(found: Mapping[str, TopicState], topic: str, config: Config | str) -> int:
    """How many partitions a topic has. Raises `BrokerUnavailableError` where it does not exist."""
    if topic not in found:
        raise BrokerUnavailableError(
            f"topic {topic!r} does not exist at {address_of(config)}; `penstock up` creates it, "
            "or check kafka.topic_prefix"
        )
    return found[topic].partitions


def _reason(detail: object) -> str:
    if isinstance(detail, KafkaException) and detail.args:
        detail = detail.args[0]
    return detail.str() if isinstance(detail, KafkaError) else str(detail)
