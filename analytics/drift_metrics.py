"""How far a window's distribution is from the reference: distances between two histograms over the same bins. Pure.

Every function takes counts, reference first, and counts add up over windows and slices. A distance is never 0 in a
sample, drift or none, so each comes, where it is known, with the quantile it stays below when both samples are of one
distribution. `n` and `m` are the rows of the window and of the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

from analytics.results import StatisticError

Counts = npt.NDArray[np.float64]

# A bin without rows counts as half a row: less than any that was seen, and not nothing, whose logarithm is infinite.
FLOOR_ROWS: Final = 0.5
# Pearson's statistic is chi-square distributed where no bin expects fewer (Cochran 1954); those that do are one bin.
LEAST_EXPECTED: Final = 5.0


def population_stability(reference: Counts, current: Counts) -> float:
    """The population stability index: the sum over bins of (q - p) ln(q / p), in nats, 0 for equal shares.

    It is the symmetrised Kullback-Leibler divergence of Jeffreys (1946); for its use in scoring see Siddiqi, "Credit
    Risk Scorecards" (2006). p and q are shares of the reference's and the window's rows, each at least half a row of
    its own sample. Raises `StatisticError` where either is empty or they are not over the same bins.
    """
    n, m = _sizes(reference, current)
    p = np.maximum(reference, FLOOR_ROWS) / m
    q = np.maximum(current, FLOOR_ROWS) / n
    used = (reference > 0) | (current > 0)
    return float(np.sum((q - p)[used] * np.log(q[used] / p[used])))


def used_bins(reference: Counts, current: Counts) -> int:
    """Bins with a row in either sample: the others say nothing and leave nothing free."""
    return int(np.count_nonzero((reference > 0) | (current > 0)))


def population_stability_quiet(n: float, m: float, bins: int, level: float = 0.95) -> float:
    """What the index stays below at `level` without drift: (1/n + 1/m) times a chi-square quantile, bins - 1 degrees.

    By the delta method (Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020). 0 for
    a single bin. Raises `StatisticError` for empty samples.
    """
    _positive(n, m)
    return (1.0 / n + 1.0 / m) * float(stats.chi2.ppf(level, bins - 1)) if bins > 1 else 0.0


def kolmogorov_smirnov(reference: Counts, current: Counts) -> float:
    """The largest distance between the two distribution functions, 0 to 1, over the ends of ordered bins.

    Of the values themselves it would be this or a little more (Smirnov 1939): what happens inside a bin is not seen.
    Raises as `population_stability`.
    """
    n, m = _sizes(reference, current)
    return float(np.max(np.abs(np.cumsum(current) / n - np.cumsum(reference) / m)))


def kolmogorov_smirnov_quiet(n: float, m: float, level: float = 0.95) -> float:
    """What it stays below without drift: Kolmogorov's quantile times sqrt(1/n + 1/m), at most 1.

    Asymptotic, and on the safe side for small samples and for bins. Raises `StatisticError` for empty samples.
    """
    _positive(n, m)
    return min(1.0, float(special.kolmogi(1.0 - level)) * math.sqrt(1.0 / n + 1.0 / m))


def jensen_shannon(reference: Counts, current: Counts) -> float:
    """The Jensen-Shannon distance to base 2, 0 to 1: the root of the divergence of Lin (1991).

    It needs no floor: a bin that is empty on one side is as far as can be, and finite. Raises as
    `population_stability`.
    """
    n, m = _sizes(reference, current)
    # Equal shares may leave a divergence of -1e-17, whose root is none.
    found = float(jensenshannon(reference / m, current / n, base=2))
    return 0.0 if math.isnan(found) else found


def jensen_shannon_quiet(n: float, m: float, bins: int, level: float = 0.95) -> float:
    """What the distance stays below without drift: near equality the divergence is an eighth of the stability index.

    Both are quadratic there, sum (q - p)² / p with the factors 1 and 1/8 (Lin 1991, section III), and in bits.
    """
    return math.sqrt(population_stability_quiet(n, m, bins, level) / (8.0 * math.log(2.0)))


def wasserstein(ends: Counts, reference: Counts, current: Counts) -> float:
    """The earth mover's distance W1, in the feature's unit: the area between the two distribution functions.

    `ends` [k + 1] are the finite ends of the k inner bins; counts [k + 2] have what lies below the first and above the
    last before and after them. Within a bin values are taken as spread evenly; what lies outside is taken to lie at the
    end, so that the true distance is this or more (Vallender 1974 for the area). Raises
    `StatisticError`.
    """
    n, m = _sizes(reference, current)
    if len(ends) != len(reference) - 1 or not np.all(np.isfinite(ends)) or np.any(np.diff(ends) < 0):
        raise StatisticError(f"{len(reference)} counts need {len(reference) - 1} finite, ascending ends")
    apart = (np.cumsum(current) / n - np.cumsum(reference) / m)[:-1]
    left, right, wide = np.abs(apart[:-1]), np.abs(apart[1:]), np.diff(ends)
    both = left + right
    # Where the two functions cross inside a bin, the area is that of two triangles.
    crossing = np.sign(apart[:-1]) * np.sign(apart[1:]) < 0
    triangles = np.divide(left**2 + right**2, 2 * both, out=np.zeros_like(both), where=both > 0)
    return float(np.sum(wide * np.where(crossing, triangles, both / 2)))


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Pearson's statistic with its degrees of freedom and p-value; 0, 0 and 1 where a single bin is left."""

    statistic: float
    degrees: int
    p_value: float

    def quiet(self, level: float = 0.95) -> float:
        """What the statistic stays below without drift."""
        return float(stats.chi2.ppf(level, self.degrees)) if self.degrees else 0.0


