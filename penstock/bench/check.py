"""Whether a worker did all of its work, before anybody speaks of how fast: replies and prediction log of a round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.bench.bed import Bed
from penstock.bench.feed import read_new
from penstock.bench.workload import POOL, Workload, is_right, number_of
from schemas.codec import Codec
from schemas.codes import INDEX, Code
from schemas.records import PredictionBatch, ScoreReply
from schemas.reply_codec import varint
from schemas.tensors import unpack_strings

# One reply in so many is decoded and compared with the model's answer in this process.
SAMPLE: Final = 61
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Checked:
    """Of the round's requests: replies missing, given twice, not OK or not right; the same in the prediction log.

    `looks`: how often the replies were read until all were there.
    """

    requests: int
    missing: int
    twice: int
    wrong: int
    compared: int
    log_missing: int
    log_twice: int
    log_wrong: int
    looks: int = 1

    @property
    def faults(self) -> int:
        """0 where every request was answered rightly and logged once. A reply given twice is no fault: see the laws."""
        return self.missing + self.wrong + self.log_missing + self.log_twice + self.log_wrong

    def to_json(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_round(
    bed: Bed, run: str, requests: int, replies_from: Sequence[int], log_from: Sequence[int], *, twice_is_wrong: bool
) -> Checked:
    """Read replies and log of the round behind these offsets. `twice_is_wrong`: of the log, with exactly-once."""
    looks = 0
    seen, wrong, compared = np.zeros(0, np.int64), 0, 0
    while looks < _TRIES and not (looks and (seen > 0).all()):
        looks += 1
        # The embedded broker tells a topic's end too low for a while, so that a reader may stop before it.
        replies = (one.value() for one in read_new(bed, bed.topics.replies, replies_from, committed=False))
        seen, wrong, compared = count_replies(bed.settings.codec(), bed.workload, run, requests, replies)
    log, log_wrong = np.zeros(0, np.int64), 0
    for _ in range(_TRIES):
        # The commit is answered a moment before its markers are written.
        values = (one.value() for one in read_new(bed, bed.topics.predictions, log_from, committed=True))
        log, log_wrong = count_log(bed.settings.codec(), run, requests, values)
        if (log > 0).all():
            break
    return Checked(
        requests=requests,
        missing=int((seen == 0).sum()),
        twice=int((seen > 1).sum()),
        wrong=wrong,
        compared=compared,
        log_missing=int((log == 0).sum()),
        log_twice=int((log > 1).sum()) if twice_is_wrong else 0,
        log_wrong=log_wrong,
        looks=looks,
    )


def count_replies(
    codec: Codec, workload: Workload, run: str, requests: int, values: Iterable[Any]
) -> tuple[Any, int, int]:
    """How often each request was answered [requests]; how many answers are wrong; how many were compared.

    Answers to other runs do not count: the embedded broker tells a topic's end too low, so that some of them are read.
    """
    seen = np.zeros(requests, np.int64)
    wrong = compared = 0
    mark = run.encode()
    width = len(f"{run}-") + 8
    # The id comes first in the record, so that it is found without decoding.
    front = len(codec.header(ScoreReply)) + len(varint(width))
    ok = varint(INDEX[Code.OK])
    for place, value in enumerate(values):
        own = value[front : front + width]
        if not own.startswith(mark):
            continue
        number = number_of(own)
        if number >= requests or value[front + width : front + width + len(ok)] != ok:
            wrong += 1
            continue
        seen[number] += 1
        if place % SAMPLE == 0:
            compared += 1
            reply = codec.decode(ScoreReply, value)
            wrong += not is_right(workload, reply.outputs, np.array([number % POOL]))
    return seen, wrong, compared


def count_log(codec: Codec, run: str, requests: int, values: Iterable[Any]) -> tuple[Any, int]:
    """How often each request of the run is in the prediction log [requests], and how many of its rows are wrong."""
    seen = np.zeros(requests, np.int64)
    wrong = 0
    for value in values:
        batch = codec.decode(PredictionBatch, value)
        ids = unpack_strings(batch.request_ids)
        good = [code == INDEX[Code.OK] for code in batch.codes]
        numbers = [number_of(one.encode()) for one, fine in zip(ids, good, strict=True) if fine and one.startswith(run)]
        wrong += sum(1 for one, fine in zip(ids, good, strict=True) if not fine and one.startswith(run))
        np.add.at(seen, np.array(numbers, np.int64), 1)
    return seen, wrong
