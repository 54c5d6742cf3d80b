"""Decides which records become one block, so that a block cut before a crash is cut the same way after it.

Pure: no Kafka, no database, and the clock is an argument. A block is a run of records of one partition, and its name
says which. Before it is sent, its end is written into the group's committed offset as metadata (`Plan`); whoever reads
the partition next from that offset cuts the same block, and ClickHouse knows it by its name.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stream_workers.ingest_rows import LogRecord

# A plan whose last record has not come after so long names records that the log has lost.
PLAN_SECONDS: Final = 60.0
_PLAN: Final = re.compile(r"penstock-block last=(\d+) log=(\S*)")


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """When a block is full: `rows`, `size` (bytes on the wire), or `seconds` after its first record came."""

    rows: int = 50_000
    size: int = 32 * 1024 * 1024
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The end of a block about to be written, and the log (`topic@id`) that it is of."""

    last: int
    log: str

    def encode(self) -> str:
        """The metadata of a committed offset."""
        return f"penstock-block last={self.last} log={self.log}"

    @classmethod
    def decode(cls, metadata: str | None) -> Plan | None:
        """The plan in a committed offset's metadata; None where there is none."""
        match = _PLAN.fullmatch(metadata or "")
        return cls(int(match[1]), match[2]) if match else None


@dataclass(frozen=True, slots=True)
class Block:
    """Records of one partition to be inserted together. `first` and `last` are offsets, both inside.

    `replayed`: an earlier process planned this very block and may have sent it.
    """

    table: str
    topic: str
    partition: int
    log: str
    first: int
    last: int
    records: tuple[LogRecord, ...]
    replayed: bool = False

    @property
    def name(self) -> str:
        """The same for the same records of the same log, in every process."""
        return f"{self.log}/{self.partition}/{self.first}-{self.last}"

    @property
    def plan(self) -> Plan:
        """What is committed before the block is sent."""
        return Plan(self.last, self.log)


@dataclass(frozen=True, slots=True)
class _Entry:
    offset: int
    came: float
    record: LogRecord | None  # None: it could not be read, and takes part only as an offset


class PartitionBuffer:
    """The records of one assigned partition that are read and not yet in a block.

    `position` is the committed offset (-1: none), and `plan` what its metadata says. Nothing is cut until `prepare` has
    said which log this is and which of its records ClickHouse has already.
    """

    def __init__(self, table: str, topic: str, partition: int, plan: Plan | None = None, position: int = -1) -> None:
        self.table = table
        self.topic = topic
        self.partition = partition
        self.rows = 0
        self.size = 0
        self.position = position  # the next offset to be read; -1: not known yet
        self._plan = plan
        self._plan_first = position
        self._log: str | None = None
        self._landed: Sequence[int] = ()
        self._entries: deque[_Entry] = deque()

    def prepare(self, log: str, landed: Sequence[int]) -> None:
        """`log` is `topic@id`; `landed` are the offsets, in order, that ClickHouse has of it already."""
        self._log = log
        self._landed = landed
        if self._plan is not None and self._plan.log != log:
            self._plan = None
        if landed:
            kept = [_Entry(one.offset, one.came, self._wanted(one.record)) for one in self._entries]
            self._entries = deque(kept)
            self.rows = sum(one.record.rows for one in kept if one.record)
            self.size = sum(one.record.size for one in kept if one.record)

    @property
    def prepared(self) -> bool:
        """Whether blocks may be cut."""
        return self._log is not None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to cut."""
        return not self._entries

    def add(self, offset: int, record: LogRecord | None, now: float) -> None:
        """The record at `offset`, or None where it could not be read. `now` in seconds, on any steady clock."""
        wanted = self._wanted(record)
        self._entries.append(_Entry(offset, now, wanted))
        self.position = offset + 1
        if wanted is not None:
            self.rows += wanted.rows
            self.size += wanted.size

    def due(self, limits: BlockLimits, now: float, *, all_of_it: bool = False) -> bool:
        """Whether a block is to be cut now. `all_of_it`: however little there is, as before a stop."""
        if not self._entries or self._log is None:
            return False
        age = now - self._entries[0].came
        if self._plan is not None:
            return self._entries[-1].offset >= self._plan.last or age > PLAN_SECONDS
        return all_of_it or self.rows >= limits.rows or self.size >= limits.size or age >= limits.seconds

    def cut(self, limits: BlockLimits) -> Block:
        """Take the next block out. Call it when `due`. A record larger than the limits is a block of its own."""
        assert self._log is not None  # noqa: S101 - `due` says so
        plan = self._plan
        self._plan = None
        if plan is not None and self._entries[-1].offset < plan.last:
            plan = None
        taken: list[LogRecord] = []
        first = last = self._entries[0].offset
        rows = size = 0
        while self._entries:
            entry = self._entries[0]
            if plan is not None:
                if entry.offset > plan.last:
                    break
            elif (
                entry.record is not None
                and taken
                and (rows + entry.record.rows > limits.rows or size + entry.record.size > limits.size)
            ):
                break
            self._entries.popleft()
            last = entry.offset
            if entry.record is not None:
                taken.append(entry.record)
                rows += entry.record.rows
                size += entry.record.size
        self.rows -= rows
        self.size -= size
        if plan is not None:  # its ends name the block, also where compaction has removed the records that were there
            first, last = self._plan_first, plan.last
        return Block(
            self.table, self.topic, self.partition, self._log, first, last, tuple(taken), replayed=plan is not None
        )

    def _wanted(self, record: LogRecord | None) -> LogRecord | None:
        if record is None or not self._landed or record.offset > self._landed[-1]:
            return record
        place = bisect_left(self._landed, record.offset)
        return None if self._landed[place] == record.offset else record
