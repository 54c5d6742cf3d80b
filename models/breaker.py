"""Keeps work away from what fails again and again, and finds out by single probes when it works again.

A breaker is **closed** while all is well. It **opens** after several failures in a row, or at once where the failure
says that no other run will fare better. Open, nothing is sent there; after a while it is **half-open**: one probe may
go (a sample, whose failure costs nobody an answer). Where it works the breaker closes; where not it waits twice as
long.

Pure, with the clock passed in: seconds of any steady clock. (M. Nygard, Release It!, "Circuit Breaker".)
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

FAILURES: Final = 3
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


class BreakerState(IntEnum):
    """As it is shown in metrics."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """One breaker. Runs that began before it opened may still report; only a probe closes it."""

    def __init__(
        self, failures: int = FAILURES, first_wait: float = FIRST_WAIT, longest_wait: float = LONGEST_WAIT
    ) -> None:
        """`failures` in a row open it; a probe goes after `first_wait` seconds, the next ones after twice as long."""
        self._threshold = failures
        self._first = first_wait
        self._longest = longest_wait
        self._wait = first_wait
        self._failures = 0
        self._until = 0.0
        self._closed_at = float("-inf")
        self.state = BreakerState.CLOSED
        self.why = ""
        self.probes_failed = 0

    @property
    def closed(self) -> bool:
        """Whether work may go there."""
        return self.state is BreakerState.CLOSED

    def failed(self, now: float, why: str, *, fatal: bool = False) -> None:
        """A run failed; `fatal`: no other one will fare better."""
        if not self.closed:
            return
        self._failures += 1
        self.why = why
        if fatal or self._failures >= self._threshold:
            # What fails soon after a probe worked is no better than one whose probe failed.
            again = now - self._closed_at < self._wait
            self._open(now, min(2 * self._wait, self._longest) if again else self._first)

    def worked(self) -> None:
        """A run worked."""
        if self.closed:
            self._failures = 0

    def begin_probe(self, now: float) -> bool:
        """Whether a probe may go now; if so it has begun, and no other one may go until it has ended."""
        if self.state is not BreakerState.OPEN or now < self._until:
            return False
        self.state = BreakerState.HALF_OPEN
        return True

    def end_probe(self, now: float, why: str = "") -> None:
        """The probe that was begun worked, or failed for the reason `why`."""
        if self.state is not BreakerState.HALF_OPEN:
            return
        if why:
            self.probes_failed += 1
            self.why = why
            self._open(now, min(2 * self._wait, self._longest))
            return
        self.state = BreakerState.CLOSED
        self._closed_at = now
        self._failures = self.probes_failed = 0
        self.why = ""

    def _open(self, now: float, wait: float) -> None:
        if self.closed:
            self.probes_failed = 0
        self.state = BreakerState.OPEN
        self._wait = wait
        self._until = now + wait
        self._failures = 0
