"""What requests of one version and variant came to together: a run of the model, or one and the same error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from schemas.codes import Code
from schemas.records import Column
from schemas.tensors import Array
from stream_workers.log_columns import feature_columns, output_columns
from stream_workers.runs import Run
from stream_workers.work import Ints, Requests, joined

_SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Fate:
    """One fate of requests of one epoch, version and experiment's name.

    `pieces`: the requests, without what they asked. After a `run` there are `scores` [rows], with a row for each row of
    the inputs; else there is a row for each request, and `messages` has one for each. `features` and `outputs`: what of
    them goes into the log. `histograms`: of the features, where they were counted.
    """

    batch_id: str
    scored_at: int
    code: Code
    pieces: Sequence[Requests]
    device: str = ""
    run: Run | None = None
    messages: Sequence[str] = ()
    scores: Array | None = None
    features: tuple[Column, ...] = ()
    outputs: tuple[Column, ...] = ()
    histograms: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        batch_id: str,
        scored_at: int,
        code: Code,
        pieces: Sequence[Requests],
        *,
        device: str = "",
        run: Run | None = None,
        messages: Sequence[str] = (),
        scores: Array | None = None,
        outputs: Sequence[Mapping[str, Array]] = (),
        histograms: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Self:
        """`outputs`: a mapping for each piece. What is not logged may be forgotten."""
        rows = sum(piece.rows if run else piece.count for piece in pieces)
        return cls(
            batch_id,
            scored_at,
            code,
            [piece.bare() for piece in pieces],
            device,
            run,
            messages,
            scores,
            feature_columns([given for piece in pieces for given in piece.features], rows),
            output_columns(outputs),
            histograms or {},
        )

    @property
    def requests(self) -> int:
        """Requests of all pieces."""
        return sum(piece.count for piece in self.pieces)

    @property
    def rows(self) -> int:
        """Rows in the log."""
        return sum(piece.rows for piece in self.pieces) if self.run else self.requests

    @property
    def infer_us(self) -> int:
        """Microseconds of the run."""
        return int(self.run.seconds * 1e6) if self.run else 0

    @property
    def size(self) -> int:
        """Bytes that it will take in the log, about."""
        columns = (*self.features, *self.outputs)
        data = sum(len(one.data) + (len(one.strings.data) if one.strings else 0) for one in columns)
        # A request has a row in the log for each of its rows, with its id and user.
        names = sum(
            int(text.bounds[-1] - text.bounds[0]) * (one.rows_each if self.run else 1)
            for one in self.pieces
            for text in (one.ids, one.users)
        )
        return data + names + sum(map(len, self.messages)) + 64 * self.rows

    def kind(self) -> Hashable:
        """Equal for fates that can share a record and lose nothing: the same facts, and the same columns.

        They are also of one second: a summary has one time, and ingest relies on a record's rows being of one day.
        """
        first = self.pieces[0]
        return (
            (first.topic, first.model, first.version, first.experiment, first.variant),
            (self.device, self.code, self.run.degraded if self.run else "", self.scored_at // _SECOND_US),
            tuple((one.name, one.datatype, one.shape[1:]) for one in self.features),
            tuple((one.name, one.datatype, one.shape[1:]) for one in self.outputs),
        )


def each(fates: Sequence[Fate], values: Sequence[float]) -> Array:
    """A value of each fate for each of its requests."""
    return np.repeat(np.array(values), [fate.requests for fate in fates])


def weights(fates: Sequence[Fate]) -> Ints:
    """The rows of each request."""
    return joined([np.full(piece.count, piece.rows_each if fate.run else 1) for fate in fates for piece in fate.pieces])
