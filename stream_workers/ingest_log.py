"""Tells one life of a topic from the next: a topic that is made anew starts at offset 0 under another id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from analytics.warehouse import WarehouseUnavailableError

_SECONDS: Final = 15.0


class TopicIds:
    """Kafka's topic ids (KIP-516). Asked anew each time: a topic's id changes when it is made anew."""

    def __init__(self, client: Mapping[str, object]) -> None:
        self._client: dict[str, Any] = dict(client)
        self._admin: AdminClient | None = None

    def of(self, topic: str) -> str:
        """The topic's id; empty where the broker is older than topic ids.

        Raises `WarehouseUnavailableError`, so that the writer asks again, where the broker does not answer.
        """
        if self._admin is None:
            self._admin = AdminClient(self._client)
        try:
            future = self._admin.describe_topics(TopicCollection([topic]), request_timeout=_SECONDS)[topic]
            found = future.result(_SECONDS + 1)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() in (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION):
                return ""
            raise WarehouseUnavailableError(f"topic {topic} cannot be described: {cause.str()}") from error
        except TimeoutError as error:
            raise WarehouseUnavailableError(f"topic {topic} was not described in {_SECONDS:.0f} s") from error
        return str(found.topic_id)
