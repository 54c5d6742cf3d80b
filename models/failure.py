"""What the loss of one device does to a fleet: who waits, for how long, and when all is as it was. Simulated, pure.

A worker whose device died ends or is missed, and the group gives its partitions to others after a while, the takeover.
What those partitions hold by then, requests that waited or ran as the device died and all that came since, meets the
takers at once, on top of their own. Records that were answered but not committed are done again, which costs time and
changes no answer. Whoever takes no partition notices nothing, so only the dead device and its takers are simulated and
the others stand in the figures as the fleet was before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.capacity import Wanted
from models.errors import PlanError
from models.simulation import Floats, arrivals, quantiles, run_device

# Records answered within so many seconds before the end are not committed yet (worker.commit_interval_ms).
COMMIT_SECONDS: Final = 0.1
# All is as before when so large a share of requests takes no longer than so many times the p99 of before: with one
# device less they may take somewhat longer for good.
_MOST: Final = 0.95
_AS_BEFORE: Final = 1.5
# How many requests, and how much time at least, are looked at together for that.
_LOOK_REQUESTS: Final = 100
_LOOK_SECONDS: Final = 1.0
_BEFORE: Final = 30.0
_MOST_REQUESTS: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Failure:
    """How a device fails. Seconds.

    `takeover`: until others have its partitions. `back`: until a replacement has them again; None: not within `watch`,
    the time that is looked at from the failure on.
    """

    takeover: float = 10.0
    back: float | None = None
    watch: float = 120.0

    def __post_init__(self) -> None:
        if not 0 <= self.takeover < math.inf:
            raise PlanError(f"takeover: expected 0 or more seconds, got {self.takeover:g}")
        if self.back is not None and not self.takeover < self.back < math.inf:
            raise PlanError(f"back: expected more than the takeover's {self.takeover:g} s, got {self.back:g} s")
        if not max(self.takeover, self.back or 0) < self.watch < math.inf:
            raise PlanError(
                f"watch: expected more than {max(self.takeover, self.back or 0):g} s, when the last change comes, "
                f"got {self.watch:g} s"
            )


@dataclass(frozen=True, slots=True)
class FailureRun:
    """What it did. Seconds.

    `keeps_up`: whether the busiest taker is given no more than it serves. `met`: requests that belonged to the dead
    device's partitions before the takeover, all of which waited for it. `backlog`: most requests waiting in the dead
    device's and the takers' partitions. `caught_up`: from the failure until the takers answer about as fast as before;
    infinity where that is not seen. p99: of the whole fleet's requests that came before, until it had caught up, and
    after; NaN where there is no after.
    """

    takers: int
    keeps_up: bool
    met: int
    backlog: int
    longest: float
    caught_up: float
    p99_before: float
    p99_during: float
    p99_after: float

    def to_json(self) -> Mapping[str, Any]:
        """By name; latencies in milliseconds."""
        return {
            "takers": self.takers,
            "keeps_up": self.keeps_up,
            "requests_that_waited_for_the_takeover": self.met,
            "largest_backlog": self.backlog,
            "longest_ms": self.longest * 1e3,
            "caught_up_after_seconds": self.caught_up,
            "p99_before_ms": self.p99_before * 1e3,
            "p99_during_ms": self.p99_during * 1e3,
            "p99_after_ms": self.p99_after * 1e3,
        }


def fail_one(wanted: Wanted, devices: int, failure: Failure, seed: int = 0) -> FailureRun:
    """Let the busiest device of the fleet die. Raises `PlanError` where too little or too much comes to simulate."""
    load, worker = wanted.load, wanted.worker
    partitions = wanted.partitions_for(devices)
    if devices > partitions:
        raise PlanError(f"{devices} devices need {devices} partitions or more, there are {partitions}")
    rng = np.random.default_rng([seed, devices, 1])
    own, others, gained = _spread(devices, partitions)
    takers = [number for number, more in enumerate(gained) if more]
    end = _BEFORE + failure.watch
    expected = load.rate * end * (len(takers) + 1) / devices
    if expected > _MOST_REQUESTS:
        raise PlanError(
            f"watch: {failure.watch:g} s at {load.rate:,.0f} requests/s are {expected:,.0f} requests to simulate on "
            f"the {len(takers) + 1} devices it concerns, more than {_MOST_REQUESTS:,}; watch for a shorter time"
        )
    dies, taken = _BEFORE, _BEFORE + failure.takeover
    back = math.inf if failure.back is None else _BEFORE + failure.back

    came = arrivals(load.kind, load.rate, own / partitions, end, rng)
    first = run_device(
        came[came < dies], worker.curve, worker.policy(), runs=worker.runs, rows_each=load.rows_each, until=dies
    )
    done = np.full(len(came), math.inf)
    done[: len(first.done)] = first.done
    waited = np.isinf(done) & (came < taken)
    again = np.flatnonzero(np.isfinite(done) & (done > dies - COMMIT_SECONDS))

    # Whose partition each request is in, as far as it matters: the taker that gets it.
    owner = rng.choice(takers, len(came), p=np.array([gained[number] for number in takers]) / own)
    sent: list[Floats] = []
    finished: list[Floats] = []
    for taker in takers:
        mine = arrivals(load.kind, load.rate, others[taker] / partitions, end, rng)
        theirs = np.flatnonzero((owner == taker) & np.isinf(done) & (came < back))
        redo = again[owner[again] == taker]
        times = np.concatenate([mine, np.maximum(came[theirs], taken), np.full(len(redo), taken)])
        # What waited comes in its own order, after what the taker holds already.
        order_in = np.argsort(times, kind="stable")
        run = run_device(times[order_in], worker.curve, worker.policy(), runs=worker.runs, rows_each=load.rows_each)
        out = np.empty(len(times))
        out[order_in] = run.done
        sent.append(mine)
        finished.append(out[: len(mine)])
        done[theirs] = out[len(mine) : len(mine) + len(theirs)]
    late = np.flatnonzero(came >= back)
    if len(late):
        run = run_device(came[late], worker.curve, worker.policy(), runs=worker.runs, rows_each=load.rows_each)
        done[late] = run.done

    all_sent, all_done = np.concatenate([came, *sent]), np.concatenate([done, *finished])
    latency = all_done - all_sent + worker.overhead
    before = (all_sent >= _BEFORE / 5) & (all_sent < dies - worker.curve.seconds(load.rows_each))
    before &= all_done < dies
    if not before.any():
        raise PlanError(f"at {load.rate:g} requests/s too few come in {_BEFORE:.0f} s to see what a failure changes")
    usual = quantiles(latency[before], np.ones(int(before.sum())), (0.99,))[0]
    busiest = max(others[number] + gained[number] for number in takers) / partitions * load.rate
    keeps_up = busiest <= wanted.per_device()
    affected = all_sent >= taken
    until = _as_before(all_sent[affected], latency[affected], taken, end, usual)
    during = (all_sent >= dies - usual) & (all_sent < until)
    after = (all_sent >= until) & (all_sent < end)
    return FailureRun(
        takers=len(takers),
        keeps_up=keeps_up,
        met=int(waited.sum()),
        backlog=_most_waiting(all_sent[all_sent >= dies / 2], all_done[all_sent >= dies / 2]),
        longest=float(latency[all_sent >= dies - usual].max()),
        caught_up=until - dies if until < end else math.inf,
        p99_before=usual,
        p99_during=_of_fleet(wanted, latency[during], latency[before], until - dies, len(takers) + 1, devices),
        p99_after=_of_fleet(wanted, latency[after], latency[before], end - until, len(takers) + 1, devices),
    )


def _spread(devices: int, partitions: int) -> tuple[int, list[int], list[int]]:
    """Partitions of the device that dies, of each of the others, and what each of them gets of the dead one's.

    The group evens out: those with fewest get one first. A single device's only other is its replacement, with none.
    """
    own = -(-partitions // devices)
    others = [partitions // devices + (number < partitions % devices) for number in range(1, devices)] or [0]
    order = sorted(range(len(others)), key=lambda number: others[number])
    gained = [0] * len(others)
    for number in range(own):
        gained[order[number % len(order)]] += 1
    return own, others, gained


def _as_before(sent: Floats, latency: Floats, begin: float, end: float, usual: float) -> float:
    """When requests were first answered about as fast as before again; `end` where they never were."""
    width = max(_LOOK_SECONDS, _LOOK_REQUESTS * (end - begin) / max(len(sent), 1))
    for start in np.arange(begin, end - width, width).tolist():
        inside = latency[(sent >= start) & (sent < start + width)]
        if len(inside) and float(np.quantile(inside, _MOST)) <= _AS_BEFORE * usual:
            return float(start)
    return end


def _of_fleet(wanted: Wanted, affected: Floats, before: Floats, seconds: float, simulated: int, devices: int) -> float:
    """The p99 of the fleet in a span of time: the simulated devices as they were then, the others as before."""
    if not len(affected):
        return math.nan
    others = max(devices - simulated, 0) / devices * wanted.load.rate * seconds
    values = np.concatenate([affected, before])
    weights = np.concatenate([np.ones(len(affected)), np.full(len(before), others / len(before))])
    return quantiles(values, weights, (0.99,))[0]


def _most_waiting(sent: Floats, done: Floats) -> int:
    """The most requests that were sent and not done at one time."""
    times = np.concatenate([sent, done[np.isfinite(done)]])
    steps = np.concatenate([np.ones(len(sent)), -np.ones(int(np.isfinite(done).sum()))])
    return int(np.cumsum(steps[np.argsort(times, kind="stable")]).max(initial=0))
