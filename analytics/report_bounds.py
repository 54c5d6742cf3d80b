"""The bounds of looks still to come, so that a report shows where the statistic has to get to. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from analytics.definitions import Procedure
from analytics.readings import PastLook
from analytics.results import StatisticError
from analytics.sequential import SequentialPlan, bounds
from analytics.spending import Spending

# Bounds take time in proportion to the looks, and a curve of so many needs no continuation.
_MOST_LOOKS: Final = 100
_SAME: Final = 0.01


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the test ends at a share of the planned information: at `lower` or below, at `upper` or above."""

    fraction: float
    lower: float
    upper: float


def spending_of(test: Procedure) -> Spending:
    """A procedure's spending function."""
    return Spending(test.spending, test.spending_parameter)


def one_sided(looks: Sequence[PastLook]) -> bool:
    """Whether these looks have an upper bound only."""
    return bool(looks) and all(one.lower is None or math.isinf(one.lower) for one in looks)


def bounds_ahead(test: Procedure, looks: Sequence[PastLook]) -> tuple[Bound, ...]:
    """Bounds at the looks that the plan still has, equally spaced up to the planned information.

    None where the test is of another kind or at its end, and where the bounds so far are not those of the plan's own
    alpha (a correction for several arms may lie in them): then what is ahead is not known here either.
    """
    fractions = [one.fraction for one in looks if one.fraction is not None and one.fraction > 0]
    if test.kind != "group-sequential" or len(fractions) != len(looks) or len(looks) > _MOST_LOOKS:
        return ()
    start = fractions[-1] if fractions else 0.0
    if start >= 1:
        return ()
    left = max(1, test.looks - len(looks))
    to_come = [start + (1.0 - start) * number / left for number in range(1, left + 1)]
    plan = SequentialPlan(spending_of(test), test.alpha, "greater" if one_sided(looks) else "two-sided")
    try:
        found = bounds(plan, [*fractions, *to_come])
    except StatisticError:  # looks without growing information: a job leaves them out, a report cannot know why
        return ()
    for past, upper in zip(looks, found.upper, strict=False):
        if past.upper is not None and math.isfinite(past.upper) and abs(past.upper - upper) > _SAME * upper:
            return ()
    at = len(fractions)
    return tuple(Bound(*one) for one in zip(found.fractions[at:], found.lower[at:], found.upper[at:], strict=True))
