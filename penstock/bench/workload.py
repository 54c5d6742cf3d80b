"""What is asked in a benchmark: the model, rows for it, the requests' bytes, and the answers that are right."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.registry import ModelStore, Registry
from models.session import Session
from models.signature import FeatureSpec, Signature
from penstock.bench.onnx_file import mlp
from schemas.codec import Codec
from schemas.partitioning import record_key
from schemas.records import FeatureValue, ScoreBatch, ScoreRequest
from schemas.tensors import BYTES, Array, from_tensor, to_tensor

MODELS: Final[Mapping[str, tuple[int, ...]]] = {"mlp": (32, 64, 32, 1), "heavy": (256, 1024, 1024, 1)}
# Requests take their rows from this many different ones, by turns.
POOL: Final = 4096
USERS: Final = 10_000
_ID_DIGITS: Final = 8
_USER_DIGITS: Final = 5
_CHUNK: Final = 16_384


class WorkloadError(ValueError):
    """A model that cannot be measured, in one line."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows for a model. Row i of request i is row `i % POOL`.

    `store` is the folder to serve it from, `path` its ONNX file. `inputs`: the model's input arrays [POOL, ...];
    `features`: the same as named features, where its signature has them, else empty. `expected`: its outputs.
    """

    model: str
    version: str
    store: Path
    path: Path
    signature: Signature
    inputs: dict[str, Array]
    features: Sequence[Mapping[str, FeatureValue]]
    expected: dict[str, Array]

    @property
    def width(self) -> int:
        """Values in a row."""
        return len(self.features[0]) if self.features else sum(one[0].size for one in self.inputs.values())

    @property
    def shown(self) -> str:
        """The model for people and for JSON."""
        sizes = MODELS.get(self.model)
        return f"{self.model} {'-'.join(map(str, sizes))}" if sizes else f"{self.model} {self.version}"

    def session(self, threads: int = 1) -> Session:
        """The model in this process, on the CPU."""
        return Session.open(self.path, self.signature, "cpu", threads)


def make_workload(name: str, folder: Path, store: str | Path, seed: int = 1) -> Workload:
    """The workload of `mlp` or `heavy`, whose store is made in `folder`, or of any model in `store`.

    Raises `WorkloadError`, and `ArtifactError` for a store that does not have the model.
    """
    if name in MODELS:
        store = folder / "models"
        file = folder / f"{name}.onnx"
        file.write_bytes(mlp(MODELS[name]))
        own = ModelStore(store)
        if name not in own.names():
            own.add_onnx(name, "1", file)
    root = Path(store).absolute()
    models = Registry(root)
    version = models.default_version(name)
    signature = models.manifest(name, version).signature
    path = models.artifact(name, version)
    rng = np.random.default_rng(seed)
    features: list[dict[str, FeatureValue]] = []
    if signature.features:
        features = [{one.name: _feature(one, rng) for one in signature.features} for _ in range(POOL)]
        assembled = signature.assemble(features)
        if assembled.errors:
            raise WorkloadError(f"model {name}: no features could be made up for it: {min(assembled.errors.values())}")
        inputs = assembled.inputs
    else:
        inputs = {one.name: _values(one.sample(POOL), rng) for one in signature.inputs}
    session = Session.open(path, signature, "cpu")
    expected = session.run(inputs)
    session.close()
    return Workload(name, version, root, path, signature, inputs, features, expected)


def _values(sample: Array, rng: np.random.Generator) -> Array:
    return rng.standard_normal(sample.shape).astype(sample.dtype) if sample.dtype.kind == "f" else sample


def _feature(spec: FeatureSpec, rng: np.random.Generator) -> FeatureValue:
    return str(rng.choice(spec.vocabulary)) if spec.vocabulary else round(float(rng.random()) * 24, 3)


class RequestMaker:
    """Makes ScoreRequests of one run of the benchmark, as bytes and keys."""

    def __init__(
        self, codec: Codec, workload: Workload, run: str, reply_topic: str, reply_partitions: int, deadline: int = 0
    ) -> None:
        """`run` starts every request's id; replies go to the partitions by turns. `deadline`: see ScoreRequest."""
        self._codec = codec
        self._workload = workload
        self._run = run
        self._deadline = deadline
        self._reply_topic = reply_topic
        self._partitions = reply_partitions

    def many(self, first: int, count: int) -> tuple[list[bytes], list[bytes]]:
        """Values and keys of `count` requests from number `first` on, sent now."""
        numbers = np.arange(first, first + count)
        keys = [record_key(user) for user in (self._user(number) for number in numbers.tolist())]
        if self._workload.features or any(array.dtype == object for array in self._workload.inputs.values()):
            return [self._codec.encode(self.one(number)) for number in numbers.tolist()], keys
        # All records are alike but for ids, users, reply partitions and data, so they are cut from one.
        values: list[bytes] = [b""] * count
        for partition in range(self._partitions):
            mine = np.flatnonzero(numbers % self._partitions == partition)
            for at in range(0, len(mine), _CHUNK):
                chosen = mine[at : at + _CHUNK]
                for place, value in zip(chosen.tolist(), self._alike(numbers[chosen]), strict=True):
                    values[place] = value
        return values, keys

    def one(self, number: int) -> ScoreRequest:
        """Request `number` as a record."""
        at = number % POOL
        work = self._workload
        plain = ScoreRequest(
            request_id=f"{self._run}-{number:0{_ID_DIGITS}d}",
            model=work.model,
            user_id=self._user(number),
            sent_at=time.time_ns() // 1000,
            deadline=self._deadline,
            reply_topic=self._reply_topic,
            reply_partition=number % self._partitions,
        )
        if work.features:
            return replace(plain, features=work.features[at])
        tensors = tuple(to_tensor(name, array[at : at + 1]) for name, array in work.inputs.items())
        return replace(plain, inputs=tensors)

    def _user(self, number: int) -> str:
        return f"u{number % USERS:0{_USER_DIGITS}d}"

    def _alike(self, numbers: Array) -> list[bytes]:
        first = self.one(int(numbers[0]))
        template = self._codec.encode(first)
        matrix = np.tile(np.frombuffer(template, np.uint8), (len(numbers), 1))
        ids = template.index(first.request_id.encode()) + len(first.request_id) - _ID_DIGITS
        matrix[:, ids : ids + _ID_DIGITS] = _digits(numbers, _ID_DIGITS)
        users = template.index(first.user_id.encode(), ids) + 1
        matrix[:, users : users + _USER_DIGITS] = _digits(numbers % USERS, _USER_DIGITS)
        end = len(template)
        for tensor in reversed(first.inputs):
            begin = template.rindex(tensor.data, 0, end)
            own = np.ascontiguousarray(self._workload.inputs[tensor.name][numbers % POOL])
            matrix[:, begin : begin + len(tensor.data)] = own.reshape(len(numbers), -1).view(np.uint8)
            end = begin
        raw, width = matrix.tobytes(), len(template)
        return [raw[at : at + width] for at in range(0, len(raw), width)]


