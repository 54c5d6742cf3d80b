"""Faust's Kafka client as the monitor needs it: committed records only, none lost when partitions are shared out, and
one that ends.

Faust reads what was not committed unless it is itself transactional; workers write summaries in transactions, and a
batch whose transaction was rolled back is scored and summed up again. At a rebalance, and while it restores tables,
Faust throws away what it has fetched and reads it again from what is committed. What it does not read again, found by
the fault tests and their traces, is mended here: each class says which. So is what holds its commits up, or its end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, Final

from aiokafka.consumer.fetcher import READ_UNCOMMITTED  # type: ignore[import-untyped]
from faust.transport.drivers import aiokafka
from faust.types import TP, Message
from mode.threads import WorkerThread
from mode.utils.futures import notify

# How long a fetch waits for a first record. Kafka answers as soon as there is one; the embedded broker looks again only
# when half of it is over, at a cost that grows with what it holds. Faust's 1.5 s would be much of what a stop may take.
FETCH_WAIT_MS: Final = 500


class Active:
    """The partitions that are read, as they are whenever one is looked for.

    Faust hands its own set to aiokafka in another thread, and empties it meanwhile: aiokafka takes an empty set for all
    partitions. What it then takes of changelogs nobody seeks again, and their table is never restored. This is no set:
    it is true when empty.
    """

    def __init__(self, partitions: set[TP]) -> None:
        self._partitions = partitions

    def __contains__(self, partition: object) -> bool:
        return partition in self._partitions


class Daemon(WorkerThread):
    """A thread that keeps no process alive: nobody ends it where stopping Faust took too long and was cut off."""

    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True


class Thread(aiokafka.AIOKafkaConsumerThread):
    """The thread that aiokafka's client lives in."""

    Worker = Daemon
    consumer: Consumer

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Both are read when the consumer starts. Faust has settings for neither.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def _fetch_records(self, consumer: Any, active_partitions: Any, *args: Any, **kwargs: Any) -> Any:
        return await super()._fetch_records(consumer, Active(active_partitions), *args, **kwargs)  # type: ignore[arg-type]

    async def seek_to_committed(self) -> Mapping[Any, Any]:
        """Go back to where each partition was committed: to its beginning, where it never was.

        aiokafka leaves a partition without a commit where it stands, behind what was thrown away. Changelogs are never
        committed, and are read by Faust from places that it knows. A commit beyond the end of its log, which was
        deleted or has lost its end, is none: aiokafka would begin anew, and Faust drop all below the commit. Nor is one
        of a partition whose windows were dropped for that (`Consumer.anew`).
        """
        found: Mapping[Any, Any] = await self.call_thread(self._seek_back)
        return found

    async def _seek_back(self) -> Mapping[Any, int | None]:
        consumer = self._ensure_consumer()
        committed: dict[Any, int | None] = dict(await consumer.seek_to_committed())
        ends = await self._log_ends([one for one, offset in committed.items() if offset])
        anew = self.consumer.anew
        committed |= {one: None for one, end in ends.items() if one in anew or (committed[one] or 0) > end}
        changelogs = self.app.tables.changelog_topics
        fresh = [one for one, offset in committed.items() if not offset and one.topic not in changelogs]
        for one, offset in (await consumer.beginning_offsets(fresh) if fresh else {}).items():
            consumer.seek(one, offset)
        return committed

    async def log_ends(self, partitions: Iterable[TP]) -> Mapping[Any, int]:
        """The offset that each partition's next record will have, as Kafka says now."""
        found: Mapping[Any, int] = await self.call_thread(self._log_ends, list(partitions))
        return found

    async def _log_ends(self, partitions: list[Any]) -> Mapping[Any, int]:
        # aiokafka asks with the isolation that it reads with: open transactions hold that end back, and on the embedded
        # broker it may lie before records that were handed out.
        fetcher = copy(self._ensure_consumer()._fetcher)
        fetcher._isolation_level = READ_UNCOMMITTED
        timeout = self.app.conf.broker_request_timeout
        found: Mapping[Any, int] = await fetcher.end_offsets(partitions, int(timeout * 1000))
        return found


class Consumer(aiokafka.Consumer):
    """The consumer that Faust's own loop talks to.

    When tables are restored Faust resumes the partitions of streams, seeks them, and then lets the flow go on, which
    empties every queue: a record fetched in between would be passed over. Here they are resumed with the flow.

    What may be committed Faust works out of every offset that was acknowledged or is missing in the log: an integer
    each, made in its loop, of which a topic's retention leaves millions; and a hole behind offset 0 it does not see.
    Here the records are noted that were handed out and are not acknowledged, and commits stay below the first of them.

    Faust stops when all that was handed out is acknowledged, and does not let itself be cancelled meanwhile: a monitor
    that failed would never end. It calls `give_up`.
    """

    _thread: Thread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._resumed_with_flow: set[TP] = set()
        self._waiting: defaultdict[TP, set[int]] = defaultdict(set)
        self._given_up = False
        # Partitions that are read from their beginning, whatever was committed: their log is not what it was.
        self.anew: set[TP] = set()
        super().__init__(*args, **kwargs)
        self._deliver, self.callback = self.callback, self._hand_out

    def _new_consumer_thread(self) -> Thread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Read these no more."""
        paused = set(tps)
        self._resumed_with_flow -= paused
        super().pause_partitions(paused)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Read changelogs among these at once, the others from `resume_flow` on."""
        later = {one for one in tps if not self._is_changelog_tp(one)}
        self._resumed_with_flow |= later
        super().resume_partitions(set(tps) - later)

    def resume_flow(self) -> None:
        """Hand on what is fetched."""
        super().resume_partitions(self._resumed_with_flow)
        self._resumed_with_flow = set()
        super().resume_flow()

    # -- what may be committed

    async def _hand_out(self, message: Message) -> None:
        if self.app.topics.acks_enabled_for(message.topic):
            self._waiting[message.tp].add(message.offset)
        await self._deliver(message)

    def ack(self, message: Message) -> bool:
        """All that follows from the record is durable."""
        acknowledged = super().ack(message)
        self._waiting[message.tp].discard(message.offset)
        return acknowledged

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        first = min(self._waiting[tp], default=None)
        done = {one for one in acked if first is None or one < first}
        if not done:
            return None
        self._acked[tp] = [one for one in acked if one not in done]
        self._acked_index[tp] -= done
        return max(done) + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Holes are of no account."""

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """All partitions are read on from what is committed."""
        # What was thrown away comes again, here or at another monitor.
        self._waiting.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    # -- how it ends

    def give_up(self) -> None:
        """What was handed out and is not acknowledged never will be: wait for none of it."""
        self._given_up = True
        self._clean_unacked_messages()
        notify(self._waiting_for_ack)

    def _clean_unacked_messages(self) -> None:
        if self._given_up:
            self._unacked_messages.clear()
        else:
            super()._clean_unacked_messages()

    # Faust's own two go on when they are cancelled, and `asyncio.run` cancels only once.

    async def _wait_for_ack(self, timeout: float) -> None:  # noqa: ASYNC109 - Faust's parameter
        self._waiting_for_ack = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._waiting_for_ack}, timeout=timeout)
        finally:
            self._waiting_for_ack = None

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Whether a commit was under way, which is over now."""
        if self._commit_fut is None:
            return False
        await asyncio.wait({self._commit_fut})
        return True

    async def log_ends(self, partitions: Iterable[TP]) -> Mapping[Any, int]:
        """See `Thread`."""
        return await self._thread.log_ends(partitions)


class Transport(aiokafka.Transport):
    """Faust's transport with the consumer above."""

    Consumer = Consumer
