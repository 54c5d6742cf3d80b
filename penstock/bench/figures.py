"""What a benchmark's raw numbers come to: medians, spreads, whether they can be trusted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

# Rounds of a quiet machine differ by less than this share of their median.
WIDEST: Final = 0.25
FEWEST_ROUNDS: Final = 3
# Whoever asks waits so long for an answer.
GIVEN_UP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    @property
    def width(self) -> float:
        """Largest less smallest, as a share of the median; 0 for a single one."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def to_json(self, digits: int = 1) -> dict[str, float]:
        """Median, smallest and largest."""
        return {
            "median": round(self.median, digits),
            "min": round(min(self.values), digits),
            "max": round(max(self.values), digits),
        }

    def shown(self, digits: int = 0, unit: str = "") -> str:
        """`63,000 (61,000-65,000)/s`."""
        return f"{self.median:,.{digits}f}{unit} ({min(self.values):,.{digits}f}-{max(self.values):,.{digits}f})"


def doubts(**spreads: Spread) -> list[str]:
    """Why the figures of a run should not be trusted, in lines; none where they may be."""
    found = []
    rounds = min(len(one.values) for one in spreads.values())
    if rounds < FEWEST_ROUNDS:
        found.append(f"{rounds} round(s) cannot show how much they differ; at least {FEWEST_ROUNDS} are needed")
    for name, spread in spreads.items():
        if spread.width > WIDEST:
            what = name.replace("_", " ")
            found.append(f"{what}: rounds differ by {spread.width:.0%} of the median; the machine is too busy")
    return found


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of a run in milliseconds: of `count` that were answered, and of `lost` that were given up.

    What was not answered has the whole time that it would have been waited for: to lose a request improves no figure.
    """

    count: int
    p50: float
    p99: float
    worst: float
    lost: int = 0
    mean: float = float("nan")

    @classmethod
    def of(cls, seconds: Sequence[float], lost: int = 0) -> Latency:
        """From each answered request's seconds."""
        if not len(seconds) + lost:
            return cls(0, float("nan"), float("nan"), float("nan"), 0)
        own = np.append(np.asarray(seconds, np.float64), np.full(lost, GIVEN_UP_SECONDS)) * 1e3
        p50, p99 = (float(np.quantile(own, share)) for share in (0.5, 0.99))
        return cls(len(seconds), p50, p99, float(own.max()), lost, float(own.mean()))

    def to_json(self) -> dict[str, Any]:
        """Milliseconds by name."""
        return {
            "count": self.count,
            "lost": self.lost,
            "mean_ms": round(self.mean, 2),
            "p50_ms": round(self.p50, 2),
            "p99_ms": round(self.p99, 2),
            "max_ms": round(self.worst, 2),
        }


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Growth of the values a second, by least squares; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    x = np.asarray(seconds, np.float64)
    x = x - x.mean()
    y = np.asarray(values, np.float64)
    spread = float((x * x).sum())
    return float((x * (y - y.mean())).sum() / spread) if spread else 0.0
