"""A fleet that was simulated beside the same one run for real: workers, Kafka, the client, a model that waits.

The model of the batching example takes a known time for a batch (`penstock.bench.slow_worker`), so that the simulation
is given what really happens and is right or wrong about the rest: when batches leave, how large they are, how long
requests wait. What is compared is the time between a worker's reading a request and making its reply, which is what the
simulation is about; the way through Kafka is measured besides, and is what `--overhead` stands for.

It is compared twice. `compared` simulates an even stream, as one plans: it is as good as the stream is even when
workers read it, which a busy machine or broker decides. `as_read` simulates each round with what its workers were
given: the times at which they read its requests, the time for which the model really slept, and where single batches
were followed by a longer pause than is usual, that. Whatever disturbs a round changes both of its figures, so that they
differ by the simulation's own error: by how batches are made, and by what a worker always does besides running models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from statistics import fmean, median
from typing import Any, Final

import numpy as np

from models.batching import DEFAULT_LIMITS
from models.simulation import FleetRun, Floats, Load, ServiceCurve, Worker, run_device, run_fleet, worker_policy
from penstock.bench.asking import Asker
from penstock.bench.bed import PARTITIONS, Bed
from penstock.bench.figures import Latency, Spread, doubts
from penstock.bench.reply import paced
from penstock.bench.slow_worker import ONE_ROW, ROWS_32
from penstock.bench.worked import Batch, Diary, within

CURVE: Final = ServiceCurve(((1, ONE_ROW), (32, ROWS_32)))
# Figures of a simulation that is to be planned with are off by no more than this share.
WITHIN: Final = 0.15
_WARM_UP_SECONDS: Final = 3.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure, simulated and measured (the median of the rounds)."""

    name: str
    simulated: float
    measured: Spread

    @property
    def off(self) -> float:
        """How far the simulation is off, as a share of what was measured."""
        return self.simulated / self.measured.median - 1

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "figure": self.name,
            "simulated": round(self.simulated, 2),
            "measured": self.measured.to_json(2),
            "off": round(self.off, 4),
            "within": abs(self.off) <= WITHIN,
        }


@dataclass(frozen=True, slots=True)
class Paired:
    """One figure of each round, simulated with what the round's workers were given, and measured in it."""

    name: str
    simulated: Spread
    measured: Spread

    @property
    def off(self) -> float:
        """How far the simulation is off, as a share of what was measured: the median of the rounds."""
        return median(a / b for a, b in zip(self.simulated.values, self.measured.values, strict=True)) - 1

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "figure": self.name,
            "simulated": self.simulated.to_json(2),
            "measured": self.measured.to_json(2),
            "off": round(self.off, 4),
            "within": abs(self.off) <= WITHIN,
        }


def simulated(rate: float, workers: int) -> FleetRun:
    """What the simulation says of so many workers at `rate` requests a second, as `measure` asks them."""
    worker = Worker(CURVE, DEFAULT_LIMITS)
    return run_fleet(Load(rate, kind="steady"), worker, workers, PARTITIONS, np.random.default_rng(0))


def measure(bed: Bed, rate: float, seconds: float, rounds: int, workers: int, say: Say) -> dict[str, Any]:
    """Ask the slow model at a steady rate and compare. The bed's workers are to be slow ones.

    The document holds every figure of both; `off` is the simulation's error.
    """
    diary = Diary(bed)
    bed.start_workers(workers, "exactly-once")
    count = max(1, round(rate * seconds / rounds))
    inside: list[Latency] = []
    outside: list[Latency] = []
    rows: list[float] = []
    times: list[tuple[float, float]] = []
    with Asker(bed) as asker:
        asker.await_first()
        asyncio.run(paced(rate, max(1, round(rate * _WARM_UP_SECONDS)), asker.ask))
        if workers > 1:
            bed.await_shares(bed.topics.requests)
        for number in range(rounds):
            asker.forget()
            before, began = bed.usage(), time.time()
            outside.append(asyncio.run(paced(rate, count, asker.ask)))
            times.append((began, time.time()))
            used = bed.usage().since(before)
            inside.append(Latency.of(asker.inside))
            rows.append(used.rows / max(used.batches, 1.0))
            say(f"round {number + 1}: mean {inside[-1].mean:.1f} ms, p99 {inside[-1].p99:.1f} ms, {rows[-1]:.1f} rows")
    bed.stop_workers()
    said = simulated(rate, workers)
    found = compared(said, inside, rows)
    log = diary.batches(sum(one.count for one in outside))
    way = [one.mean - own.mean for one, own in zip(outside, inside, strict=True)]
    return {
        "requests_per_second": rate,
        "workers": workers,
        "requests": count * rounds,
        "lost": sum(one.lost for one in outside),
        "compared": [one.to_json() for one in found],
        "as_read": [one.to_json() for one in as_read([within(log, *one) for one in times])],
        "way_through_kafka_ms": Spread(tuple(way)).to_json(2),
        "doubts": doubts(mean_ms=found[0].measured, rows=found[2].measured),
        "rounds": [one.to_json() for one in inside],
    }


