"""Makes a reference profile of a window of logged predictions, for a model that came with none, or has settled since.

Edges lie at the window's deciles; where neighbouring ones coincide they are one. ClickHouse estimates deciles
(t-digest) and counts exactly by them, so that a bin's share is what it is, if not always a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np

from analytics import drift_sql as sql
from analytics.drift_axes import SCORE, Axis, CategoryAxis, Counts, NumberAxis
from analytics.drift_store import WHOLE, DriftStore, Slice
from analytics.performance_metrics import BINS, CALIBRATION_BINS, ScoredOutcomes
from analytics.profiles import (
    Label,
    Profile,
    ProfileError,
    Reference,
    category_document,
    number_document,
    outward,
    short,
)
from analytics.reference_days import performance_document, worst_day
from analytics.warehouse import Warehouse

# More values of a category than this are told apart from unseen ones by nobody.
MOST_VALUES: Final = 200
SLICE_ROWS: Final = 1000
_WIDE_BINS: Final = 20


def profile_of_window(
    warehouse: Warehouse,
    model: str,
    version: str,
    begin: datetime,
    end: datetime,
    *,
    label: Label | None = None,
    sliced_by: Sequence[str] = (),
) -> dict[str, Any]:
    """The profile's JSON (see `analytics.profiles`) of a version's scored rows between two times (UTC days).

    `label`: its outcome is joined, for performance and calibration; `sliced_by`: categories whose values get their own
    reference, those with `SLICE_ROWS` or more. Raises `ProfileError` where nothing was scored then, `WarehouseError`.
    """
    store = DriftStore(warehouse)
    places = {"model": model, "version": version, "begin": begin, "end": end}
    numbers, categories = warehouse.query(sql.NAMES, places).rows[0]
    wrong = sorted(set(sliced_by) - set(categories))
    if wrong:
        raise ProfileError(f"{model} {version} has no category {wrong[0]!r}; it has {', '.join(categories) or 'none'}")
    axes, moments = _axes(warehouse, numbers, categories, places, f"{model} {version}")
    bare = Profile(model, version, 1, tuple(Reference(one, ()) for one in axes if one.name != SCORE), label=label)
    score = next((one for one in axes if one.name == SCORE), None)
    profile = bare if score is None else _with_score(bare, Reference(score, ()))
    days = store.counts(profile, sliced_by, "day", begin, end)
    if not days:
        raise ProfileError(f"{model} {version} scored nothing from {begin:%Y-%m-%d} to {end:%Y-%m-%d}")
    outcomes = store.outcomes(profile, sliced_by, begin, end) if label is not None and score is not None else {}
    wide = store.scores(profile, "day", begin, end) if score is not None else {}
    body = _document(axes, moments, [one.get(WHOLE, {}) for one in days.values()])
    body |= {"from": f"{begin:%Y-%m-%d}", "to": f"{end:%Y-%m-%d}"}
    if score is not None:
        body["score"] |= _answers(wide.values())
    known = [one[WHOLE] for one in outcomes.values() if WHOLE in one]
    if label is not None and known:
        together = _sum(known)
        rate = short(together.positives / together.rows)
        delay = label.delay.total_seconds() / 3600
        body["label"] = {"name": label.outcome, "outcome": label.outcome, "rate": rate, "delay_hours": delay}
        body["performance"] = performance_document(together, known)
        body["calibration"] = _calibration(together)
    body["slices"] = _slices(axes, days.values(), outcomes.values())
    return body


def _with_score(profile: Profile, score: Reference) -> Profile:
    return Profile(profile.model, profile.version, profile.rows, profile.features, score, profile.label)


def _axes(
    warehouse: Warehouse, numbers: Sequence[str], categories: Sequence[str], places: Mapping[str, Any], name: str
) -> tuple[list[Axis], dict[str, tuple[float, float]]]:
    """The axes of the window, and mean and deviation of its numbers."""
    axes: list[Axis] = []
    moments: dict[str, tuple[float, float]] = {}
    if categories:
        found = warehouse.query(sql.describe_categories(categories, MOST_VALUES), places).rows[0]
        axes += [CategoryAxis(one, tuple(values)) for one, values in zip(categories, found, strict=True)]
    wanted = [*numbers, SCORE]
    rows, *described = warehouse.query(sql.describe_numbers(wanted), places).rows[0]
    if not rows:
        raise ProfileError(f"{name} scored nothing in this time")
    for one, (deciles, low, high, mean, deviation, known) in zip(wanted, described, strict=True):
        if not known:
            if one != SCORE:
                axes.append(NumberAxis(one, -math.inf, -math.inf, ()))
                moments[one] = (math.nan, math.nan)
            continue
        low, high = outward(low, high)
        edges = sorted({short(edge) for edge in deciles if low <= short(edge) < high})
        axes.append(NumberAxis(one, low, high, tuple(edges)))
        moments[one] = (float(mean), float(deviation))
    return axes, moments


def _document(
    axes: Sequence[Axis], moments: Mapping[str, tuple[float, float]], days: Sequence[Mapping[str, Counts]]
) -> dict[str, Any]:
    features: dict[str, Any] = {}
    rows = 0.0
    for axis in axes:
        by_day = [one[axis.name] for one in days if axis.name in one]
        counts = np.sum(by_day, axis=0).tolist() if by_day else [0.0] * axis.bins
        rows = max(rows, sum(counts))
        document = (
            number_document(axis, counts, *moments[axis.name])
            if isinstance(axis, NumberAxis)
            else category_document(axis, counts)
        )
        features[axis.name] = {**document, "worst_day": worst_day(axis, by_day)}
    score = features.pop(SCORE, None)
    return {"rows": int(rows), "features": features, **({"score": score} if score is not None else {})}


def _answers(days: Any) -> dict[str, Any]:
    """What the score's part tells besides: rows in 20 equal bins over [0, 1], share of positive calls, confidence."""
    counts, scores = np.zeros(BINS), np.zeros(BINS)
    for some, sums in days:
        counts, scores = counts + some, scores + sums
    n, half = counts.sum(), BINS // 2
    confidence = scores[half:].sum() + (counts - scores)[:half].sum()
    return {
        "histogram": [int(one) for one in counts.reshape(_WIDE_BINS, -1).sum(axis=1)],
        "positive_share": short(counts[half:].sum() / n),
        "confidence": short(confidence / n),
    }


