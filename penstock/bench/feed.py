"""Fills topics behind a gate: records that nobody can read until all at once they can.

The records are written in one Kafka transaction. Workers, which read committed records only, are started, assigned and
warm before it is committed; so a measurement has no start-up in it and leaves out no work either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from penstock.bench.bed import PARTITIONS, Bed, BenchError

_FILL_SECONDS: Final = 300.0
_BY_KEY: Final = -1  # librdkafka's "any": the partitioner decides
_WATCH_SECONDS: Final = 0.01


class Feed:
    """Writes to one topic, gate after gate."""

    def __init__(self, bed: Bed, topic: str) -> None:
        self._bed = bed
        self._topic = topic
        self._producer = Producer(
            {
                **bed.producer(),
                "transactional.id": f"bench-{bed.run_id}-{topic}",
                "transaction.timeout.ms": int(_FILL_SECONDS * 1000),
                "linger.ms": 20,
                "batch.num.messages": 10_000,
                "queue.buffering.max.messages": 200_000,
                "delivery.report.only.error": True,
            }
        )
        self._producer.init_transactions(60)
        self._marks = marks_of(bed, topic)
        self.starts: list[int] = []
        self.records = 0

    def begin(self) -> None:
        """Close the gate; `starts` are the offsets of the partitions' ends now."""
        self.starts = self._marks()
        self.records = 0
        self._producer.begin_transaction()

    def put(
        self,
        values: Sequence[bytes],
        keys: Sequence[bytes] | None = None,
        headers: list[tuple[str, str | bytes | None]] | None = None,
    ) -> None:
        """Write records, to the partitions of their keys, or by turns; `headers` with each. Raises `BenchError`."""
        if headers is not None and keys is not None:
            self._put_with_headers(values, keys, headers)
            return
        if keys is not None:
            self._put_batch([{"value": one, "key": key} for one, key in zip(values, keys, strict=True)])
        else:
            for first in range(PARTITIONS):
                # By turns from put to put as well. A partition in a message's own dict is not heeded.
                own = [{"value": one} for one in values[first::PARTITIONS]]
                self._put_batch(own, (self.records + first) % PARTITIONS)
        self.records += len(values)

    def _put_batch(self, batch: list[dict[str, Any]], partition: int = _BY_KEY) -> None:
        end = time.monotonic() + _FILL_SECONDS
        while batch:
            queued = self._producer.produce_batch(self._topic, batch, partition=partition)
            self._producer.poll(0)
            if queued < len(batch):
                self._producer.poll(0.05)
                if time.monotonic() > end:
                    raise BenchError(f"{self._topic} could not be filled within {_FILL_SECONDS:.0f} s")
            batch = [one for one in batch if one.pop("_error", None) is not None]

    def _put_with_headers(
        self, values: Sequence[bytes], keys: Sequence[bytes], headers: list[tuple[str, str | bytes | None]]
    ) -> None:
        # produce_batch carries none.
        for value, key in zip(values, keys, strict=True):
            while True:
                try:
                    self._producer.produce(self._topic, value, key, headers=headers)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)
        self.records += len(values)

    def close(self) -> None:
        """All of it is on the broker when this returns."""
        if self._producer.flush(_FILL_SECONDS):
            raise BenchError(f"{self._topic} could not be filled within {_FILL_SECONDS:.0f} s")

    def open(self) -> float:
        """Let everybody read; the time (perf_counter) just before."""
        at = time.perf_counter()
        self._producer.commit_transaction(60)
        return at


def marks_of(bed: Bed, topic: str) -> Any:
    """A function that says where the topic's partitions end now."""
    consumer = Consumer({**bed.consumer("penstock-bench-marks"), "isolation.level": "read_uncommitted"})
    places = [TopicPartition(topic, number) for number in range(_partitions(consumer, topic))]

    def marks() -> list[int]:
        return [consumer.get_watermark_offsets(one, timeout=30)[1] for one in places]

    return marks


def _partitions(consumer: Consumer, topic: str) -> int:
    return len(consumer.list_topics(topic, timeout=30).topics[topic].partitions)


class Progress:
    """How far a consumer group is on a topic, by its committed offsets: the broker's word, and no load to speak of."""

    def __init__(self, bed: Bed, group: str, topic: str) -> None:
        self._bed = bed
        # It asks in the group's name, and never joins it.
        self._consumer = Consumer({**bed.client(), "group.id": group, "enable.auto.commit": False})
        self._places = [
            TopicPartition(topic, number) for number in range(_partitions(self._consumer, topic))
        ]  # fmt: skip

    def done(self, starts: Sequence[int]) -> int:
        """Records behind `starts` that are committed."""
        found = self._consumer.committed(self._places, timeout=30)
        return sum(max(0, one.offset - start) for one, start in zip(found, starts, strict=True))

    def wait(self, starts: Sequence[int], records: int, seconds: float) -> float:
        """Wait until so many records are committed; the time (perf_counter) of it. Raises `BenchError`."""
        end = time.monotonic() + seconds
        pause = threading.Event()
        while (done := self.done(starts)) < records:
            for worker in self._bed.workers:
                _ = worker.pid
            if time.monotonic() > end:
                raise BenchError(f"{records - done:,} of {records:,} records are not done after {seconds:.0f} s")
            pause.wait(_WATCH_SECONDS)
        return time.perf_counter()


def read_new(bed: Bed, topic: str, starts: Sequence[int], *, committed: bool) -> Iterator[Message]:
    """All records of the topic from `starts` on, as they come. Raises `BenchError` where they do not."""
    consumer = Consumer(
        {
            **bed.consumer("penstock-bench-read"),
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
    )
    waiting = set(range(len(starts)))
    consumer.assign([TopicPartition(topic, number, start) for number, start in enumerate(starts)])
    silent_until = time.monotonic() + 30
    while waiting:
        messages = consumer.consume(10_000, 0.1)
        for one in messages:
            if one.error() is None:
                yield one
            else:
                # The only event that is no record here: the end of a partition, as far as it may be read.
                waiting.discard(one.partition())
        if messages:
            silent_until = time.monotonic() + 30
        elif time.monotonic() > silent_until:
            raise BenchError(f"{topic} cannot be read to its end")
    consumer.close()
