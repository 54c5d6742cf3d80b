"""Says of a window's histograms how far they are from the reference's, and whether that is drift. Pure.

Two figures may give alarm: the stability index (PSI) of any feature and of the score, and for numbers the
Kolmogorov-Smirnov distance (KS), which sees a moderate shift of the middle sooner. Each must exceed a size that matters
(`Limits`) and what it would reach without drift, and the second at a level that is shared by all figures looked at at
once: with `error` for a window and k of them, at 1 - error / k. So a window with nothing in it keeps quiet whether it
has 5 features or 500, 100 rows or a million. That is chance among independent rows; rows of a day are not, so where the
reference knows its own days a window must also be further from it than its worst day was. The other figures inform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from analytics import drift_metrics as metrics
from analytics.drift_axes import SCORE, CategoryAxis, Counts, NumberAxis
from analytics.profiles import Profile, Reference

OK: Final = "ok"
WATCH: Final = "watch"
DRIFT: Final = "drift"
TOO_FEW: Final = "too few"
DATA: Final = "data"
PREDICTION: Final = "prediction"
# A share of null or unseen values that grew by less is not worth a look, however sure it is.
_SHARE_GROWN: Final = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """What a figure must exceed: `psi` (and `psi_watch`), `ks`, `fall` (of performance, relative); `rows`: a window
    with fewer is not judged; `beyond_worst`: how many times as far off as the worst day of the reference a day must be;
    `error`: the chance that a window without drift gives alarm by data and prediction, `performance_error` the same by
    performance. The first is small because the index has a longer tail in a hundred rows than its approximation.
    """

    psi: float = 0.2
    psi_watch: float = 0.1
    ks: float = 0.15
    fall: float = 0.05
    rows: int = 50
    beyond_worst: float = 1.5
    error: float = 0.0005
    performance_error: float = 0.01


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of `drift_results`, but for the window and the slice; see migration 006 for the fields."""

    kind: str
    feature: str
    metric: str
    value: float
    n: int
    reference_value: float = math.nan
    reference_n: int = 0
    quiet_95: float = math.nan
    threshold: float = math.nan
    verdict: str = OK
    message: str = ""


def judged_together(references: Sequence[Reference]) -> int:
    """How many figures of these features can give alarm: PSI of each, KS of each number."""
    return sum(2 if isinstance(one.axis, NumberAxis) else 1 for one in references)


def whole(profile: Profile, counts: Mapping[str, Counts], limits: Limits) -> list[Figure]:
    """Every figure of all features and of the score that `counts` [bins] by name has, of all rows of a window."""
    references = [
        one for one in (*profile.features, *([profile.score] if profile.score else ())) if one.axis.name in counts
    ]
    together = judged_together(references)
    return [figure for one in references for figure in of_feature(one, counts[one.axis.name], together, limits)]


def references_of(profile: Profile, by: str, value: str) -> list[Reference]:
    """What a slice is held against: its own reference where the profile has one.

    A slice of a cut that the profile does not have at all (a variant, which chance decides) is held against the whole.
    One that is new in a cut that it has (a carrier that was not there) is held against nothing: what it brings is seen
    in the whole.
    """
    everything = [*profile.features, *([profile.score] if profile.score else ())]
    own = profile.slices.get((by, value))
    if own is None:
        return [] if by in profile.sliced_by else everything
    return [
        Reference(
            one.axis,
            own.counts[one.axis.name],
            one.mean,
            one.deviation,
            *own.worst.get(one.axis.name, (math.nan, math.nan)),
        )
        for one in everything
        if one.axis.name in own.counts
    ]


def part(references: Sequence[Reference], counts: Mapping[str, Counts], slices: int, limits: Limits) -> list[Figure]:
    """The figures that can give alarm, of one of `slices` slices. Too few rows: one figure that says so."""
    rows = max((int(counts[one.axis.name].sum()) for one in references), default=0)
    if rows < limits.rows:
        few = Figure(PREDICTION, SCORE, "psi", math.nan, rows, verdict=TOO_FEW, message=_few(rows, limits))
        return [few] if references else []
    together = judged_together(references) * slices
    return [
        figure for one in references for figure in of_feature(one, counts[one.axis.name], together, limits, brief=True)
    ]


