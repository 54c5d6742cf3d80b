"""How many devices a load needs: those that keep up with it, and those that also hold a p99, found by simulation.

Keeping up is arithmetic: a device that takes s(n) seconds for n rows serves n / s(n) of them a second at its best batch
size, and the busiest device must not be given more. How long requests wait is not; `models.simulation` tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from models.errors import PlanError
from models.simulation import FleetRun, Load, Worker, run_fleet

# A worker has some partitions to give away in turn, so that its share of a dead one's is not a half more.
PARTITIONS_EACH: Final = 4
# Devices of which each is busy so small a share of the time that fewer than 1% of requests meet another.
_IDLE: Final = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be planned for. Seconds. `p99` of None: to keep up is enough.

    `partitions` of None: four for each device. `worker_limit`: requests a second that a worker's process can take in
    and answer, whatever the model; None where that is no matter. `cost`: of a device, an hour.
    """

    load: Load
    worker: Worker
    p99: float | None = None
    partitions: int | None = None
    worker_limit: float | None = None
    cost: float | None = None
    requests: int = 40_000

    def __post_init__(self) -> None:
        if self.p99 is not None and not 0 < self.p99 < math.inf:
            raise PlanError(f"p99: expected more than 0 seconds, got {self.p99:g}")
        if self.partitions is not None and self.partitions < 1:
            raise PlanError(f"partitions: expected 1 or more, got {self.partitions}")
        if self.worker_limit is not None and not self.worker_limit > 0:
            raise PlanError(f"worker limit: expected more than 0 requests a second, got {self.worker_limit:g}")
        if self.cost is not None and not 0 <= self.cost < math.inf:
            raise PlanError(f"cost: expected 0 or more an hour, got {self.cost:g}")

    def per_device(self) -> float:
        """Requests a second that one device keeps up with."""
        rate = self.worker.per_second(self.load.rows_each)[0]
        return rate if self.worker_limit is None else min(rate, self.worker_limit)

    def keep_up(self) -> int:
        """The fewest devices whose busiest one is given no more than it serves."""
        rate, per_device = self.load.rate, self.per_device()
        # 20 a second each are 1,000 with 50 devices, although 1 / 0.05 is not quite 20 in binary.
        devices = max(1, math.ceil(rate / per_device * (1 - 1e-9)))
        if self.partitions is None:
            return devices
        while devices <= self.partitions:
            busiest = math.ceil(self.partitions / devices) / self.partitions * rate
            if busiest <= per_device * (1 + 1e-9):
                return devices
            devices += 1
        raise PlanError(
            f"partitions: {self.partitions} are too few: one of them gets {rate / self.partitions:,.0f} requests/s and "
            f"a device serves {per_device:,.0f}; take {math.ceil(rate / per_device)} or more"
        )

    def partitions_for(self, devices: int) -> int:
        """How many partitions there are, or should be, with so many devices."""
        return self.partitions or PARTITIONS_EACH * devices


@dataclass(frozen=True, slots=True)
class Capacity:
    """A plan: `keep_up` devices by arithmetic, `run` the simulated fleet that was found.

    `load`: what the busiest device is given, as a share of what it serves at its best batch size.
    `per_hour`, `per_million`: cost of the devices, and of them for a million requests; None where none was given.
    """

    wanted: Wanted
    per_device: float
    best_batch: int
    keep_up: int
    load: float
    run: FleetRun
    per_hour: float | None
    per_million: float | None

    @property
    def devices(self) -> int:
        """Devices of the plan."""
        return self.run.devices

    @property
    def extrapolated(self) -> int | None:
        """The largest simulated batch, where it is larger than any that was measured."""
        most, measured = self.run.largest_batch, self.wanted.worker.curve.largest
        return most if most > measured else None

    def to_json(self) -> Mapping[str, Any]:
        """By name; seconds become milliseconds."""
        run = self.run
        return {
            "requests_per_second": self.wanted.load.rate,
            "requests_per_second_each": self.per_device,
            "best_batch_rows": self.best_batch,
            "devices_to_keep_up": self.keep_up,
            "devices": run.devices,
            "partitions": run.partitions,
            "load": self.load,
            "busy": run.busy,
            "mean_ms": run.mean * 1e3,
            "p50_ms": run.p50 * 1e3,
            "p99_ms": run.p99 * 1e3,
            "p99_low_ms": run.p99_low * 1e3,
            "p99_high_ms": run.p99_high * 1e3,
            "rows_per_batch": run.rows_per_batch,
            "largest_batch_rows": run.largest_batch,
            "largest_measured_rows": self.wanted.worker.curve.largest,
            "simulated_requests": run.requests,
            "cost_per_hour": self.per_hour,
            "cost_per_million": self.per_million,
        }


