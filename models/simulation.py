"""A discrete-event simulation of devices that batch as a worker does: the worker's own policy, a clock that is counted.

A fleet's devices meet only in Kafka: a request's key picks its partition, and a partition belongs to one worker. So
each device has a queue of its own (never one for all), its requests are a random share of the whole, and devices can be
simulated one by one; of a large fleet a sample of them stands for all. Time is in seconds, and every random number
comes from the generator that is passed in.

What a device does with its queue is decided by `models.batching.BatchPolicy`, the object a worker asks, when a worker
asks it (`stream_workers/device.py`): where a run may begin, after each arrival and each end of a batch, and when the
policy wants to be woken. `runs`: batches under way at once, 1 on a CPU and 2 on a GPU, where the second waits on the
device while the first runs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.batching import DEFAULT_LIMITS, BatchLimits, BatchPolicy, warm_up_is_enough, warm_up_rows
from models.errors import PlanError

Floats = NDArray[np.float64]
Arrivals = Literal["poisson", "steady"]
ARRIVALS: Final[tuple[Arrivals, ...]] = ("poisson", "steady")
# Devices that stand for a large fleet, and batches that each of them runs at the least.
SAMPLE: Final = 16
_BATCHES: Final = 60


@dataclass(frozen=True, slots=True)
class ServiceCurve:
    """Seconds a batch takes by its rows: straight between measured points, and on along the last line beyond them.

    `points`: (rows, seconds), ascending in rows. Batches smaller than the first point take as long as it. Raises
    `PlanError` for points that are no curve.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise PlanError("a service-time curve needs a point, such as 1:50ms")
        for rows, seconds in self.points:
            if rows < 1 or not 0 < seconds < math.inf:
                raise PlanError(f"service time: expected rows from 1 and more than 0 seconds, got {rows}:{seconds:g}s")
        for (low, before), (high, after) in zip(self.points, self.points[1:], strict=False):
            if low >= high:
                raise PlanError(f"service time: rows must ascend, got {high} after {low}")
            if after < before:
                raise PlanError(
                    f"service time: {high} rows take {after * 1e3:g} ms, fewer than the {before * 1e3:g} ms of {low}: "
                    "measure again, or leave one of the points out"
                )

    @classmethod
    def line(cls, slope: float, intercept: float) -> ServiceCurve:
        """`slope * rows + intercept`, in seconds."""
        if slope < 0 or intercept < 0:
            raise PlanError(
                f"service time: expected a*n+b with a and b of at least 0, got a={slope:g}, b={intercept:g}"
            )
        return cls(((1, slope + intercept), (2, 2 * slope + intercept)))

    def seconds(self, rows: int) -> float:
        """What a batch of `rows` takes."""
        points = self.points
        at = bisect_left(points, (rows, -1.0))
        if at == 0:
            return points[0][1]
        if at == len(points):
            if len(points) == 1:
                raise PlanError(
                    f"service time: {points[0][0]} rows are measured and {rows} are asked for: "
                    f"give a second point, or keep batches to {points[0][0]} rows"
                )
            at -= 1
        (low, before), (high, after) = points[at - 1], points[at]
        return before + (after - before) * (rows - low) / (high - low)

    @property
    def largest(self) -> int:
        """The largest batch that was measured; all beyond is drawn on."""
        return self.points[-1][0]

    def per_second(self, most: int, least: int = 1) -> tuple[float, int]:
        """Rows a second at the best batch size from `least` up to `most`, and that size."""
        # Between points the rate rises or falls throughout, so one of the ends is the best.
        sizes = {least, most, *(rows for rows, _ in self.points if least <= rows <= most)}
        return max((rows / self.seconds(rows), rows) for rows in sizes)


def worker_policy(limits: BatchLimits, curve: ServiceCurve) -> BatchPolicy:
    """The policy of a worker that has loaded a model with this curve: it knows what the warm-up showed."""
    policy = BatchPolicy(limits)
    for rows in warm_up_rows(limits):
        seconds = curve.seconds(rows)
        policy.observe_batch(rows, seconds)
        if warm_up_is_enough(limits, seconds):
            break
    return policy


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """What became of a device's requests: when each was done (infinity: never), and the batches in their order.

    `ends`, `rows`, `seconds` of each batch; `seconds` is the time the device was busy with it.
    """

    done: Floats
    ends: Floats
    rows: NDArray[np.int64]
    seconds: Floats


