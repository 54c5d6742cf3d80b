"""The figures of latencies and scores that a batch's summary holds."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import numpy as np

from schemas.tensors import Array

LATENCY_BUCKETS: Final = 18
SCORE_BINS: Final = 20
_LATENCY_ENDS: Final = 2.0 ** np.arange(LATENCY_BUCKETS - 1)


def latency_histogram(milliseconds: Array, weights: Array) -> tuple[int, ...]:
    """Rows by latency: bucket i ends at 2^i ms, the last is open."""
    places = _LATENCY_ENDS.searchsorted(milliseconds)
    return tuple(np.bincount(places, weights, LATENCY_BUCKETS).astype(np.int64).tolist())


def score_histogram(scores: Array) -> tuple[int, ...]:
    """Rows by score in 20 equal bins over [0, 1]; what lies outside counts in the end bins."""
    if not len(scores):
        return ()
    places = np.minimum(np.maximum(scores * SCORE_BINS, 0), SCORE_BINS - 1).astype(np.int64)
    return tuple(np.bincount(places, minlength=SCORE_BINS).tolist())


def score_figures(scores: Array) -> dict[str, Any]:
    """The fields of a summary that describe scores [rows] of FP64, those that are NaN or infinite left out."""
    known, squares = scores, float(scores @ scores)
    if not isfinite(squares):
        known = scores[np.isfinite(scores)]
        squares = float(known @ known)
    return {
        "score_count": len(known),
        "score_sum": float(known.sum()),
        "score_sum_squares": squares,
        "score_histogram": score_histogram(known),
    }