def of_feature(
    reference: Reference, current: Counts, together: int, limits: Limits, *, brief: bool = False
) -> list[Figure]:
    """The figures of one feature; `brief`: only those that can give alarm."""
    axis, before = reference.axis, reference.array
    kind = PREDICTION if axis.name == SCORE else DATA
    found = [_stability(kind, reference, current, together, limits)]
    number = isinstance(axis, NumberAxis)
    if number:
        found.append(_smirnov(kind, reference, current, together, limits))
    if brief:
        return found
    n, m = float(current.sum()), float(before.sum())
    if n and m:
        found += _further(kind, reference, current)
        found.append(_share(kind, axis.name, "null_share", before[-1], current[-1], m, n, limits))
        if isinstance(axis, CategoryAxis):
            found.append(_share(kind, axis.name, "unseen_share", before[-2], current[-2], m, n, limits))
    return found


def answers(profile: Profile, counts: Counts, scores: Counts) -> list[Figure]:
    """What a model answers, where nobody knows yet whether it was right: the mean score, the share of positive calls
    and the mean confidence max(p, 1 - p), from rows and sums of scores by bin (see `analytics.performance_metrics`).
    """
    n = int(counts.sum())
    if not n or profile.score is None:
        return []
    half = len(counts) // 2
    found = {
        "mean_score": float(scores.sum()) / n,
        "positive_share": float(counts[half:].sum()) / n,
        "confidence": (float(scores[half:].sum()) + float((counts - scores)[:half].sum())) / n,
    }
    m = profile.rows
    quiet = dict.fromkeys(found, math.nan)
    before = {name: profile.answers.get(name, math.nan) for name in found}
    if m and math.isfinite(before["positive_share"]):
        quiet["positive_share"] = metrics.share_quiet(before["positive_share"], n, m)
    if m and math.isfinite(profile.score.deviation):
        error = profile.score.deviation * math.sqrt(1 / n + 1 / m)
        quiet["mean_score"] = before["mean_score"] + float(special.ndtri(0.95)) * error
    return [Figure(PREDICTION, SCORE, name, value, n, before[name], m, quiet[name]) for name, value in found.items()]


def _stability(kind: str, reference: Reference, current: Counts, together: int, limits: Limits) -> Figure:
    before, name = reference.array, reference.axis.name
    n, m = float(current.sum()), float(before.sum())
    if not n or not m:
        return _nothing(kind, name, "psi", n, m)
    value = metrics.population_stability(before, current)
    bins = metrics.used_bins(before, current)
    quiet = metrics.population_stability_quiet(n, m, bins)
    chance = metrics.population_stability_quiet(n, m, bins, 1 - limits.error / together)
    threshold = max(limits.psi, chance, _worst_day(reference.worst_psi, limits))
    verdict, message = OK, ""
    if n < limits.rows:
        verdict, message = TOO_FEW, _few(n, limits)
    elif value > threshold:
        verdict = DRIFT
    elif value > max(limits.psi_watch, quiet, _worst_day(reference.worst_psi, limits) / limits.beyond_worst):
        verdict = WATCH
    if verdict in (DRIFT, WATCH):
        message = f"PSI {value:.3f}, without drift below {quiet:.3f}: {_most(reference, current)}"
    return Figure(kind, name, "psi", value, int(n), 0.0, int(m), quiet, threshold, verdict, message)


def _smirnov(kind: str, reference: Reference, current: Counts, together: int, limits: Limits) -> Figure:
    assert isinstance(reference.axis, NumberAxis)  # noqa: S101 - who calls has asked
    name = reference.axis.name
    before, now = reference.array[: reference.axis.ordered], current[: reference.axis.ordered]
    n, m = float(now.sum()), float(before.sum())
    if not n or not m:
        return _nothing(kind, name, "ks", n, m)
    value = metrics.kolmogorov_smirnov(before, now)
    quiet = metrics.kolmogorov_smirnov_quiet(n, m)
    chance = metrics.kolmogorov_smirnov_quiet(n, m, 1 - limits.error / together)
    threshold = max(limits.ks, chance, _worst_day(reference.worst_ks, limits))
    verdict, message = OK, ""
    if n < limits.rows:
        verdict, message = TOO_FEW, _few(n, limits)
    elif value > threshold:
        verdict = DRIFT
        message = f"KS {value:.3f}, without drift below {quiet:.3f}: {_most(reference, current)}"
    return Figure(kind, name, "ks", value, int(n), 0.0, int(m), quiet, threshold, verdict, message)


