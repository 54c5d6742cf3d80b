"""Intervals that should hold the truth: those of one look, those of a stopped test, those that hold at every look."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from analytics.always_valid import ConfidenceSequence, MixtureSprt
from analytics.effects import Statistic
from analytics.results import Scale
from analytics.sequential import SequentialPlan, bounds, equal_looks
from analytics.sequential_analysis import stagewise
from analytics.spending import Spending
from analytics.statistics import compare
from analytics.sufficient import Covaried, Mean, Proportion, Ratio, Strata
from benchmarks.figures import Figure
from benchmarks.peeking import BASELINE, LIFTED, LOOKS, SPENDINGS, experiments

Floats = NDArray[np.float64]


def mean(values: Floats) -> Mean:
    """The sums of one arm."""
    return Mean(len(values), float(values.sum()), float((values**2).sum()))


def _coverage(name: str, arms: Iterator[tuple[Statistic, Statistic]], truth: float, scale: Scale) -> Figure:
    inside = runs = 0
    for control, treatment in arms:
        result = compare(control, treatment, scale=scale)
        inside += result.interval is not None and truth in result.interval
        runs += 1
    return Figure(f"coverage, {name}, {scale}", inside / runs, runs, "at least", 0.95)


def one_look(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Coverage of the intervals of `statistics.compare`."""
    runs = int(20_000 * scale)

    def proportions() -> Iterator[tuple[Statistic, Statistic]]:
        for control, treatment in zip(rng.binomial(10_000, 0.05, runs), rng.binomial(10_000, 0.055, runs), strict=True):
            yield Proportion(10_000, int(control)), Proportion(10_000, int(treatment))

    def skewed() -> Iterator[tuple[Statistic, Statistic]]:
        # Money: log-normal, skewness 6, and the treatment 10% higher.
        for _ in range(runs):
            yield mean(rng.lognormal(0.0, 1.0, 2000)), mean(rng.lognormal(np.log(1.1), 1.0, 2000))

    def noisy_control() -> Iterator[tuple[Statistic, Statistic]]:
        # A control only five standard errors from zero, where the delta method is too narrow.
        for _ in range(runs):
            yield mean(rng.normal(1.0, 2.0, 100)), mean(rng.normal(2.0, 2.0, 100))

    def covaried() -> Iterator[tuple[Statistic, Statistic]]:
        for _ in range(runs):
            arms = []
            for lift in (1.0, 1.1):
                before = rng.normal(5.0, 1.0, 500)
                after = (before + rng.normal(0.0, 0.75, 500)) * lift
                arms.append(Covaried(mean(after), mean(before), float((after * before).sum())))
            yield arms[0], arms[1]

    def stratified() -> Iterator[tuple[Statistic, Statistic]]:
        for _ in range(runs):
            arms = []
            for lift in (0.0, 0.3):
                code = rng.integers(0, 3, 400)
                values = 3.0 * code + lift + rng.normal(0.0, 1.0, 400)
                arms.append(Strata.of({str(one): mean(values[code == one]) for one in range(3)}))
            yield arms[0], arms[1]

    yield _coverage("two proportions, 10,000 an arm", proportions(), 0.005, "absolute")
    yield _coverage("two proportions, 10,000 an arm (Fieller)", proportions(), 0.1, "relative")
    yield _coverage("Welch, log-normal, 2,000 an arm", skewed(), 0.1 * float(np.exp(0.5)), "absolute")
    yield _coverage("Welch, log-normal, 2,000 an arm (Fieller)", skewed(), 0.1, "relative")
    yield _coverage("Welch, noisy control, 100 an arm (Fieller)", noisy_control(), 1.0, "relative")
    yield _coverage("CUPED, correlation 0.8, 500 an arm", covaried(), 0.5, "absolute")
    yield _coverage("CUPED, correlation 0.8, 500 an arm (Fieller)", covaried(), 0.1, "relative")
    yield _coverage("post-stratified, 400 an arm", stratified(), 0.3, "absolute")


