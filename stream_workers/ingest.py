"""Carries predictions, summaries, outcomes, dead letters and control records from Kafka into ClickHouse, each once.

For each run of records of one partition (a block), in this order:
1. cut the block: so many rows, or so many seconds after its first record;
2. commit its first offset to the group with its last one as metadata (the plan). Kafka refuses this from a process
   that is no longer the partition's owner, and then nothing is sent;
3. insert the block under its name, `topic@id/partition/first-last`;
4. have the dead letters of records in it that could not be read acknowledged by the broker;
5. commit the offset after its last one.
Killed before 2: the records are read again. Killed between 2 and 5: the next owner finds the plan, cuts the same block
and sends it under the same name; ClickHouse drops what it has, and the sink makes sure of the rest. A broker that keeps
no commit metadata (the embedded one) leaves the second net, which is always spread: on assignment ingest asks
ClickHouse which of the offsets to come it has, and skips those. That net alone would miss an insert that a server is
still working on when its sender has been killed; with chDB, which dies with its process, there is no such insert.

While ClickHouse is away partitions are paused and polling goes on: ingest stays in the group, and Kafka holds the data.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import CollectorRegistry

from schemas.codec import Codec, DecodeError
from schemas.records import BatchSummary, Control, DeadLetter, Outcome, PredictionBatch, Record
from schemas.topics import Topics
from stream_workers.ingest_blocks import Block, BlockLimits, PartitionBuffer, Plan
from stream_workers.ingest_letters import DeadLetters
from stream_workers.ingest_log import TopicIds
from stream_workers.ingest_rows import InvalidRecordError, LogRecord, check
from stream_workers.ingest_sink import Job, Sink, Writer
from stream_workers.ops_health import Health
from stream_workers.ops_logging import OncePer
from stream_workers.ops_metrics import IngestMetrics

log = logging.getLogger(__name__)

Place = tuple[str, int]  # topic, partition
_POLL_SECONDS: Final = 0.05
_LAG_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class KafkaConfigs:
    """librdkafka configurations: of any client, of the consumer (its group, no auto-commit), of the producer."""

    client: Mapping[str, object]
    consumer: Mapping[str, object]
    producer: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Feed:
    """What a topic carries and which table it goes to."""

    table: str
    record: type[Record]


def feeds(topics: Topics) -> dict[str, Feed]:
    """The topics that ingest reads."""
    return {
        topics.predictions: Feed("predictions", PredictionBatch),
        topics.summaries: Feed("batch_summaries", BatchSummary),
        topics.shadow_predictions: Feed("shadow_predictions", PredictionBatch),
        topics.shadow_summaries: Feed("shadow_summaries", BatchSummary),
        topics.outcomes: Feed("outcomes", Outcome),
        topics.dead_letters: Feed("dead_letters", DeadLetter),
        topics.control: Feed("control_history", Control),
    }


class Ingest:
    """One member of the ingest group. Run it in one thread; `run` returns after a clean stop.

    `held_rows`: rows read and not yet written at which partitions are paused. `drain_seconds`: how long a revoked
    partition or a stop waits for the block that is being written.
    """

    def __init__(
        self,
        kafka: KafkaConfigs,
        codec: Codec,
        topics: Topics,
        sink: Sink,
        *,
        limits: BlockLimits = BlockLimits(),  # noqa: B008 - frozen
        name: str = "ingest",
        metrics: IngestMetrics | None = None,
        health: Health | None = None,
        held_rows: int | None = None,
        drain_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._codec = codec
        self._feeds = feeds(topics)
        self._limits = limits
        self._metrics = metrics or IngestMetrics(CollectorRegistry())
        self._health = health or Health()
        self._held_rows = held_rows or 4 * limits.rows
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._now = now
        self._consumer = Consumer({**kafka.consumer, "enable.auto.offset.store": False}, logger=log)
        self._letters = DeadLetters(kafka.producer, topics.dead_letters, codec, name, now, log)
        self._writer = Writer(sink, self._metrics)
        self._ids = TopicIds(kafka.client)
        self._buffers: dict[Place, PartitionBuffer] = {}
        self._preparing: dict[Place, Future[Any]] = {}
        self._planned: list[Block] = []
        self._job: Job | None = None
        self._settled: dict[Place, int] = {}  # offsets to commit: everything before them is in ClickHouse
        self._paused: set[Place] = set()
        self._lag_at = 0.0
        self._every = OncePer(60.0, clock)

    def run(self, stop: threading.Event) -> None:
        """Ingest until `stop` is set. Raises `KafkaException` on what Kafka says cannot be mended."""
        self._consumer.subscribe(
            list(self._feeds), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        try:
            while not stop.is_set():
                self._turn()
            self._drain()
        finally:
            self._writer.stop()
            self._consumer.close()
            self._letters.close(self._drain_seconds)

    def _turn(self) -> None:
        for message in self._consumer.consume(500, _POLL_SECONDS):
            self._take(message)
        self._letters.serve()
        self._prepare()
        self._collect()
        self._dispatch()
        self._regulate()
        self._report()

    # What comes in.

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self._on_error(error)
            return
        topic, partition, offset = str(message.topic()), cast("int", message.partition()), cast("int", message.offset())
        buffer = self._buffers.get((topic, partition))
        if buffer is None:  # released in this very poll
            return
        value, now = message.value(), self._clock()
        feed = self._feeds[topic]
        try:
            record = _tombstone(message) if feed.record is Control and value is None else self._decode(feed, value)
        except DecodeError as problem:
            self._metrics.unreadable(problem.reason)
            self._letters.send(message, problem.reason, str(problem))
            buffer.add(offset, None, now)
            return
        kind, stamp = message.timestamp()
        time_ms = stamp if kind else int(self._now() * 1000)
        if isinstance(record, Control) and record.kind == "schema" and record.body:
            self._learn(record)
        buffer.add(offset, LogRecord(offset, time_ms, len(value or b""), record), now)

    def _decode(self, feed: Feed, value: bytes | None) -> Record:
        record = self._codec.decode(feed.record, value)
        try:
            check(record)
        except InvalidRecordError as error:
            raise DecodeError("INVALID", str(error)) from None
        return record

    def _learn(self, record: Control) -> None:
        try:
            self._codec.learn(record.body)
        except Exception as error:  # noqa: BLE001 - fastavro raises anything on what is no schema
            log.warning("schema %s on the control topic is no Avro schema: %s", record.name, error)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF and self._every.due(("kafka", error.code())):
            log.warning("kafka: %s", error.str())

    # What goes out.

    def _prepare(self) -> None:
        """Find out, for newly assigned partitions, which log they are and what ClickHouse has of them."""
        for place, future in list(self._preparing.items()):
            if not future.done():
                continue
            del self._preparing[place]
            found, buffer = future.result(), self._buffers.get(place)
            if found is not None and buffer is not None and not buffer.prepared:
                buffer.prepare(*found)

    def _collect(self) -> None:
        """Note what the writer has finished."""
        job = self._job
        if job is None or job.future is None or not job.future.done():
            return
        self._job = None
        job.future.result()  # a defect in our code ends the process, loudly
        self._settle(job)

    def _settle(self, job: Job) -> None:
        for block in job.written:
            place = (block.topic, block.partition)
            if place in self._buffers and place not in job.dropped:
                self._settled[place] = block.last + 1

    def _dispatch(self, *, all_of_it: bool = False) -> None:
        """Commit what is done together with the plans of what comes next; then send that."""
        if self._job is None and not self._planned:
            now = self._clock()
            self._planned = [
                buffer.cut(self._limits)
                for buffer in self._buffers.values()
                if buffer.due(self._limits, now, all_of_it=all_of_it)
            ]
        # While a job is under way nothing is planned; what it has settled is committed all the same.
        if self._commit(self._planned) and self._planned:
            blocks, self._planned = self._planned, []
            self._job = self._writer.submit(blocks)

    def _commit(self, planned: list[Block]) -> bool:
        if not self._settled and not planned:
            return True
        if self._settled and not self._letters.safe():
            return False
        offsets = {place: TopicPartition(*place, offset) for place, offset in self._settled.items()}
        for block in planned:
            offsets[block.topic, block.partition] = TopicPartition(
                block.topic, block.partition, block.first, metadata=block.plan.encode()
            )
        try:
            answer = self._consumer.commit(offsets=list(offsets.values()), asynchronous=False)
            for one in answer or []:
                if one.error is not None:
                    raise KafkaException(one.error)
        except KafkaException as error:
            # A rebalance is under way, or the coordinator is: its end drops or keeps these partitions.
            if self._every.due("commit"):
                log.warning("offsets were not committed, trying again: %s", error.args[0].str())
            return False
        self._metrics.commits.inc()
        self._settled.clear()
        return True

    def _regulate(self) -> None:
        """Pause while ClickHouse is in trouble or too much is held; go on when there is room."""
        held = sum(buffer.rows for buffer in self._buffers.values())
        size = sum(buffer.size for buffer in self._buffers.values())
        limit = self._held_rows if not self._paused else self._held_rows // 2
        # A planned block needs its last record, so with nothing under way reading goes on, however much is held.
        busy = bool(self._job or self._planned or self._preparing)
        full = busy and (held > limit or size > 4 * self._limits.size)
        trouble = self._writer.trouble
        want = set(self._buffers) if trouble or full else set()
        if want - self._paused:
            self._consumer.pause([TopicPartition(*place) for place in want - self._paused])
        if self._paused - want:
            self._consumer.resume([TopicPartition(*place) for place in self._paused - want if place in self._buffers])
        if trouble and self._every.due("trouble"):
            log.warning("paused, Kafka holds the data: %s", trouble)
        self._paused = want
        self._metrics.paused.set(1 if trouble else 0)
        self._health.set("warehouse", not trouble, trouble)

    def _report(self) -> None:
        now = self._clock()
        self._health.beat("ingest", 180.0)
        if now - self._lag_at < _LAG_SECONDS:
            return
        self._lag_at = now
        for place, buffer in self._buffers.items():
            begin, end = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            if end >= 0:
                self._metrics.lag(*place, max(0, end - max(buffer.position, begin)))

    def _drain(self) -> None:
        """Write what was read, within `drain_seconds`, unless ClickHouse is away; what is left is read again later."""
        end = self._clock() + self._drain_seconds
        while self._clock() < end and not self._writer.trouble:
            self._prepare()
            self._collect()
            self._dispatch(all_of_it=True)
            if self._job is None and not self._planned and not self._settled:
                return
            if self._job is not None:
                _wait(self._job.future, min(0.2, end - self._clock()))

    # Who owns what.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        plans: dict[Place, tuple[int, Plan | None]] = {}
        try:
            for one in consumer.committed(partitions, timeout=20.0):
                if one.error is None and one.offset >= 0:
                    plans[one.topic, one.partition] = (one.offset, Plan.decode(one.metadata))
        except KafkaException as error:
            log.warning("committed offsets could not be read, going by ClickHouse alone: %s", error.args[0].str())
        for one in partitions:
            place = (one.topic, one.partition)
            first, plan = plans.get(place, (0, None))
            table = self._feeds[one.topic].table
            self._buffers[place] = PartitionBuffer(
                table, one.topic, one.partition, plan, first if place in plans else -1
            )
            self._preparing[place] = self._writer.call(self._preparation(place, table, first))
        self._metrics.assigned(set(self._buffers))
        self._health.set("kafka", True)
        log.info("assigned %d partitions, %d in all", len(partitions), len(self._buffers))

    def _preparation(self, place: Place, table: str, first: int) -> Callable[[Sink], Any]:
        topic, partition = place

        def prepare(sink: Sink) -> tuple[str, Any] | None:
            if place not in self._buffers:
                return None
            name = f"{topic}@{self._ids.of(topic)}"
            return name, sink.landed(table, name, partition, first)

        return prepare

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Finish what is being written, commit, release."""
        del consumer
        places = {(one.topic, one.partition) for one in partitions}
        self._planned = [block for block in self._planned if (block.topic, block.partition) not in places]
        job = self._job
        if job is not None and any((block.topic, block.partition) in places for block in job.blocks):
            end = self._clock() + self._drain_seconds
            while not self._writer.trouble and self._clock() < end and not _wait(job.future, 0.05):
                pass
            self._settle(job)
        self._collect()
        self._commit([])
        self._release(places)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another process may own them already: drop everything, commit nothing."""
        del consumer
        self._release({(one.topic, one.partition) for one in partitions})

    def _release(self, places: set[Place]) -> None:
        self._planned = [block for block in self._planned if (block.topic, block.partition) not in places]
        if self._job is not None:
            self._job.dropped |= places
        for place in places:
            self._buffers.pop(place, None)
            self._preparing.pop(place, None)
            self._settled.pop(place, None)
        if paused := self._paused & places:
            # librdkafka keeps a pause from one assignment to the next: should they come back, they are to be read.
            self._consumer.resume([TopicPartition(*place) for place in paused])
            self._paused -= paused
        self._metrics.assigned(set(self._buffers))


def _wait(future: Future[None] | None, seconds: float) -> bool:
    """Wait for a future's end without taking its result; whether it ended."""
    if future is None:
        return True
    try:
        future.exception(timeout=max(0.0, seconds))
    except TimeoutError:
        return False
    return True


def _tombstone(message: Message) -> Control:
    """The record that a removal on the compacted control topic stands for. Key: kind/name."""
    key = message.key() or b""
    kind, _, name = key.decode(errors="replace").partition("/")
    kind_of_time, stamp = message.timestamp()
    return Control(kind, name, 0, "", 1000 * stamp if kind_of_time else 0)