def _further(kind: str, reference: Reference, current: Counts) -> Iterator[Figure]:
    axis, before = reference.axis, reference.array
    n, m = float(current.sum()), float(before.sum())
    bins = metrics.used_bins(before, current)
    distance = metrics.jensen_shannon(before, current)
    quiet = metrics.jensen_shannon_quiet(n, m, bins)
    yield Figure(kind, axis.name, "js", distance, int(n), 0.0, int(m), quiet)
    chi = metrics.chi_square(before, current)
    told = f"p = {chi.p_value:.2g} with {chi.degrees} degrees of freedom"
    yield Figure(kind, axis.name, "chi2", chi.statistic, int(n), 0.0, int(m), chi.quiet(), message=told)
    if isinstance(axis, NumberAxis):
        yield _moved(kind, reference, axis, current)


def _moved(kind: str, reference: Reference, axis: NumberAxis, current: Counts) -> Figure:
    before, now = reference.array[: axis.ordered], current[: axis.ordered]
    n, m = float(now.sum()), float(before.sum())
    if not n or not m:
        return _nothing(kind, axis.name, "wasserstein", n, m)
    if not reference.deviation > 0:
        told = "the reference does not vary: there is no standard deviation to measure by"
        return Figure(kind, axis.name, "wasserstein", math.nan, int(n), reference_n=int(m), message=told)
    ends = np.array([axis.low, *axis.edges, axis.high])
    if not math.isfinite(axis.low):  # without a range the outer bins have no width
        ends = np.array(axis.edges)
        before, now = _closed(before), _closed(now)
    if len(ends) < 1:
        return Figure(kind, axis.name, "wasserstein", math.nan, int(n), reference_n=int(m), message="there is one bin")
    distance = metrics.wasserstein(ends, before, now) / reference.deviation
    return Figure(kind, axis.name, "wasserstein", distance, int(n), 0.0, int(m))


def _closed(counts: Counts) -> Counts:
    return np.array([counts[0] + counts[1], *counts[2:-2], counts[-2] + counts[-1]])


def _share(kind: str, name: str, metric: str, before: float, now: float, m: float, n: float, limits: Limits) -> Figure:
    share, reference = now / n, before / m
    quiet = metrics.share_quiet(reference, n, m)
    verdict, message = OK, ""
    if n < limits.rows:
        verdict, message = TOO_FEW, _few(n, limits)
    elif share > max(quiet, reference + _SHARE_GROWN):
        verdict, message = WATCH, f"{share:.1%} of the rows, {reference:.1%} in the reference"
    return Figure(kind, name, metric, share, int(n), reference, int(m), quiet, verdict=verdict, message=message)


def _worst_day(worst: float, limits: Limits) -> float:
    return 0.0 if math.isnan(worst) else worst * limits.beyond_worst


def _nothing(kind: str, name: str, metric: str, n: float, m: float) -> Figure:
    told = "the reference has no value of it" if n else "the window has no value of it"
    return Figure(kind, name, metric, math.nan, int(n), reference_n=int(m), verdict=TOO_FEW, message=told)


def _few(n: float, limits: Limits) -> str:
    return f"{n:,.0f} rows; from {limits.rows} on they are judged"


def _most(reference: Reference, current: Counts) -> str:
    """The bin that tells most, in words."""
    before, n, m = reference.array, float(current.sum()), float(reference.array.sum())
    p = np.maximum(before, metrics.FLOOR_ROWS) / m
    q = np.maximum(current, metrics.FLOOR_ROWS) / n
    at = int(np.argmax((q - p) * np.log(q / p)))
    label = reference.axis.labels[at]
    return f"{label} {current[at] / n:.1%}, in the reference {before[at] / m:.1%}"
