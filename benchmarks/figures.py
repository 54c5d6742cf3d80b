"""A simulated share beside the limit it is held to, with the error that simulating it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Bound = Literal["at most", "at least", "about"]


@dataclass(frozen=True, slots=True)
class Figure:
    """How often something happened in `runs` independent simulations; `limit` is what it should be.

    `about` figures are comparisons (what a naive method does) and are held to a fifth of the limit, so that a changed
    simulation is noticed.
    """

    name: str
    share: float
    runs: int
    bound: Bound
    limit: float

    @property
    def error(self) -> float:
        """The standard error of a share whose true value is the limit."""
        return math.sqrt(self.limit * (1 - self.limit) / self.runs)

    @property
    def holds(self) -> bool:
        """Within three standard errors of the limit's right side."""
        slack = 3 * self.error
        over = self.share - self.limit
        if self.bound == "about":
            return bool(abs(over) <= 0.2 * self.limit + slack)
        return bool(over <= slack if self.bound == "at most" else over >= -slack)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "share": round(float(self.share), 5),
            "bound": self.bound,
            "limit": self.limit,
            "simulation_error": round(self.error, 5),
            "runs": self.runs,
            "holds": self.holds,
        }

    def line(self) -> str:
        """For people."""
        mark = "ok  " if self.holds else "FAIL"
        limit = f"{self.bound} {self.limit:.2%} (± {self.error:.3%}, {self.runs:,} runs)"
        return f"{mark} {self.name:<78} {self.share:8.3%}  {limit}"
