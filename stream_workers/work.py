"""What waits for a device: requests of one form and variant, and parts of bulk batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from operator import attrgetter
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from schemas.byte_columns import BytesColumn
from schemas.records import FeatureValue, RowError, ScoreBatch, Tensor
from schemas.tensors import Array
from stream_workers.ledger import Epoch

# Rows that the kernels of ONNX Runtime's CPU provider treat alike wherever they stand (a test holds the zoo to it).
ALIGNED: Final = 8

Ints = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]
Headers = list[tuple[str, bytes]]


class Piece(Protocol):
    """Something to score: `count` independent units of `rows` rows in all. Units are never torn apart."""

    inputs: dict[str, Array]

    @property
    def received(self) -> float:
        """When the oldest unit came, in monotonic seconds."""

    @property
    def count(self) -> int:
        """Units: each ends on its own."""

    @property
    def rows(self) -> int:
        """Rows of the inputs."""

    def split(self, rows: int) -> tuple[Self, Self | None]:
        """The first units that fit into `rows`, at least one, and the rest."""

    def halve(self) -> tuple[Self, Self]:
        """Two halves of a piece of at least two units."""

    def joined(self, others: Sequence[Self]) -> list[Self]:
        """This one and the others of its lane in as few pieces as can stand for them, in the same order of units."""


@dataclass(slots=True, eq=False)
class Requests:
    """n requests of one epoch, model, version and variant, each of `rows_each` rows.

    Arrays are [n]; each of `inputs` is [n * rows_each, ...]. Times are microseconds since the epoch, but for `taken`,
    which is when each was polled, in monotonic seconds, the oldest first. `tensors` are as they came, the data of all
    n joined, until `inputs` are made of them; BYTES tensors come one request at a time. `headers`: what each reply
    carries, None where none of them carries any. `keys` are those of the records, given where a reply has no partition
    of its own.
    """

    epoch: Epoch
    topic: str
    model: str
    version: str
    experiment: str
    variant: str
    reply_topic: str
    ids: BytesColumn
    users: BytesColumn
    keys: Sequence[bytes | None]
    partitions: Ints
    offsets: Ints
    sent_at: Ints
    deadlines: Ints
    reply_partitions: Ints
    received_at: Ints
    taken: Seconds
    tensors: Sequence[Tensor] = ()
    rows_each: int = 1
    inputs: dict[str, Array] = field(default_factory=dict)
    features: Sequence[Mapping[str, FeatureValue]] = ()
    headers: list[Headers] | None = None

    @property
    def received(self) -> float:
        """See `Piece`."""
        return float(self.taken[0])

    @property
    def count(self) -> int:
        """n."""
        return len(self.ids)

    @property
    def rows(self) -> int:
        """Rows of the inputs."""
        return len(self.ids) * self.rows_each

    def split(self, rows: int) -> tuple[Requests, Requests | None]:
        """The first requests that fit into `rows`, at least one, and the rest."""
        fit = max(1, rows // self.rows_each)
        if fit >= self.count:
            return self, None
        return self._slice(0, fit), self._slice(fit, self.count)

    def halve(self) -> tuple[Requests, Requests]:
        """Two halves."""
        middle = self.count // 2
        return self._slice(0, middle), self._slice(middle, self.count)

    def joined(self, others: Sequence[Requests]) -> list[Requests]:
        """See `Piece`: at a low rate a batch is made of many polls, and every piece costs what a thousand rows do."""
        found: list[list[Requests]] = [[self]]
        for one in others:
            if found[-1][-1]._is_like(one):
                found[-1].append(one)
            else:
                found.append([one])
        return [alike[0] if len(alike) == 1 else _join(alike) for alike in found]

    def _is_like(self, other: Requests) -> bool:
        """Whether both can be one piece."""
        return (
            self.epoch is other.epoch
            and (self.topic, self.experiment, self.reply_topic) == (other.topic, other.experiment, other.reply_topic)
            and self.rows_each == other.rows_each
            and bool(self.keys) == bool(other.keys)
            and bool(self.features) == bool(other.features)
            and (self.headers is None) == (other.headers is None)
            and _form(self.inputs) == _form(other.inputs)
        )

    def pick(self, where: Ints) -> Requests:
        """The requests at these positions."""
        places = where.tolist()
        each = self.rows_each
        rows = where if each == 1 else (where[:, None] * each + np.arange(each)).ravel()
        return self._with(
            ids=self.ids.take(where),
            users=self.users.take(where),
            keys=[self.keys[i] for i in places] if self.keys else (),
            partitions=self.partitions[where],
            offsets=self.offsets[where],
            sent_at=self.sent_at[where],
            deadlines=self.deadlines[where],
            reply_partitions=self.reply_partitions[where],
            received_at=self.received_at[where],
            taken=self.taken[where],
            tensors=[_part(tensor, where, self.count) for tensor in self.tensors],
            inputs={name: array[rows] for name, array in self.inputs.items()},
            features=[self.features[i] for i in places] if self.features else (),
            headers=None if self.headers is None else [self.headers[i] for i in places],
        )

    def to(self, version: str, experiment: str, variant: str) -> Requests:
        """The same requests, assigned."""
        return self._with(version=version, experiment=experiment, variant=variant)

    def filled(self, inputs: dict[str, Array], rows_each: int) -> Requests:
        """The same requests, with inputs in place of tensors."""
        return self._with(inputs=inputs, rows_each=rows_each, tensors=())

    def bare(self) -> Requests:
        """The same requests without what they asked: who they are, and when they came."""
        return self._with(keys=(), tensors=(), inputs={}, features=(), headers=None)

    def tensors_of(self, place: int) -> list[Tensor]:
        """The tensors as one of the requests sent them."""
        return [_part(tensor, np.array([place]), self.count) for tensor in self.tensors]

    def _slice(self, a: int, b: int) -> Requests:
        low, high = a * self.rows_each, b * self.rows_each
        return self._with(
            ids=self.ids[a:b],
            users=self.users[a:b],
            keys=self.keys[a:b],
            partitions=self.partitions[a:b],
            offsets=self.offsets[a:b],
            sent_at=self.sent_at[a:b],
            deadlines=self.deadlines[a:b],
            reply_partitions=self.reply_partitions[a:b],
            received_at=self.received_at[a:b],
            taken=self.taken[a:b],
            inputs={name: array[low:high] for name, array in self.inputs.items()},
            features=self.features[a:b],
            headers=None if self.headers is None else self.headers[a:b],
        )

    def _with(self, **changes: Any) -> Requests:
        # dataclasses.replace costs 10 µs on 21 fields, and this is called for every poll and every batch.
        copy = Requests(*_fields(self))
        for name, value in changes.items():
            setattr(copy, name, value)
        return copy


_fields: Final = attrgetter(*(one.name for one in fields(Requests)))


def joined(arrays: Sequence[Array]) -> Array:
    """All arrays one after another; a single one, as most micro-batches have, is itself and no copy."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _form(inputs: Mapping[str, Array]) -> dict[str, Any]:
    """What two inputs must have in common to be joined: names, types, and shapes but for the rows."""
    return {name: (array.dtype, array.shape[1:]) for name, array in inputs.items()}


