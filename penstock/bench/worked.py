"""What workers did, by their own log: when each request was read, and how long the model took for each batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from penstock.bench.bed import Bed, BenchError
from penstock.bench.feed import marks_of, read_new
from schemas.records import PredictionBatch
from schemas.tensors import Array

_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One run of a model, in seconds of the worker's clock: its end, what the model took, when each request was read.

    `read` ascends; a request of several rows is in it once for each.
    """

    worker: str
    ended: float
    seconds: float
    read: tuple[float, ...]


def batches_of(log: Iterable[PredictionBatch]) -> list[Batch]:
    """The batches in the order of their ends. Those that no model ran are left out."""
    # What was read before and after a commit began is logged apart, also where it ran together.
    together: dict[tuple[int, str], list[tuple[int, Array]]] = {}
    for one in log:
        read, at = np.frombuffer(one.received_at, "<i8") / 1e6, 0
        for batch in one.batches:
            own, at = read[at : at + batch.rows], at + batch.rows
            if batch.infer_us:
                together.setdefault((batch.scored_at, one.worker), []).append((batch.infer_us, own))
    return [
        Batch(worker, at / 1e6, parts[0][0] / 1e6, tuple(np.sort(np.concatenate([own for _, own in parts])).tolist()))
        for (at, worker), parts in sorted(together.items(), key=lambda item: item[0])
    ]


class Diary:
    """Reads what the bed's workers log from now on."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._starts = marks_of(bed, bed.topics.predictions)()

    def batches(self, rows: int) -> list[Batch]:
        """All batches, of which at least so many rows are known. Raises `BenchError` where they are not there in time.

        A topic's end is told too low for a moment after a commit, so it is read again until all are there.
        """
        end = time.monotonic() + _SECONDS
        while True:
            found = batches_of(self._log())
            there = sum(len(one.read) for one in found)
            if there >= rows:
                return found
            if time.monotonic() > end:
                raise BenchError(f"{rows - there} of {rows} rows are not in the prediction log after {_SECONDS:.0f} s")

    def _log(self) -> list[PredictionBatch]:
        decode, topic = self._bed.settings.codec().decode, self._bed.topics.predictions
        return [
            decode(PredictionBatch, one.value()) for one in read_new(self._bed, topic, self._starts, committed=True)
        ]


def within(batches: Sequence[Batch], since: float, until: float) -> list[Batch]:
    """Those that ended between these times."""
    return [one for one in batches if since <= one.ended <= until]
