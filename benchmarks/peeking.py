"""Experiments that are looked at every day: how often each method is wrong, and how often it finds what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.always_valid import ConfidenceSequence, MixtureSprt
from analytics.power import Requirement, proportion_size
from analytics.results import Alternative
from analytics.sequential import SequentialPlan, bounds, equal_looks, inflation
from analytics.sequential_analysis import Look, monitor
from analytics.spending import Spending
from benchmarks.figures import Figure

Floats = NDArray[np.float64]

LOOKS = 14
BASELINE, LIFTED = 0.05, 0.055
SPENDINGS = (
    Spending("obrien-fleming"),
    Spending("pocock"),
    Spending("power", 2.0),
    Spending("hwang-shih-decani", -4.0),
)
# Days differ: five working days, a weekend with half of the users.
WEEK = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5])


@dataclass(frozen=True, slots=True)
class Watched:
    """Estimates and their information of many experiments: (runs, looks)."""

    estimate: Floats
    information: Floats

    @property
    def statistic(self) -> Floats:
        """Z."""
        found: Floats = self.estimate * np.sqrt(self.information)
        return found

    def looks(self, run: int) -> list[Look]:
        """One experiment as its job sees it."""
        return [Look(float(i), float(e)) for i, e in zip(self.information[run], self.estimate[run], strict=True)]


def experiments(
    rng: np.random.Generator, runs: int, units: int, control: float, treatment: float, days: Floats
) -> Watched:
    """Two proportions, cumulative by day, from counts: what `two-proportion z` would be given each day."""
    daily = np.diff(np.round(np.cumsum(days) / days.sum() * units), prepend=0).astype(int)
    n = np.cumsum(daily)
    shares = [np.cumsum(rng.binomial(daily, p, size=(runs, len(days))), axis=1) / n for p in (control, treatment)]
    variance = sum(share * (1 - share) / n for share in shares)
    return Watched(shares[1] - shares[0], 1.0 / np.maximum(variance, 1e-12))


def naive(watched: Watched) -> float:
    """How often |Z| passes 1.96 at any look."""
    return float((np.abs(watched.statistic) > 1.959964).any(axis=1).mean())


def false_positives(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Both arms alike, fourteen daily looks."""
    runs, units = int(100_000 * scale), 31_231
    watched = experiments(rng, runs, units, BASELINE, BASELINE, np.ones(LOOKS))
    yield Figure("A/A, 14 looks, naive z at each", naive(watched), runs, "about", 0.22)
    for spending in SPENDINGS:
        yield from _group_sequential(watched, spending, "two-sided")
    yield from _group_sequential(watched, Spending(), "greater")
    planned = float(np.median(watched.information[:, -1]))
    for alternative in ("two-sided", "greater"):
        sequence = ConfidenceSequence(tuned_for=planned, alternative=alternative)
        reach = np.vectorize(sequence.half_width)(watched.information)
        out = watched.estimate > reach if alternative == "greater" else np.abs(watched.estimate) > reach
        share = float(out.any(axis=1).mean())
        yield Figure(f"A/A, 14 looks, asymptotic confidence sequence, {alternative}", share, runs, "at most", 0.05)
    reach = np.vectorize(MixtureSprt(LIFTED - BASELINE).half_width)(watched.information)
    share = float((np.abs(watched.estimate) > reach).any(axis=1).mean())
    yield Figure("A/A, 14 looks, mixture SPRT", share, runs, "at most", 0.05)


def _group_sequential(watched: Watched, spending: Spending, alternative: Alternative) -> Iterator[Figure]:
    """Bounds at the fractions all runs share: the information of runs of one size differs by chance only."""
    runs = len(watched.estimate)
    found = bounds(SequentialPlan(spending, 0.05, alternative), equal_looks(LOOKS))
    crossed = (watched.statistic >= found.upper) | (watched.statistic <= found.lower)
    name = f"A/A, 14 looks, group sequential, {spending.name}, {alternative}"
    yield Figure(name, float(crossed.any(axis=1).mean()), runs, "at most", 0.05)


def false_positives_as_operated(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """As the watching job does it: each run's own information, uneven days, ended short of or beyond the plan."""
    runs, units = int(4_000 * scale), 31_231
    days = np.tile(WEEK, 2)
    maximum = units / (2 * BASELINE * (1 - BASELINE))
    for reached in (0.8, 1.0, 1.25):
        watched = experiments(rng, runs, int(units * reached), BASELINE, BASELINE, days)
        for spending in SPENDINGS[:2]:
            plan = SequentialPlan(spending, 0.05, maximum=maximum)
            share = float(
                np.mean([monitor(plan, watched.looks(run), final=True).crossed is not None for run in range(runs)])
            )
            name = f"A/A, 14 uneven looks, monitor(), {spending.name}, ended at {reached:.0%} of the plan"
            yield Figure(name, share, runs, "at most", 0.05)


def power(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """The effect that was planned for, at the planned (inflated) size."""
    runs = int(20_000 * scale)
    for spending in SPENDINGS:
        found = bounds(SequentialPlan(spending, 0.05), equal_looks(LOOKS))
        need = Requirement(LIFTED - BASELINE, inflation=inflation(found, 0.8))
        size = proportion_size(BASELINE, need, "pooled")
        watched = experiments(rng, runs, size.control, BASELINE, LIFTED, np.ones(LOOKS))
        share = float((watched.statistic >= found.upper).any(axis=1).mean())
        name = f"A/B of +10%, {size.control:,} an arm, group sequential, {spending.name}"
        yield Figure(name, share, runs, "at least", 0.8)
    size = proportion_size(BASELINE, Requirement(LIFTED - BASELINE), "pooled")
    watched = experiments(rng, runs, size.control, BASELINE, LIFTED, np.ones(1))
    share = float((watched.statistic >= 1.959964).mean())
    yield Figure(f"A/B of +10%, {size.control:,} an arm, one look", share, runs, "at least", 0.8)


def saved(rng: np.random.Generator, scale: float) -> dict[str, Any]:
    """What stopping early saves: mean units at the end as a share of one look's size, with the planned effect."""
    runs = int(20_000 * scale)
    fixed = proportion_size(BASELINE, Requirement(LIFTED - BASELINE), "pooled").control
    answer = {}
    for spending in SPENDINGS:
        found = bounds(SequentialPlan(spending, 0.05), equal_looks(LOOKS))
        factor = inflation(found, 0.8)
        units = int(fixed * factor)
        watched = experiments(rng, runs, units, BASELINE, LIFTED, np.ones(LOOKS))
        crossed = watched.statistic >= found.upper
        ended = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, LOOKS) / LOOKS
        answer[spending.name] = {"largest": round(factor, 4), "mean": round(float(ended.mean()) * factor, 4)}
    return answer
