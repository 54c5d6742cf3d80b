"""What a rate needs besides devices: partitions and brokers, by limits that were measured, and a sweep over rates.

A request is two records to a broker, the question and its answer (the prediction log goes in batches and hardly
counts). Each is written once and read once by whom it is for; with replication R it is written R times in all and read
R - 1 times more by the brokers that copy it: 4 R records in or out of some broker for a request. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from models.capacity import Capacity, Wanted, plan
from models.errors import PlanError

RATES: Final = (1e3, 1e4, 1e5, 1e6)


@dataclass(frozen=True, slots=True)
class Limits:
    """What processes were measured to bear, in records a second (docs/performance.md).

    `worker`: requests that a scoring worker takes in and answers, however fast its device; also what a partition gives,
    since it has one reader. `broker`: records that a broker takes in or gives out. `replication`: copies of a record.
    """

    worker: float = 256_000.0
    partition: float = 256_000.0
    broker: float = 540_000.0
    replication: int = 3

    def __post_init__(self) -> None:
        for name in ("worker", "partition", "broker"):
            if not 0 < getattr(self, name) < math.inf:
                raise PlanError(f"limit of a {name}: expected more than 0 records/s, got {getattr(self, name):g}")
        if self.replication < 1:
            raise PlanError(f"replication: expected 1 or more, got {self.replication}")

    def brokers(self, rate: float) -> int:
        """Brokers that bear `rate` requests a second, also while one of them is away where there are copies."""
        bearing = math.ceil(rate * 4 * self.replication / self.broker * (1 - 1e-9))
        return bearing if self.replication == 1 else max(self.replication, bearing + 1)

    def partitions(self, rate: float, devices: int) -> int:
        """The smallest multiple of four for each device that bears the rate: every device has the same share."""
        each = max(4, math.ceil(rate / self.partition / devices))
        return each * devices


@dataclass(frozen=True, slots=True)
class Size:
    """A rate and all that it needs."""

    capacity: Capacity
    brokers: int

    def to_json(self) -> Mapping[str, Any]:
        """By name."""
        return {**self.capacity.to_json(), "brokers": self.brokers}


def size(wanted: Wanted, limits: Limits, seed: int = 0, devices: int | None = None) -> Size:
    """Devices, partitions and brokers of one load; of just so many `devices` where that is said. Raises `PlanError`."""
    wanted = replace(wanted, worker_limit=limits.worker)
    if wanted.partitions is None:
        # Four for each device, unless the rate asks for more of them than that.
        least = math.ceil(wanted.load.rate / limits.partition)
        found = plan(wanted, seed, devices)
        if found.run.partitions < least:
            found = plan(replace(wanted, partitions=limits.partitions(wanted.load.rate, found.devices)), seed, devices)
    else:
        found = plan(wanted, seed, devices)
        each = wanted.load.rate / wanted.partitions
        if each > limits.partition:
            raise PlanError(
                f"partitions: {wanted.partitions} get {each:,.0f} requests/s each, a partition bears "
                f"{limits.partition:,.0f}; take {math.ceil(wanted.load.rate / limits.partition)} or more"
            )
    return Size(found, limits.brokers(wanted.load.rate))


def sweep(wanted: Wanted, limits: Limits, rates: Sequence[float] = RATES, seed: int = 0) -> Iterator[Size]:
    """The sizes of several rates, one after another."""
    for rate in rates:
        yield size(replace(wanted, load=replace(wanted.load, rate=rate)), limits, seed)
