"""Hands records of models that are another pool's on to that pool's topic, unchanged and exactly once.

A sender that knows nothing of pools, or not yet of a model that was moved, still gets its answer: the record goes on
with its key, value and headers, in the transaction that commits its offset. Two workers that disagree for a moment,
because one has not read the control topic to its end, could pass a record to and fro; after `MOST` times it is scored
where it is, as is what could not be sent on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from confluent_kafka import Message

from schemas.placement import Placement
from schemas.topics import MAX_MESSAGE_BYTES
from stream_workers.ledger import Epoch, Ledger, Output
from stream_workers.messages import headers_of
from stream_workers.ops import OncePer, WorkerMetrics
from stream_workers.replies import ReplyTopics
from stream_workers.work import Headers

log = logging.getLogger(__name__)

# How often a record was handed on, in decimal digits.
HEADER: Final = "penstock-handed-on"
MOST: Final = 4
# A record that is as large as may be has no room for one more header.
_LARGEST: Final = MAX_MESSAGE_BYTES - 4096


class Handover:
    """What one pipeline does with records that are not its pool's. `placement` may be replaced at any time."""

    def __init__(
        self,
        ledger: Ledger,
        topics: ReplyTopics,
        metrics: WorkerMetrics,
        placement: Placement,
        *,
        own: str,
        bulk: bool,
    ) -> None:
        """`own`: the topic that is read here; `bulk`: whether it is one of bulk batches."""
        self.placement = placement
        self._ledger = ledger
        self._topics = topics
        self._metrics = metrics
        self._own = own
        self._bulk = bulk
        self._due = OncePer(60.0)

    def topic_of(self, model: str) -> str:
        """Where this model's records go from here; "" where they stay."""
        place = self.placement.of(model)
        topic = place.bulk if self._bulk else place.requests
        if topic == self._own:
            return ""
        if not self._topics.partitions(topic):
            if self._due.due(topic):
                log.error(
                    "model %.100s is of pool %s, but Kafka has no topic %s: it is scored here; "
                    "`penstock topics` creates what is missing",
                    model,
                    place.pool,
                    topic,
                )
            return ""
        return topic

    def hand_on(self, epoch: Epoch, topic: str, messages: Sequence[Message]) -> list[int]:
        """Send those on that can be; returns the places of the others in `messages`."""
        outputs: list[Output] = []
        kept: list[int] = []
        for place, message in enumerate(messages):
            headers = headers_of(message)
            times = handed_on(headers)
            if times >= MOST or _size(message, headers) > _LARGEST:
                kept.append(place)
                continue
            others = tuple(one for one in headers if one[0] != HEADER)
            again = (HEADER, str(times + 1).encode())
            outputs.append(Output(topic, message.value() or b"", message.key(), headers=(*others, again)))
        if outputs:
            self._metrics.handed_on(topic, len(outputs))
            self._ledger.finish(epoch, len(outputs), outputs)
        return kept


def _size(message: Message, headers: Headers) -> int:
    """Bytes of the record, near enough: `len` of a message is that of its value alone."""
    return len(message) + len(message.key() or b"") + sum(len(name.encode()) + len(own) for name, own in headers)


def handed_on(headers: Headers) -> int:
    """How often a record was handed on; what nobody of us wrote counts as never."""
    value = next((own for name, own in headers if name == HEADER), b"")
    return int(value) if value.isdigit() and len(value) < 3 else 0