def compared(said: FleetRun, inside: Sequence[Latency], rows: Sequence[float]) -> list[Compared]:
    """Mean, p99 and batch size of both, milliseconds and rows."""
    return [
        Compared("mean, ms", said.mean * 1e3, Spread(tuple(one.mean for one in inside))),
        Compared("p99, ms", said.p99 * 1e3, Spread(tuple(one.p99 for one in inside))),
        Compared("rows a batch", said.rows_per_batch, Spread(tuple(rows))),
    ]


def as_read(rounds: Sequence[Sequence[Batch]]) -> list[Paired]:
    """Mean and batch size of each round, simulated with the times and the curve of that round, and as they were."""
    again = [_again(batches) for batches in rounds]
    means = [fmean(own.ended - at for own in batches for at in own.read) for batches in rounds]
    sizes = [fmean(len(own.read) for own in batches) for batches in rounds]
    return [
        Paired("mean, ms", _spread(mean * 1e3 for mean, _ in again), _spread(mean * 1e3 for mean in means)),
        Paired("rows a batch", _spread(rows for _, rows in again), _spread(sizes)),
    ]


@dataclass(frozen=True, slots=True)
class _Late(ServiceCurve):
    """A curve to which each batch in its turn adds how much longer it kept the device."""

    late: Iterator[float]

    def seconds(self, rows: int) -> float:
        """See `ServiceCurve.seconds`; the next batch's."""
        return ServiceCurve.seconds(self, rows) + next(self.late)


def _again(batches: Sequence[Batch]) -> tuple[float, float]:
    """Seconds a request takes in the mean, and rows a batch, of a simulation that is given what these workers were."""
    waits: list[float] = []
    rows: list[int] = []
    for worker in {one.worker for one in batches}:
        own = [one for one in batches if one.worker == worker]
        # A sleep ends when the machine has time for it.
        late = np.array([one.seconds - CURVE.seconds(len(one.read)) for one in own])
        held = _held(own)
        came = np.sort(np.concatenate([one.read for one in own]))
        curve = _Late(CURVE.points, cycle((late + held).tolist()))
        run = run_device(came - came[0], curve, worker_policy(DEFAULT_LIMITS, CURVE))
        # Replies are made before the device is held.
        answered = run.ends - np.resize(held, len(run.ends))
        waits.extend((np.repeat(answered, run.rows) - (came - came[0])).tolist())
        rows.extend(run.rows.tolist())
    return fmean(waits), fmean(rows)


def _held(batches: Sequence[Batch]) -> Floats:
    """How much longer than usual it took after each batch until the next began, where requests waited for it.

    What it takes usually, in the median, is the worker's own doing, and left for the simulation to be wrong about.
    """
    pairs = list(pairwise(batches))
    pauses = np.array([after.ended - after.seconds - one.ended for one, after in pairs])
    waited = np.array([after.read[0] < one.ended for one, after in pairs], bool)
    usual = float(np.median(pauses[waited])) if waited.any() else 0.0
    return np.append(np.where(waited, pauses - usual, 0.0), 0.0)


def _spread(values: Iterable[float]) -> Spread:
    return Spread(tuple(values))
