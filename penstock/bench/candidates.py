"""Who is compared: Penstock in its variants, its peers, the limits; and in which order they run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

T = TypeVar("T")


class Kind(Enum):
    """What runs a candidate's turn."""

    PENSTOCK = "penstock"
    PEER = "peer"
    RAW = "raw"
    ONNX = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of the table.

    `most`: records a round at most, None for as many as are asked for: a slow one is timed on fewer of the same
    records. A peer: `folder` under benchmarks/peers; `commits`: whether it commits offsets to Kafka;
    `reads_uncommitted`: it is stopped (SIGSTOP) while its topic is filled, since the transaction that hides the records
    from others does not hide them from it; `json`: it reads its own format from a topic of its own.
    """

    name: str
    shown: str
    kind: Kind
    most: int | None = None
    workers: int = 1
    delivery: str = ""
    folder: str = ""
    commits: bool = True
    reads_uncommitted: bool = False
    json: bool = False

    def records(self, asked: int) -> int:
        """Records of a round."""
        return asked if self.most is None else min(asked, self.most)


OURS: Final = "penstock"
CANDIDATES: Final = (
    Candidate(OURS, "Penstock, one worker, exactly once", Kind.PENSTOCK, delivery="exactly-once"),
    Candidate("penstock-at-least-once", "Penstock, one worker, at least once", Kind.PENSTOCK, delivery="at-least-once"),
    Candidate("penstock-2", "Penstock, two workers, exactly once", Kind.PENSTOCK, None, 2, "exactly-once"),
    Candidate(
        "penstock-2-at-least-once", "Penstock, two workers, at least once", Kind.PENSTOCK, None, 2, "at-least-once"
    ),
    Candidate("confluent", "straight confluent-kafka loop", Kind.PEER, folder="confluent"),
    Candidate("aiokafka", "straight aiokafka loop", Kind.PEER, 150_000, folder="aiokafka"),
    Candidate("bytewax", "Bytewax", Kind.PEER, 200_000, folder="bytewax", commits=False),
    Candidate("quixstreams", "Quix Streams", Kind.PEER, 100_000, folder="quixstreams"),
    Candidate("faust", "Faust", Kind.PEER, 30_000, folder="faust", reads_uncommitted=True),
    # It begins with every record it is sent, however many: of a backlog of 20,000 it lost answers to its own timeouts.
    Candidate(
        "mlserver", "MLServer (JSON)", Kind.PEER, 5_000, folder="mlserver",
        commits=False, reads_uncommitted=True, json=True,
    ),
    Candidate("raw", "raw consume-to-produce (limit)", Kind.RAW),
    Candidate("onnxruntime", "ONNX Runtime alone, one thread (limit)", Kind.ONNX),
)  # fmt: skip
BY_NAME: Final = {one.name: one for one in CANDIDATES}


def chosen(names: Sequence[str]) -> tuple[Candidate, ...]:
    """The candidates of these names in the table's order, all for none. Raises ValueError for an unknown one."""
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ValueError(f"no candidate {unknown[0]!r}; there are {', '.join(BY_NAME)}")
    return tuple(one for one in CANDIDATES if not names or one.name in names)


def rotated(items: Sequence[T], turn: int, turns: int) -> list[T]:
    """The items in turn `turn` of `turns`, begun a `turns`-th further on each time: each runs early and late."""
    if not items:
        return []
    step = max(1, len(items) // max(turns, 1))
    at = turn * step % len(items)
    return [*items[at:], *items[:at]]
