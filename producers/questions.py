"""A question to a model and its answer, checked and put into the form that travels. No Kafka here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from producers.errors import InternalError, InvalidArgumentError, error_for
from schemas.codes import Code
from schemas.records import FeatureValue, ScoreReply, Tensor
from schemas.tensors import Array, TensorError, from_tensor, to_tensor


@dataclass(frozen=True, slots=True)
class Score:
    """An answer. `outputs`: arrays by name, rows first, read-only. `latency`: seconds from call to answer, as the
    caller saw it; `worker_seconds`: the part of it between a worker's reading the request and making the reply.
    `degraded`: how far it fell short of how it should have been made, empty where it did not (docs/degradation.md)."""

    outputs: Mapping[str, Array]
    model: str
    version: str
    variant: str
    latency: float
    worker_seconds: float
    request_id: str
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A request before it has an id. `asked`: `time.perf_counter` of the call; `timeout`: seconds from there."""

    model: str
    version: str
    user_id: str
    experiment: str
    features: Mapping[str, FeatureValue]
    inputs: tuple[Tensor, ...]
    asked: float
    timeout: float


def ask(
    model: str,
    version: str,
    user_id: str,
    experiment: str,
    features: Mapping[str, FeatureValue] | None,
    inputs: Mapping[str, Array] | None,
    timeout: float,
) -> Question:
    """A question out of a caller's arguments. Raises `InvalidArgumentError` for what no model could answer."""
    asked = time.perf_counter()
    if not model:
        raise InvalidArgumentError("model: expected a model's name, got an empty one")
    if (features is None) == (inputs is None):
        raise InvalidArgumentError("expected either features or inputs, got both or neither", model=model)
    if not timeout > 0:
        raise InvalidArgumentError(f"timeout: expected more than 0 seconds, got {timeout}", model=model)
    try:
        tensors = tuple(to_tensor(name, np.asarray(array)) for name, array in (inputs or {}).items())
    except (TensorError, ValueError) as error:
        raise InvalidArgumentError(f"inputs: {error}", model=model) from None
    values = {name: _feature(model, name, value) for name, value in (features or {}).items()}
    return Question(model, version, user_id, experiment, values, tensors, asked, timeout)


def score_of(question: Question, reply: ScoreReply) -> Score:
    """The answer in a reply. Raises the `ScoringError` of its code where it is none."""
    if reply.code is not Code.OK:
        raise error_for(reply.code, reply.message, model=question.model, request_id=reply.request_id)
    try:
        outputs = {one.name: from_tensor(one) for one in reply.outputs}
    except TensorError as error:
        detail = f"unreadable answer from {reply.model} {reply.version}: {error}"
        raise InternalError(detail, model=question.model, request_id=reply.request_id) from None
    return Score(
        outputs=outputs,
        model=reply.model,
        version=reply.version,
        variant=reply.variant,
        latency=time.perf_counter() - question.asked,
        worker_seconds=(reply.replied_at - reply.received_at) / 1e6,
        request_id=reply.request_id,
        degraded=reply.degraded,
    )


def _feature(model: str, name: str, value: object) -> FeatureValue:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or isinstance(plain, float | int | bool | str):
        return plain
    raise InvalidArgumentError(
        f"feature {name!r}: expected a number, text or nothing, got {type(value).__name__}", model=model
    )
