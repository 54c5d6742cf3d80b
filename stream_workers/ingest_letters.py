"""Sends what ingest cannot read to the dead letters, and knows when all of it is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from confluent_kafka import KafkaError, Message, Producer

from schemas.codec import Codec
from schemas.records import DeadLetter
from schemas.topics import MAX_MESSAGE_BYTES

# Room in a dead letter for all that is not the value it carries: key, headers, detail.
_ENVELOPE: Final = 256 * 1024
_KEY: Final = 64 * 1024
_HEADERS: Final = 32
_HEADER: Final = 1024


class DeadLetters:
    """Publishes dead letters, at least once. `now` is the time in seconds since the epoch."""

    def __init__(
        self,
        config: Mapping[str, object],
        topic: str,
        codec: Codec,
        worker: str,
        now: Callable[[], float],
        logger: Any = None,
    ) -> None:
        self._producer = Producer(dict(config), logger=logger)
        self._topic = topic
        self._codec = codec
        self._worker = worker
        self._now = now
        self._undelivered: list[tuple[bytes | None, bytes]] = []

    def send(self, message: Message, reason: str, detail: str) -> None:
        """Report a record with its bytes, its place and why."""
        value, key = message.value(), message.key()
        headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])[:_HEADERS]
        letter = DeadLetter(
            topic=str(message.topic()),
            partition=cast("int", message.partition()),
            offset=cast("int", message.offset()),
            key=key[:_KEY] if key else key,
            value=value[: MAX_MESSAGE_BYTES - _ENVELOPE] if value else value,
            reason=reason,
            detail=detail[:1000],
            worker=self._worker,
            failed_at=int(self._now() * 1e6),
            headers={name[:_HEADER]: part[:_HEADER] if part is not None else None for name, part in headers},
        )
        self._publish(letter.key, self._codec.encode(letter))

    def safe(self) -> bool:
        """Whether the broker has every letter so far; waits a second at most, and sends again those that failed."""
        if len(self._producer) == 0 and not self._undelivered:
            return True
        again, self._undelivered = self._undelivered, []
        for key, value in again:
            self._publish(key, value)
        return bool(self._producer.flush(1.0) == 0 and not self._undelivered)

    def serve(self) -> None:
        """Take note of deliveries; call it often."""
        self._producer.poll(0)

    def close(self, seconds: float) -> None:
        """Wait for what is under way."""
        self._producer.flush(seconds)

    def _publish(self, key: bytes | None, value: bytes) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._undelivered.append((key, value))

        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return