def _digits(numbers: Array, width: int) -> Array:
    """ASCII digits [n, width] of whole numbers."""
    return (numbers[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)


def number_of(request_id: bytes) -> int:
    """The number of a request by its id."""
    return int(request_id[-_ID_DIGITS:])


def bulk_batch(
    workload: Workload, job: str, sequence: int, rows: int, reply_topic: str, reply_partition: int
) -> ScoreBatch:
    """A columnar batch whose row r is pool row `(sequence + r) % POOL`."""
    where = (sequence + np.arange(rows)) % POOL
    plain = ScoreBatch(
        job=job,
        sequence=sequence,
        model=workload.model,
        sent_at=time.time_ns() // 1000,
        reply_topic=reply_topic,
        reply_partition=reply_partition,
        rows=rows,
    )
    if workload.features:
        columns = {
            one.name: np.array([workload.features[at][one.name] for at in where.tolist()])
            for one in workload.signature.features
        }
        return replace(plain, columns=tuple(to_tensor(name, array) for name, array in columns.items()))
    return replace(plain, inputs=tuple(to_tensor(name, array[where]) for name, array in workload.inputs.items()))


def is_right(workload: Workload, outputs: Sequence[Any], where: Array) -> bool:
    """Whether the outputs (tensors) are those of these pool rows, within rounding."""
    found = {one.name: from_tensor(one) for one in outputs}
    if set(found) != set(workload.expected):
        return False
    for name, array in workload.expected.items():
        want = array[where]
        if want.dtype == object or datatype_is_text(found[name]):
            if found[name].tolist() != want.tolist():
                return False
        elif found[name].shape != want.shape or not np.allclose(found[name], want, rtol=1e-3, atol=1e-5):
            return False
    return True


def datatype_is_text(array: Array) -> bool:
    """Whether it holds text."""
    return array.dtype.kind in "OUS"


__all__ = [
    "BYTES", "MODELS", "POOL", "RequestMaker", "Workload", "WorkloadError", "bulk_batch", "is_right", "make_workload",
    "number_of",
]  # fmt: skip
