"""Figures about a trained model: how good it is, and the profile of its data that drift is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import rankdata

from analytics.drift_axes import SCORE, Axis, CategoryAxis, NumberAxis
from analytics.performance_metrics import ScoredOutcomes
from analytics.profiles import category_document, number_document, outward, short
from analytics.reference_days import performance_document, worst_day
from penstock.flights.tables import Floats, Ints

# As BatchSummary.score_histogram has them.
SCORE_BINS: Final = 20
CALIBRATION_BINS: Final = 10
# What the outcome of a flight is called, and how long it may take to be known: a flight that is very late lands a day
# after it was due to leave.
OUTCOME: Final = "arr_delay_15"
OUTCOME_HOURS: Final = 24
# Slices with their own reference: what differs between them is no drift. Those with less rows are left to the whole.
SLICED_BY: Final = ("carrier", "origin")
SLICE_ROWS: Final = 1000
_SMALLEST: Final = 1e-7

Json = dict[str, Any]
Columns = Mapping[str, np.ndarray[Any, Any]]


def auc(labels: Floats, scores: Floats) -> float:
    """Area under the ROC curve, ties counted half (Mann and Whitney's U over the pairs). Needs both labels."""
    late = labels == 1
    positive, negative = int(late.sum()), int((~late).sum())
    wins = float(rankdata(scores)[late].sum()) - positive * (positive + 1) / 2
    return wins / (positive * negative)


def log_loss(labels: Floats, scores: Floats) -> float:
    """Mean negative log likelihood, in nats."""
    p = np.clip(scores, _SMALLEST, 1 - _SMALLEST)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


def calibration(labels: Floats, scores: Floats) -> list[Json]:
    """For ten equal groups by rising score: rows, mean score and share late."""
    order = np.argsort(scores, kind="stable")
    return [
        {"rows": len(part), "mean_score": short(scores[part].mean()), "late_share": short(labels[part].mean())}
        for part in np.array_split(order, CALIBRATION_BINS)
        if len(part)
    ]


def quality(labels: Floats, scores: Floats) -> Json:
    """Rows, share late, AUC, log loss, and the calibration error: the groups' mean of |mean score - share late|."""
    groups = calibration(labels, scores)
    gaps = [one["rows"] * abs(one["mean_score"] - one["late_share"]) for one in groups]
    return {
        "rows": len(labels),
        "late_share": short(labels.mean()),
        "mean_score": short(scores.mean()),
        "auc": short(auc(labels, scores)),
        "log_loss": short(log_loss(labels, scores)),
        "calibration_error": short(sum(gaps) / len(labels)),
    }


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows with an outcome: features by name, labels [n] of 0 and 1, the model's scores [n], and the day of each."""

    columns: Columns
    labels: Floats
    scores: Floats
    days: Ints

    def where(self, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> Sample:
        """Some of the rows."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Sample(columns, self.labels[rows], self.scores[rows], self.days[rows])


def profile(some: Sample, vocabulary: Mapping[str, Sequence[str]] | None = None) -> Json:
    """What the training data looked like, as the JSON of `analytics.profiles`: what drift compares live data with.

    A number's inner edges lie at the reference's deciles. Edges that coincide are one, so a bin may hold more than a
    tenth. An edge lies midway to the next value that occurs, so that rounding to float32 moves no row. A category's
    values are those that the model knows (`vocabulary`, by feature; all that occur where it is not there); rows with
    another one are its unseen share. `score.histogram`: rows in 20 equal bins over [0, 1].
    """
    words = vocabulary or {}
    features = {
        name: _category(name, values, words.get(name), some.days)
        if values.dtype == object
        else _number(name, values, some.days)
        for name, values in some.columns.items()
    }
    scores = some.scores
    bins = np.minimum((scores * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    return {
        "rows": len(scores),
        "features": features,
        "score": {
            "histogram": np.bincount(bins, minlength=SCORE_BINS).tolist(),
            **_number(SCORE, scores, some.days),
            "positive_share": short((scores > 0.5).mean()),
            "confidence": short(np.maximum(scores, 1 - scores).mean()),
        },
        "label": {"name": "late", "rate": short(some.labels.mean()), "outcome": OUTCOME, "delay_hours": OUTCOME_HOURS},
        "calibration": calibration(some.labels, scores),
    }


def performance_of(some: Sample) -> Json:
    """The figures that drift of performance is measured against, of all rows and of single days."""
    days = [some.where(some.days == day) for day in np.unique(some.days)]
    return performance_document(
        ScoredOutcomes.of(some.scores, some.labels), [ScoredOutcomes.of(one.scores, one.labels) for one in days]
    )


def slices(described: Json, trained: Sample, held: Sample) -> Json:
    """The slices' own counts over the bins of the profile `described`, with what the model was worth on rows held out.

    Numbers and the score alone: what a carrier flies differs from what others fly, and so do its categories.
    """
    axes = {
        name: NumberAxis(name, one["low"], one["high"], tuple(one["edges"]))
        for name, one in (*described["features"].items(), (SCORE, {"kind": "numeric", **described["score"]}))
        if one["kind"] == "numeric"
    }
    found: Json = {}
    for by in SLICED_BY:
        for value in described["features"][by]["shares"]:
            mine = trained.where(trained.columns[by] == value)
            if len(mine.scores) < SLICE_ROWS:
                continue
            values = {**mine.columns, SCORE: mine.scores}
            counts = {name: [int(one) for one in axis.count(values[name])] for name, axis in axes.items()}
            there = held.where(held.columns[by] == value)
            found.setdefault(by, {})[value] = {
                "rows": len(mine.scores),
                "features": {name: one for name, one in counts.items() if name != SCORE},
                "score": counts[SCORE],
                "worst_day": {name: _worst(axis, values[name], mine.days) for name, axis in axes.items()},
                "performance": performance_of(there) if len(there.scores) else None,
            }
    return found


def _worst(axis: Axis, values: np.ndarray[Any, Any], days: Ints) -> Json:
    return worst_day(axis, [axis.count(values[days == day]) for day in np.unique(days)])


def _number(name: str, values: Floats, days: Ints) -> Json:
    known = values[~np.isnan(values)]
    if not len(known):
        return number_document(NumberAxis(name, np.nan, np.nan, ()), [0, 0, 0, len(values)], np.nan, np.nan)
    values_seen = np.unique(known)
    deciles = np.unique(np.quantile(known, np.arange(1, 10) / 10, method="inverted_cdf"))
    below = np.searchsorted(values_seen, deciles)
    # A bin above the largest value would be empty in the reference for ever.
    below = below[below < len(values_seen) - 1]
    edges = np.unique([short(one) for one in (values_seen[below] + values_seen[below + 1]) / 2])
    axis = NumberAxis(name, *outward(values_seen[0], values_seen[-1]), tuple(edges.tolist()))
    document = number_document(axis, axis.count(values).tolist(), float(known.mean()), float(known.std()))
    return {**document, "worst_day": _worst(axis, values, days)}


def _category(name: str, values: np.ndarray[Any, Any], words: Sequence[str] | None, days: Ints) -> Json:
    axis = CategoryAxis(name, tuple(words) if words is not None else tuple(np.unique(values.astype(str)).tolist()))
    return {**category_document(axis, axis.count(values).tolist()), "worst_day": _worst(axis, values, days)}
