"""Reads the topic `alerts`, where the live monitor raises and resolves, for the one process that judges and tells.

The topic has one partition, so of all processes in the group one holds it: that one leads. Offsets are committed when
what was read is in the alerts' history, so a report is heard again until it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from analytics.alert_state import Report, from_micros
from schemas.codec import Codec, DecodeError
from schemas.records import Alert as AlertRecord

log = logging.getLogger(__name__)
_MOST: Final = 500


class Reports(Protocol):
    """Where reports come from. `read` may block up to `timeout` seconds and raises nothing that passes."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that judges and tells."""
        ...

    def read(self, timeout: float) -> list[Report]:
        """The next reports; none of them is read again by this process."""
        ...

    def commit(self) -> None:
        """All that was read is written down."""
        ...

    def close(self) -> None:
        """Give the partition to another process."""
        ...


class NoReports:
    """For whoever has no topic: this process leads and hears nothing."""

    leads = True

    def read(self, timeout: float) -> list[Report]:
        """Nothing."""
        del timeout
        return []

    def commit(self) -> None:
        """There is nothing to commit."""

    def close(self) -> None:
        """There is nothing to give back."""


class AlertReports:
    """The topic's consumer; one thread calls it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        codec: Codec,
        topic: str,
        *,
        alone: bool,
        unreadable: Callable[[], None] = lambda: None,
    ) -> None:
        """`config`: librdkafka's of a group member that commits when told. `alone`: no other process can hold this
        warehouse (chDB), so this one leads whether Kafka answers or not. `unreadable` is called for each that is so."""
        self._codec = codec
        self._topic = topic
        self._alone = alone
        self._unreadable = unreadable
        self._holds = False
        self._next: int | None = None
        self._problems: set[int] = set()
        self._consumer = Consumer(dict(config))
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._gone, on_lost=self._gone)

    @property
    def leads(self) -> bool:
        """See `Reports`."""
        return self._alone or self._holds

    def read(self, timeout: float) -> list[Report]:
        """See `Reports`. What cannot be read is logged and passed over."""
        found = []
        for message in self._consumer.consume(_MOST, timeout):
            error = message.error()
            if error is not None:
                self._problem(error)
                continue
            self._problems.clear()
            self._next = cast("int", message.offset()) + 1
            report = self._report(message)
            if report is not None:
                found.append(report)
        return found

    def commit(self) -> None:
        """See `Reports`."""
        if self._next is None or not self._holds:
            return
        try:
            answer = self._consumer.commit(offsets=[TopicPartition(self._topic, 0, self._next)], asynchronous=False)
            for one in answer or []:
                if one.error is not None:
                    raise KafkaException(one.error)
        except KafkaException as error:
            # What is heard again changes nothing.
            log.warning("alerts: offsets were not committed, trying again: %s", error.args[0].str())
            return
        self._next = None

    def close(self) -> None:
        """See `Reports`."""
        self._consumer.close()

    def _report(self, message: Message) -> Report | None:
        value = message.value()
        if value is None:  # a tombstone: it only says that the topic may forget
            return None
        try:
            record = self._codec.decode(AlertRecord, value)
            return report_of(record, message.timestamp()[1] * 1000)
        except (DecodeError, ValueError) as error:
            self._unreadable()
            log.warning("alerts: the record at offset %s cannot be read and is left out: %s", message.offset(), error)
            return None

    def _problem(self, error: KafkaError) -> None:
        if error.fatal():
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF and error.code() not in self._problems:
            self._problems.add(error.code())
            log.warning("alerts: kafka: %s", error.str())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        del consumer
        self._holds = self._holds or bool(partitions)
        self._next = None

    def _gone(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        del consumer
        if partitions:
            self._holds = False
            self._next = None


def report_of(record: AlertRecord, time_us: int) -> Report:
    """A record as the alert book hears it. Raises `ValueError` for one that says nothing sensible."""
    if not record.alert_id or not record.rule:
        raise ValueError("it names no alert_id or no rule")
    if record.state not in ("firing", "resolved"):
        raise ValueError(f"its state is {record.state!r}, expected firing or resolved")
    return Report(
        alert_id=record.alert_id,
        rule=record.rule,
        state=cast("Literal['firing', 'resolved']", record.state),
        severity=record.severity,
        # Whoever it is that reports, it is this report that ends the alert and no rule of ours.
        source="monitor",
        labels=dict(record.labels),
        summary=" ".join(record.summary.split()),
        value=record.value,
        threshold=record.threshold,
        n=max(0, record.n),
        raised_at=from_micros(record.raised_at),
        at=from_micros(time_us),
        evidence=record.evidence,
    )
