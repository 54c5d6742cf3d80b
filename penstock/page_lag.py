"""How many records wait: Kafka is asked for the scoring group in a thread, while somebody looks at the page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from prometheus_client import CollectorRegistry

from analytics.dashboard.overview_html import Lag
from penstock.pools import pool_groups

if TYPE_CHECKING:
    from penstock.settings import Settings

log = logging.getLogger(__name__)
_TIMEOUT: Final = 5.0
_EVERY: Final = 3.0


class LagWatch:
    """The lag as it was a few seconds ago. A context manager. `read` asks Kafka and may raise `KafkaException`."""

    def __init__(self, read: Callable[[], Sequence[Lag]], every: float = _EVERY) -> None:
        self._read = read
        self._every = every
        self._latest: tuple[Lag, ...] = ()
        self._asked = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def latest(self) -> tuple[Lag, ...]:
        """What was found last; has the next look made soon."""
        self._asked.set()
        return self._latest

    def look(self) -> None:
        """Ask Kafka now."""
        try:
            self._latest = tuple(self._read())
        except (KafkaException, TimeoutError) as error:
            reason = error.args[0].str() if error.args and hasattr(error.args[0], "str") else str(error)
            self._latest = (Lag("", "", 0, f"Kafka did not say: {reason}"),)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._asked.wait()
            self._asked.clear()
            if self._stop.is_set():
                return
            self.look()
            self._stop.wait(self._every)

    def __enter__(self) -> LagWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._asked.set()
        self._thread.join(10)


def lag_of(settings: Settings, registry: CollectorRegistry) -> Callable[[], list[Lag]]:
    """Asks for the lag of the scoring workers of each pool (of Kafka) and of this ingest (of its own metrics)."""
    kafka = settings.kafka
    admin: Any = None
    groups = pool_groups(settings)

    def read() -> list[Lag]:
        nonlocal admin
        admin = admin or AdminClient(kafka.client())
        scoring = [lag for group, topic in groups for lag in group_lag(admin, group, (topic,))]
        return [*scoring, *ingest_lag(registry, settings.ingest.group)]

    return read


def group_lag(admin: Any, group: str, topics: Sequence[str]) -> list[Lag]:
    """Records between what a group has committed and the end, by topic; nothing committed: from the beginning.

    Raises `KafkaException`.
    """
    known = admin.list_topics(timeout=_TIMEOUT).topics
    places = [
        TopicPartition(topic, partition) for topic in topics if topic in known for partition in known[topic].partitions
    ]
    if not places:
        return []
    ends = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)], request_timeout=_TIMEOUT)
    committed = {(one.topic, one.partition): one.offset for one in asked[group].result(_TIMEOUT).topic_partitions or []}
    fresh = [one for one in places if committed.get((one.topic, one.partition), -1) < 0]
    starts = _offsets(admin, fresh, OffsetSpec.earliest()) if fresh else {}  # type: ignore[no-untyped-call]
    waiting = dict.fromkeys((one.topic for one in places), 0)
    for one in places:
        key = (one.topic, one.partition)
        begun = starts[key] if key in starts else committed[key]
        waiting[one.topic] += max(0, ends[key] - begun)
    return [Lag(group, topic, records) for topic, records in waiting.items()]


def ingest_lag(registry: CollectorRegistry, group: str) -> list[Lag]:
    """What this process's ingest has still to read, by topic."""
    found: dict[str, float] = {}
    for metric in registry.collect():
        if metric.name == "penstock_ingest_lag":
            for sample in metric.samples:
                topic = sample.labels["topic"]
                found[topic] = found.get(topic, 0.0) + sample.value
    return [Lag(group, topic, round(records)) for topic, records in sorted(found.items())]


def _offsets(admin: Any, places: Sequence[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    asked = admin.list_offsets(
        dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_TIMEOUT
    )
    return {(place.topic, place.partition): future.result(_TIMEOUT).offset for place, future in asked.items()}
