"""When a batch leaves and how many rows it takes: the micro-batch policy, pure, with the clock passed in.

One device runs batches one after another, so a batch that leaves while another runs only queues behind it. Leaving
early then has one use, to hide the hand-over, and one cost: rows that come later cannot join. So the laws are:

1. A free device takes what there is at once; waiting would leave it idle.
2. With a full batch queued and a slot open, it leaves at once: it could not grow, so waiting gains nothing.
3. A batch that is not full leaves, once a slot is open, when its oldest record has waited `max_wait` at the latest.
4. Batches that take longer than `max_wait` are not queued behind one another half empty: they would stop growing a
   whole run too early. A lane of such batches has one slot for a batch that is not full; `slots` says so.

The fit of the duration, `a * rows + b`, follows the adaptive batching of Clipper (Crankshaw et al., NSDI 2017).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

_FORGET: Final = 0.98  # weight of a batch falls to a half after 34 more
_ALIKE: Final = 200  # batches of one size, after which a cap that goes by their duration is put to the test
_RATE_SECONDS: Final = 1.0  # time constant of the arrival rate
_RATE_SAMPLES: Final = 8
_SPREAD: Final = 0.05  # batch sizes that differ by less than this share say little about the slope
# A cap whose throughput is below the arrival rate times this lets the queue grow without bound.
_HEADROOM: Final = 1.2


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of one lane's batches. Seconds and rows. Raises ValueError naming the limit that makes no sense.

    `max_run`: batches are kept to what runs in this time, as far as it is known: beyond it larger ones make everybody
    wait longer and hardly cost less a row. None leaves `max_rows` alone to decide.
    """

    max_rows: int = 1024
    max_wait: float = 0.005
    p99_target: float | None = None
    buckets: tuple[int, ...] = ()
    max_in_flight: int = 2
    max_run: float | None = None

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")
        if not (0 <= self.max_wait < math.inf):
            raise ValueError(f"max_wait must be 0 seconds or more, got {self.max_wait}")
        if self.p99_target is not None and not (0 < self.p99_target < math.inf):
            raise ValueError(f"p99_target must be more than 0 seconds, got {self.p99_target}")
        if self.max_run is not None and not (0 < self.max_run < math.inf):
            raise ValueError(f"max_run must be more than 0 seconds, got {self.max_run}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, got {self.max_in_flight}")
        if any(low >= high for low, high in zip((0, *self.buckets), self.buckets, strict=False)):
            raise ValueError(f"buckets must be positive and ascending, got {list(self.buckets)}")


# Of a model about which nothing was said: thousands of rows of a small one, few of a heavy one.
DEFAULT_LIMITS: Final = BatchLimits(max_rows=4096, max_run=0.02)


def warm_up_rows(limits: BatchLimits) -> tuple[int, ...]:
    """The batch sizes a model of free rows is warmed up on, smallest first, until `warm_up_is_enough`."""
    if limits.buckets:
        return limits.buckets
    between = () if limits.max_run is None else (8**power for power in range(1, 8) if 8**power < limits.max_rows)
    return tuple(sorted({1, *between, limits.max_rows}))


