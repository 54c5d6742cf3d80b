"""What a scoring worker says of itself: which versions it has ready, and how long loads, swaps and rollbacks took.

Each says it again every few seconds, on the compacted topic `worker.states`, under its name; who has said nothing for a
while is taken for dead. A rollout goes on only while every worker that lives has the candidate ready.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any, Final, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from models.rollout import LOADING
from producers.kafka import Config, client_config, unreachable
from schemas.codec import Codec, DecodeError
from schemas.records import Control
from stream_workers.threads import NamedThread

log = logging.getLogger(__name__)

KIND: Final = "worker"
SAY_SECONDS: Final = 2.0
# Four times not heard.
DEAD_SECONDS: Final = 8.0
FLUSH_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model in one worker.

    `ready`: seconds from asked for to ready by version, `failed`: why a version is not. `serves`: the version that
    answers by default. `swap_ms` and `rollback_ms`: from when the last change of each kind was written to when it held
    here, by the clocks of both (a clock that is ahead shows as 0); -1: none since this worker began. `swaps`: how many.
    `rollout` and `step`: the salt and the step of the rollout by which users are sent here; empty where none is on.
    `users`: how many have met its candidate here in this step, where they are not too many to be worth a count.
    """

    ready: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    serves: str = ""
    swap_ms: float = -1.0
    rollback_ms: float = -1.0
    swaps: int = 0
    rollout: str = ""
    step: int = LOADING
    users: int = 0


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker. `run` is its process's own, so that a worker that was started anew is another one."""

    name: str
    run: str
    models: Mapping[str, ModelState] = field(default_factory=dict)

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse; keys of a later release are left out. Raises ValueError in a line."""
        try:
            body = json.loads(text)
            known = ModelState.__dataclass_fields__.keys()
            models = {
                name: ModelState(**{key: value for key, value in one.items() if key in known})
                for name, one in body.get("models", {}).items()
            }
            return cls(body["name"], body["run"], models)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no worker's state: {type(error).__name__}: {error}") from None


class Changes:
    """What changed in a worker's models, counted and timed. Safe from any thread."""

    def __init__(self, wall: Callable[[], int]) -> None:
        """`wall`: microseconds since the epoch."""
        self._wall = wall
        self._lock = threading.Lock()
        self._states: dict[str, ModelState] = {}

    def swapped(self, model: str, written_at: int, *, back: bool) -> None:
        """Another version answers, wholly or for more users; `back`: the one from before does again."""
        took = max(0.0, (self._wall() - written_at) / 1000)
        with self._lock:
            before = self._states.get(model, ModelState())
            after = replace(before, rollback_ms=took) if back else replace(before, swap_ms=took)
            self._states[model] = replace(after, swaps=before.swaps + 1)

    def of(self, model: str) -> ModelState:
        """What is known, without the loads."""
        with self._lock:
            return self._states.get(model, ModelState())


class StateTeller:
    """Says a worker's state every few seconds, and at once when `poke`d, from a thread of its own.

    Nothing waits for it: what Kafka does not take is said again later.
    """

    def __init__(self, config: Config, codec: Codec, topic: str, name: str, state: Callable[[], WorkerState]) -> None:
        self._producer = Producer(dict(client_config(config, {"linger.ms": 0, "log_level": 0})))
        self._codec = codec
        self._topic = topic
        self._name = name
        self._state = state
        self._wake = threading.Event()
        self._stopping = False
        self._thread = NamedThread(target=self._run, name="state", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def poke(self) -> None:
        """Something changed."""
        self._wake.set()

    def stop(self) -> None:
        """Say that this worker is gone, and end."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._put(None)
        self._producer.flush(FLUSH_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            now = time.time_ns() // 1000
            self._put(self._codec.encode(Control(KIND, self._name, now, self._state().to_json(), now)))
            self._wake.wait(SAY_SECONDS)
            self._wake.clear()

    def _put(self, value: bytes | None) -> None:
        try:
            self._producer.produce(self._topic, value, f"{KIND}/{self._name}".encode())
        except BufferError:
            log.debug("worker.states: Kafka takes nothing at present")
        self._producer.poll(0)


class WorkerStates:
    """Reads `worker.states`: who lives, and what each has ready. Not safe from several threads."""

    def __init__(self, config: Config, codec: Codec, topic: str, *, clock: Callable[[], float] = monotonic) -> None:
        """`config`: librdkafka properties of any client."""
        own: dict[str, Any] = {
            "group.id": "penstock-states",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        self._config = config
        self._consumer = Consumer(client_config(config, own))
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        self._codec = codec
        self._clock = clock
        self._heard: dict[str, tuple[float, int, WorkerState]] = {}
        self.at_end = False

    def poll(self) -> None:
        """Take what has come, without waiting."""
        while messages := self._consumer.consume(500, 0):
            for message in messages:
                self._take(message)

    def read_to_end(self, timeout: float = 15.0) -> None:
        """Read all there is. Raises `BrokerUnavailableError` where that takes longer."""
        end = self._clock() + timeout
        try:
            while not self.at_end:
                if self._clock() > end:
                    raise unreachable(self._config, "the topic of workers' states was not read in time")
                for message in self._consumer.consume(500, 0.2):
                    self._take(message)
        except KafkaException as error:
            raise unreachable(self._config, error) from None

    def live(self) -> dict[str, WorkerState]:
        """The workers that have said something lately."""
        now = self._clock()
        return {name: state for name, (heard, _, state) in sorted(self._heard.items()) if now - heard <= DEAD_SECONDS}

    def lately(self, wall: int) -> dict[str, WorkerState]:
        """The same by the workers' own clocks, for who has only just begun to listen. `wall`: microseconds."""
        first = wall - DEAD_SECONDS * 1_000_000
        return {name: state for name, (_, said, state) in sorted(self._heard.items()) if said >= first}

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self.at_end = self.at_end or error.code() == KafkaError._PARTITION_EOF
            return
        name = (message.key() or b"").decode("utf-8", "replace").partition("/")[2]
        value = message.value()
        if value is None:
            self._heard.pop(name, None)
            return
        try:
            record = self._codec.decode(Control, value)
            state = WorkerState.from_json(record.body)
        except (DecodeError, ValueError) as wrong:
            log.warning("worker.states: an entry is left out: %s", wrong)
            return
        self._heard[name] = (self._clock(), record.changed_at, state)
