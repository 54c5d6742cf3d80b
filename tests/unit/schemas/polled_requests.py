"""Polls of requests, decoded at once and one by one, as plain records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.batch_codec import RequestGroup, decode_requests
from schemas.codec import Codec, DecodeError
from schemas.records import ScoreRequest, Tensor

CODEC = Codec()


def taken_apart(group: RequestGroup) -> dict[int, ScoreRequest]:
    """The requests of a group by their place in the poll."""
    count = len(group.index)
    found = {}
    for i, place in enumerate(group.index.tolist()):
        inputs = []
        for tensor in group.tensors:
            width, left = divmod(len(tensor.data), count)
            assert left == 0
            inputs.append(Tensor(tensor.name, tensor.datatype, tensor.shape, tensor.data[i * width : (i + 1) * width]))
        found[place] = ScoreRequest(
            request_id=group.request_ids[i].decode(),
            model=group.model,
            user_id=group.user_ids[i].decode(),
            sent_at=int(group.sent_at[i]),
            version=group.version,
            experiment=group.experiment,
            deadline=int(group.deadlines[i]),
            reply_topic=group.reply_topic,
            reply_partition=int(group.reply_partitions[i]),
            inputs=tuple(inputs),
            features=group.features[i] if group.features else {},
        )
    return found


def one_by_one(values: Sequence[bytes | None]) -> tuple[dict[int, ScoreRequest], dict[int, tuple[str, str]]]:
    """What the plain codec makes of the same values."""
    records, errors = {}, {}
    for place, value in enumerate(values):
        try:
            records[place] = CODEC.decode(ScoreRequest, value)
        except DecodeError as error:
            errors[place] = (error.reason, str(error))
    return records, errors


def together(values: Sequence[bytes | None]) -> tuple[dict[int, ScoreRequest], dict[int, tuple[str, str]]]:
    groups, errors = decode_requests(CODEC, values, fewest=2)
    records: dict[int, ScoreRequest] = {}
    for group in groups:
        own = taken_apart(group)
        assert not own.keys() & records.keys(), "a record is in two groups"
        records |= own
    return records, {place: (error.reason, str(error)) for place, error in errors.items()}


def request(number: int, **fields: object) -> ScoreRequest:
    data = np.full(4, number, "<f4").tobytes()
    plain = {"model": "m", "user_id": f"u{number}", "sent_at": number, "inputs": (Tensor("x", "FP32", (1, 4), data),)}
    return ScoreRequest(request_id=f"r{number}", **{**plain, **fields})  # type: ignore[arg-type]
