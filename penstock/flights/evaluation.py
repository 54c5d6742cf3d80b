"""Figures about a trained model: how good it is, and the profile of its data that drift is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.stats import rankdata

from analytics import performance_metrics as performance
from analytics.drift_axes import SCORE, CategoryAxis, NumberAxis
from analytics.performance_metrics import ScoredOutcomes
from analytics.profiles import category_document, number_document, outward, short
from analytics.results import UndefinedError
from penstock.flights.tables import Floats

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


def profile(
    columns: Columns, labels: Floats, scores: Floats, vocabulary: Mapping[str, Sequence[str]] | None = None
) -> Json:
    """What the training data looked like, as the JSON of `analytics.profiles`: what drift compares live data with.

    A number's inner edges lie at the reference's deciles. Edges that coincide are one, so a bin may hold more than a
    tenth. An edge lies midway to the next value that occurs, so that rounding to float32 moves no row. A category's
    values are those that the model knows (`vocabulary`, by feature; all that occur where it is not there); rows with
    another one are its unseen share. `score.histogram`: rows in 20 equal bins over [0, 1].
    """
    words = vocabulary or {}
    features = {
        name: _category(name, values, words.get(name)) if values.dtype == object else _number(name, values)
        for name, values in columns.items()
    }
    bins = np.minimum((scores * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    return {
        "rows": len(labels),
        "features": features,
        "score": {
            "histogram": np.bincount(bins, minlength=SCORE_BINS).tolist(),
            **_number(SCORE, scores),
            "positive_share": short((scores > 0.5).mean()),
            "confidence": short(np.maximum(scores, 1 - scores).mean()),
        },
        "label": {
            "name": "late",
            "rate": short(labels.mean()),
            "outcome": OUTCOME,
            "delay_hours": OUTCOME_HOURS,
        },
        "calibration": calibration(labels, scores),
    }


def performance_of(labels: Floats, scores: Floats) -> Json:
    """The figures that drift of performance is measured against; one that these rows do not have is left out."""
    some = ScoredOutcomes.of(scores, labels)
    figures = {
        "accuracy": performance.accuracy,
        "f1": performance.f1,
        "auc": performance.auc,
        "log_loss": performance.log_loss,
        "calibration": performance.calibration_error,
    }
    found: Json = {"rows": some.rows}
    for name, figure in figures.items():
        try:
            found[name] = short(figure(some).value)
        except UndefinedError:
            continue
    return found


def slices(
    described: Json, columns: Columns, scores: Floats, held: Columns, held_labels: Floats, held_scores: Floats
) -> Json:
    """The slices' own counts over the bins of the profile `described`, with what the model was worth on rows held out.

    Numbers and the score alone: what a carrier flies differs from what others fly, and so do its categories.
    """
    axes = {
        name: NumberAxis(name, one["low"], one["high"], tuple(one["edges"]))
        for name, one in described["features"].items()
        if one["kind"] == "numeric"
    }
    score = described["score"]
    score_axis = NumberAxis(SCORE, score["low"], score["high"], tuple(score["edges"]))
    found: Json = {}
    for by in SLICED_BY:
        for value in described["features"][by]["shares"]:
            rows, there = columns[by] == value, held[by] == value
            if rows.sum() < SLICE_ROWS:
                continue
            found.setdefault(by, {})[value] = {
                "rows": int(rows.sum()),
                "features": {name: _counts(axis, columns[name][rows]) for name, axis in axes.items()},
                "score": _counts(score_axis, scores[rows]),
                "performance": performance_of(held_labels[there], held_scores[there]) if there.any() else None,
            }
    return found


def _counts(axis: NumberAxis, values: Floats) -> list[int]:
    return [int(one) for one in axis.count(values)]


def _number(name: str, values: Floats) -> Json:
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
    return number_document(axis, axis.count(values).tolist(), float(known.mean()), float(known.std()))


def _category(name: str, values: np.ndarray[Any, Any], words: Sequence[str] | None) -> Json:
    axis = CategoryAxis(name, tuple(words) if words is not None else tuple(np.unique(values.astype(str)).tolist()))
    return category_document(axis, axis.count(values).tolist())
