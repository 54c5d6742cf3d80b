"""What Faust threw away at a rebalance is read again: held to the code of Faust and aiokafka as far as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from faust.tables.recovery import Recovery
from faust.types import TP
from mode import Service

from stream_workers.monitor_consumer import Active, Consumer, Thread
from stream_workers.monitor_faust import FaustConfig, make_app

SUMMARIES, CHANGELOG = TP("summaries", 0), TP("g-windows-changelog", 0)


def test_what_was_never_committed_is_read_again_from_its_beginning() -> None:
    class Client:
        sought: ClassVar[dict[TopicPartition, int]] = {}

        async def seek_to_committed(self) -> dict[TopicPartition, int | None]:
            return {
                TopicPartition("summaries", 0): None,
                TopicPartition("summaries", 1): 7,
                TopicPartition("summaries", 2): 0,
                TopicPartition("windows-changelog", 0): None,
            }

        async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
            return {one: 3 + one.partition for one in partitions}

        def seek(self, partition: TopicPartition, offset: int) -> None:
            self.sought[partition] = offset

    client = Client()
    thread = object.__new__(Thread)
    thread.app = SimpleNamespace(tables=SimpleNamespace(changelog_topics={"windows-changelog"}))
    thread._consumer = client
    committed = asyncio.run(thread._seek_back())
    assert client.sought == {TopicPartition("summaries", 0): 3, TopicPartition("summaries", 2): 5}
    assert committed[TopicPartition("summaries", 1)] == 7


class Pieces(Service):
    """A consumer in a Faust app that reads no broker: this is its thread."""

    def __init__(self) -> None:
        super().__init__()
        self.app = app = make_app(FaustConfig("g", {"bootstrap.servers": "127.0.0.1:1"}, 1))
        app.Table("windows", partitions=1)
        self.read_while_seeking: list[TP] = []
        # A real one has a loop and a client of its own.
        with mock.patch.object(Consumer, "_new_consumer_thread", return_value=self):
            self.consumer: Consumer = app.consumer
        self.consumer._set_active_tps(self.assignment())

    def assignment(self) -> set[TP]:
        return {SUMMARIES, CHANGELOG}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        self.read_while_seeking = self.read()
        return {SUMMARIES: 5}

    def read(self) -> list[TP]:
        """The partitions that are read."""
        return sorted(self.consumer._get_active_partitions())


def test_a_stream_is_read_when_faust_no_longer_empties_its_queues() -> None:
    async def main() -> None:
        pieces = Pieces()
        consumer, app = pieces.consumer, pieces.app
        # As `App._on_partitions_revoked` and `Recovery._restart_recovery` do.
        consumer.stop_flow()
        consumer.pause_partitions([SUMMARIES, CHANGELOG])
        consumer.resume_partitions({CHANGELOG})
        consumer.resume_flow()
        assert pieces.read() == [CHANGELOG]
        app._fetcher = SimpleNamespace(maybe_start=lambda: asyncio.sleep(0))
        app.consumer_generation_id = 3
        emptied: list[list[TP]] = []
        clear, app.flow_control.clear = app.flow_control.clear, lambda: (emptied.append(pieces.read()), clear())
        await Recovery(app, app.tables).on_recovery_completed(3)
        assert pieces.read_while_seeking == [CHANGELOG]
        assert emptied == [[CHANGELOG]]
        assert pieces.read() == [CHANGELOG, SUMMARIES]

    asyncio.run(main())


def test_a_stream_taken_away_before_the_flow_goes_on_is_not_read() -> None:
    async def main() -> None:
        pieces = Pieces()
        consumer = pieces.consumer
        consumer.stop_flow()
        consumer.pause_partitions([SUMMARIES, CHANGELOG])
        consumer.resume_partitions([SUMMARIES])
        consumer.pause_partitions([SUMMARIES])
        consumer.resume_flow()
        assert pieces.read() == []
        consumer.resume_partitions([SUMMARIES])
        consumer.resume_flow()
        assert pieces.read() == [SUMMARIES]

    asyncio.run(main())


def test_partitions_paused_while_a_fetch_is_under_way_keep_their_records() -> None:
    def fetcher() -> Fetcher:
        """aiokafka's, with a record of each partition fetched and not yet taken."""
        found = object.__new__(Fetcher)
        found._subscriptions = SimpleNamespace(reassignment_in_progress=False, is_assigned=lambda _: True)
        found._wait_consume_future, found._closed = None, True
        found._records = {}
        for one in (SUMMARIES, CHANGELOG):
            state = SimpleNamespace(paused=False, position=0, consumed_to=lambda _: None)
            records = _Records(["a record"])
            assignment = SimpleNamespace(active=True, state_value=lambda _, state=state: state)
            found._records[one] = FetchResult(one, assignment=assignment, partition_records=records, backoff=0)
        return found

    class _Records(list[str]):
        next_fetch_offset = 0

    async def taken(partitions: Any, held: Fetcher) -> list[TP]:
        return sorted(await held.fetched_records(partitions, max_records=10))

    active = {CHANGELOG}
    assert asyncio.run(taken(Active(active), fetcher())) == [CHANGELOG]
    active.clear()
    assert asyncio.run(taken(active, fetcher())) == [CHANGELOG, SUMMARIES], "what Faust would ask for"
    held = fetcher()
    assert asyncio.run(taken(Active(active), held)) == []
    active.add(SUMMARIES)
    assert asyncio.run(taken(Active(active), held)) == [SUMMARIES]
