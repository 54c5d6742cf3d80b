"""What requests of one version and variant came to together: a run of the model, or one and the same error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.codes import Code
from schemas.tensors import Array
from stream_workers.runs import Run
from stream_workers.work import Ints, Requests, joined


@dataclass(frozen=True, slots=True)
class Fate:
    """One fate of the requests of `pieces`, which are of one epoch, version and experiment's name.

    After a `run` there are `outputs`, a mapping for each piece, and `scores` [rows]; else `messages`, one a request.
    `features`: histograms, where they were counted.
    """

    batch_id: str
    scored_at: int
    code: Code
    pieces: Sequence[Requests]
    device: str = ""
    run: Run | None = None
    messages: Sequence[str] = ()
    outputs: Sequence[Mapping[str, Array]] = ()
    scores: Array | None = None
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Requests of all pieces."""
        return sum(piece.count for piece in self.pieces)

    @property
    def rows(self) -> int:
        """Rows in the log: what was not run is one row a request."""
        return sum(piece.rows for piece in self.pieces) if self.run else self.requests

    @property
    def infer_us(self) -> int:
        """Microseconds of the run."""
        return int(self.run.seconds * 1e6) if self.run else 0

    @property
    def size(self) -> int:
        """Bytes that it holds, about, inputs and what arrived with the requests aside."""
        outputs = sum(array.nbytes for own in self.outputs for array in own.values())
        return outputs + sum(map(len, self.messages)) + 64 * self.requests

    def without_inputs(self) -> Fate:
        """The same fate, which does not keep the inputs from being forgotten."""
        return Fate(
            self.batch_id, self.scored_at, self.code, [piece.filled({}, piece.rows_each) for piece in self.pieces],
            self.device, self.run, self.messages, self.outputs, self.scores, self.features,
        )  # fmt: skip

    def kind(self) -> Hashable:
        """Equal for fates that can share a record and lose nothing: the same facts, and columns of the same form.

        Names of features and whether they are text count as well. Else a name that one sender made up would be
        dropped for being rare, and a number be turned into text because another sender sent text.
        """
        first = self.pieces[0]
        given = {
            (name, isinstance(value, str))
            for piece in self.pieces
            for row in piece.features
            for name, value in row.items()
        }
        return (
            (first.topic, first.model, first.version, first.experiment, first.variant),
            (self.device, self.code, self.run.degraded if self.run else ""),
            frozenset(tuple((name, a.dtype.str, a.shape[1:]) for name, a in own.items()) for own in self.outputs),
            frozenset(bool(piece.features) for piece in self.pieces),
            frozenset(given),
        )


def each(fates: Sequence[Fate], values: Sequence[float]) -> Array:
    """A value of each fate for each of its requests."""
    return np.repeat(np.array(values), [fate.requests for fate in fates])


def weights(fates: Sequence[Fate]) -> Ints:
    """The rows of each request."""
    return joined([np.full(piece.count, piece.rows_each if fate.run else 1) for fate in fates for piece in fate.pieces])
