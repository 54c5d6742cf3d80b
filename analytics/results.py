"""The one shape of an answer: what every test of an experiment returns, so that a report can show them all alike.

A question that has no answer (an empty arm, values that are all equal) gets a `Result` too: what could be known is in
it, what could not is None, and `reason` says why in one line. Wrong input is an error:

    StatisticError                     numbers that cannot be what they claim to be (also a ValueError)
    └── UndefinedError                 a quantity these data do not have; tests turn it into a `Result` with its reason
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, get_args

Alternative = Literal["two-sided", "greater", "less"]
Scale = Literal["absolute", "relative"]

_ALTERNATIVES: Final = get_args(Alternative)
_SCALES: Final = get_args(Scale)


class StatisticError(ValueError):
    """Input to a test that cannot be right, in one line."""


class UndefinedError(StatisticError):
    """What was asked has no value for these data."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence (or credible) interval, closed; an end of a one-sided one is infinite."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise StatisticError(f"an interval from {self.low} to {self.high} is none")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def width(self) -> float:
        """High less low."""
        return self.high - self.low

    def intersect(self, other: Interval) -> Interval | None:
        """What both hold, or None."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Interval(low, high) if low <= high else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer of one test.

    `method` names test and interval. `n`: units in each group, in the order they were given (control first).
    `values`: each group's own value (a mean, a share, a ratio), as adjusted by the method. `estimate`: treatment
    less control, in the metric's unit when `scale` is absolute, as a share of the control when it is relative
    (0.1 is +10%). `interval` is for the estimate at level 1 - `alpha`. `standard_error` is the estimate's (None where
    the interval does not come from one). `statistic` has `degrees` of freedom (infinite: the normal distribution).
    `reason`: why something is None; None where everything is there.
    """

    method: str
    n: tuple[int, ...]
    alpha: float
    alternative: Alternative = "two-sided"
    scale: Scale = "absolute"
    values: tuple[float, ...] | None = None
    estimate: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    statistic: float | None = None
    standard_error: float | None = None
    degrees: float = math.inf
    reason: str | None = None

    @property
    def defined(self) -> bool:
        """Whether there is a p-value to decide on."""
        return self.p_value is not None

    @property
    def significant(self) -> bool:
        """Whether the p-value is at most alpha; never, where there is none."""
        return self.p_value is not None and self.p_value <= self.alpha

    @property
    def information(self) -> float | None:
        """One over the estimate's variance: the clock of sequential tests."""
        return None if not self.standard_error else 1.0 / self.standard_error**2

    def with_p_value(self, p_value: float, method: str) -> Self:
        """The same with a p-value corrected for others asked beside it; `method` is appended to the name."""
        return replace(self, p_value=p_value, method=f"{self.method}, {method}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values; an infinite number is None, as JSON has none."""
        return {
            "method": self.method,
            "n": [int(one) for one in self.n],
            "alpha": self.alpha,
            "alternative": self.alternative,
            "scale": self.scale,
            "values": None if self.values is None else [_finite(one) for one in self.values],
            "estimate": _finite(self.estimate),
            "low": None if self.interval is None else _finite(self.interval.low),
            "high": None if self.interval is None else _finite(self.interval.high),
            "p_value": _finite(self.p_value),
            "statistic": _finite(self.statistic),
            "standard_error": _finite(self.standard_error),
            "degrees": _finite(self.degrees),
            "reason": self.reason,
        }


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def check_level(name: str, value: float) -> float:
    """A probability strictly between 0 and 1. Raises `StatisticError` naming it."""
    if not 0.0 < value < 1.0:
        raise StatisticError(f"{name} must lie between 0 and 1, not {value}")
    return value


def check_alternative(value: str) -> None:
    """Raises `StatisticError` unless it is one of `Alternative`."""
    if value not in _ALTERNATIVES:
        raise StatisticError(f"alternative must be one of {', '.join(_ALTERNATIVES)}, not {value!r}")


def check_scale(value: str) -> None:
    """Raises `StatisticError` unless it is one of `Scale`."""
    if value not in _SCALES:
        raise StatisticError(f"scale must be one of {', '.join(_SCALES)}, not {value!r}")


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Shares of arms as parts of one: `(1, 1)` becomes `(0.5, 0.5)`. Raises `StatisticError`."""
    if len(shares) < 2 or any(not (math.isfinite(one) and one > 0) for one in shares):
        raise StatisticError(f"at least two positive shares are needed, not {list(shares)}")
    total = math.fsum(shares)
    return tuple(one / total for one in shares)
