"""How candidates are asked and answer: Penstock's Avro records, or the same rows as Open Inference Protocol in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from penstock.bench.agreement import Answer, Outputs
from penstock.bench.bed import PARTITIONS, Bed
from penstock.bench.workload import POOL, RequestMaker
from schemas.codes import Code
from schemas.records import ScoreReply
from schemas.tensors import from_tensor

Headers = list[tuple[str, str | bytes | None]]
# A frame, a length and a run's name are within so many bytes.
_FRONT: Final = 64
_JSON_TYPES: Final = {"f": "FP32", "i": "INT64"}


class Wire(Protocol):
    """One topic for requests and one for replies, and what is in their records."""

    requests: str
    replies: str
    headers: Headers | None

    def many(self, run: str, first: int, count: int) -> tuple[list[bytes], list[bytes]]:
        """Values and keys of requests from number `first` on."""

    def read(self, message: Any) -> Answer:
        """A reply."""

    def is_of(self, message: Any, run: str) -> bool:
        """Whether a reply is to a request of the run, without decoding it."""


def request_id(run: str, number: int) -> str:
    """As `RequestMaker` makes it."""
    return f"{run}-{number:08d}"


class AvroWire:
    """Penstock's own records."""

    headers: Headers | None = None

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._codec = bed.settings.codec()
        self.requests, self.replies = bed.topics.requests, bed.topics.replies

    def many(self, run: str, first: int, count: int) -> tuple[list[bytes], list[bytes]]:
        """See `RequestMaker`."""
        return RequestMaker(self._codec, self._bed.workload, run, self.replies, PARTITIONS).many(first, count)

    def is_of(self, message: Any, run: str) -> bool:
        """Whether the run is in the id, which comes first in the record."""
        return bool(message.value()[:_FRONT].find(run.encode()) >= 0)

    def read(self, message: Any) -> Answer:
        """A ScoreReply's id and outputs."""
        reply = self._codec.decode(ScoreReply, message.value())
        if reply.code is not Code.OK:
            return Answer(reply.request_id, None)
        return Answer(reply.request_id, {one.name: from_tensor(one) for one in reply.outputs})


def json_topics(bed: Bed) -> tuple[str, str]:
    """Requests and replies in JSON."""
    return f"{bed.topics.prefix}json.requests", f"{bed.topics.prefix}json.replies"


class JsonWire:
    """Requests whose key is their id, whose header names the model, on topics of their own. MLServer's form."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.requests, self.replies = json_topics(bed)
        self.headers: Headers | None = [
            ("mlserver-model", bed.workload.model.encode()),
            ("mlserver-version", bed.workload.version.encode()),
        ]
        self._rows = [self._row(at) for at in range(POOL)]

    def _row(self, at: int) -> bytes:
        inputs = [
            {
                "name": name,
                "shape": [1, *array.shape[1:]],
                "datatype": _JSON_TYPES[array.dtype.kind],
                # The shortest digits that are the same float32.
                "data": [float(str(one)) for one in array[at].reshape(-1)],
                # MLServer takes each tensor as a NumPy array when it is told to.
                "parameters": {"content_type": "np"},
            }
            for name, array in self._bed.workload.inputs.items()
        ]
        return json.dumps({"inputs": inputs}).encode()

    def many(self, run: str, first: int, count: int) -> tuple[list[bytes], list[bytes]]:
        """Values and keys."""
        numbers = range(first, first + count)
        return [self._rows[one % POOL] for one in numbers], [request_id(run, one).encode() for one in numbers]

    def is_of(self, message: Any, run: str) -> bool:
        """Whether the key, which is the id, begins with the run."""
        return bool((message.key() or b"").startswith(run.encode()))

    def read(self, message: Any) -> Answer:
        """An inference response's key and outputs."""
        document = json.loads(message.value())
        outputs = {
            one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in document["outputs"]
        }  # fmt: skip
        return Answer((message.key() or b"").decode(), outputs)


def wanted(run: str, reference: Sequence[Outputs]) -> dict[str, Outputs]:
    """What each request of a run is to be answered, by id, from the answers by number."""
    return {request_id(run, number): outputs for number, outputs in enumerate(reference)}


def probes(wire: Wire, run: str) -> list[tuple[bytes, bytes]]:
    """One request for each partition, numbered by it."""
    values, keys = wire.many(run, 0, PARTITIONS)
    return list(zip(values, keys, strict=True))


__all__ = ["AvroWire", "Headers", "JsonWire", "Wire", "json_topics", "probes", "request_id", "wanted"]