def after_stopping(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Stagewise intervals of tests that stopped by their bounds, at no effect and at the planned one."""
    runs = int(5_000 * scale)
    for spending in SPENDINGS[:2]:
        found = bounds(SequentialPlan(spending, 0.05), equal_looks(LOOKS))
        for treatment in (BASELINE, LIFTED):
            units = 31_231
            watched = experiments(rng, runs, units, BASELINE, treatment, np.ones(LOOKS))
            inside = naive = 0
            for z, information in zip(watched.statistic, watched.information, strict=True):
                hits = np.flatnonzero((z >= found.upper) | (z <= found.lower))
                ended = int(hits[0]) if len(hits) else LOOKS - 1
                # Drifts are in units of the planned information; so is the truth, by the run's own at its end.
                truth = (treatment - BASELINE) * float(np.sqrt(information[ended] / found.fractions[ended]))
                inside += truth in stagewise(found, ended, float(z[ended])).interval
                naive += abs(z[ended] - truth * np.sqrt(found.fractions[ended])) <= 1.959964
            name = f"{spending.name}, true effect {treatment - BASELINE:+.3f}"
            yield Figure(f"coverage when stopped, stagewise, {name}", inside / runs, runs, "at least", 0.95)
            if treatment == BASELINE and spending.kind == "pocock":
                # Whoever stops at significance and then quotes the ordinary interval.
                yield Figure(f"coverage when stopped, unadjusted, {name}", naive / runs, runs, "at most", 0.95)


def at_every_look(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Intervals that hold at all looks together, whatever makes one stop."""
    runs = int(50_000 * scale)
    watched = experiments(rng, runs, 31_231, BASELINE, LIFTED, np.ones(LOOKS))
    miss = np.abs(watched.estimate - (LIFTED - BASELINE))
    error = 1.0 / np.sqrt(watched.information)
    for spending in (Spending("obrien-fleming"), Spending("pocock")):
        reach = np.array(bounds(SequentialPlan(spending, 0.05), equal_looks(LOOKS)).upper) * error
        share = float((miss <= reach).all(axis=1).mean())
        yield Figure(f"coverage at all 14 looks, repeated interval, {spending.name}", share, runs, "at least", 0.95)
    sequence = ConfidenceSequence(tuned_for=float(np.median(watched.information[:, -1])))
    for name, method in (("confidence sequence", sequence), ("mixture SPRT", MixtureSprt(LIFTED - BASELINE))):
        share = float((miss <= np.vectorize(method.half_width)(watched.information)).all(axis=1).mean())
        yield Figure(f"coverage at all 14 looks, {name}", share, runs, "at least", 0.95)


def ratio(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Clicks by views, where a user's views go together: the delta method against a z test that counts views.

    1,000 users an arm, 1 + Poisson(9) views each, a user's own rate from a Beta with intra-user correlation 0.086.
    """
    runs, users = int(20_000 * scale), 1000
    delta = events = covered = 0
    for _ in range(runs):
        arms = []
        for _arm in range(2):
            views = 1.0 + rng.poisson(9.0, users)
            clicks = rng.binomial(views.astype(int), rng.beta(3.2, 7.4, users)).astype(float)
            arms.append(
                Ratio(
                    users,
                    float(clicks.sum()),
                    float(views.sum()),
                    float((clicks**2).sum()),
                    float((views**2).sum()),
                    float((clicks * views).sum()),
                )
            )
        result = compare(arms[0], arms[1])
        delta += result.significant
        covered += result.interval is not None and 0.0 in result.interval
        events += compare(*(Proportion(int(arm.denominator), int(arm.numerator)) for arm in arms)).significant
    yield Figure("A/A ratio metric, delta method over users", delta / runs, runs, "at most", 0.055)
    yield Figure("A/A ratio metric, z test over views", events / runs, runs, "about", 0.15)
    yield Figure("coverage, ratio metric, absolute", covered / runs, runs, "at least", 0.95)
