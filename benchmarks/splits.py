"""Sample ratios watched for four weeks: how often a healthy split alarms, and how soon a broken one does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analytics.sample_ratio import chi_square, watch, watch_slices
from benchmarks.figures import Figure

LOOKS = 28
DAILY = 5000


def false_alarms(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Splits as planned, 5,000 units a day, 28 daily looks."""
    runs = int(20_000 * scale)
    for shares in ((0.5, 0.5), (0.9, 0.1), (0.34, 0.33, 0.33)):
        counts = np.cumsum(rng.multinomial(DAILY, shares, size=(runs, LOOKS)), axis=1)
        alarms = sum(watch(run, shares).significant for run in counts.tolist())
        name = "/".join(f"{share:.0%}" for share in shares)
        yield Figure(f"SRM, 28 looks, e-process at 1%, {name}", alarms / runs, runs, "at most", 0.01)
    counts = np.cumsum(rng.multinomial(DAILY, (0.5, 0.5), size=(runs // 4, LOOKS)), axis=1)
    naive = sum(any(chi_square(look, (1, 1)).significant for look in run) for run in counts.tolist())
    yield Figure("SRM, 28 looks, chi-square at 1% at each look", naive / (runs // 4), runs // 4, "about", 0.065)
    once = sum(chi_square(run[-1], (1, 1)).significant for run in counts.tolist())
    yield Figure("SRM, one look, chi-square at 1%", once / (runs // 4), runs // 4, "at most", 0.01)


def false_alarms_by_slice(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """Any alarm at all among eight partitions and their total."""
    runs = int(4_000 * scale)
    counts = np.cumsum(rng.binomial(DAILY // 8, 0.5, size=(runs, 8, LOOKS)), axis=2)
    total = np.arange(1, LOOKS + 1) * (DAILY // 8)
    alarms = 0
    for run in counts:
        slices = {f"partition {one}": np.stack([total - run[one], run[one]], axis=1).tolist() for one in range(8)}
        slices["all"] = np.stack([8 * total - run.sum(axis=0), run.sum(axis=0)], axis=1).tolist()
        alarms += any(result.significant for result in watch_slices(slices, (1, 1)).values())
    yield Figure("SRM, 28 looks, any of 8 partitions or their total at 1%", alarms / runs, runs, "at most", 0.01)


def found(rng: np.random.Generator, scale: float) -> Iterator[Figure]:
    """A treatment that loses 4% of its units (share 49% instead of 50%), within 28 days."""
    runs = int(4_000 * scale)
    kept = rng.binomial(DAILY // 2, 0.96, size=(runs, LOOKS))
    counts = np.cumsum(np.stack([np.full_like(kept, DAILY // 2), kept], axis=2), axis=1)
    alarms = sum(watch(run, (1, 1)).significant for run in counts.tolist())
    yield Figure(
        "SRM found: 4% of the treatment lost, 28 looks, e-process at 1%", alarms / runs, runs, "at least", 0.95
    )
