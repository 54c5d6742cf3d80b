"""The live monitor, a Faust app: windows over batch summaries, held against guardrails, alerts and stops.

    batch.summaries ─ noack_take ─ Watch (one a partition) ─┬─ changelog   1. windows and new breaches are kept
                                                            ├─ control     2. a variant at fault is stopped
                                                            ├─ alerts      3. the alert is out
                                                            ├─ changelog   4. that it is out is kept
                                                            └─ commit      5. the summaries are acknowledged

In this order, so that a monitor killed at any instant raises a breach once: before 1 nobody knows of it, and the
summaries come again; from then on the next monitor finds it untold, reads back the alerts' topic, and tells it only
where it is not there. Summaries that come again count once, since each pane knows its last record. ClickHouse is not
needed. The windows survive a restart and a rebalance in Faust's changelog topic; `take` would acknowledge in a
`finally`, so it is `noack_take`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import faust
from faust.types import TP

from producers.errors import BrokerUnavailableError
from producers.publisher import DeliveryError, create_topics
from schemas.codec import Codec, DecodeError
from schemas.records import Alert, BatchSummary
from schemas.topics import Topics, TopicSpec
from stream_workers.guardrails import Breach, Recovery
from stream_workers.monitor_alerts import alert_of
from stream_workers.monitor_consumer import Consumer
from stream_workers.monitor_faust import FaustConfig, make_app
from stream_workers.monitor_metrics import MonitorMetrics
from stream_workers.monitor_watch import Entries, Rules, Span, Watch, partition_of
from stream_workers.ops import Health

log = logging.getLogger(__name__)
TABLE: Final = "windows"
BATCH: Final = 500
WITHIN_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 1.0
PULSE_SECONDS: Final = 60.0
# Longer than a restart of Kafka takes.
KEEP_SECONDS: Final = 60.0
# Twice at most. Services that have only begun to start take long to end, and so may a step.
STOP_SECONDS: Final = 5.0


class MonitorError(RuntimeError):
    """The monitor cannot go on, in one line."""


class Alerts(Protocol):
    """What is needed of `alert_topic.AlertTopic`."""

    def put(self, alert: Alert) -> None:
        """Write an alert and wait until Kafka has it."""

    def states(self) -> dict[str, str]:
        """The last state of each alert by its id."""


# Ends the experiment whose variant is at fault; says what it wrote, nothing where nothing was left to do. A reason why
# it cannot be done is a `StopRefusedError`.
Stop = Callable[[Breach], Sequence[str]]


class StopRefusedError(RuntimeError):
    """A variant cannot be stopped, and why, in one line."""


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """What a monitor is to know. `faust.properties` are those of a librdkafka client too.

    `pool_bulk`: the topics of the pools' bulk batches, beside that of the default pool.
    """

    faust: FaustConfig
    topics: Topics
    span: Span = field(default_factory=Span)
    recovery: Recovery = field(default_factory=Recovery)
    pool_bulk: frozenset[str] = frozenset()


def changelog(group: str, partitions: int) -> TopicSpec:
    """Faust's changelog topic of the windows: compacted, as many partitions as the summaries."""
    config = {"cleanup.policy": "compact", "segment.ms": str(3600 * 1000), "delete.retention.ms": str(3600 * 1000)}
    return TopicSpec(f"{group}-{TABLE}-changelog", partitions, config)


