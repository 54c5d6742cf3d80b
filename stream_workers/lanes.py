"""The queues that a device serves, and what bulk gets of its time. Pure; the clock is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from models.batching import BatchLimits, BatchPolicy
from models.loading import LoadedModel
from schemas.codes import Code
from schemas.tensors import Array
from stream_workers.runs import Run
from stream_workers.work import ALIGNED, Piece

# The time over which bulk's share of the device is looked at.
SHARE_SECONDS: Final = 1.0
# Bulk records that are taken, and published, together: a record costs the interpreter as much as its rows the model.
GROUP: Final = 4


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What may be in one batch together. A `shadow` is bulk as well: it gets what requests leave."""

    model: str
    version: str
    experiment: str = ""
    variant: str = ""
    bulk: bool = False
    shadow: bool = False


class Sink(Protocol):
    """Takes what became of the pieces of a lane."""

    def scored(self, model: LoadedModel, pieces: Sequence[Any], outputs: Sequence[dict[str, Array]], run: Run) -> None:
        """Outputs of each piece, from one run, or, of bulk, from a run each; `run` is then all of these together."""

    def failed(self, piece: Any, code: Code, message: str) -> None:
        """No unit of this piece can be scored."""

    def unavailable(self, piece: Any, message: str) -> None:
        """Nothing can score this piece, and it is not to blame."""

    def expired(self, piece: Any) -> Any | None:
        """Answers the units whose deadline has passed; returns the others, None where there are none."""


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one kind of work, with its policy. `held`: it waits for a model that is being loaded."""

    key: LaneKey
    model: LoadedModel
    policy: BatchPolicy
    sink: Sink
    queue: deque[Piece] = field(default_factory=deque)
    rows: int = 0
    in_flight: int = 0
    used: float = 0.0
    held: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits in it and nothing of it runs."""
        return not self.queue and not self.in_flight

    def put(self, piece: Piece, now: float) -> None:
        """Queue a piece."""
        self.queue.append(piece)
        self.used = now
        self.rows += piece.rows
        self.policy.observe_arrival(now, piece.rows)

    def put_back(self, pieces: Sequence[Piece]) -> None:
        """What was taken and not done, to the head of the queue."""
        self.queue.extendleft(reversed(pieces))
        self.rows += sum(piece.rows for piece in pieces)

    def take(self, rows: int) -> list[Piece]:
        """Whole units, oldest first, while they fit into `rows`; at least one. They are run together."""
        taken: list[Piece] = []
        while self.queue and (not taken or rows > 0):
            piece = self.queue.popleft()
            # What is larger than the room left opens the next batch, unless it is the first of this one.
            first, rest = piece.split(rows)
            if taken and first.rows > rows:
                self.queue.appendleft(piece)
                break
            if rest is not None:
                self.queue.appendleft(rest)
            taken.append(first)
            rows -= first.rows
        self.rows -= sum(piece.rows for piece in taken)
        return taken

    def take_records(self, rows: int) -> list[Piece]:
        """Of bulk: up to `GROUP` pieces of at most `rows` rows, each of its own record, to be run one by one.

        Of a shadow one: its summaries tell of each run what it took.
        """
        taken: list[Piece] = []
        while self.queue and len(taken) < (1 if self.key.shadow else GROUP):
            first, rest = self.queue.popleft().split(rows)
            taken.append(first)
            if rest is not None:
                self.queue.appendleft(rest)
                break
        self.rows -= sum(piece.rows for piece in taken)
        return taken


class Share:
    """How much of the device's recent time went to bulk, exponentially forgotten. Pure; the clock is passed in."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._bulk = 0.0
        self._all = 0.0
        self._at = 0.0

    def spent(self, now: float, seconds: float, bulk: bool) -> None:
        """The device was busy for `seconds` until `now`."""
        keep = 0.5 ** (max(0.0, now - self._at) / SHARE_SECONDS)
        self._bulk = self._bulk * keep + (seconds if bulk else 0.0)
        self._all = self._all * keep + seconds
        self._at = now

    def bulk_is_due(self) -> bool:
        """Whether bulk had less than its share."""
        return self._bulk < self._least * self._all


def aligned(rows: int, most: int) -> int:
    """A bulk slice of about `rows` rows whose end is aligned, where `most` rows allow it."""
    return max(rows // ALIGNED, 1) * ALIGNED if most >= ALIGNED else most


def policy_of(limits: BatchLimits, model: LoadedModel) -> BatchPolicy:
    """A lane's policy, which knows the model's warm-up."""
    policy = BatchPolicy(limits)
    for rows, seconds in model.warm_up:
        policy.observe_batch(rows, seconds)
    return policy
