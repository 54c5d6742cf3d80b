"""What Faust threw away at a rebalance is read again: held to the code of Faust and aiokafka as far as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult
from aiokafka.protocol.offset import OffsetRequest, OffsetRequest_v3
from faust.tables.recovery import Recovery
from faust.types import TP, Message
from mode import Service

from stream_workers.monitor_consumer import Active, Consumer, Thread
from stream_workers.monitor_faust import FaustConfig, make_app

SUMMARIES, CHANGELOG = TP("summaries", 0), TP("g-windows-changelog", 0)


class Broker:
    """What aiokafka's fetcher asks a broker through: where logs end, and where what is committed of them does."""

    def __init__(self, ends: Mapping[TopicPartition, int], stable: Mapping[TopicPartition, int]) -> None:
        self.ends, self.stable = ends, stable
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: 1)

    async def _maybe_wait_metadata(self) -> None:
        """It is there."""

    async def send(self, _node: int, request: OffsetRequest) -> Any:
        asked = request.build(OffsetRequest_v3)
        ends = self.stable if asked.isolation_level == READ_COMMITTED else self.ends
        found = [
            (topic, [(one, 0, -1, ends[TopicPartition(topic, one)]) for one, _ in own]) for topic, own in asked.topics
        ]
        return SimpleNamespace(topics=found, API_VERSION=3)


class Client:
    """aiokafka's consumer with its own fetcher."""

    def __init__(self, committed: Mapping[TopicPartition, int | None], broker: Broker) -> None:
        self.committed = committed
        self.sought: dict[TopicPartition, int] = {}
        self._fetcher = object.__new__(Fetcher)
        self._fetcher._client, self._fetcher._isolation_level = broker, READ_COMMITTED

    async def seek_to_committed(self) -> Mapping[TopicPartition, int | None]:
        return self.committed

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {one: 3 + one.partition for one in partitions}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought[partition] = offset


def thread_of(client: Client, anew: set[TP] | None = None) -> Thread:
    thread = object.__new__(Thread)
    thread.consumer = SimpleNamespace(anew=anew or set())
    thread.app = SimpleNamespace(
        tables=SimpleNamespace(changelog_topics={"windows-changelog"}), conf=SimpleNamespace(broker_request_timeout=9.0)
    )
    thread._consumer = client
    return thread


def test_what_was_never_committed_is_read_again_from_its_beginning() -> None:
    committed = {
        TopicPartition("summaries", 0): None,
        TopicPartition("summaries", 1): 7,
        TopicPartition("summaries", 2): 0,
        TopicPartition("windows-changelog", 0): None,
    }
    client = Client(committed, Broker({TopicPartition("summaries", 1): 7}, {}))
    found = asyncio.run(thread_of(client)._seek_back())
    assert client.sought == {TopicPartition("summaries", 0): 3, TopicPartition("summaries", 2): 5}
    assert found[TopicPartition("summaries", 1)] == 7


def test_what_is_committed_beyond_the_end_of_a_log_made_anew_is_read_from_its_beginning() -> None:
    one, other = TopicPartition("summaries", 0), TopicPartition("summaries", 1)
    client = Client({one: 900, other: 7}, Broker({one: 12, other: 7}, {one: 12, other: 2}))
    found = asyncio.run(thread_of(client)._seek_back())
    assert client.sought == {one: 3}
    # Faust would hand out no record below it.
    assert found == {one: None, other: 7}


def test_a_log_whose_windows_were_dropped_is_read_from_its_beginning_whatever_is_committed() -> None:
    # It lost its end down to 890, of which the commit has not heard, but the mark of the windows has.
    one, other = TopicPartition("summaries", 0), TopicPartition("summaries", 1)
    client = Client({one: 880, other: 7}, Broker({one: 890, other: 7}, {}))
    found = asyncio.run(thread_of(client, {TP("summaries", 0)})._seek_back())
    assert (client.sought, found) == ({one: 3}, {one: None, other: 7})


def test_a_log_ends_behind_the_transactions_that_are_open_in_it() -> None:
    one = TopicPartition("summaries", 0)
    client = Client({}, Broker({one: 9}, {one: 4}))
    assert asyncio.run(thread_of(client)._log_ends([one])) == {one: 9}
    assert client._fetcher._isolation_level == READ_COMMITTED


class Pieces(Service):
    """A consumer in a Faust app that reads no broker: this is its thread. `deliver` takes what it hands out."""

    def __init__(self, deliver: Callable[[Any], Awaitable[None]] | None = None) -> None:
        super().__init__()
        self.app = app = make_app(FaustConfig("g", {"bootstrap.servers": "127.0.0.1:1"}, 1))
        app.Table("windows", partitions=1)
        if deliver is not None:
            app.topics.on_message = deliver
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


async def ends_when_cancelled(waiting: Coroutine[Any, Any, Any]) -> bool:
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.05)
    assert not task.done()
    # As `asyncio.run` does once at its end.
    task.cancel()
    await asyncio.wait({task}, timeout=3)
    return task.cancelled()


def test_who_waits_for_acknowledgements_can_be_cancelled() -> None:
    async def main() -> None:
        consumer = Pieces().consumer
        message = Message("summaries", 0, 0, 0.0, 0, None, b"", b"", None)
        consumer.track_message(message)
        try:
            assert await ends_when_cancelled(consumer.wait_empty())
        finally:
            consumer._unacked_messages.clear()

    asyncio.run(main())


def test_who_waits_for_a_commit_can_be_cancelled_and_the_commit_goes_on() -> None:
    async def main() -> None:
        consumer = Pieces().consumer
        consumer._commit_fut = commit = asyncio.get_running_loop().create_future()
        assert await ends_when_cancelled(consumer.wait_empty())
        assert not commit.cancelled()
        other = asyncio.ensure_future(consumer.commit())
        await asyncio.sleep(0.05)
        commit.set_result(None)
        assert await asyncio.wait_for(other, 3) is False, "it was committed meanwhile"

    asyncio.run(main())


def test_who_gave_up_waits_for_no_acknowledgement() -> None:
    async def main() -> None:
        consumer = Pieces().consumer
        messages = [Message("summaries", 0, offset, 0.0, 0, None, b"", b"", None) for offset in range(2)]
        consumer.track_message(messages[0])
        waiting = asyncio.ensure_future(consumer.wait_empty())
        await asyncio.sleep(0.05)
        consumer.give_up()
        # Handed out in between.
        consumer.track_message(messages[1])
        await asyncio.wait_for(waiting, 3)

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
