"""Which lane a device serves next, and how many of its rows. Pure; the clock is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from models.ladder import Ladders
from stream_workers.lanes import Lane, LaneKey, Share, aligned

# What whoever polls may run by itself: records and rebalances wait meanwhile, and a switch of threads costs a tenth.
SHORT_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Choice:
    """`rows` rows of `lane`, to be taken now."""

    lane: Lane
    rows: int

    @property
    def seconds(self) -> float:
        """What the run is expected to take; 0 while nothing is known."""
        return self.lane.policy.service.estimate(self.rows)

    @property
    def is_short(self) -> bool:
        """Whether it is of requests and known to be over in a moment."""
        return not self.lane.key.bulk and self.lane.policy.service.known and self.seconds <= SHORT_SECONDS


class Chooser:
    """Chooses among the lanes of a device. Interactive lanes go first, the one whose oldest record has waited longest;
    bulk lanes get what is left, but never less than their share.
    """

    def __init__(self, lanes: Mapping[LaneKey, Lane], ladders: Ladders, share: Share, bulk_slice: float) -> None:
        """`bulk_slice`: seconds that a bulk run may take, since a request may come meanwhile."""
        self._lanes = lanes
        self._ladders = ladders
        self._share = share
        self._bulk_slice = bulk_slice

    def choose(self, now: float, *, device_free: bool) -> tuple[Choice | None, float | None]:
        """What to run at `now` (seconds of a steady clock) where there is a place for a run; else when to ask again.

        `device_free`: nothing runs at all. With neither: at the next arrival or completion.
        """
        best: dict[bool, Choice] = {}
        wake_at: float | None = None
        limited = self._ladders.limited
        for lane in self._lanes.values():
            if not lane.rows or lane.held:
                continue
            oldest = lane.queue[0].received
            lane.policy.memory_rows = self._ladders.allowed(lane.model) if limited else None
            decision = lane.policy.decide(
                now, queued_rows=lane.rows, oldest=oldest, in_flight=lane.in_flight, device_free=device_free
            )
            if decision.rows:
                other = best.get(lane.key.bulk)
                if other is None or oldest < other.lane.queue[0].received:
                    best[lane.key.bulk] = Choice(lane, decision.rows)
            elif decision.wake_at is not None:
                wake_at = decision.wake_at if wake_at is None else min(wake_at, decision.wake_at)
        if True in best and (False not in best or self._share.bulk_is_due()):
            lane = best[True].lane
            return Choice(lane, aligned(min(best[True].rows, self._slice_rows(lane)), lane.policy.max_rows())), None
        return best.get(False), wake_at

    def _slice_rows(self, lane: Lane) -> int:
        """Rows of this lane that fit into a bulk slice."""
        service = lane.policy.service
        if not service.known or service.slope <= 0:
            return lane.policy.limits.max_rows
        # Where a run's fixed cost alone exceeds the slice, as much again for rows: smaller runs would be all overhead.
        left = max(self._bulk_slice - service.intercept, service.intercept)
        return max(1, int(left / service.slope))
