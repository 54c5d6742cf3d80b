"""Which batches of a bulk job are under way: in what order results leave, and when to ask again. No Kafka, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

B = TypeVar("B")
R = TypeVar("R")


@dataclass(slots=True)
class _Entry(Generic[B, R]):
    batch: B | None
    retry_at: float | None = None
    result: R | None = None


class Window(Generic[B, R]):
    """At most `limit` batches sent and not yet taken out, by sequence number from `first` on.

    All times are seconds of one clock. `resend_after`: the silence after which unanswered batches are due again. It
    grows to four times the longest pause between answers, so that a slow worker is not buried under repetitions. As in
    Karn and Partridge (1987), a pause in which something was sent again teaches nothing, since it may have been a loss;
    but the patience that was doubled for it stays until a pause without.
    """

    def __init__(self, limit: int, resend_after: float, first: int = 0) -> None:
        if limit < 1:
            raise ValueError(f"a window of {limit} batches lets nothing through")
        self.limit = limit
        self.next = first
        self.most = 0
        self._resend_after = resend_after
        self._patience = resend_after
        self._entries: dict[int, _Entry[B, R]] = {}
        self._oldest = first
        self._unanswered = 0
        self._heard = 0.0
        self._asked = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def open(self) -> bool:
        """Whether there is room for one more."""
        return len(self._entries) < self.limit

    def add(self, batch: B, now: float) -> int:
        """A batch is about to be sent; returns its sequence number."""
        if not self.open:
            raise ValueError(f"{self.limit} batches are under way already")
        if not self._unanswered:
            self._heard = self._asked = now
        sequence = self.next
        self._entries[sequence] = _Entry(batch)
        self.next += 1
        self._unanswered += 1
        self.most = max(self.most, len(self._entries))
        return sequence

    def waiting(self, sequence: int) -> B | None:
        """The batch, if it waits for an answer."""
        entry = self._entries.get(sequence)
        return entry.batch if entry is not None else None

    def answered(self, sequence: int, result: R, now: float) -> bool:
        """Keep a batch's result until its turn. False where it does not wait for one: a duplicate."""
        entry = self._entries.get(sequence)
        if entry is None or entry.batch is None:
            return False
        entry.batch, entry.result, entry.retry_at = None, result, None
        self._unanswered -= 1
        if self._asked == self._heard:
            self._resend_after = max(self._resend_after, 4 * (now - self._heard))
            self._patience = self._resend_after
        self._heard = self._asked = now
        return True

    def retry(self, sequence: int, at: float) -> None:
        """Make an unanswered batch due at a time of its own."""
        entry = self._entries.get(sequence)
        if entry is not None and entry.batch is not None:
            entry.retry_at = at

    def due(self, now: float) -> list[tuple[int, B]]:
        """Batches to send again now; they are taken as sent."""
        silent = self._unanswered > 0 and now - self._asked > self._patience
        if silent:
            self._patience *= 2
            self._asked = now
        found = []
        for sequence, entry in self._entries.items():
            if entry.batch is not None and (silent or (entry.retry_at is not None and entry.retry_at <= now)):
                entry.retry_at = None
                found.append((sequence, entry.batch))
        return found

    def silence(self, now: float) -> float:
        """Seconds since the last answer while there is something to answer."""
        return now - self._heard if self._unanswered else 0.0

    def take(self) -> Iterator[tuple[int, R]]:
        """Results in order, as far as there is no gap; they leave the window."""
        while True:
            entry = self._entries.get(self._oldest)
            if entry is None or entry.result is None:
                return
            del self._entries[self._oldest]
            self._oldest += 1
            yield self._oldest - 1, entry.result
