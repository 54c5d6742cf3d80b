"""Holds what a run left in Kafka and ClickHouse to the laws: nothing lost, nothing twice, one fate for each request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from fault_fleet import PARTITIONS, ROOT, Fleet
from fault_load import Book, Load, codes_of
from waiting import until

CODES = """
    SELECT request_id, code, count(), uniqExact(row_number), max(row_number), uniqExact(partition, offset),
           any(variant)
    FROM predictions GROUP BY request_id, code
"""
TOTALS = """
    SELECT count(), uniqExact(request_id, row_number), sum(latency)
    FROM (SELECT *, {latency} AS latency FROM predictions)
"""
LATENCY = "dateDiff('microsecond', sent_at, scored_at)"
PER_MINUTE = """
    SELECT toString(minute), model, version, experiment, variant, toString(code), rows, latency_sum, scores, score_sum
    FROM predictions_per_minute ORDER BY 1, 2, 3, 4, 5, 6 SETTINGS {how}
"""
SUMMARIES = (
    "SELECT count(), uniqExact(batch_id), sum(rows), sum(requests) FROM batch_summaries WHERE topic LIKE '%requests'"
)
LETTERS = "SELECT partition, offset, count() FROM dead_letters WHERE topic LIKE '%requests' GROUP BY partition, offset"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to. Duplicate replies are allowed: whoever asks drops a second one."""

    requests: int
    rows: int
    replies: int
    duplicate_replies: int
    by_code: dict[str, int]
    dead_letters: int
    blocks: int


def settle(fleet: Fleet, load: Load, seconds: float = 90.0) -> Book:
    """Ask no more and wait until everything asked has its fate, everywhere."""
    book = load.finish(seconds)

    def missing() -> str:
        left = book.waiting()
        return f"{len(left)} of {len(book.asked)} requests without a reply, the first {left[:3]}"

    until(lambda: not book.waiting(), seconds, missing)
    group, topic = fleet.settings.worker.group, fleet.topics.requests
    until(lambda: not pending(fleet, group, topic), seconds, lambda: f"offsets: {pending(fleet, group, topic)}")
    rows = sum(one.rows for one in book.asked.values() if one.code is not None)
    letters = sum(one.code is None for one in book.asked.values())
    wanted = [rows, letters]

    def there() -> list[Any]:
        return [
            fleet.sql("SELECT count() FROM predictions"),
            fleet.sql("SELECT count() FROM dead_letters WHERE topic LIKE '%requests'"),
        ]

    # More than wanted is an answer too: a wrong one, which `judge` explains.
    until(
        lambda: all(have is not None and have >= want for have, want in zip(there(), wanted, strict=True)),
        seconds,
        lambda: f"ClickHouse has {there()} rows of predictions and dead letters, expected {wanted}",
    )
    for topic in (fleet.topics.predictions, fleet.topics.summaries, fleet.topics.dead_letters):
        group = fleet.settings.ingest.group
        until(
            lambda group=group, topic=topic: not pending(fleet, group, topic),  # type: ignore[misc]
            seconds,
            lambda group=group, topic=topic: f"{topic}: {pending(fleet, group, topic)}",  # type: ignore[misc]
        )
    return book


def judge(fleet: Fleet, book: Book, folder: Path) -> Verdict:
    """Everything that must hold, read from `folder`, which nobody has open any more. Fails naming what does not."""
    per_minute = [
        PER_MINUTE.format(how=how) for how in ("force_optimize_projection = 1", "optimize_use_projections = 0")
    ]
    latency = TOTALS.format(latency=LATENCY)
    fates, totals, rolled, plain, summaries, letters, blocks = read(
        folder,
        CODES,
        latency,
        *per_minute,
        SUMMARIES,
        LETTERS,
        "SELECT uniqExact(log_partition, log_offset) FROM predictions",
    )
    asked = {one.request_id: one for one in book.asked.values() if one.code is not None}
    assert not book.wrong, f"{len(book.wrong)} wrong replies, the first: {book.wrong[:3]}"
    assert totals[0][0] == totals[0][1], f"{totals[0][0] - totals[0][1]} rows are there twice"

    found = Counter(row[0] for row in fates)
    assert not [name for name, count in found.items() if count > 1], "requests with two fates"
    assert not asked.keys() - found.keys(), f"lost: {sorted(asked.keys() - found.keys())[:5]}"
    assert not found.keys() - asked.keys(), f"never asked: {sorted(found.keys() - asked.keys())[:5]}"
    for name, code, count, numbers, last, places, variant in fates:
        one = asked[name]
        told = f"{name}: {code}, {count} rows, {numbers} row numbers up to {last}, {places} places, variant {variant!r}"
        assert (code, count, numbers, last, places) == (one.code, one.rows, one.rows, one.rows - 1, 1), told
        assert not one.variant or variant == one.variant, f"{told}, not {one.variant!r}"

    assert rolled == plain, "the per-minute roll-up differs from its table"
    assert [sum(row[6] for row in rolled), sum(row[7] for row in rolled)] == [totals[0][0], totals[0][2]]
    assert summaries[0][0] == summaries[0][1], "a batch summary is there twice"
    assert summaries[0][2:] == [totals[0][0], len(asked)], (
        f"summaries count {summaries[0]}, expected {totals[0][0]} rows"
    )

    places = {(partition, offset): count for partition, offset, count in letters}
    wanted = dict.fromkeys((one.place for one in book.asked.values() if one.code is None), 1)
    assert places == wanted, (
        f"dead letters: {len(places)} at {len(wanted)} places, {Counter(places.values())} times each"
    )
    answers = sum(one.answers for one in asked.values())
    return Verdict(
        requests=len(book.asked),
        rows=totals[0][0],
        replies=answers,
        duplicate_replies=answers - len(asked),
        by_code=dict(codes_of(book)),
        dead_letters=len(places),
        blocks=blocks[0][0],
    )


def pending(fleet: Fleet, group: str, topic: str) -> dict[int, str]:
    """Partitions in which committed records lie at or behind the group's offset, and what was found there."""
    partitions = 1 if topic == fleet.topics.dead_letters else PARTITIONS
    reader = Consumer(
        {
            "bootstrap.servers": fleet.broker.address,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    try:
        starts = reader.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=20)
        left = {one.partition: f"committed {one.offset}, no end in sight" for one in starts}
        for one in starts:
            # Nothing committed yet: then there must be nothing to read at all.
            one.offset = one.offset if one.offset >= 0 else OFFSET_BEGINNING
        reader.assign(starts)
        for _ in range(100):
            message = reader.poll(0.1)
            if message is None:
                continue
            error, number = message.error(), message.partition() or 0
            if error is None:
                left[number] = f"committed {starts[number].offset}, a record at {message.offset()}"
                return left
            if error.code() == KafkaError._PARTITION_EOF:
                left.pop(number, None)
            if not left:
                return {}
        return left
    finally:
        reader.close()


def read(folder: Path, *statements: str) -> list[list[list[Any]]]:
    """The rows of each statement, read by a process of its own: a process opens one chDB folder in its life."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fault_reader.py")), str(folder)],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: list[list[list[Any]]] = json.loads(done.stdout)
    return answer
