"""Faust's Kafka client as the monitor needs it: committed records only, and none lost when partitions are shared out.

Faust reads what was not committed unless it is itself transactional; workers write summaries in transactions, and a
batch whose transaction was rolled back is scored and summed up again. At a rebalance, and while it restores tables,
Faust throws away what it has fetched and reads it again from what is committed. What it does not read again, found by
the fault tests and their traces, is mended here: each class says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from faust.transport.drivers import aiokafka
from faust.types import TP

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


class Thread(aiokafka.AIOKafkaConsumerThread):
    """The thread that aiokafka's client lives in."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Both are read when the consumer starts. Faust has settings for neither.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def _fetch_records(self, consumer: Any, active_partitions: Any, *args: Any, **kwargs: Any) -> Any:
        return await super()._fetch_records(consumer, Active(active_partitions), *args, **kwargs)  # type: ignore[arg-type]

    async def seek_to_committed(self) -> Mapping[Any, int]:
        """Go back to where each partition was committed: to its beginning, where it never was.

        aiokafka leaves a partition without a commit where it stands, behind what was thrown away. Changelogs are never
        committed, and are read by Faust from places that it knows.
        """
        found: Mapping[Any, int] = await self.call_thread(self._seek_back)
        return found

    async def _seek_back(self) -> Mapping[Any, int]:
        consumer = self._ensure_consumer()
        committed: Mapping[Any, int] = await consumer.seek_to_committed()
        changelogs = self.app.tables.changelog_topics
        fresh = [one for one, offset in committed.items() if not offset and one.topic not in changelogs]
        for one, offset in (await consumer.beginning_offsets(fresh) if fresh else {}).items():
            consumer.seek(one, offset)
        return committed


class Consumer(aiokafka.Consumer):
    """The consumer that Faust's own loop talks to.

    When tables are restored Faust resumes the partitions of streams, seeks them, and then lets the flow go on, which
    empties every queue: a record fetched in between would be passed over. Here they are resumed with the flow.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._resumed_with_flow: set[TP] = set()
        super().__init__(*args, **kwargs)

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


class Transport(aiokafka.Transport):
    """Faust's transport with the consumer above."""

    Consumer = Consumer
