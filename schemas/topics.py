"""The topics, and how each is to be created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

DAY_MS: Final = 24 * 3600 * 1000
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics. `prefix` lets several deployments share a cluster."""

    prefix: str = ""
    requests: str = field(init=False)
    bulk: str = field(init=False)
    bulk_results: str = field(init=False)
    replies: str = field(init=False)
    predictions: str = field(init=False)
    summaries: str = field(init=False)
    outcomes: str = field(init=False)
    dead_letters: str = field(init=False)
    control: str = field(init=False)
    alerts: str = field(init=False)
    shadow_predictions: str = field(init=False)
    shadow_summaries: str = field(init=False)
    workers: str = field(init=False)

    def __post_init__(self) -> None:
        for one in fields(self):
            if not one.init:
                object.__setattr__(self, one.name, self.prefix + _NAMES[one.name])

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(getattr(self, one.name) for one in fields(self) if not one.init)

    def of_pool(self, requests: str, bulk: str) -> Topics:
        """The same, with the topics of a pool's requests and bulk batches (`schemas.placement`)."""
        own = Topics(self.prefix)
        object.__setattr__(own, "requests", requests)
        object.__setattr__(own, "bulk", bulk)
        return own


_NAMES: Final = {
    "requests": "scoring.requests",
    "bulk": "scoring.bulk",
    "bulk_results": "scoring.bulk.results",
    "replies": "scoring.replies",
    "predictions": "predictions",
    "summaries": "batch.summaries",
    "outcomes": "outcomes",
    "dead_letters": "dead.letters",
    "control": "control",
    "alerts": "alerts",
    "shadow_predictions": "shadow.predictions",
    "shadow_summaries": "shadow.summaries",
    "workers": "worker.states",
}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How to create a topic: its partitions and Kafka topic configuration."""

    name: str
    partitions: int
    config: Mapping[str, str]


_SIZE: Final = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}


def kept(days: float) -> dict[str, str]:
    """The configuration of a topic whose records are kept for so long."""
    return {**_SIZE, "retention.ms": str(int(days * DAY_MS))}


def work_specs(requests: str, bulk: str, partitions: int) -> tuple[TopicSpec, TopicSpec]:
    """The two topics of a pool of workers, the default pool for one."""
    return TopicSpec(requests, partitions, kept(1)), TopicSpec(bulk, partitions, kept(1))


def topic_specs(topics: Topics, partitions: int = 8) -> tuple[TopicSpec, ...]:
    """Every topic Penstock needs. Control, alerts and worker.states are compacted and have one partition each."""
    return (
        *work_specs(topics.requests, topics.bulk, partitions),
        TopicSpec(topics.bulk_results, partitions, kept(1)),
        TopicSpec(topics.replies, partitions, kept(1 / 24)),
        TopicSpec(topics.predictions, partitions, kept(7)),
        TopicSpec(topics.summaries, partitions, kept(2)),
        TopicSpec(topics.outcomes, partitions, kept(7)),
        TopicSpec(topics.dead_letters, 1, kept(14)),
        TopicSpec(topics.control, 1, {**_SIZE, "cleanup.policy": "compact"}),
        TopicSpec(topics.alerts, 1, {**kept(7), "cleanup.policy": "compact,delete"}),
        TopicSpec(topics.shadow_predictions, partitions, kept(7)),
        TopicSpec(topics.shadow_summaries, partitions, kept(2)),
        # A worker that is killed says nothing more, and its last word goes by itself.
        TopicSpec(topics.workers, 1, {**kept(1 / 24), "cleanup.policy": "compact,delete"}),
    )
