"""Puts blocks into ClickHouse so that each of their rows is there exactly once, however often a block is sent.

Three things make it so:
1. A block is sent in pieces that lie in one table partition (a day) each; ClickHouse writes such a piece as one part,
   the per-minute roll-up (a projection) included, so it is there as a whole or not at all.
2. Each piece carries a token made from the block's name; ClickHouse drops a piece whose token it has seen.
3. Where a piece may have been sent before (a retry, or a block that a killed process had planned), the sink then looks
   which offsets are there, and sends the missing ones under another token. ClickHouse notes a token just before it
   makes the part visible, so a kill -9 between the two leaves a token without rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from stream_workers.ingest_blocks import Block
from stream_workers.ingest_rows import LogRecord, build, partition_days

# Each table's column that its PARTITION BY takes the day of.
PARTITION_TIME: Final = {
    "predictions": "scored_at",
    "batch_summaries": "scored_at",
    "shadow_predictions": "scored_at",
    "shadow_summaries": "scored_at",
    "outcomes": "log_time",
    "dead_letters": "log_time",
    "control_history": "log_time",
}
# A later row with the same key replaces an earlier one there, so that an offset may be missing rightly.
_REPLACING: Final = frozenset({"outcomes", "dead_letters"})


class Sink(Protocol):
    """Where blocks go. Every method raises `WarehouseError` when it could not be done now."""

    def landed(self, table: str, log: str, partition: int, first: int, last: int | None = None) -> Sequence[int]:
        """Offsets from `first` (up to `last`) of a log's partition whose rows are there, in order."""

    def write(self, block: Block, *, suspect: bool) -> None:
        """Make the block's rows be there, once. `suspect`: some of it may be there already."""


class WarehouseSink:
    """The sink that is ClickHouse."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def landed(self, table: str, log: str, partition: int, first: int, last: int | None = None) -> Sequence[int]:
        """See `Sink`."""
        answer = self._warehouse.query(
            f"SELECT DISTINCT log_offset FROM {table} WHERE log = {{log:String}} "  # noqa: S608 - our own table names
            "AND log_partition = {partition:Int32} AND log_offset BETWEEN {first:Int64} AND {last:Int64} "
            "ORDER BY log_offset",
            {"log": log, "partition": partition, "first": first, "last": 2**62 if last is None else last},
        )
        return [int(row[0]) for row in answer.rows]

    def write(self, block: Block, *, suspect: bool) -> None:
        """See `Sink`."""
        self._send(block, block.records, "")
        if not suspect:
            return
        missing = self._missing(block)
        if missing:
            self._send(block, missing, "/again")
            if block.table not in _REPLACING and self._missing(block):
                raise WarehouseUnavailableError(f"rows of block {block.name} do not appear in {block.table}")

    def _missing(self, block: Block) -> list[LogRecord]:
        there = set(self.landed(block.table, block.log, block.partition, block.first, block.last))
        return [one for one in block.records if one.rows and one.offset not in there]

    def _send(self, block: Block, records: Sequence[LogRecord], suffix: str) -> None:
        if not any(one.rows for one in records):
            return
        table = build(records, block.log, block.partition)
        for day, piece in by_day(table, PARTITION_TIME[block.table]):
            self._warehouse.insert(block.table, piece, f"{block.name}/{day}{suffix}")


def by_day(table: pa.Table, column: str) -> list[tuple[int, pa.Table]]:
    """The rows of each day (since the epoch, UTC) of a time column, days in order."""
    times = table.column(column)
    microseconds = np.asarray(times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
    days = partition_days(microseconds)
    each = np.unique(days)
    if len(each) == 1:
        return [(int(each[0]), table)]
    return [(int(day), table.filter(pa.array(days == day))) for day in each]


@dataclass(slots=True)
class Job:
    """Blocks handed over together. `written` grows, in order; `dropped` are (topic, partition)s no longer wanted."""

    blocks: tuple[Block, ...]
    written: list[Block] = field(default_factory=list)
    dropped: set[tuple[str, int]] = field(default_factory=set)
    future: Future[None] | None = None


class Reports(Protocol):
    """Who is told how the writing goes; called from the writer's thread."""

    def block(self, table: str, rows: int, seconds: float) -> None:
        """A block is in ClickHouse, after `seconds`, tries included."""

    def failed(self, table: str) -> None:
        """A try failed and will be repeated."""


class Writer:
    """The thread that talks to the sink, so that the poll loop never waits for ClickHouse.

    What fails is tried again, with growing pauses, until it works, is dropped, or the writer stops.
    """

    def __init__(self, sink: Sink, reports: Reports, *, first_pause: float = 0.2, longest_pause: float = 5.0) -> None:
        self._sink = sink
        self._reports = reports
        self._pauses = (first_pause, longest_pause)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "ingest-writer")
        self.trouble = ""  # why the last try failed; empty while all is well

    def submit(self, blocks: Sequence[Block]) -> Job:
        """Write these blocks, one after the other."""
        job = Job(tuple(blocks))
        job.future = self._pool.submit(self._deliver, job)
        return job

    def call(self, function: Callable[[Sink], Any]) -> Future[Any]:
        """Ask the sink something; repeated like a write. The future's result is None if the writer stopped first."""
        return self._pool.submit(lambda: self._persist(lambda: function(self._sink), lambda: True))

    def stop(self) -> None:
        """Give up what is not done and end. An insert under way is not waited for."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, job: Job) -> None:
        for block in job.blocks:
            began = monotonic()
            place = (block.topic, block.partition)
            tries = 0

            def write(block: Block = block) -> bool:
                nonlocal tries
                tries += 1
                self._sink.write(block, suspect=block.replayed or tries > 1)
                return True

            def wanted(place: tuple[str, int] = place) -> bool:
                return place not in job.dropped

            if self._persist(write, wanted, block.table):
                job.written.append(block)
                self._reports.block(block.table, sum(one.rows for one in block.records), monotonic() - began)

    def _persist(self, function: Callable[[], Any], wanted: Callable[[], bool], table: str = "") -> Any:
        pause, longest = self._pauses
        while wanted() and not self._stop.is_set():
            try:
                result = function()
            except WarehouseError as error:
                self.trouble = str(error)
                if table:
                    self._reports.failed(table)
                self._stop.wait(pause)
                pause = min(2 * pause, longest)
            else:
                self.trouble = ""
                return result
        # Nobody waits for it any more, so nothing that is tried again will tell when the trouble is over.
        self.trouble = ""
        return None