def plan(wanted: Wanted, seed: int = 0, devices: int | None = None) -> Capacity:
    """The fewest devices that keep up and hold the p99, or what just so many `devices` do.

    Raises `PlanError` where no number of them does it.

    The same seed gives the same answer; each number of devices is simulated with random numbers of its own.
    """
    worker, load = wanted.worker, wanted.load
    keep_up = wanted.keep_up()
    if wanted.p99 is not None and devices is None:
        alone = worker.curve.seconds(load.rows_each) + worker.overhead
        if alone > wanted.p99:
            raise PlanError(
                f"p99: {wanted.p99 * 1e3:g} ms cannot be had: a request that meets nobody takes {alone * 1e3:g} ms"
            )
    found: dict[int, FleetRun] = {}

    def holds(devices: int) -> bool:
        if devices not in found:
            found[devices] = simulate(wanted, devices, seed)
        return wanted.p99 is None or found[devices].p99 <= wanted.p99

    if devices is None:
        devices = _fewest(holds, keep_up, _most(wanted, keep_up))
        if devices is None:
            best = min(found.values(), key=lambda run: run.p99)
            raise PlanError(
                f"p99: {(wanted.p99 or 0) * 1e3:g} ms is not held: {best.devices:,} devices come to "
                f"{best.p99 * 1e3:.0f} ms, and each needs a partition of its own, of which there are "
                f"{best.partitions:,}; take more partitions, or smaller batches"
            )
    else:
        found[devices] = simulate(wanted, devices, seed)
    partitions = wanted.partitions_for(devices)
    per_hour = None if wanted.cost is None else wanted.cost * devices
    return Capacity(
        wanted=wanted,
        per_device=wanted.per_device(),
        best_batch=worker.per_second(load.rows_each)[1],
        keep_up=keep_up,
        load=load.rate * -(-partitions // devices) / partitions / wanted.per_device(),
        run=found[devices],
        per_hour=per_hour,
        per_million=None if per_hour is None else per_hour / (load.rate * 3600) * 1e6,
    )


def simulate(wanted: Wanted, devices: int, seed: int = 0) -> FleetRun:
    """The fleet of so many devices."""
    rng = np.random.default_rng([seed, devices])
    partitions = wanted.partitions_for(devices)
    return run_fleet(wanted.load, wanted.worker, devices, partitions, rng, requests=wanted.requests)


def unbatched(wanted: Wanted) -> Wanted:
    """The same with every request a batch of its own."""
    limits = replace(wanted.worker.limits, max_rows=wanted.load.rows_each, buckets=())
    return replace(wanted, worker=replace(wanted.worker, limits=limits), partitions=None)


def _most(wanted: Wanted, keep_up: int) -> int:
    """Devices beyond which more are of no use: there is no partition for them, or they idle."""
    alone = wanted.worker.curve.seconds(wanted.load.rows_each)
    return wanted.partitions or math.ceil(wanted.load.rate * alone * _IDLE) + keep_up


def _fewest(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest number from `least` to `most` that holds, doubling the step and then halving it; None for none."""
    if holds(least):
        return least
    below, above, step = least, least, max(1, least // 8)
    while True:
        above = min(below + step, most)
        if above == below:
            return None
        if holds(above):
            break
        below, step = above, step * 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above
