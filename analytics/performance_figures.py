"""Says of a window's outcomes how good the model was, against its reference, and whether it has fallen. Pure.

A fall of `Limits.fall` (5%) or more of accuracy, F1 or the area under the curve, or a rise as large of log loss, gives
alarm if it also exceeds what so few outcomes may show without one: at a level shared by the figures, as for data. The
calibration error is a share, and its rise counts as it is. Where the reference knows its single days, a day is held
against their mean and spread, as a day is worth less by itself than as a part of many: what tells days apart tells
nothing within one. An estimate is looked into and gives no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from scipy import special

from analytics import performance_metrics as metrics
from analytics.drift_figures import DRIFT, OK, TOO_FEW, WATCH, Figure, Limits
from analytics.performance_metrics import Calibrator, Estimate, Floats, ScoredOutcomes
from analytics.profiles import Performance, Profile
from analytics.results import UndefinedError

CONCEPT: Final = "concept"
ESTIMATE: Final = "estimate"
_FIGURES: Final[dict[str, Callable[[ScoredOutcomes], Estimate]]] = {
    "accuracy": metrics.accuracy,
    "f1": metrics.f1,
    "auc": metrics.auc,
    "log_loss": metrics.log_loss,
    "calibration": metrics.calibration_error,
}
# Of these less is better.
COSTS: Final = ("log_loss", "calibration")
_95: Final = float(special.ndtri(0.95))


def concept(some: ScoredOutcomes, reference: Performance | None, limits: Limits, families: int = 1) -> list[Figure]:
    """Accuracy, F1, AUC, log loss and calibration error of the rows whose outcome is known, and the share positive.

    `reference` None: the figures without a verdict. `families`: slices that are looked at at once.
    """
    if not some.rows:
        return []
    quantile = float(special.ndtri(1 - limits.performance_error / len(_FIGURES) / families))
    found = [Figure(CONCEPT, "", "positive_share", some.positives / some.rows, some.rows)]
    for name, figure in _FIGURES.items():
        try:
            estimate = figure(some)
        except UndefinedError as error:
            found.append(Figure(CONCEPT, "", name, math.nan, some.rows, verdict=TOO_FEW, message=str(error)))
            continue
        spread = _spread(some, name, estimate, reference, quantile)
        found.append(_judge(CONCEPT, name, name, estimate, reference, spread, limits, quantile))
    return found


def estimates(counts: Floats, scores: Floats, profile: Profile, limits: Limits) -> list[Figure]:
    """Accuracy, F1 and AUC as the scores let expect them, from rows and sums of scores by bin; see CBPE there."""
    if not counts.sum():
        return []
    calibrator = Calibrator.of(profile.calibration) if profile.calibration else None
    expected = metrics.expected_performance(counts, scores, calibrator)
    quantile = float(special.ndtri(1 - limits.performance_error / 3))
    found = []
    for name, estimate in (("accuracy", expected.accuracy), ("f1", expected.f1), ("auc", expected.auc)):
        if estimate is not None:
            error = _error(estimate, profile.performance)
            spread = (_95 * error, quantile * error)
            judged = _judge(ESTIMATE, f"cbpe_{name}", name, estimate, profile.performance, spread, limits, quantile)
            found.append(judged)
    return found


def _spread(
    some: ScoredOutcomes, name: str, estimate: Estimate, reference: Performance | None, quantile: float
) -> tuple[float, float]:
    """How far the figure may lie from the reference without a change: at 95%, and at the shared level."""
    if name == "calibration":
        return metrics.calibration_quiet(some, _95), metrics.calibration_quiet(some, quantile)
    error = _error(estimate, reference)
    return _95 * error, quantile * error


def _error(estimate: Estimate, reference: Performance | None) -> float:
    """Of the difference: the reference's own is the same a row."""
    if reference is None or not reference.rows:
        return estimate.error
    return estimate.error * math.sqrt(1 + estimate.n / reference.rows)


def _judge(
    kind: str,
    metric: str,
    name: str,
    estimate: Estimate,
    reference: Performance | None,
    spread: tuple[float, float],
    limits: Limits,
    quantile: float,
) -> Figure:
    before = reference.figures.get(name) if reference is not None else None
    if reference is None or before is None:
        told = "the profile has no performance to hold it against"
        return Figure(kind, "", metric, estimate.value, estimate.n, message=told)
    if name in reference.days:
        before, deviation, count = reference.days[name]
        error = deviation * math.sqrt(1 + 1 / count)
        by_chance = name != "calibration"  # which is in the days' own figures
        spread = (
            max(spread[0] * by_chance, _95 * error),
            max(spread[1] * by_chance, quantile * error),
        )
    worse = 1.0 if name in COSTS else -1.0
    fall = limits.fall if name == "calibration" else limits.fall * before
    quiet, threshold = before + worse * spread[0], before + worse * max(fall, spread[1])
    change = worse * (estimate.value - before)
    verdict, message = OK, ""
    if estimate.n < limits.rows:
        verdict, message = TOO_FEW, f"{estimate.n:,} rows; from {limits.rows} on they are judged"
    elif change >= fall and change > spread[0]:
        alarm = change >= max(fall, spread[1]) and kind == CONCEPT
        verdict = DRIFT if alarm else WATCH
        message = f"{name} {estimate.value:.3f}, {before:.3f} in the reference; without a change up to {quiet:.3f}"
    return Figure(
        kind, "", metric, estimate.value, estimate.n, before, reference.rows, quiet, threshold, verdict, message
    )