def _join(pieces: Sequence[Requests]) -> Requests:
    first = pieces[0]
    return first._with(
        ids=BytesColumn.joined([one.ids for one in pieces]),
        users=BytesColumn.joined([one.users for one in pieces]),
        keys=[*chain.from_iterable(one.keys for one in pieces)],
        partitions=np.concatenate([one.partitions for one in pieces]),
        offsets=np.concatenate([one.offsets for one in pieces]),
        sent_at=np.concatenate([one.sent_at for one in pieces]),
        deadlines=np.concatenate([one.deadlines for one in pieces]),
        reply_partitions=np.concatenate([one.reply_partitions for one in pieces]),
        received_at=np.concatenate([one.received_at for one in pieces]),
        taken=np.concatenate([one.taken for one in pieces]),
        inputs={name: np.concatenate([one.inputs[name] for one in pieces]) for name in first.inputs},
        features=[*chain.from_iterable(one.features for one in pieces)],
        headers=None if first.headers is None else [*chain.from_iterable(one.headers or () for one in pieces)],
    )


def _part(tensor: Tensor, where: Ints, count: int) -> Tensor:
    """The data of some of the `count` requests whose data is joined in this tensor."""
    if count == 1:
        return tensor
    width = len(tensor.data) // count
    return replace(tensor, data=np.frombuffer(tensor.data, np.uint8).reshape(count, width)[where].tobytes())


@dataclass(slots=True, eq=False)
class BulkBatch:
    """One ScoreBatch on its way, of `size` bytes; its parts come back in any order.

    `outputs` are [rows, ...], made at the first. `degraded`: what its parts' runs were; `unavailable`: why a part of it
    could not be scored at all, which leaves the batch without an answer of its own.
    """

    epoch: Epoch
    record: ScoreBatch
    topic: str
    version: str
    received_at: int
    size: int = 0
    left: int = 0
    outputs: dict[str, Array] = field(default_factory=dict)
    errors: list[RowError] = field(default_factory=list)
    degraded: set[str] = field(default_factory=set)
    unavailable: str = ""

    @property
    def queued_us(self) -> int:
        """Microseconds from the send to the poll; within an hour and 0, since the clock is the sender's."""
        return min(max(0, self.received_at - self.record.sent_at), 3_600_000_000)


@dataclass(slots=True, eq=False)
class BulkPart:
    """Rows of a bulk batch. `where`: their positions in it."""

    batch: BulkBatch
    where: Ints
    inputs: dict[str, Array]
    received: float

    @property
    def count(self) -> int:
        """Each row ends on its own."""
        return len(self.where)

    @property
    def rows(self) -> int:
        """Rows."""
        return len(self.where)

    def split(self, rows: int) -> tuple[BulkPart, BulkPart | None]:
        """The first `rows` rows, and the rest."""
        fit = max(1, rows)
        return (self, None) if fit >= self.rows else (self._slice(0, fit), self._slice(fit, self.rows))

    def halve(self) -> tuple[BulkPart, BulkPart]:
        """Two halves, cut at an aligned row where there is one: results must not depend on where a part was cut."""
        middle = self.rows // 2 // ALIGNED * ALIGNED or self.rows // 2
        return self._slice(0, middle), self._slice(middle, self.rows)

    def joined(self, others: Sequence[BulkPart]) -> list[BulkPart]:
        """See `Piece`: a run has parts of one record, and those are one already."""
        return [self, *others]

    def _slice(self, a: int, b: int) -> BulkPart:
        inputs = {name: array[a:b] for name, array in self.inputs.items()}
        return BulkPart(self.batch, self.where[a:b], inputs, self.received)
