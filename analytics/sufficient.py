"""What a test needs to know of an arm, as sums that ClickHouse returns and that add up: `monday + tuesday == both`.

A unit (user, aircraft) is what was randomised: every statistic here counts units and sums over units, one value a
unit. Event-level sums go into a `Ratio`, one numerator and one denominator a unit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from analytics.results import StatisticError, UndefinedError


def _check(what: str, n: int, *sums: float) -> None:
    if isinstance(n, bool) or n != int(n) or n < 0:
        raise StatisticError(f"{what}: n is a count of units, not {n}")
    for one in sums:
        if not math.isfinite(one):
            raise StatisticError(f"{what}: every sum must be a finite number, not {one}")
    if n == 0 and any(sums):
        raise StatisticError(f"{what}: no units, but sums of {sums}")


def _centred(n: int, left: float, right: float, product: float, size: float) -> float:
    """The sample covariance (n - 1) from sums; 0 where it is smaller than the rounding error of such sums.

    `size`: sum of the products' absolute values (or a bound of it). Adding n numbers one by one may be wrong by
    n·eps of it, so a smaller remainder is noise: values that are all 0.1 have variance 0, not 1e-18.
    """
    centred = product - left / n * right
    return 0.0 if abs(centred) <= n * sys.float_info.epsilon * size else centred / (n - 1)


@dataclass(frozen=True, slots=True)
class Proportion:
    """Units and how many of them did it."""

    n: int
    successes: int

    def __post_init__(self) -> None:
        _check("proportion", self.n, self.successes)
        if self.successes != int(self.successes) or not 0 <= self.successes <= self.n:
            raise StatisticError(f"proportion: {self.successes} successes of {self.n} units is impossible")

    def __add__(self, other: Self) -> Proportion:
        return Proportion(self.n + other.n, self.successes + other.successes)

    @property
    def value(self) -> float:
        """The share. Raises `UndefinedError` without units."""
        if self.n == 0:
            raise UndefinedError("an arm has no units")
        return self.successes / self.n

    @property
    def variance(self) -> float:
        """Of one unit: p(1 - p). Raises `UndefinedError` without units."""
        return self.value * (1.0 - self.value)


@dataclass(frozen=True, slots=True)
class Mean:
    """Units, the sum of their values and the sum of the values' squares."""

    n: int
    total: float
    squares: float

    def __post_init__(self) -> None:
        _check("mean", self.n, self.total, self.squares)
        limit = self.n * self.squares
        # A power that is too large raises OverflowError; a product is infinite.
        if self.squares < 0 or self.total * self.total > limit * (1 + 1e-9 + self.n * sys.float_info.epsilon):
            raise StatisticError(
                f"mean: {self.n} values cannot have the sum {self.total} and the sum of squares {self.squares}"
            )

    def __add__(self, other: Self) -> Mean:
        return Mean(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def value(self) -> float:
        """The mean. Raises `UndefinedError` without units."""
        if self.n == 0:
            raise UndefinedError("an arm has no units")
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Of one unit, with n - 1 below. Raises `UndefinedError` with less than two units."""
        if self.n < 2:
            raise UndefinedError(f"an arm has {'one unit' if self.n else 'no units'}, and one has no variance")
        return max(0.0, _centred(self.n, self.total, self.total, self.squares, self.squares))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Sum over units of a numerator by the sum of a denominator (clicks by views, errors by requests).

     Its variance is the delta method's (Deng, Knoblich, Lu 2018, "Applying the Delta Method in Metric Analytics",
    ): the randomised units are independent, the events within one are not.
    """

    n: int
    numerator: float
    denominator: float
    numerator_squares: float
    denominator_squares: float
    cross: float

    def __post_init__(self) -> None:
        _check("ratio", self.n, self.numerator, self.denominator, self.cross)
        Mean(self.n, self.numerator, self.numerator_squares)
        Mean(self.n, self.denominator, self.denominator_squares)
        limit = self.numerator_squares * self.denominator_squares
        if self.cross * self.cross > limit * (1 + 1e-9 + self.n * sys.float_info.epsilon):
            raise StatisticError(f"ratio: the cross product {self.cross} is larger than the squares allow")

    def __add__(self, other: Self) -> Ratio:
        return Ratio(
            self.n + other.n,
            self.numerator + other.numerator,
            self.denominator + other.denominator,
            self.numerator_squares + other.numerator_squares,
            self.denominator_squares + other.denominator_squares,
            self.cross + other.cross,
        )

    @property
    def value(self) -> float:
        """Sum by sum. Raises `UndefinedError` without units or where the denominator adds up to 0."""
        if self.n == 0:
            raise UndefinedError("an arm has no units")
        if self.denominator == 0:
            raise UndefinedError("an arm's denominator adds up to 0")
        return self.numerator / self.denominator

    def residual_variance(self, ratio: float) -> float:
        """Of one unit's numerator - ratio · denominator, with n - 1 below. Raises as `Mean.variance`."""
        if self.n < 2:
            raise UndefinedError(f"an arm has {'one unit' if self.n else 'no units'}, and one has no variance")
        total = self.numerator - ratio * self.denominator
        squares = self.numerator_squares - 2 * ratio * self.cross + ratio**2 * self.denominator_squares
        size = self.numerator_squares + ratio**2 * self.denominator_squares
        return max(0.0, _centred(self.n, total, total, squares, size))

    @property
    def variance(self) -> float:
        """Of one unit's share in the ratio: residual variance by the squared mean of the denominator."""
        return self.residual_variance(self.value) / (self.denominator / self.n) ** 2


@dataclass(frozen=True, slots=True)
class Covaried:
    """A mean together with a covariate from before the exposure, for CUPED; `cross` sums outcome · covariate.

    A unit that was not seen before counts with the covariate 0 (or any constant), never with what came after.
    """

    outcome: Mean
    covariate: Mean
    cross: float

    def __post_init__(self) -> None:
        _check("covariate", self.outcome.n, self.cross)
        if self.outcome.n != self.covariate.n:
            raise StatisticError(f"covariate: {self.covariate.n} units, but {self.outcome.n} outcomes")
        limit = self.outcome.squares * self.covariate.squares
        if self.cross * self.cross > limit * (1 + 1e-9 + self.n * sys.float_info.epsilon):
            raise StatisticError(f"covariate: the cross product {self.cross} is larger than the squares allow")

    def __add__(self, other: Self) -> Covaried:
        return Covaried(self.outcome + other.outcome, self.covariate + other.covariate, self.cross + other.cross)

    @property
    def n(self) -> int:
        """Units."""
        return self.outcome.n

    @property
    def value(self) -> float:
        """The outcome's mean, before any adjustment."""
        return self.outcome.value

    @property
    def covariance(self) -> float:
        """Of outcome and covariate, with n - 1 below. Raises `UndefinedError` with less than two units."""
        if self.n < 2:
            raise UndefinedError(f"an arm has {'one unit' if self.n else 'no units'}, and one has no variance")
        size = math.sqrt(self.outcome.squares * self.covariate.squares)
        return _centred(self.n, self.outcome.total, self.covariate.total, self.cross, size)

    def adjusted_variance(self, theta: float) -> float:
        """Of one unit's outcome - theta · covariate."""
        total = self.outcome.total - theta * self.covariate.total
        squares = self.outcome.squares - 2 * theta * self.cross + theta**2 * self.covariate.squares
        if self.n < 2:
            raise UndefinedError(f"an arm has {'one unit' if self.n else 'no units'}, and one has no variance")
        size = self.outcome.squares + theta**2 * self.covariate.squares
        return max(0.0, _centred(self.n, total, total, squares, size))


@dataclass(frozen=True, slots=True)
class CovariedRatio:
    """A ratio together with the same from before the exposure, for CUPED; a unit's y by x, and its c by d before.

    `yc`, `yd`, `xc`, `xd`: sums of products over units. A unit that was not seen before counts with c and d of 0.
    """

    outcome: Ratio
    covariate: Ratio
    yc: float
    yd: float
    xc: float
    xd: float

    def __post_init__(self) -> None:
        _check("covariate", self.outcome.n, self.yc, self.yd, self.xc, self.xd)
        if self.outcome.n != self.covariate.n:
            raise StatisticError(f"covariate: {self.covariate.n} units, but {self.outcome.n} outcomes")

    def __add__(self, other: Self) -> CovariedRatio:
        return CovariedRatio(
            self.outcome + other.outcome,
            self.covariate + other.covariate,
            self.yc + other.yc,
            self.yd + other.yd,
            self.xc + other.xc,
            self.xd + other.xd,
        )

    @property
    def n(self) -> int:
        """Units."""
        return self.outcome.n

    @property
    def value(self) -> float:
        """The ratio, before any adjustment."""
        return self.outcome.value

    def linear(self) -> Covaried:
        """Both ratios as means over units of R + (y - R·x) / mean x, which vary as the delta method says they do.

        To first order a ratio moves as this mean does, so that CUPED of the means is CUPED of the ratios (Deng, Xu,
        Kohavi, Walker 2013, appendix B). Raises `UndefinedError` as `Ratio.value` and `Mean.variance` do.
        """
        ratio, earlier = self.outcome.value, self.covariate.value
        cross = self.yc - earlier * self.yd - ratio * self.xc + ratio * earlier * self.xd
        scale = (self.outcome.denominator / self.n) * (self.covariate.denominator / self.n)
        return Covaried(
            self._linear(self.outcome), self._linear(self.covariate), self.n * ratio * earlier + cross / scale
        )

    @staticmethod
    def _linear(one: Ratio) -> Mean:
        total = one.n * one.value
        return Mean(one.n, total, one.value * total + (one.n - 1) * one.variance)


@dataclass(frozen=True, slots=True)
class Strata:
    """An arm cut by something known before the exposure (country, carrier): name of the stratum and its statistic."""

    parts: tuple[tuple[str, Proportion | Mean | Ratio], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parts]
        if len(set(names)) != len(names):
            raise StatisticError(f"strata: a name occurs twice in {names}")
        if len({type(part) for _, part in self.parts}) > 1:
            raise StatisticError("strata: all must be statistics of one kind")

    @classmethod
    def of(cls, parts: Mapping[str, Proportion | Mean | Ratio]) -> Strata:
        """From a mapping; the order of names does not matter."""
        return cls(tuple(sorted(parts.items())))

    def __add__(self, other: Self) -> Strata:
        merged = dict(self.parts)
        for name, part in other.parts:
            mine = merged.get(name)
            if mine is None:
                merged[name] = part
            elif type(mine) is type(part):
                merged[name] = mine + part  # type: ignore[operator] # of one type, as the line above asks
            else:
                raise StatisticError(f"strata: {name} is a {type(mine).__name__} here, a {type(part).__name__} there")
        return Strata.of(merged)

    @property
    def n(self) -> int:
        """Units in all strata."""
        return sum(part.n for _, part in self.parts)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile and the order statistics around it. It does not add up: ask for the values at `quantile_ranks`.

    `n` units (or events: see `design_effect`), `level` in (0, 1), `value` the quantile, `low` and `high` the values at
    the ranks, `quantile` the normal quantile the ranks were made with.
    """

    n: int
    level: float
    value: float
    low: float
    high: float
    quantile: float = 1.959963984540054

    def __post_init__(self) -> None:
        _check("quantile", self.n)
        if not 0 < self.level < 1:
            raise StatisticError(f"quantile: the level must lie between 0 and 1, not {self.level}")
        if self.n and not self.low <= self.value <= self.high:
            raise StatisticError(f"quantile: {self.value} must lie from {self.low} to {self.high}")

    @property
    def variance(self) -> float:
        """n times the estimate's variance, as if of one unit: ((high - low) / 2z)² · n.

        The order statistics' interval is turned into a standard error, which needs no estimate of the density
        (Deng, Knoblich, Lu 2018). Raises `UndefinedError` without units.
        """
        if self.n == 0:
            raise UndefinedError("an arm has no units")
        return self.n * ((self.high - self.low) / (2.0 * self.quantile)) ** 2


def quantile_ranks(
    n: int, level: float, design_effect: float = 1.0, quantile: float = 1.959963984540054
) -> tuple[int, int]:
    """The ranks (from 1) whose values bound the quantile: n·level ± z·√(deff·n·level·(1 - level)), within 1 and n.

    Raises `UndefinedError` where so few units cannot bound that quantile.
    """
    half = quantile * math.sqrt(design_effect * n * level * (1.0 - level))
    low, high = math.floor(n * level - half), math.ceil(n * level + half) + 1
    if n == 0 or low < 1 or high > n:
        raise UndefinedError(f"{n} values are too few to bound their quantile {level:g}")
    return low, high


def design_effect(below: Ratio, level: float) -> float:
    """How much more an event-level quantile varies because a unit's events go together.

    `below`: a unit's events at or below the quantile over its events. Its delta-method variance by that of as many
    independent events (Deng, Knoblich, Lu 2018).
    """
    return below.variance / below.n / (level * (1.0 - level) / below.denominator)
