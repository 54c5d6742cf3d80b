"""What is committed: never past a record that was handed out and not acknowledged, and never behind holes in a log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from aiokafka import ConsumerRecord
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st
from test_monitor_consumer import CHANGELOG, Pieces

FIRST, SECOND = TP("summaries", 0), TP("summaries", 1)
Action = tuple[str, TP, int]


class Scripted(Pieces):
    """A thread that lets Faust's own loop hand out records, while they are acknowledged and committed by a script.

    Actions: ("hand", partition, its offset), ("ack", partition, how many more, oldest first), ("skip", partition, how
    many stay unacknowledged before the one that is), ("commit", any, any).
    """

    script: Iterator[Action]

    def __init__(self, committed: Mapping[TP, int | None]) -> None:
        super().__init__(self.delivered)
        self.start = committed
        self.held: dict[TP, list[Any]] = {FIRST: [], SECOND: []}
        self.acked: dict[TP, list[int]] = {FIRST: [], SECOND: []}
        self.committed: dict[TP, int] = {}
        self.app.topics._acking_topics.add(FIRST.topic)

    def assignment(self) -> set[TP]:
        return {FIRST, SECOND, CHANGELOG}

    def highwater(self, _tp: TP) -> int:
        return 0

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return self.start  # type: ignore[return-value]

    async def delivered(self, message: Any) -> None:
        """In the place of Faust's conductor, which counts the streams that a message goes to."""
        message.incref(1)
        self.held.setdefault(message.tp, []).append(message)

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        for tp, offset in offsets.items():
            unacknowledged = [one.offset for one in self.held[tp]]
            assert all(one >= offset for one in unacknowledged), f"{offset} is past one of {unacknowledged}"
            assert offset - 1 in self.acked[tp]
            assert offset > self.committed.get(tp, 0)
        self.committed |= offsets
        return True

    async def getmany(self, *_: Any) -> dict[TP, list[ConsumerRecord]]:
        for what, tp, number in self.script:
            if what == "hand":
                return {tp: [ConsumerRecord(tp.topic, tp.partition, number, 0, 0, b"k", b"v", None, 1, 1, ())]}
            if what in ("ack", "skip"):
                which = slice(0, number) if what == "ack" else slice(number, number + 1)
                for message in self.held[tp][which]:
                    self.acked[tp].append(message.offset)
                    message.ack(self.consumer)
                del self.held[tp][which]
            else:
                await self.consumer.commit()
        self.fetcher._stopped.set()
        return {}

    async def go_on(self, script: Iterable[Action]) -> None:
        """As `play`, for a consumer that is there already."""
        self.script, self.fetcher = iter(script), SimpleNamespace(_stopped=asyncio.Event())
        await self.consumer.perform_seek()
        await self.consumer._drain_messages(self.fetcher)


def play(script: Iterable[Action], committed: Mapping[TP, int | None] | None = None) -> Scripted:
    """Until the script is over; what is held then is not acknowledged."""

    async def main() -> Scripted:
        scripted = Scripted(committed or {})
        await scripted.go_on(script)
        return scripted

    return asyncio.run(main())


@st.composite
def scripts(draw: st.DrawFn) -> tuple[list[Action], dict[TP, int | None]]:
    """Records of two logs with holes, from their beginning or from what is committed; some acknowledged."""
    starts = {tp: draw(st.one_of(st.none(), st.integers(1, 9))) for tp in (FIRST, SECOND)}
    next_ = {tp: (start or 0) + draw(st.sampled_from([0, 0, 0, 1, 2, 700])) for tp, start in starts.items()}
    script: list[Action] = []
    for what in draw(st.lists(st.sampled_from(["hand", "hand", "hand", "ack", "skip", "commit"]), max_size=40)):
        tp = draw(st.sampled_from([FIRST, SECOND]))
        if what == "hand":
            script.append((what, tp, next_[tp]))
            next_[tp] += draw(st.sampled_from([1, 1, 1, 2, 3, 5, 700]))
        else:
            script.append((what, tp, draw(st.integers(1, 3))))
    return script, starts


@settings(deadline=None)
@given(scripts())
def test_what_is_committed_never_passes_a_record_under_way_and_is_all_of_it_in_the_end(
    given_: tuple[list[Action], dict[TP, int | None]],
) -> None:
    script, starts = given_
    sent = {tp: [number for what, one, number in script if (what, one) == ("hand", tp)] for tp in (FIRST, SECOND)}
    over: list[Action] = [("commit", FIRST, 0), ("ack", FIRST, 99), ("ack", SECOND, 99), ("commit", FIRST, 0)]
    assert play([*script, *over], starts).committed == {tp: own[-1] + 1 for tp, own in sent.items() if own}


def test_a_hole_behind_the_first_record_of_all_does_not_hold_commits_up() -> None:
    script = [("hand", FIRST, 0), ("ack", FIRST, 1), ("commit", FIRST, 0)]
    assert play(script).committed == {FIRST: 1}
    script += [("hand", FIRST, 4), ("hand", FIRST, 5), ("ack", FIRST, 2), ("commit", FIRST, 0)]
    assert play(script).committed == {FIRST: 6}


def test_a_hole_of_ten_million_offsets_takes_no_time() -> None:
    script = [
        ("hand", FIRST, 1),
        ("ack", FIRST, 1),
        ("hand", FIRST, 10_000_000),
        ("ack", FIRST, 1),
        ("commit", FIRST, 0),
    ]
    before = time.process_time()
    assert play(script).committed == {FIRST: 10_000_001}
    assert time.process_time() - before < 1.0


def test_records_of_changelogs_which_nobody_acknowledges_are_not_kept_in_mind() -> None:
    scripted = play([("hand", CHANGELOG, offset) for offset in range(9)])
    assert scripted.consumer._waiting == {}


def test_what_another_monitor_acknowledged_meanwhile_holds_no_commit_up() -> None:
    async def main() -> None:
        scripted = Scripted({FIRST: 3})

        async def nothing(*_: Any) -> None:
            """In the place of the app, which would restore tables."""

        consumer = scripted.consumer
        consumer._on_partitions_assigned = consumer._on_partitions_revoked = nothing
        await scripted.go_on([("hand", FIRST, 3), ("hand", FIRST, 4)])
        await consumer.on_partitions_revoked({FIRST, SECOND})
        await consumer.on_partitions_assigned({SECOND}, 2)
        await consumer.on_partitions_revoked({SECOND})
        await consumer.on_partitions_assigned({FIRST}, 3)
        scripted.start, scripted.held[FIRST] = {FIRST: 9}, []
        await scripted.go_on([("hand", FIRST, 9), ("ack", FIRST, 1), ("commit", FIRST, 0)])
        assert scripted.committed == {FIRST: 10}

    asyncio.run(main())


def test_acknowledged_while_partitions_are_taken_away_is_committed_still() -> None:
    """Faust forgets what was acknowledged first, and then waits for what is under way."""

    async def main() -> None:
        script = [("hand", FIRST, 3), ("hand", FIRST, 4), ("hand", FIRST, 7), ("hand", FIRST, 8), ("ack", FIRST, 1)]
        scripted = Scripted({FIRST: 3})

        async def rest(*_: Any) -> None:
            scripted.script = iter([("ack", FIRST, 2), ("commit", FIRST, 0)])
            await scripted.getmany()

        scripted.consumer._on_partitions_revoked = rest
        await scripted.go_on(script)
        await scripted.consumer.on_partitions_revoked({FIRST})
        assert scripted.committed == {FIRST: 8}

    asyncio.run(main())
