"""What workers did, by their own log: when each request was read, and how long the model took for each batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.bench.bed import Bed, BenchError
from penstock.bench.feed import marks_of, read_new
from schemas.records import BatchSummary, PredictionBatch

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


def batches_of(log: Iterable[PredictionBatch], summaries: Iterable[BatchSummary]) -> list[Batch]:
    """The batches in the order of their ends. Records whose summary is not there are left out."""
    took = {one.batch_id: one.infer_us / 1e6 for one in summaries}
    # What was read before and after a commit began is logged apart, also where it ran together.
    together: dict[tuple[int, str], list[PredictionBatch]] = {}
    for one in log:
        if one.batch_id in took:
            together.setdefault((one.scored_at, one.worker), []).append(one)
    return [
        Batch(
            worker,
            at / 1e6,
            took[own[0].batch_id],
            tuple(np.sort(np.concatenate([np.frombuffer(one.received_at, "<i8") for one in own]) / 1e6).tolist()),
        )
        for (at, worker), own in sorted(together.items())
    ]


class Diary:
    """Reads what the bed's workers log from now on."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._starts = {topic: marks_of(bed, topic)() for topic in (bed.topics.predictions, bed.topics.summaries)}

    def batches(self, rows: int) -> list[Batch]:
        """All batches, of which at least so many rows are known. Raises `BenchError` where they are not there in time.

        A topic's end is told too low for a moment after a commit, so it is read again until all are there.
        """
        end = time.monotonic() + _SECONDS
        topics = self._bed.topics
        while True:
            found = batches_of(
                self._all(topics.predictions, PredictionBatch), self._all(topics.summaries, BatchSummary)
            )
            there = sum(len(one.read) for one in found)
            if there >= rows:
                return found
            if time.monotonic() > end:
                raise BenchError(f"{rows - there} of {rows} rows are not in the prediction log after {_SECONDS:.0f} s")

    def _all(self, topic: str, kind: type[Any]) -> list[Any]:
        decode = self._bed.settings.codec().decode
        return [decode(kind, one.value()) for one in read_new(self._bed, topic, self._starts[topic], committed=True)]


def within(batches: Sequence[Batch], since: float, until: float) -> list[Batch]:
    """Those that ended between these times."""
    return [one for one in batches if since <= one.ended <= until]
