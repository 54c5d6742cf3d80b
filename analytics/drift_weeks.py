"""Four weeks that end with a day: what is slow shows there, as a day varies more than the mean of many. Pure.

Nothing is counted again for it. Histograms of days add up to that of four weeks; it is held against the limits and
chance, and not against the reference's worst day. A figure of performance is the mean of its days, held against the
mean of the reference's days: days of one model are compared with days, and what tells days apart is in neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from scipy import special

from analytics import drift_figures
from analytics.drift_axes import Counts
from analytics.drift_figures import DRIFT, OK, WATCH, Figure, Limits
from analytics.performance_figures import CONCEPT, COSTS
from analytics.profiles import Profile, Reference

LENGTH: Final = timedelta(days=28)
# Of the 28 days so many must have rows.
LEAST_DAYS: Final = 21
# Days that follow one another are alike: their mean varies as that of half as many that were independent.
_ALIKE: Final = 2.0
_95: Final = float(special.ndtri(0.95))


@dataclass(frozen=True, slots=True)
class DayFigure:
    """A figure of performance of one day."""

    start: datetime
    metric: str
    value: float
    n: int


def histograms(
    profile: Profile, by_day: Mapping[datetime, Mapping[str, Counts]], last: datetime, limits: Limits
) -> tuple[list[Figure], dict[str, Counts]]:
    """Data and prediction over the four weeks that end with the day `last`; nothing where too few days have rows."""
    days = _days(by_day, last)
    if len(days) < LEAST_DAYS:
        return [], {}
    total: dict[str, Counts] = {}
    for day in days:
        for name, counts in by_day[day].items():
            total[name] = total.get(name, np.zeros(len(counts))) + counts
    bare = replace(
        profile,
        features=tuple(_of_many_days(one) for one in profile.features),
        score=None if profile.score is None else _of_many_days(profile.score),
    )
    return drift_figures.whole(bare, total, limits), total


def performance(profile: Profile, figures: Sequence[DayFigure], last: datetime, limits: Limits) -> Iterator[Figure]:
    """Each figure of joined outcomes as the mean over the days of the four weeks that end with `last`."""
    known = profile.performance
    for name, (before, deviation, count) in (known.days if known is not None else {}).items():
        some = {one.start: one for one in figures if one.metric == name and math.isfinite(one.value)}
        days = _days(some, last)
        if len(days) < LEAST_DAYS:
            continue
        value = sum(some[day].value for day in days) / len(days)
        error = deviation * math.sqrt(_ALIKE * (1 / len(days) + 1 / count))
        worse = 1.0 if name in COSTS else -1.0
        fall = limits.fall if name == "calibration" else limits.fall * before
        quantile = float(special.ndtri(1 - limits.performance_error / len(known.days if known else ())))
        quiet, threshold = before + worse * _95 * error, before + worse * max(fall, quantile * error)
        change = worse * (value - before)
        verdict, message = OK, ""
        if change >= fall and change > _95 * error:
            verdict = DRIFT if change >= max(fall, quantile * error) else WATCH
            message = f"{name} {value:.3f} in the mean of {len(days)} days, {before:.3f} in the reference's days"
        n, m = sum(some[day].n for day in days), known.rows if known is not None else 0
        yield Figure(CONCEPT, "", name, value, n, before, m, quiet, threshold, verdict, message)


def _days(by_day: Mapping[datetime, object], last: datetime) -> list[datetime]:
    return [day for day in by_day if last - LENGTH < day <= last]


def _of_many_days(reference: Reference) -> Reference:
    return replace(reference, worst_psi=math.nan, worst_ks=math.nan)
