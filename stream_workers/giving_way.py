"""Has whoever reads bulk rest while requests are being asked, so that these find a core and the interpreter free."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep, thread_time
from typing import Final

# A reader then takes a quarter of a core: a backlog then lasts 5% longer (docs/performance.md).
RESTS: Final = 3.0
# A rebalance and the errands of a commit wait for the reader, so no rest is longer.
MOST_SECONDS: Final = 0.05
# Requests are being asked while the last one came so lately.
LATELY_SECONDS: Final = 1.0


class GivingWay:
    """What a bulk poll loop calls between two polls, always from one thread."""

    def __init__(
        self,
        asked_at: Callable[[], float],
        *,
        clock: Callable[[], float] = monotonic,
        worked: Callable[[], float] = thread_time,
        rest: Callable[[float], None] = sleep,
    ) -> None:
        """`asked_at`: when the last request came, by `clock`. `worked`: processor seconds of the calling thread."""
        self._asked_at = asked_at
        self._clock = clock
        self._worked = worked
        self._rest = rest
        self._worked_before = 0.0

    def __call__(self) -> None:
        """Rest for `RESTS` times what this thread worked since the last call, while requests are being asked."""
        worked = self._worked()
        if self._clock() - self._asked_at() < LATELY_SECONDS:
            self._rest(min((worked - self._worked_before) * RESTS, MOST_SECONDS))
            worked = self._worked()
        self._worked_before = worked
