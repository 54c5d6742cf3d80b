"""The figures that a summary of micro-batches holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from math import isfinite
from typing import Any, Final

import numpy as np

from models.profile_bins import SAMPLED
from schemas.codes import Code
from schemas.records import BatchSummary
from schemas.tensors import Array
from stream_workers.fates import Fate, each, weights
from stream_workers.prediction_log import CLIPPED
from stream_workers.work import joined

Histograms = Mapping[str, tuple[int, ...]]
LATENCY_BUCKETS: Final = 18
SCORE_BINS: Final = 20
_LATENCY_ENDS: Final = 2.0 ** np.arange(LATENCY_BUCKETS - 1)


def summary_of(fates: Sequence[Fate], worker: str) -> BatchSummary:
    """The summary of fates of one kind."""
    head = fates[0]
    first = head.pieces[0]
    pieces = [piece for fate in fates for piece in fate.pieces]
    runs = [fate.run for fate in fates if fate.run]
    scores = [fate.scores for fate in fates if fate.scores is not None]
    counted, ended = weights(fates), each(fates, [fate.scored_at for fate in fates])
    sent, received = (joined([getattr(piece, name) for piece in pieces]) for name in ("sent_at", "received_at"))
    rows = int(counted.sum())
    waited = 0
    if runs:
        taken = joined([piece.taken for piece in pieces])
        waited = int(_dot(each(fates, [run.dispatched for run in runs]) - taken, counted) * 1e6)
    return BatchSummary(
        batch_id=head.batch_id,
        worker=worker,
        device=head.device,
        # A sender may make up names of megabytes, and a record that Kafka refuses would hold up its partition for ever.
        model=first.model[:CLIPPED],
        version=first.version[:CLIPPED],
        experiment=first.experiment[:CLIPPED],
        variant=first.variant,
        topic=first.topic,
        scored_at=head.scored_at + int((ended - head.scored_at) @ counted) // rows,
        requests=len(counted),
        rows=rows,
        padded_rows=sum(run.padded for run in runs),
        queue_us=int(np.maximum(received - sent, 0) @ counted),
        batch_us=waited,
        infer_us=sum(fate.infer_us for fate in fates),
        latency_histogram=latency_histogram((ended - sent) / 1000, counted),
        **score_figures(joined(scores) if scores else np.full(rows, np.nan)),
        errors={} if head.code is Code.OK else {head.code.value: rows},
        feature_histograms=_added([fate.histograms for fate in fates if fate.histograms]),
        degraded=head.run.degraded if head.run else "",
        batches=len(fates),
    )


def _added(histograms: Sequence[Histograms]) -> Histograms:
    """The sums of the first ones, up to as many rows as one of them may hold."""
    chosen: list[Histograms] = []
    rows = 0
    for one in histograms:
        rows += sum(next(iter(one.values())))
        if rows <= SAMPLED or not chosen:
            chosen.append(one)
    if len(chosen) < 2:
        return chosen[0] if chosen else {}
    return {
        name: tuple(map(sum, zip_longest(*(one.get(name, ()) for one in chosen), fillvalue=0)))
        for name in dict.fromkeys(chain.from_iterable(chosen))
    }


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
    known, squares = scores, _dot(scores, scores)
    if not isfinite(squares):
        known = scores[np.isfinite(scores)]
        squares = _dot(known, known)
    return {
        "score_count": len(known),
        "score_sum": float(known.sum()),
        "score_sum_squares": squares,
        "score_histogram": score_histogram(known),
    }


def _dot(a: Array, b: Array) -> float:
    """The sum of products, by this thread alone.

    `@` of floats goes to BLAS, which has more than 10,000 of them done by threads of its own; and these spin for a
    while when they are done, on cores that others need.
    """
    return float(np.einsum("i,i->", a, b))