def _calibration(some: ScoredOutcomes) -> list[dict[str, float]]:
    """About ten groups of as many rows by rising score; a bin is never cut, so few groups where scores are few."""
    rows = some.positive + some.negative
    group = np.minimum((np.cumsum(rows) - rows / 2) / rows.sum() * CALIBRATION_BINS, CALIBRATION_BINS - 1).astype(int)
    found = []
    for at in range(CALIBRATION_BINS):
        mine = group == at
        n = float(rows[mine].sum())
        if n:
            mean, share = some.scores[mine].sum() / n, some.positive[mine].sum() / n
            found.append({"rows": n, "mean_score": short(mean), "late_share": short(share)})
    return found


def _slices(axes: Sequence[Axis], days: Any, outcomes: Any) -> dict[str, dict[str, Any]]:
    by_slice: dict[Slice, list[Mapping[str, Counts]]] = {}
    for one in days:
        for cut, counts in one.items():
            if cut != WHOLE:
                by_slice.setdefault(cut, []).append(counts)
    known: dict[Slice, list[ScoredOutcomes]] = {}
    for one in outcomes:
        for cut, some in one.items():
            known.setdefault(cut, []).append(some)
    numbers = [axis for axis in axes if isinstance(axis, NumberAxis)]
    found: dict[str, dict[str, Any]] = {}
    for (by, value), parts in sorted(by_slice.items()):
        some = {axis.name: [one[axis.name] for one in parts] for axis in numbers}
        counts = {name: [int(one) for one in np.sum(each, axis=0)] for name, each in some.items()}
        rows = max((sum(one) for one in counts.values()), default=0)
        if rows < SLICE_ROWS:
            continue
        mine = known.get((by, value), [])
        found.setdefault(by, {})[value] = {
            "rows": rows,
            "features": {name: one for name, one in counts.items() if name != SCORE},
            "score": counts.get(SCORE),
            "worst_day": {axis.name: worst_day(axis, some[axis.name]) for axis in numbers},
            "performance": performance_document(_sum(mine), mine) if mine else None,
        }
    return found


def _sum(some: Sequence[ScoredOutcomes]) -> ScoredOutcomes:
    total = ScoredOutcomes.nothing()
    for one in some:
        total = total + one
    return total
