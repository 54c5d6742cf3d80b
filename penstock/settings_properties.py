"""Asks librdkafka itself whether it knows each property that somebody set, and takes its value.

Only what is wrong with a property alone is found here, which needs no broker, no certificate and no password: a
command that asks Kafka nothing should not fail for want of them. What is wrong with several properties together is
said when a client is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from penstock.settings_errors import HIDDEN, is_secret

if TYPE_CHECKING:
    from penstock.settings_sections import KafkaSettings

_TABLES: Final = ("properties", "consumer_properties", "producer_properties")
# How librdkafka begins where it knew the property and its value, but could not make a client of that alone.
_TOGETHER: Final = "Failed to create"


def wrong_properties(kafka: KafkaSettings) -> Iterator[tuple[str, str, str]]:
    """Each property that librdkafka refuses: the settings' table that holds it, its name, and why in one line."""
    for table in _TABLES:
        for name, value in getattr(kafka, table).items():
            if problem := _problem(table, name, value):
                yield table, name, problem.replace(value, HIDDEN) if is_secret(name) else problem


def _problem(table: str, name: str, value: str) -> str:
    # It takes its time to load, so only where somebody set a property.
    from confluent_kafka import Consumer, KafkaException, Producer

    # Last, so that `debug` does not make a client chatter that is thrown away.
    config: dict[str, Any] = {name: value, "log_level": value if name == "log_level" else 0}
    try:
        if table == "consumer_properties":
            Consumer({"group.id": "penstock-settings", **config}).close()
        else:
            Producer(config)
    except KafkaException as error:
        text = " ".join(error.args[0].str().split())
        return "" if text.startswith(_TOGETHER) else text
    return ""
