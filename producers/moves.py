"""Where each model's work goes now: the placement that a client was given, under what the control topic says.

For clients that live long. Without it a client is answered as well: workers hand on what is another pool's, which costs
one commit interval (`worker.commit_interval_ms`) more.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Final, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.kafka import Config, client_config, unreachable
from schemas.codec import Codec, DecodeError
from schemas.framing import RegistryUnavailableError
from schemas.placement import KIND, Place, Placement, PlacementError
from schemas.records import Control

LOG: Final = logging.getLogger(__name__)
POLL_SECONDS: Final = 0.25


class Moves:
    """Follows the control topic in a thread; a context manager. `of` may be asked from any thread.

    `config`: librdkafka properties of any client; no group is joined and nothing committed.
    """

    def __init__(self, config: Config, codec: Codec, topic: str, placement: Placement) -> None:
        own = {
            "group.id": "penstock-control",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        self._config = config
        self._consumer = Consumer(client_config(config, {"isolation.level": "read_committed"}, own))
        self._codec = codec
        self._topic = topic
        self._placement = placement
        self._at_end = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-moves", daemon=True)

    def of(self, model: str) -> Place:
        """Where this model's work goes now."""
        return self._placement.of(model)

    def start(self, timeout: float = 10.0) -> Self:
        """Read what there is, then follow. Raises `BrokerUnavailableError` where that takes longer than `timeout` s."""
        end = time.monotonic() + timeout
        try:
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
            while not self._at_end:
                if time.monotonic() > end:
                    raise unreachable(self._config, f"topic {self._topic} was not read within {timeout:g} s")
                self._take(self._consumer.poll(POLL_SECONDS))
        except KafkaException as error:
            raise unreachable(self._config, error) from None
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._consumer.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._take(self._consumer.poll(POLL_SECONDS))

    def _take(self, message: Message | None) -> None:
        if message is None:
            return
        error = message.error()
        if error is not None:
            self._at_end = self._at_end or error.code() == KafkaError._PARTITION_EOF
            return
        kind, _, model = (message.key() or b"").decode("utf-8", "replace").partition("/")
        if kind != KIND:
            return
        moved, value = dict(self._placement.moved), message.value()
        moved.pop(model, None)
        if value is not None:
            try:
                moved[model] = Place.from_json(self._codec.decode(Control, value).body)
            except (DecodeError, PlacementError, RegistryUnavailableError) as problem:
                # Workers keep the last good one too, and hand on what comes to the wrong pool.
                LOG.warning("control entry %s/%s is left out: %s", KIND, model, problem)
                return
        self._placement = self._placement.with_moved(moved)
