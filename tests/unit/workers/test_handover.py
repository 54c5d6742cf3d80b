"""A record of another pool's model goes on with all that is its own, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from schemas.placement import Place, Placement, Pool
from schemas.topics import MAX_MESSAGE_BYTES, Topics
from stream_workers.handover import HEADER, MOST, Handover, handed_on
from stream_workers.ledger import Ledger, Output
from stream_workers.ops import WorkerMetrics
from stream_workers.replies import ReplyTopics

TOPICS = Topics()
HEAVY = Place.of_pool("heavy")
PLACEMENT = Placement.create(TOPICS, [Pool(HEAVY, ("h",))])


class Record:
    """What is needed of a polled message."""

    def __init__(self, value: bytes, key: bytes | None = b"user|", headers: list[tuple[str, bytes]] | None = None):
        self._value, self._key, self._headers = value, key, headers

    def value(self) -> bytes:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def __len__(self) -> int:
        return len(self._value)


def made(ledger: Ledger, own: str = TOPICS.requests, bulk: bool = False, **topics: int) -> Handover:
    there = topics or {HEAVY.requests: 4, HEAVY.bulk: 4, TOPICS.requests: 4, TOPICS.bulk: 4}
    metrics = WorkerMetrics(CollectorRegistry(), "w")
    return Handover(ledger, ReplyTopics(lambda name: there.get(name, 0)), metrics, PLACEMENT, own=own, bulk=bulk)


def test_each_pool_keeps_its_own_and_sends_the_others_to_their_topic() -> None:
    assert made(Ledger()).topic_of("h") == HEAVY.requests
    assert made(Ledger()).topic_of("m") == ""
    assert made(Ledger(), TOPICS.bulk, bulk=True).topic_of("h") == HEAVY.bulk
    assert made(Ledger(), HEAVY.requests).topic_of("h") == ""
    assert made(Ledger(), HEAVY.requests).topic_of("m") == TOPICS.requests
    moving = made(Ledger())
    moving.placement = PLACEMENT.with_moved({"h": Place.default(TOPICS)})
    assert moving.topic_of("h") == ""


def test_what_goes_on_is_in_the_transaction_of_its_epoch_with_key_value_and_headers() -> None:
    ledger = Ledger()
    epoch = ledger.admit({("scoring.requests", 0): 3}, 3, 30)
    records = [Record(b"1"), Record(b"2", None, [("a", b"b")]), Record(b"3", b"k", [(HEADER, b"1"), ("c", b"d")])]
    assert made(ledger).hand_on(epoch, HEAVY.requests, records) == []  # type: ignore[arg-type]
    assert ledger.in_flight == 0
    assert epoch.outputs == [
        Output(HEAVY.requests, b"1", b"user|", headers=((HEADER, b"1"),)),
        Output(HEAVY.requests, b"2", None, headers=(("a", b"b"), (HEADER, b"1"))),
        Output(HEAVY.requests, b"3", b"k", headers=(("c", b"d"), (HEADER, b"2"))),
    ]


def test_a_record_that_went_to_and_fro_or_has_no_room_for_a_header_stays() -> None:
    ledger = Ledger()
    epoch = ledger.admit({("scoring.requests", 0): 5}, 5, 50)
    often = Record(b"1", headers=[(HEADER, str(MOST).encode())])
    large = Record(b"2" * (MAX_MESSAGE_BYTES - 100))
    large_key = Record(b"2", b"k" * (MAX_MESSAGE_BYTES - 100))
    large_header = Record(b"2", headers=[("h", b"v" * (MAX_MESSAGE_BYTES - 100))])
    records: list[Any] = [often, Record(b"3"), large, large_key, large_header]
    assert made(ledger).hand_on(epoch, HEAVY.requests, records) == [0, 2, 3, 4]
    assert [one.value for one in epoch.outputs] == [b"3"]
    assert ledger.in_flight == 4


def test_where_the_pool_s_topic_is_missing_its_models_are_scored_here() -> None:
    assert made(Ledger(), **{TOPICS.requests: 4}).topic_of("h") == ""


@pytest.mark.parametrize(
    ("value", "times"), [(b"3", 3), (b"", 0), (b"-1", 0), (b"many", 0), (b"9999999999", 0), ("²".encode(), 0)]
)
def test_a_header_of_somebody_else_counts_as_none(value: bytes, times: int) -> None:
    assert handed_on([(HEADER, value)]) == times