def chi_square(reference: Counts, current: Counts) -> ChiSquare:
    """Pearson's test that both samples are of one distribution (homogeneity, Pearson 1911).

    Bins of which the smaller sample expects fewer than `LEAST_EXPECTED` rows are taken together. Raises as
    `population_stability`.
    """
    n, m = _sizes(reference, current)
    expected = min(n, m) * (reference + current) / (n + m)
    rare = expected < LEAST_EXPECTED
    table = np.stack([reference[~rare], current[~rare]])
    if rare.any():
        rest = np.array([[reference[rare].sum()], [current[rare].sum()]])
        if rest.sum() > 0:
            table = np.hstack([table, rest])
    if table.shape[1] < 2:
        return ChiSquare(0.0, 0, 1.0)
    found = stats.chi2_contingency(table, correction=False)
    return ChiSquare(float(found.statistic), int(found.dof), float(found.pvalue))


def share_quiet(share: float, n: float, m: float, level: float = 0.95) -> float:
    """What a share that was `share` of m rows stays below in n rows without drift (normal approximation).

    The share is taken to be at least that of half a row, so that one row of what never was is no alarm by itself.
    """
    _positive(n, m)
    p = min(max(share, FLOOR_ROWS / min(n, m)), 1.0 - FLOOR_ROWS / min(n, m))
    return min(1.0, share + float(special.ndtri(level)) * math.sqrt(p * (1.0 - p) * (1.0 / n + 1.0 / m)))


def _sizes(reference: Counts, current: Counts) -> tuple[float, float]:
    if reference.shape != current.shape or reference.ndim != 1:
        raise StatisticError(f"histograms of {reference.size} and {current.size} bins cannot be compared")
    if np.any(reference < 0) or np.any(current < 0):
        raise StatisticError("a bin cannot hold fewer rows than none")
    n, m = float(current.sum()), float(reference.sum())
    _positive(n, m)
    return n, m


def _positive(n: float, m: float) -> None:
    if not (n > 0 and m > 0):
        raise StatisticError(f"a sample is empty: the window has {n:g} rows, the reference {m:g}")
