"""The distribution of a test statistic that is looked at several times: the recursion under all sequential bounds.

At information I the statistic is Z ~ N(drift·√I, 1), and its score Z·√I has independent increments. The sub-density of
Z at look k, of paths that have not stopped before, follows from that of look k - 1 by one convolution (Armitage,
McPherson, Rowe 1969, J. R. Stat. Soc. A 132; Jennison and Turnbull 2000, chapter 19). Integrals are composite
Gauss-Legendre, with panels as narrow as the narrowest kernel asks. Densities are computed without drift only: those
with a drift are the same times a likelihood ratio, so that power, estimates and intervals cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from analytics.results import StatisticError

Floats = NDArray[np.float64]

# Where an open region is cut off: the mass beyond is below 1e-57, and below 1e-15 for any drift of up to 8 errors.
_REACH: Final = 16.0
_PANEL: Final = 4.0  # kernel widths to a panel
_NODES, _WEIGHTS = special.roots_legendre(12)
_MOST_NODES: Final = 12_000
_FAR: Final = 40.0  # a normal quantile no double's tail probability lies beyond


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Where paths go on after a look: nodes in Z and the probability each stands for, without drift."""

    root: float
    nodes: Floats
    mass: Floats


class Recursion:
    """Walks through looks in order: ask `beyond` for the next look's tails, then `proceed` with its region."""

    def __init__(self, information: Sequence[float]) -> None:
        """`information` of each look, in any unit: positive and increasing, or `StatisticError`."""
        last = 0.0
        for number, one in enumerate(information, 1):
            if not (math.isfinite(one) and one > last):
                raise StatisticError(
                    f"look {number} has the information {one:g}: it must be more than the {last:g} before it"
                )
            last = one
        self.information = tuple(float(one) for one in information)
        self._stages: list[_Stage] = []

    def proceed(self, lower: float, upper: float) -> None:
        """The next look's region in Z where the test goes on: from `lower` to `upper`, which may be infinite."""
        look = len(self._stages)
        if look + 1 >= len(self.information):
            raise StatisticError("there is no look after the last")
        now, after = self.information[look], self.information[look + 1]
        before = self.information[look - 1] if look else 0.0
        # The integrand's narrowest feature: the step that came here, or the one that leaves.
        narrowest = min(1.0, math.sqrt((now - before) / now), math.sqrt((after - now) / now))
        nodes, weights = _grid(max(lower, -_REACH), min(upper, _REACH), narrowest)
        self._stages.append(_Stage(math.sqrt(now), nodes, self._density(look, nodes) * weights))

    def beyond(self, look: int, bound: float, drift: float = 0.0, *, upper: bool = True) -> float:
        """The probability to go on through all looks before `look` (from 0) and then to be beyond `bound`.

        `drift` is the true effect: Z at information I has mean drift·√I.
        """
        sign = 1.0 if upper else -1.0
        now = self.information[look]
        if look == 0:
            return float(special.ndtr(sign * (drift * math.sqrt(now) - bound)))
        if math.isinf(bound) and (bound > 0) == upper:
            return 0.0
        stage = self._stages[look - 1]
        step = now - self.information[look - 1]
        argument = (stage.nodes * stage.root + drift * step - bound * math.sqrt(now)) / math.sqrt(step)
        return float(_tilted(stage, drift) @ special.ndtr(sign * argument))

    def solve(self, look: int, probability: float, *, upper: bool = True) -> float:
        """How far out the bound must be for its tail at `look` to have this probability; infinite where that is 0.

        The upper bound in Z is this number, the lower one (`upper=False`) its negative.
        """
        if probability <= 0:
            return math.inf
        if look == 0:
            return float(-special.ndtri(probability))
        target = math.log(probability)
        sign = 1.0 if upper else -1.0

        def miss(bound: float) -> float:
            tail = self.beyond(look, sign * bound, upper=upper)
            return (math.log(tail) if tail > 0 else -750.0) - target

        if miss(-_FAR) <= 0:
            # All paths that are left are to be stopped.
            return -math.inf
        if miss(_FAR) >= 0:
            return math.inf
        return float(optimize.brentq(miss, -_FAR, _FAR, xtol=1e-11))

    def _density(self, look: int, nodes: Floats) -> Floats:
        if look == 0:
            first: Floats = np.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi)
            return first
        stage = self._stages[look - 1]
        root = math.sqrt(self.information[look])
        width = math.sqrt(self.information[look] - self.information[look - 1])
        kernel = np.subtract.outer(nodes * (root / width), stage.nodes * (stage.root / width))
        np.square(kernel, out=kernel)
        kernel *= -0.5
        np.exp(kernel, out=kernel)
        # Not by BLAS, whose threads wait for one another on a busy machine over sums this small.
        found: Floats = np.einsum("ij,j->i", kernel, stage.mass) * (root / width / math.sqrt(2 * math.pi))
        return found


def _tilted(stage: _Stage, drift: float) -> Floats:
    """The masses under a drift: times the likelihood ratio exp(drift·√I·z - drift²·I / 2)."""
    if drift == 0:
        return stage.mass
    shift = drift * stage.root
    found: Floats = stage.mass * np.exp(shift * stage.nodes - 0.5 * shift**2)
    return found


def _grid(low: float, high: float, narrowest: float) -> tuple[Floats, Floats]:
    """Composite Gauss-Legendre nodes and weights; none where the region is empty."""
    if not low < high:
        return np.empty(0), np.empty(0)
    panels = max(2, math.ceil((high - low) / (_PANEL * narrowest)))
    if panels * len(_NODES) > _MOST_NODES:
        raise StatisticError(
            f"two looks are closer than can be computed, {narrowest**2:.1e} of the information apart: leave one out"
        )
    edges = np.linspace(low, high, panels + 1)
    half = (edges[1:] - edges[:-1]) / 2
    middle = (edges[1:] + edges[:-1]) / 2
    nodes = (middle[:, None] + half[:, None] * _NODES).ravel()
    weights = (half[:, None] * _WEIGHTS).ravel()
    return nodes, weights
