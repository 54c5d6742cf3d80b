"""Puts records that cannot be read on the dead-letter topic, in the transaction that moves past them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from confluent_kafka import Message

from schemas.codec import Codec, DecodeError
from schemas.records import DeadLetter
from schemas.topics import MAX_MESSAGE_BYTES
from stream_workers.ledger import Epoch, Ledger, Output, short_key
from stream_workers.messages import headers_of
from stream_workers.ops import WorkerMetrics

# A dead letter carries this much of the record's value, and of its key and headers; all of it has to fit.
VALUE_BYTES: Final = MAX_MESSAGE_BYTES - 2 * 1024 * 1024
REST_BYTES: Final = 1024 * 1024


class DeadLetters:
    """Writes them for one pipeline."""

    def __init__(
        self,
        codec: Codec,
        topic: str,
        ledger: Ledger,
        metrics: WorkerMetrics,
        *,
        worker: str,
        now_us: Callable[[], int],
    ) -> None:
        """`topic`: where they go."""
        self._codec = codec
        self._topic = topic
        self._ledger = ledger
        self._metrics = metrics
        self._worker = worker
        self._now_us = now_us

    def put(self, epoch: Epoch, message: Message, error: DecodeError) -> None:
        """This is the record's fate: its bytes, where it was, and why it could not be read."""
        value, key, headers = message.value(), message.key(), dict(headers_of(message))
        detail = str(error)
        if len(key or b"") + sum(len(name) + len(text) for name, text in headers.items()) > REST_BYTES:
            key, headers, detail = None, {}, f"{detail} (its key and headers are too large to be kept)"
        if len(value or b"") > VALUE_BYTES:
            detail += f" (of its {len(value or b'')} bytes the first {VALUE_BYTES} are kept)"
        letter = DeadLetter(
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
            key=key,
            value=None if value is None else value[:VALUE_BYTES],
            headers=headers,
            reason=error.reason,
            detail=detail,
            worker=self._worker,
            failed_at=self._now_us(),
        )
        self._metrics.dead_letters(error.reason)
        self._ledger.finish(epoch, 1, [Output(self._topic, self._codec.encode(letter), short_key(message.key()))])
