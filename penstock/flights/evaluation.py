"""Figures about a trained model: how good it is, and the profile of its data that drift is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from scipy.stats import rankdata

from penstock.flights.tables import Floats

# As BatchSummary.score_histogram has them.
SCORE_BINS: Final = 20
CALIBRATION_BINS: Final = 10
_SMALLEST: Final = 1e-7
_DIGITS: Final = 6

Json = dict[str, Any]


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
        {"rows": len(part), "mean_score": _short(scores[part].mean()), "late_share": _short(labels[part].mean())}
        for part in np.array_split(order, CALIBRATION_BINS)
        if len(part)
    ]


def quality(labels: Floats, scores: Floats) -> Json:
    """Rows, share late, AUC, log loss, and the calibration error: the groups' mean of |mean score - share late|."""
    groups = calibration(labels, scores)
    gaps = [one["rows"] * abs(one["mean_score"] - one["late_share"]) for one in groups]
    return {
        "rows": len(labels),
        "late_share": _short(labels.mean()),
        "mean_score": _short(scores.mean()),
        "auc": _short(auc(labels, scores)),
        "log_loss": _short(log_loss(labels, scores)),
        "calibration_error": _short(sum(gaps) / len(labels)),
    }


def profile(columns: Mapping[str, np.ndarray[Any, Any]], labels: Floats, scores: Floats) -> Json:
    """What the training data looked like, as JSON: what drift compares live data with.

    Numeric feature: inner bin edges at the reference's deciles, bin i being edges[i-1] < x <= edges[i] and the outer
    two open; shares of the rows that have a value; the share of null. Edges that coincide are one, so a bin may hold
    more than a tenth. An edge lies midway to the next value that occurs, so that rounding to float32 moves no row.
    Category: share of each value. Score: rows in 20 equal bins over [0, 1].
    """
    features = {
        name: _categories(values) if values.dtype == object else _numbers(values) for name, values in columns.items()
    }
    bins = np.minimum((scores * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    return {
        "rows": len(labels),
        "features": features,
        "score": {
            "histogram": np.bincount(bins, minlength=SCORE_BINS).tolist(),
            "mean": _short(scores.mean()),
            "deviation": _short(scores.std()),
        },
        "label": {"name": "late", "rate": _short(labels.mean())},
        "calibration": calibration(labels, scores),
    }


def _numbers(values: Floats) -> Json:
    known = values[~np.isnan(values)]
    values_seen = np.unique(known)
    deciles = np.unique(np.quantile(known, np.arange(1, 10) / 10, method="inverted_cdf"))
    below = np.searchsorted(values_seen, deciles)
    # A bin above the largest value would be empty in the reference for ever.
    below = below[below < len(values_seen) - 1]
    edges = np.round((values_seen[below] + values_seen[below + 1]) / 2, _DIGITS)
    counts = np.bincount(np.searchsorted(edges, known, "left"), minlength=len(edges) + 1)
    return {
        "kind": "numeric",
        "edges": edges.tolist(),
        "shares": [_short(count / len(known)) for count in counts],
        "null_share": _short(1 - len(known) / len(values)),
        "mean": _short(known.mean()),
        "deviation": _short(known.std()),
    }


def _categories(values: np.ndarray[Any, Any]) -> Json:
    names, counts = np.unique(values.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = {str(names[at]): _short(counts[at] / len(values)) for at in order}
    return {"kind": "categorical", "shares": shares, "null_share": 0.0}


def _short(value: float) -> float:
    return round(float(value), _DIGITS)