class Monitor:
    """One monitor process; several share the partitions. `wall`: microseconds since the epoch."""

    def __init__(
        self,
        config: MonitorConfig,
        codec: Codec,
        rules: Rules,
        alerts: Alerts,
        stop_variant: Stop,
        metrics: MonitorMetrics,
        health: Health,
        *,
        wall: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._config = config
        self._codec = codec
        self._rules = rules
        self._alerts = alerts
        self._stop_variant = stop_variant
        self._metrics = metrics
        self._health = health
        self._wall = wall
        self._watches: dict[int, Watch] = {}
        self._doubtful: set[str] = set()
        self._shared_out = 0
        self._failure: BaseException | None = None
        self._one_step = asyncio.Lock()
        health.set("kafka", False, "the monitor has not joined its group yet")

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set. Raises one of `EXPECTED`, or whatever else it cannot go on with."""
        own = self._config.faust
        create_topics(own.properties, [changelog(own.group, own.partitions)])
        if not stop.is_set():
            asyncio.run(self._main(stop))
        if self._failure is not None:
            raise self._failure

    async def _main(self, stop: threading.Event) -> None:
        # Here, since Faust's app belongs to the loop that runs when it is made.
        self._app = app = make_app(self._config.faust)
        self._table = app.Table(
            TABLE, partitions=self._config.faust.partitions, key_type=bytes, value_type=bytes, default=None
        )
        source = app.topic(self._config.topics.summaries, key_type=bytes, value_type=bytes)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail(error: BaseException) -> None:
            self._failure = self._failure or error
            loop.call_soon_threadsafe(ended.set)

        async def watch(stream: Any) -> None:
            async for events in stream.noack_take(BATCH, within=WITHIN_SECONDS):
                try:
                    if self._failure is None:
                        await self.step(stream, events)
                except asyncio.CancelledError:
                    raise
                except BaseException as error:  # noqa: BLE001 - `run` raises it; Faust would begin anew over it
                    fail(error)

        async def look() -> None:
            try:
                if self._failure is None:
                    await self._idle()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - as above
                fail(error)

        app.agent(source, name="summaries")(watch)
        app.timer(LOOK_SECONDS, name="look")(look)
        app.on_partitions_revoked.connect(self._revoked, weak=False)
        app.on_rebalance_complete.connect(self._assigned, weak=False)
        self._health.watch("look", PULSE_SECONDS)
        waiting = asyncio.ensure_future(asyncio.to_thread(stop.wait))
        ending = asyncio.ensure_future(ended.wait())
        starting = asyncio.ensure_future(app.start())
        # mode has no public way to wait for a crash of any of an app's services, but to run the process itself.
        crash = asyncio.ensure_future(app._crashed.wait())
        try:
            await asyncio.wait({waiting, ending, crash, starting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await asyncio.wait({waiting, ending, crash}, return_when=asyncio.FIRST_COMPLETED)
            reason = app._crash_reason
            if reason is not None:
                self._failure = self._failure or MonitorError(f"Faust gave up: {type(reason).__name__}: {reason}")
        finally:
            starting.cancel()
            await self._end(app)
            stop.set()
            await waiting
            ending.cancel()
            crash.cancel()

    async def _end(self, app: faust.App) -> None:
        """Stop Faust, which waits for what was handed out. What is not done by then the next monitor does."""
        consumer = cast(Consumer | None, app._consumer)
        if self._failure is not None and consumer is not None:
            # The error holds on to a batch that nobody acknowledges any more.
            consumer.give_up()
        stopping = asyncio.ensure_future(app.stop())
        await asyncio.wait({stopping}, timeout=STOP_SECONDS)
        if not stopping.done():
            if consumer is not None:
                consumer.give_up()
            await asyncio.wait({stopping}, timeout=STOP_SECONDS)

    # -- partitions come and go

    async def _revoked(self, *_: Any, **__: Any) -> None:
        """All partitions, before each rebalance."""
        self._watches = {}
        self._shared_out += 1
        self._health.set("kafka", False, "partitions are being shared out")

    async def _assigned(self, *_: Any, **__: Any) -> None:
        """The table holds what the changelog says of the partitions that are ours now: watch on from there.

        Faust reads their summaries when this is over. Raises `MonitorError`.
        """
        topic, shared_out = self._config.topics.summaries, self._shared_out
        assigned = sorted(tp.partition for tp in self._app.assignor.assigned_actives() if tp.topic == topic)
        ends = await self._ends(assigned)
        async with self._one_step:
            if shared_out == self._shared_out:
                entries = self.restore(assigned, self._table.data, ends)
                # What is kept of these now says that they were cut.
                cast(Consumer, self._app.consumer).anew = {TP(topic, partition_of(key)) for key in entries}
                await self._keep(entries)
        if shared_out == self._shared_out:
            log.info("watching partitions %s of %s", assigned, topic)
            self._health.set("kafka", True)

    async def _ends(self, partitions: Sequence[int]) -> dict[int, int]:
        topic = self._config.topics.summaries
        try:
            asked = cast(Consumer, self._app.consumer).log_ends([TP(topic, one) for one in partitions])
            return {tp.partition: end for tp, end in (await asyncio.wait_for(asked, KEEP_SECONDS)).items()}
        except Exception as error:
            raise MonitorError(f"Kafka does not say where {topic} ends: {type(error).__name__}: {error}") from error

    def restore(
        self, assigned: Sequence[int], stored: MutableMapping[bytes, bytes], ends: Mapping[int, int]
    ) -> Entries:
        """Watch on where the monitor before left off; drops from `stored` what belongs to other partitions.

        `ends`: the offset that each partition's next record will have. Returns what is to be kept before any counts.
        """
        wall = self._wall()
        kept: dict[int, dict[str, str]] = {partition: {} for partition in assigned}
        for key in list(stored):
            text = key.decode()
            if partition_of(text) in kept:
                kept[partition_of(text)][text] = stored[key].decode()
            else:
                # Its next owner changes it, and Faust reads all of it again should it come back.
                stored.pop(key, None)
        config = self._config
        self._watches = {
            partition: Watch.restored(partition, self._rules, config.span, config.recovery, entries, wall)
            for partition, entries in kept.items()
        }
        # What a monitor before has not kept as told may be told all the same.
        self._doubtful = {one.alert_id for watch in self._watches.values() for one in watch.untold()}
        entries: Entries = {}
        for partition, watch in self._watches.items():
            last, gone = watch.offset, watch.cut_to(ends[partition])
            if gone:
                log.warning(
                    "%s[%d] ends at offset %d, but %d was counted: it was deleted or has lost its end. Its windows are "
                    "dropped, and what it holds now is counted",
                    config.topics.summaries,
                    partition,
                    ends[partition],
                    last,
                )
            entries |= gone
        return entries

    # -- a step: count, keep, act, keep, acknowledge

    async def step(self, stream: Any, events: Sequence[Any]) -> None:
        """A batch of events from `noack_take`, from its records to its acknowledgement."""
        began = time.monotonic()
        async with self._one_step:
            records: dict[int, list[tuple[int, BatchSummary, bool]]] = {}
            unreadable = 0
            for event in events:
                message = event.message
                try:
                    summary = self._codec.decode(BatchSummary, message.value)
                except DecodeError as error:
                    unreadable += 1
                    log.warning(
                        "%s[%d] offset %d is left out: %s", message.topic, message.partition, message.offset, error
                    )
                    continue
                bulk = summary.topic == self._config.topics.bulk or summary.topic in self._config.pool_bulk
                records.setdefault(message.partition, []).append((message.offset, summary, bulk))
            # Partitions that were taken away meanwhile are not in `watches`; their records are their next owner's.
            watches, wall = self._watches, self._wall()
            entries: Entries = {}
            for partition, own in records.items():
                if partition in watches:
                    entries |= watches[partition].take(own, wall)
            await self._keep(entries)
            await self._act(watches)
            for event in events:
                if event.message.partition in watches:
                    await stream.ack(event)
            self._metrics.counted(len(events) - unreadable, unreadable)
        self._metrics.step_seconds.observe(time.monotonic() - began)

    async def _idle(self) -> None:
        self._health.beat("look", PULSE_SECONDS)
        async with self._one_step:
            watches, wall = self._watches, self._wall()
            entries: Entries = {}
            for watch in watches.values():
                entries |= watch.idle(wall)
            await self._keep(entries)
            await self._act(watches)
            self._metrics.show(watches.values())

    async def _act(self, watches: dict[int, Watch]) -> None:
        """Stop and tell what was not told yet, the stop first: it is what users wait for."""
        for watch in watches.values():
            for breach in watch.untold():
                if await self._is_told(breach):
                    log.info("alert %s was out already", breach.alert_id)
                else:
                    await self._tell(breach)
                await self._keep(watch.told(breach))

    async def _is_told(self, breach: Breach) -> bool:
        if breach.alert_id not in self._doubtful:
            return False
        states = await asyncio.to_thread(self._alerts.states)
        self._doubtful.discard(breach.alert_id)
        wanted = ("firing", "resolved") if breach.state == "raising" else ("resolved",)
        return states.get(breach.alert_id) in wanted

    async def _tell(self, breach: Breach) -> None:
        done: dict[str, Any] = {}
        if breach.state == "raising" and breach.evidence.get("at_fault"):
            done = await self._stop(breach)
        alert = alert_of(breach, self._config.span, self._wall(), done)
        await asyncio.to_thread(self._alerts.put, alert)
        self._metrics.alert(alert.rule, alert.state)
        log.warning("%s: %s", alert.state, alert.summary, extra={"alert_id": alert.alert_id, **done})

    async def _stop(self, breach: Breach) -> dict[str, Any]:
        try:
            words = list(await asyncio.to_thread(self._stop_variant, breach))
        except StopRefusedError as error:
            self._metrics.stop("failed")
            log.error("%s is not stopped: %s", breach.series, error)
            return {"stopped": [], "stop_failed": str(error)}
        self._metrics.stop("done" if words else "nothing left")
        return {"stopped": words or ["it had been stopped before"]}

    async def _keep(self, entries: Entries) -> None:
        """Write entries to the changelog and wait until Kafka has them. Raises `MonitorError`."""
        if not entries:
            return
        sent = []
        for key, text in entries.items():
            raw, value = key.encode(), None if text is None else text.encode()
            sent.append(self._table.send_changelog(partition_of(key), raw, value, "raw", "raw"))
            if value is None:
                self._table.data.pop(raw, None)
            else:
                self._table.data[raw] = value
        try:
            await asyncio.wait_for(asyncio.gather(*sent), KEEP_SECONDS)
        except Exception as error:
            raise MonitorError(f"the windows could not be kept in Kafka: {type(error).__name__}: {error}") from error


EXPECTED: Final = (BrokerUnavailableError, DeliveryError, MonitorError)