def run_device(
    delivered: Floats | Sequence[float],
    curve: ServiceCurve,
    policy: BatchPolicy,
    *,
    runs: int = 1,
    rows_each: int = 1,
    until: float = math.inf,
) -> DeviceRun:
    """Serve requests of `rows_each` rows that are delivered at these times, ascending, until the device dies.

    `policy` learns as it goes. What is not done at `until` never is.
    """
    at = [float(one) for one in delivered]
    count = len(at)
    done = np.full(count, math.inf)
    ends: list[float] = []
    sizes: list[int] = []
    spent: list[float] = []
    # Of each batch under way: when it ends, when it was handed over, its rows, its first request and the one after.
    under_way: deque[tuple[float, float, int, int, int]] = deque()
    head = tail = 0  # requests that wait are those from `head` up to `tail`
    now = busy_until = 0.0
    while True:
        wake = math.inf
        while head < tail and len(under_way) < runs:
            decision = policy.decide(
                now,
                queued_rows=(tail - head) * rows_each,
                oldest=at[head],
                in_flight=len(under_way),
                device_free=not under_way,
            )
            if not decision.rows:
                wake = math.inf if decision.wake_at is None else decision.wake_at
                break
            taken = min(max(decision.rows // rows_each, 1), tail - head)
            rows = taken * rows_each
            busy = curve.seconds(rows)
            busy_until = max(now, busy_until) + busy
            under_way.append((busy_until, now, rows, head, head + taken))
            spent.append(busy)
            head += taken
        end = under_way[0][0] if under_way else math.inf
        # While no run may begin nothing is decided, so that arrivals need no look of their own.
        arrival = at[tail] if tail < count and len(under_way) < runs else math.inf
        now = min(end, arrival, wake)
        if now > until or now == math.inf:
            break
        while tail < count and at[tail] <= now:
            policy.observe_arrival(at[tail], rows_each)
            tail += 1
        if end <= now:
            _, handed_over, rows, first, after = under_way.popleft()
            # As the worker measures it: from the hand-over, the wait for the batch before included.
            policy.observe_batch(rows, now - handed_over)
            done[first:after] = now
            ends.append(now)
            sizes.append(rows)
    return DeviceRun(done, np.array(ends), np.array(sizes, np.int64), np.array(spent[: len(ends)]))


def arrivals(kind: Arrivals, rate: float, share: float, seconds: float, rng: np.random.Generator) -> Floats:
    """When the requests of one device come: each of `rate` a second goes there with the probability `share`.

    `poisson`: many users, each at any time; `steady`: one every 1/rate seconds.
    """
    mean = rate * share
    if mean <= 0:
        return np.empty(0)
    if kind == "steady":
        count = int(rate * seconds)
        mine = rng.random(count) < share
        return (np.flatnonzero(mine) + 1) / rate
    return np.sort(rng.uniform(0.0, seconds, rng.poisson(mean * seconds)))


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a fleet: requests a second, rows in each, and how they come.

    Raises `PlanError` naming what is out of range.
    """

    rate: float
    rows_each: int = 1
    kind: Arrivals = "poisson"

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise PlanError(f"rate: expected more than 0 requests a second, got {self.rate:g}")
        if self.rows_each < 1:
            raise PlanError(f"rows of a request: expected 1 or more, got {self.rows_each}")
        if self.kind not in ARRIVALS:
            raise PlanError(f"arrivals: expected {' or '.join(ARRIVALS)}, got {self.kind!r}")


@dataclass(frozen=True, slots=True)
class Worker:
    """One device and its process: the curve, the limits of a batch, and the seconds a request spends on its way.

    `overhead`: client to Kafka to worker and back, added to every request.
    """

    curve: ServiceCurve
    limits: BatchLimits = DEFAULT_LIMITS
    runs: int = 1
    overhead: float = 0.0

    def policy(self) -> BatchPolicy:
        """A new one, warmed up."""
        return worker_policy(self.limits, self.curve)

    def per_second(self, rows_each: int = 1) -> tuple[float, int]:
        """Requests of `rows_each` rows a second that it can keep up with, and the rows of the batch that does it."""
        # A target for the p99 gives way where a larger batch is needed to keep up, so it is no limit here.
        policy = BatchPolicy(replace(self.limits, p99_target=None))
        for rows, seconds in self.curve.points:
            policy.observe_batch(rows, seconds)
        most = policy.max_rows()
        rate, rows = self.curve.per_second(max(most // rows_each, 1) * rows_each, rows_each)
        return rate / rows_each, rows


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What a simulated fleet did. Seconds; `busy` is the busiest device's share of the time at work.

    A device that batches is busy whenever anybody waits, however little it has to do: its spare is in larger batches.

    `p99_low`, `p99_high`: the smallest and the largest p99 of the time's five parts: how far it is to be believed.
    """

    devices: int
    partitions: int
    requests: int
    mean: float
    p50: float
    p99: float
    p99_low: float
    p99_high: float
    worst: float
    rows_per_batch: float
    largest_batch: int
    busy: float


def shares(devices: int, partitions: int) -> list[tuple[int, int]]:
    """How partitions are spread: (devices, partitions of each), the busier ones first."""
    each, more = divmod(partitions, devices)
    return [(count, own) for count, own in ((more, each + 1), (devices - more, each)) if count]


def run_fleet(
    load: Load, worker: Worker, devices: int, partitions: int, rng: np.random.Generator, *, requests: int = 40_000
) -> FleetRun:
    """Simulate about `requests` requests on the devices, or on a sample of them, and at least 60 batches of each.

    The first fifth of the time is not counted: queues begin empty. Raises `PlanError` for more devices than partitions.
    """
    if not 1 <= devices <= partitions:
        raise PlanError(
            f"{devices} devices need {devices} partitions or more, there are {partitions}: a partition has one worker"
        )
    groups = shares(devices, partitions)
    slowest = worker.curve.seconds(worker.per_second(load.rows_each)[1])
    # Of a fleet that takes large batches fewer devices stand for all: each has to run some of them.
    sample = min(SAMPLE, max(1, round(requests / (_BATCHES * slowest * load.rate / devices))))
    picked = [max(1, round(min(1.0, sample / devices) * count)) for count, _ in groups]
    simulated = load.rate * sum(number * own for number, (_, own) in zip(picked, groups, strict=True)) / partitions
    seconds = max(requests / simulated, _BATCHES * slowest) * 1.25
    start = seconds / 5
    latencies: list[Floats] = []
    weights: list[Floats] = []
    sent: list[Floats] = []
    rows: list[NDArray[np.int64]] = []
    busiest = 0.0
    for number, (count, own) in zip(picked, groups, strict=True):
        busy = 0.0
        for _ in range(number):
            came = arrivals(load.kind, load.rate, own / partitions, seconds, rng)
            run = run_device(came, worker.curve, worker.policy(), runs=worker.runs, rows_each=load.rows_each)
            counted = came >= start
            sent.append(came[counted])
            latencies.append(run.done[counted] - came[counted] + worker.overhead)
            weights.append(np.full(len(latencies[-1]), count / number))
            late = (run.ends > start) & (run.ends <= seconds)
            rows.append(run.rows[late])
            busy += float(run.seconds[late].sum())
        busiest = max(busiest, busy / (number * (seconds - start)))
    latency, weight, came = np.concatenate(latencies), np.concatenate(weights), np.concatenate(sent)
    batches = np.concatenate(rows)
    if not len(latency) or not len(batches):
        raise PlanError(
            f"at {load.rate:g} requests/s to {devices} devices too few come to simulate: take fewer devices"
        )
    p50, p99 = quantiles(latency, weight, (0.5, 0.99))
    fifth = np.minimum(((came - start) / (seconds - start) * 5).astype(int), 4)
    parts = [quantiles(latency[fifth == one], weight[fifth == one], (0.99,))[0] for one in np.unique(fifth)]
    return FleetRun(
        devices=devices,
        partitions=partitions,
        requests=len(latency),
        mean=float(np.average(latency, weights=weight)),
        p50=p50,
        p99=p99,
        p99_low=min(parts),
        p99_high=max(parts),
        worst=float(latency.max()),
        rows_per_batch=float(batches.mean()),
        largest_batch=int(batches.max()),
        busy=busiest,
    )


def quantiles(values: Floats, weights: Floats, wanted: Sequence[float]) -> list[float]:
    """Quantiles of weighted values; infinity where so many never came."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    places = np.searchsorted(reached, np.asarray(wanted) * reached[-1])
    return [float(values[order[min(place, len(order) - 1)]]) for place in places.tolist()]