def device_buckets(limits: BatchLimits) -> tuple[int, ...]:
    """What a GPU pads rows to where the model has no buckets: powers of two, from 16 on also those and a half more.

    So at most a third of a batch of more than 8 rows is padding, and a model meets some twenty sizes in its life.
    """
    sizes = {2**power for power in range(limits.max_rows.bit_length())}
    sizes |= {size + size // 2 for size in sizes if size >= 16}
    return tuple(sorted({one for one in sizes if one < limits.max_rows} | {limits.max_rows}))


def warm_up_is_enough(limits: BatchLimits, seconds: float, every: bool = False) -> bool:
    """Whether the policy would cut larger batches than this one, which took `seconds`: they need no warm-up.

    `every`: each size that may come is to be warmed up, and not only enough of them to know what they take.
    """
    longest = limits.max_run
    return longest is not None and not limits.buckets and seconds > (longest if every else longest / 4)


class ServiceTime:
    """Seconds a batch takes as `slope * rows + intercept`, both at least 0, by exponentially weighted least squares."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._rows = 0.0
        self._seconds = 0.0
        self._var = 0.0
        self._cov = 0.0
        self._slope = 0.0
        self._alike = 0

    @property
    def known(self) -> bool:
        """Whether any batch was seen."""
        return self._weight > 0

    @property
    def alike(self) -> int:
        """How many batches in a row were of one size, so that the slope is what earlier ones had taught."""
        return self._alike

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a batch of `rows` rows that took `seconds`."""
        self._alike = self._alike + 1 if abs(rows - self._rows) <= _SPREAD * self._rows else 0
        # Weighted means, variance and covariance, updated in place (West, 1979): sums of squares would cancel.
        weight = self._weight * _FORGET + 1.0
        share = 1.0 / weight
        off_rows, off_seconds = rows - self._rows, seconds - self._seconds
        self._rows += share * off_rows
        self._seconds += share * off_seconds
        self._var = (1 - share) * (self._var + share * off_rows * off_rows)
        self._cov = (1 - share) * (self._cov + share * off_rows * off_seconds)
        self._weight = weight
        # Equal batch sizes carry no slope. The pull towards the last slope keeps it through a spell of them, and
        # fades where sizes differ. It starts at 0: an optimist tries larger batches and so learns the truth.
        pull = (_SPREAD * max(self._rows, 1.0)) ** 2
        self._slope = (self._cov + pull * self._slope) / (self._var + pull)

    def _line(self) -> tuple[float, float]:
        slope = max(self._slope, 0.0)
        intercept = self._seconds - slope * self._rows
        if intercept < 0:
            return self._seconds / self._rows if self._rows > 0 else 0.0, 0.0
        return slope, intercept

    @property
    def slope(self) -> float:
        """Seconds a row adds."""
        return self._line()[0]

    @property
    def intercept(self) -> float:
        """Seconds a batch costs before its first row."""
        return self._line()[1]

    def estimate(self, rows: float) -> float:
        """Expected seconds of a batch; 0 while nothing is known."""
        slope, intercept = self._line()
        return slope * rows + intercept


class ArrivalRate:
    """Rows a second, averaged over about the last second."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._first = math.nan
        self._last = math.nan
        self._samples = 0

    @property
    def known(self) -> bool:
        """Whether enough was seen to believe the rate."""
        return self._samples >= _RATE_SAMPLES and self._last > self._first

    def observe(self, now: float, rows: int) -> None:
        """`rows` rows arrived at `now`."""
        self._samples += 1
        if self._samples == 1:
            # The first arrival starts the clock; its rows came in a time nobody measured.
            self._first = self._last = now
            return
        self._rows = self._rows * math.exp(-max(now - self._last, 0.0) / _RATE_SECONDS) + rows
        self._last = max(now, self._last)

    def per_second(self, now: float) -> float:
        """Rows a second at `now`; 0 while nothing is known. Falls while nothing arrives."""
        now = max(now, self._last)
        if self._samples < 2 or now <= self._first:
            return 0.0
        rows = self._rows * math.exp(-(now - self._last) / _RATE_SECONDS)
        # A window that is not yet full would report too little.
        return rows / (_RATE_SECONDS * -math.expm1(-(now - self._first) / _RATE_SECONDS))

    def latest(self) -> float:
        """The rate as of the last arrival."""
        return self.per_second(self._last)


@dataclass(frozen=True, slots=True)
class Decision:
    """Take `rows` rows now, or, with 0, ask again at `wake_at` (None: at the next arrival or completion).

    `rows` counts rows: the caller takes whole records, oldest first, while they fit, and at least one, so that only a
    single record larger than the cap exceeds it.
    """

    rows: int
    wake_at: float | None = None


_WAIT: Final = Decision(0)


class BatchPolicy:
    """Decides for one lane (model and version) when a batch leaves. Learns service time and arrival rate as it goes."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.service = ServiceTime()
        self.arrivals = ArrivalRate()
        # What fits into the device's memory, where that is less; see `models.degradation.RowLimit`.
        self.memory_rows: int | None = None

    def observe_arrival(self, now: float, rows: int) -> None:
        """`rows` rows were queued at `now`."""
        self.arrivals.observe(now, rows)

    def observe_batch(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows occupied the device for `seconds`."""
        self.service.observe(rows, seconds)

    def max_rows(self) -> int:
        """The cap on a batch's rows now.

        With a `p99_target`: a request waits for at most one running batch and then for its own, so both must fit into
        it. Where a cap that small could not keep up with the arrivals, the queue would grow and the target be missed
        by far, so the smallest cap that keeps up is used instead. `max_run` gives way
        only to a batch's fixed cost, of which no more than a fifth of the time may be made.

        A cap that goes by duration goes by the slope, and batches of one size teach none: a single late batch could
        have set a cap that allows no other size, for good. So one batch in 200 may be twice as large.
        """
        most = self.limits.max_rows
        if self.memory_rows is not None:
            most = min(most, self.memory_rows)
        rows = most
        if self.service.known:
            target, longest = self.limits.p99_target, self.limits.max_run
            if target is not None:
                rows = min(rows, max(self._rows_within(target / 2), self._rows_that_keep_up(), 1))
            if longest is not None:
                rows = min(rows, max(self._rows_within(max(longest, 5 * self.service.intercept)), 1))
            if self.service.alike >= _ALIKE:
                rows = min(2 * rows, most)
        buckets = self.limits.buckets
        return buckets[max(bisect_right(buckets, rows) - 1, 0)] if buckets else rows

    def is_cut_by_memory(self, rows: int) -> bool:
        """Whether a batch of `rows` rows could have been larger, were it not for the device's memory."""
        if self.memory_rows is None:
            return False
        buckets = self.limits.buckets
        most = buckets[max(bisect_right(buckets, self.memory_rows) - 1, 0)] if buckets else self.memory_rows
        return most <= rows < self.limits.max_rows

    def slots(self) -> int:
        """Batches of this lane that may be in flight once one that is not full has left too.

        With a `p99_target`, one more than these must fit into it: a request can meet them all, and then its own.
        """
        limits = self.limits
        if self.service.estimate(1) > limits.max_wait:
            return 1
        if limits.p99_target is not None:
            one = self.service.estimate(self.max_rows())
            return limits.max_in_flight if (limits.max_in_flight + 1) * one <= limits.p99_target else 1
        return limits.max_in_flight

    def decide(self, now: float, *, queued_rows: int, oldest: float, in_flight: int, device_free: bool) -> Decision:
        """What this lane does at `now` (seconds, any steady clock).

        `queued_rows`: rows of this lane that wait; `oldest`: when the oldest of them was received; `in_flight`: batches
        of this lane handed to the device and not yet back; `device_free`: nothing of any lane runs there.
        """
        if queued_rows <= 0:
            return _WAIT
        cap = self.max_rows()
        if device_free:
            return Decision(min(queued_rows, cap))
        if in_flight >= self.limits.max_in_flight:
            return _WAIT
        if queued_rows >= cap:
            return Decision(cap)
        if in_flight >= self.slots():
            return _WAIT
        until = oldest + self._wait(queued_rows, cap, now)
        if now >= until or (self.arrivals.known and self.arrivals.per_second(now) * (until - now) < 1):
            return Decision(queued_rows)
        return Decision(0, until)

    def _wait(self, queued: int, cap: int, now: float) -> float:
        wait, target = self.limits.max_wait, self.limits.p99_target
        if target is None or not self.service.known:
            return wait
        expected = min(cap, queued + self.arrivals.per_second(now) * wait)
        return min(wait, max(target - 2 * self.service.estimate(expected), 0.0))

    def _rows_within(self, seconds: float) -> int:
        slope, intercept = self.service.slope, self.service.intercept
        if intercept > seconds:
            return 0
        limit = self.limits.max_rows
        # Compared before divided: a slope near 0 would overflow.
        return limit if slope * limit <= seconds - intercept else int((seconds - intercept) / slope)

    def _rows_that_keep_up(self) -> int:
        rate = self.arrivals.latest() * _HEADROOM if self.arrivals.known else 0.0
        left = 1 - rate * self.service.slope
        # Solves n / (slope * n + intercept) = rate; no n does once each row alone takes longer than it has.
        if left <= 0:
            return self.limits.max_rows
        return math.ceil(min(rate * self.service.intercept / left, self.limits.max_rows))
