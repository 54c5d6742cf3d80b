"""How the values of a feature are cut into bins: the same cut for the reference and for every window after it. Pure.

A number's bins are those of the reference's deciles, one below its least value and one above its greatest, so that a
value never seen is told from a rare one, and one for null. A category has a bin for each value of the reference, one
for values it never had, and one for null. Counts over an axis add up: rows of two windows, of two slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]

SCORE: Final = "@score"
NULL: Final = "null"
UNSEEN: Final = "unseen"


@dataclass(frozen=True, slots=True)
class NumberAxis:
    """Bins of a number: below `low`, then between the ascending `edges` (each the end of its bin, and in it), above
    `high`, null.

    `low` and `high` are the least and the greatest value of the reference, infinite where they are not known. Without
    them and without edges there was no value: every value is then above.
    """

    name: str
    low: float
    high: float
    edges: tuple[float, ...]

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return len(self.edges) + 4

    @property
    def ordered(self) -> int:
        """How many of them, from the first on, lie along the axis: all but null."""
        return self.bins - 1

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each bin, as an axis of a picture has it."""
        inner = [self.low, *self.edges, self.high]
        spans = [
            f"{_short(a)} to {_short(b)}" if math.isfinite(a) and math.isfinite(b) else _open(a, b)
            for a, b in pairwise(inner)
        ]
        return (f"below {_short(self.low)}", *spans, f"above {_short(self.high)}", NULL)

    def count(self, values: npt.NDArray[np.float64]) -> Counts:
        """Rows by bin; NaN is null."""
        known = values[~np.isnan(values)]
        inner = 1 + np.searchsorted(np.array(self.edges), known, "left")
        at = np.where(known < self.low, 0, np.where(known > self.high, self.bins - 2, inner))
        counts = np.bincount(at, minlength=self.bins).astype(np.float64)
        counts[-1] = len(values) - len(known)
        return counts


@dataclass(frozen=True, slots=True)
class CategoryAxis:
    """Bins of a category: one for each of `values`, then unseen, then null (the empty text)."""

    name: str
    values: tuple[str, ...]

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return len(self.values) + 2

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each bin."""
        return (*self.values, UNSEEN, NULL)

    def count(self, values: npt.NDArray[Any]) -> Counts:
        """Rows by bin."""
        place = {value: at for at, value in enumerate(self.values)}
        counts = np.zeros(self.bins)
        names, rows = np.unique(values.astype(str), return_counts=True)
        for name, times in zip(names.tolist(), rows.tolist(), strict=True):
            counts[place.get(name, len(self.values)) if name else -1] += times
        return counts


Axis = NumberAxis | CategoryAxis


def _short(value: float) -> str:
    return f"{value:.6g}"


def _open(a: float, b: float) -> str:
    if math.isfinite(b):
        return f"up to {_short(b)}"
    return f"from {_short(a)}" if math.isfinite(a) else "any value"
