"""What single days of the reference were like: how far from all of it, and how good the model was. Pure.

The rows of a day are not independent draws from the reference: they share its weather, its weekday, its campaign. So a
day is not held against chance alone but also against the worst day of the reference, and a day's performance against
the spread of the reference's days.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from analytics import drift_metrics as metrics
from analytics import performance_metrics as performance
from analytics.drift_axes import Axis, Counts, NumberAxis
from analytics.performance_metrics import ScoredOutcomes
from analytics.profiles import short
from analytics.results import UndefinedError

# Fewer days do not say what a bad one is; days with fewer rows are bad by chance.
LEAST_DAYS: Final = 7
LEAST_ROWS: Final = 50
FIGURES: Final = {
    "accuracy": performance.accuracy,
    "f1": performance.f1,
    "auc": performance.auc,
    "log_loss": performance.log_loss,
    "calibration": performance.calibration_error,
}


def worst_day(axis: Axis, days: Sequence[Counts]) -> dict[str, float]:
    """The largest PSI (and of a number KS) of a day against all days; nothing where there are too few.

    `days`: counts [bins] each. For the JSON of a profile.
    """
    total = np.sum(days, axis=0) if len(days) else np.zeros(axis.bins)
    some = [one for one in days if one.sum() >= LEAST_ROWS]
    if len(some) < LEAST_DAYS:
        return {}
    found = {"psi": short(max(metrics.population_stability(total, one) for one in some))}
    if isinstance(axis, NumberAxis):
        known = [one[: axis.ordered] for one in some if one[: axis.ordered].sum() >= LEAST_ROWS]
        if len(known) >= LEAST_DAYS:
            found["ks"] = short(max(metrics.kolmogorov_smirnov(total[: axis.ordered], one) for one in known))
    return found


def performance_document(some: ScoredOutcomes, days: Sequence[ScoredOutcomes] = ()) -> dict[str, Any]:
    """The performance of a profile's JSON: figures over all rows, and their mean and deviation over days."""
    found: dict[str, Any] = {"rows": some.rows, **_figures(some)}
    by_day = [_figures(one) for one in days if one.rows >= LEAST_ROWS]
    spread = {}
    for name in FIGURES:
        values = [one[name] for one in by_day if name in one]
        if len(values) >= LEAST_DAYS:
            spread[name] = [short(float(np.mean(values))), short(float(np.std(values, ddof=1))), len(values)]
    return {**found, "days": spread} if spread else found


def _figures(some: ScoredOutcomes) -> dict[str, float]:
    found = {}
    for name, figure in FIGURES.items():
        try:
            found[name] = short(figure(some).value)
        except UndefinedError:  # a day without both classes has no area under the curve
            continue
    return found
