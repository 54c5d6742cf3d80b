"""What a rebalance waits for before it gives partitions back."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import TopicPartition

from stream_workers.errands import Errands
from stream_workers.ledger import Ledger
from stream_workers.ops import Health, WorkerMetrics, new_registry
from stream_workers.pipeline import DRAIN_SECONDS, LEAST_DRAIN_SECONDS, Pipeline


class Commits:
    """A committer whose commit has been under way for so long; keeps how long it is waited for."""

    def __init__(self, under_way: float, finishes: bool) -> None:
        self._under_way = under_way
        self._finishes = finishes
        self.waits: list[float] = []

    def under_way(self) -> float:
        return self._under_way

    def drain(self, timeout: float, serve: Any) -> bool:
        del serve
        self.waits.append(timeout)
        return self._finishes


@pytest.mark.parametrize(
    ("under_way", "wait"), [(0.0, DRAIN_SECONDS), (28.0, DRAIN_SECONDS - 28.0), (57.0, LEAST_DRAIN_SECONDS)]
)
@pytest.mark.parametrize("finishes", [True, False])
def test_a_commit_that_hangs_does_not_hold_up_the_next_owner_all_over_again(
    under_way: float, wait: float, finishes: bool
) -> None:
    ledger, commits = Ledger(), Commits(under_way, finishes)
    consumer: Any = None
    pipeline = Pipeline(
        "requests", consumer, ["t"], ledger, lambda _: None, Errands(), max_poll=1, held_back=lambda: False,
        health=Health(), metrics=WorkerMetrics(new_registry(), "w"),
    )  # fmt: skip
    pipeline._committer = commits  # type: ignore[assignment]
    pipeline._revoked(consumer, [])
    assert commits.waits == [wait]
    assert ledger.halted is not finishes


class Record:
    """What is needed of a polled message."""

    def __init__(self, partition: int, offset: int) -> None:
        self._place = ("t", partition, offset)

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._place[2]

    def error(self) -> None:
        return None


class Taking:
    """A consumer whose `consume` serves a rebalance that takes partition 0, as librdkafka's may."""

    def __init__(self) -> None:
        self.pipeline: Any = None

    def poll(self, timeout: float) -> Record:
        del timeout
        return Record(0, 5)

    def consume(self, count: int, timeout: float) -> list[Record]:
        del count, timeout
        self.pipeline._revoked(self, [TopicPartition("t", 0)])
        return [Record(1, 7)]


def test_a_record_in_hand_of_a_partition_that_goes_meanwhile_is_its_next_owner_s() -> None:
    consumer, commits = Taking(), Commits(0.0, finishes=True)
    pipeline = consumer.pipeline = Pipeline(
        "requests", consumer, ["t"], Ledger(), lambda _: None, Errands(), max_poll=10, held_back=lambda: False,
        health=Health(), metrics=WorkerMetrics(new_registry(), "w"),
    )  # type: ignore[arg-type]  # fmt: skip
    pipeline._committer = commits  # type: ignore[assignment]
    found = pipeline._poll()
    assert [(one.partition(), one.offset()) for one in found] == [(1, 7)]
    # It is of the poll in which it went alone: the partition may come back.
    consumer.consume = lambda _count, _timeout: []  # type: ignore[method-assign]
    assert [(one.partition(), one.offset()) for one in pipeline._poll()] == [(0, 5)]
