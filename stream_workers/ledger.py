"""Which records are in flight, and which outputs wait to be committed with their offsets.

Work is accounted in epochs. An epoch holds everything polled between two commits: the offsets it consumed, how many of
its records still lack a fate, and the transactional outputs of those that have one. It is committed as a whole, outputs
and offsets in one Kafka transaction, and only when no record of it is pending. So no output is ever committed without
the offset of the record that caused it, nor the reverse, in whatever order micro-batches finish.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

TopicPartition = tuple[str, int]
MAX_KEY: Final = 4096


@dataclass(frozen=True, slots=True)
class Output:
    """A record that is published in the transaction of its epoch. `senders`: to a topic that a sender named."""

    topic: str
    value: bytes
    key: bytes | None = None
    partition: int = -1
    headers: tuple[tuple[str, bytes], ...] = ()
    senders: bool = False


class Draft(Protocol):
    """Outputs of an epoch that are not written yet, because more may go into the same records."""

    def outputs(self) -> Sequence[Output]:
        """The records."""


def short_key(key: bytes | None) -> bytes | None:
    """A sender's key for an output of ours, unless it is so large that it would not leave room for the value."""
    return key if key is None or len(key) <= MAX_KEY else None


@dataclass(slots=True, eq=False)
class Epoch:
    """One commit's worth of work. `parity` alternates, so that waiting for its replies does not wait for the next's.

    `drafts` belong to those who write them, until the epoch has settled.
    """

    number: int
    pending: int = 0
    records: int = 0
    size: int = 0
    held: int = 0
    abandoned: bool = False
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    drafts: dict[Hashable, Draft] = field(default_factory=dict)
    # Those that were refused together with others, so that each has to be sent by itself.
    alone: list[Output] = field(default_factory=list)

    @property
    def parity(self) -> int:
        """0 or 1, by turns."""
        return self.number % 2


class LedgerError(RuntimeError):
    """More records finished than were admitted: a record got two fates."""


class Ledger:
    """The current epoch and the one being committed. All methods are safe from any thread."""

    def __init__(self) -> None:
        self._changed: Final = threading.Condition()
        self._open = Epoch(0)
        self._live: set[Epoch] = {self._open}
        self._in_flight = 0
        # Whoever polls is woken when no more records than these are in flight: to wake it for each costs more than one.
        self._awaited = -1
        self._halted = False

    @property
    def halted(self) -> bool:
        """Whether everything admitted is forgotten, until `resume`."""
        return self._halted

    @property
    def in_flight(self) -> int:
        """Records without a fate."""
        return self._in_flight

    @property
    def held_bytes(self) -> int:
        """Bytes of the outputs that wait for their commit."""
        with self._changed:
            return sum(epoch.held for epoch in self._live)

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of the records admitted and not yet committed."""
        with self._changed:
            return sum(epoch.size for epoch in self._live)

    def admit(self, offsets: Mapping[TopicPartition, int], records: int, size: int) -> Epoch:
        """Take `records` polled records of `size` bytes in the open epoch; `offsets`: the next of each partition."""
        with self._changed:
            epoch = self._open
            epoch.pending += records
            epoch.records += records
            epoch.size += size
            epoch.offsets.update(offsets)
            self._in_flight += records
            return epoch

    def finish(self, epoch: Epoch, records: int, outputs: Iterable[Output] = ()) -> None:
        """`records` of this epoch have their fate; `outputs` go into its transaction."""
        with self._changed:
            if epoch.abandoned:
                return
            added = [*outputs]
            epoch.outputs += added
            epoch.held += sum(len(output.value) for output in added)
            epoch.pending -= records
            self._in_flight -= records
            if epoch.pending < 0:
                raise LedgerError(f"epoch {epoch.number}: {-epoch.pending} records finished twice")
            if epoch.pending == 0 or self._in_flight <= self._awaited:
                self._changed.notify_all()

    def close(self) -> Epoch | None:
        """End the open epoch and begin the next; None where the open one holds nothing, or all is forgotten."""
        with self._changed:
            epoch = self._open
            if self._halted or not epoch.offsets:
                return None
            self._open = Epoch(epoch.number + 1)
            self._live.add(self._open)
            return epoch

    def settled(self, epoch: Epoch, timeout: float) -> bool:
        """Wait until every record of the epoch has its fate; False on time-out. An abandoned epoch settles at once."""
        with self._changed:
            return self._changed.wait_for(lambda: epoch.pending == 0 or epoch.abandoned, timeout)

    def write(self, epoch: Epoch) -> None:
        """Add the outputs of its drafts to those of an epoch that has settled."""
        drafts, epoch.drafts = epoch.drafts, {}
        written = [output for draft in drafts.values() for output in draft.outputs()]
        with self._changed:
            if not epoch.abandoned:
                epoch.outputs += written
                epoch.held += sum(len(output.value) for output in written)

    def committed(self, epoch: Epoch) -> None:
        """The epoch is durable."""
        with self._changed:
            self._live.discard(epoch)
            self._changed.notify_all()

    def await_room(self, timeout: float) -> None:
        """Wait until half of what is in flight now is finished or something is committed, at most `timeout` seconds."""
        with self._changed:
            self._awaited = self._in_flight // 2
            self._changed.wait(timeout)
            self._awaited = -1

    def halt(self) -> None:
        """Forget every epoch, and commit nothing until `resume`: what was in flight has to be read again.

        Records may still be admitted meanwhile, later ones among them; were their offsets committed, those forgotten
        would be lost. So they are forgotten as well.
        """
        with self._changed:
            for epoch in self._live:
                epoch.abandoned = True
                epoch.outputs.clear()
                epoch.alone.clear()
                epoch.drafts = {}
            self._open = Epoch(self._open.number + 1, abandoned=True)
            self._live = {self._open}
            self._in_flight = 0
            self._halted = True
            self._changed.notify_all()

    def resume(self) -> None:
        """The consumer stands at its last commit again, or at no partition at all."""
        with self._changed:
            if self._halted:
                self._open = Epoch(self._open.number + 1)
                self._live = {self._open}
                self._in_flight = 0
                self._halted = False
