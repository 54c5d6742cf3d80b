"""What every peer does with a request's bytes: Avro by fastavro, the model by ONNX Runtime, Avro again.

All peers score with this file, so that what differs between them is how records come and go. It imports nothing of
Penstock: a peer runs in an environment of its own and reads the schemas as any other client of Penstock's topics
would.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import numpy as np
import onnxruntime
from fastavro.schema import fingerprint, to_parsing_canonical_form

# Avro single-object encoding: two marker bytes and eight of the writer's schema.
_MARKER = b"\xc3\x01"
_FRAME = 10


@dataclass(frozen=True)
class Settings:
    """What the benchmark tells a peer, as JSON in the environment variable PEER_SETTINGS."""

    bootstrap: str
    requests: str
    replies: str
    group: str
    model_file: str
    model: str
    version: str
    schemas: str
    threads: int
    session_timeout_ms: int

    @classmethod
    def given(cls) -> Settings:
        """As the environment has them."""
        return cls(**json.loads(os.environ["PEER_SETTINGS"]))


class Reply(NamedTuple):
    """A ScoreReply's bytes, and where its request wants them."""

    topic: str
    partition: int
    value: bytes


class Scorer:
    """Requests' bytes to replies' bytes, a batch at a time."""

    def __init__(self, settings: Settings) -> None:
        self._reader, self._request_frame = _schema(settings, "ScoreRequest")
        self._writer, self._reply_frame = _schema(settings, "ScoreReply")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(settings.model_file, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._model, self._version = settings.model, settings.version

    def score(self, values: Sequence[bytes]) -> list[Reply]:
        """The replies to these requests, one each and in their order."""
        received = time.time_ns() // 1000
        requests = [self._read(value) for value in values]
        rows = np.stack([np.frombuffer(one["inputs"][0]["data"], np.float32) for one in requests])
        answers = self._session.run([self._output], {self._input: rows})[0]
        replied = time.time_ns() // 1000
        return [
            Reply(one["reply_topic"], one["reply_partition"], self._write(one["request_id"], row, received, replied))
            for one, row in zip(requests, answers, strict=True)
        ]

    def _read(self, value: bytes) -> Any:
        if value[:_FRAME] != self._request_frame:
            raise ValueError(f"no ScoreRequest: its frame is {value[:_FRAME].hex()}")
        return fastavro.schemaless_reader(io.BytesIO(value[_FRAME:]), self._reader, None)

    def _write(self, request_id: str, row: Any, received: int, replied: int) -> bytes:
        out = io.BytesIO()
        out.write(self._reply_frame)
        tensor = {"name": self._output, "datatype": "FP32", "shape": [1, len(row)], "data": row.tobytes()}
        reply = {
            "request_id": request_id,
            "code": "OK",
            "model": self._model,
            "version": self._version,
            "received_at": received,
            "replied_at": replied,
            "outputs": [tensor],
        }
        fastavro.schemaless_writer(out, self._writer, reply)
        return out.getvalue()


def _schema(settings: Settings, name: str) -> tuple[Any, bytes]:
    """The schema ready for fastavro, and the frame of records that are written with it."""
    plain = _without_logical_types(json.loads((Path(settings.schemas) / f"{name}.avsc").read_text()))
    frame = _MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(plain), "CRC-64-AVRO"))
    return fastavro.parse_schema(plain), frame


def _without_logical_types(schema: Any) -> Any:
    """Times stay numbers: nobody here reads them, and a datetime for each would cost more than the model."""
    if isinstance(schema, dict):
        return {key: _without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [_without_logical_types(one) for one in schema]
    return schema
