"""Follows the compacted control topic: experiments, default versions, rollouts, moved models, schemas."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from models.live import Live
from models.rollout import KIND as ROLLOUT
from models.rollout import Rollout
from models.routing import Experiment, ExperimentError, Router
from schemas.codec import Codec, DecodeError
from schemas.framing import RegistryUnavailableError
from schemas.placement import KIND as POOL
from schemas.placement import Place
from schemas.records import Control
from stream_workers.threads import NamedThread

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
ASK_SECONDS: Final = 2.0
SEPARATOR: Final = "/"


class ControlError(RuntimeError):
    """The control topic cannot be read."""


class ControlState:
    """What the control topic says, entry by entry; pure. A wrong entry is refused and the last good one stays.

    `entries`: the records that said which version is live and what is rolled out, by kind and name.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._experiments: dict[str, Experiment] = {}
        self._waiting: dict[str, Experiment] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self.live: dict[str, str] = {}
        self.models: dict[str, Live] = {}
        self.moved: dict[str, Place] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.entries: dict[tuple[str, str], Control] = {}
        self.router = Router(())

    def apply(self, key: bytes, value: bytes | None) -> str:
        """One record; returns the kind it changed, "" where it changed nothing."""
        if value is None:
            kind, _, name = key.decode("utf-8", "replace").partition(SEPARATOR)
            self._revisions.pop((kind, name), None)
            self.entries.pop((kind, name), None)
            return self._remove(kind, name)
        try:
            record = self._codec.decode(Control, value)
        except DecodeError as error:
            log.warning("control entry %r cannot be read and is left out: %s", key, error)
            return ""
        # Compaction and a re-read keep order, so a lower revision is a late writer who did not see the last change.
        if record.revision < self._revisions.get((record.kind, record.name), -1):
            log.warning("control entry %s/%s: revision %d is old", record.kind, record.name, record.revision)
            return ""
        try:
            if key != f"{record.kind}{SEPARATOR}{record.name}".encode():
                # Compaction goes by the key: under another one the entry would outlive its own removal.
                raise ValueError(f"its key is {key!r}")
            self._set(record)
        except (ValueError, RecursionError) as error:
            log.error("control entry %s/%s is refused, the last good one stays: %s", record.kind, record.name, error)
            return ""
        self._revisions[(record.kind, record.name)] = record.revision
        if record.kind in (ROLLOUT, "model"):
            self.entries[(record.kind, record.name)] = record
        return record.kind

    def _set(self, record: Control) -> None:
        if record.kind == "experiment":
            experiment = Experiment.from_json(record.body)
            if experiment.name != record.name:
                raise ValueError(f"its body is of experiment {experiment.name!r}")
            self._waiting.pop(record.name, None)
            try:
                self._run({**self._experiments, record.name: experiment})
            except ExperimentError:
                # It may fit once another one ends; a worker that starts then would take it, so this one must too.
                self._waiting[record.name] = experiment
                raise
            self._try_waiting()
        elif record.kind == "model":
            self._go_live({**self.models, record.name: Live.from_json(record.body)})
        elif record.kind == POOL:
            self.moved = {**self.moved, record.name: Place.from_json(record.body)}
        elif record.kind == ROLLOUT:
            rollout = Rollout.from_json(record.body)
            if rollout.model != record.name:
                raise ValueError(f"its body is of model {rollout.model!r}")
            self.rollouts = {**self.rollouts, record.name: rollout}
        elif record.kind == "schema":
            self._codec.learn(record.body)

    def _remove(self, kind: str, name: str) -> str:
        if kind == "experiment":
            self._waiting.pop(name, None)
            self._run({own: one for own, one in self._experiments.items() if own != name})
            self._try_waiting()
        elif kind == "model":
            self._go_live({own: one for own, one in self.models.items() if own != name})
        elif kind == POOL:
            self.moved = {own: one for own, one in self.moved.items() if own != name}
        elif kind == ROLLOUT:
            self.rollouts = {own: one for own, one in self.rollouts.items() if own != name}
        return kind

    def _go_live(self, entries: dict[str, Live]) -> None:
        self.models = entries
        self.live = {name: one.version for name, one in entries.items()}

    def _run(self, experiments: dict[str, Experiment]) -> None:
        self.router = Router(experiments.values())
        self._experiments = experiments

    def _try_waiting(self) -> None:
        for name, experiment in list(self._waiting.items()):
            with suppress(ExperimentError):
                self._run({**self._experiments, name: experiment})
                del self._waiting[name]
                log.info("control entry experiment/%s was refused before and fits now", name)


class ControlFollower:
    """Reads the control topic from its beginning, then follows it in a thread."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        state: ControlState,
        on_change: Callable[[ControlState], None],
        *,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`config`: librdkafka's; no group is joined, no offset committed. `on_change` runs in this thread.

        `on_failure` is called, in this thread too, when it ends otherwise than by `stop`; `failure` says why.
        """
        own: dict[str, Any] = {
            "group.id": "penstock-control",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        own["enable.partition.eof"] = True
        kept = {name: value for name, value in config.items() if not name.startswith("group.")}
        self._consumer = Consumer({**kept, **own})
        self._topic = topic
        self._partition = TopicPartition(topic, 0)
        self._state = state
        self._on_change = on_change
        self._on_failure = on_failure
        self._at_end = False
        self._next = 0
        self._asked: list[threading.Event] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # Control is not followed any more then, so that its owner must not go on.
        self.failure: BaseException | None = None
        self._thread = NamedThread(target=self._run, name="control", daemon=True)

    def start(self, timeout: float) -> None:
        """Read what there is, apply it, and follow. Raises `ControlError` where that takes longer than `timeout`."""
        try:
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
            end = monotonic() + timeout
            while not self._at_end:
                if monotonic() > end:
                    raise ControlError(f"topic {self._topic} was not read to its end within {timeout:.0f} s")
                self._take(self._consumer.poll(POLL_SECONDS))
        except KafkaException as error:
            raise ControlError(f"topic {self._topic} cannot be read: {error.args[0].str()}") from None
        self._on_change(self._state)
        self._thread.start()

    def catch_up(self, timeout: float) -> bool:
        """Wait until all that stood on the topic when this was called is applied; False where that takes too long.

        Who takes over a partition sees by this whatever its owner before had seen.
        """
        done = threading.Event()
        with self._lock:
            self._asked.append(done)
        return done.wait(timeout)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self.failure = error
            self._on_failure()
            raise

    def _follow(self) -> None:
        waiting: list[tuple[int, threading.Event]] = []
        while not self._stop.is_set():
            if self._take_patiently(self._consumer.poll(POLL_SECONDS)):
                self._on_change(self._state)
            with self._lock:
                asked, self._asked = self._asked, []
            if asked:
                end = self._end()
                # Not known: it is asked again.
                with self._lock:
                    self._asked += asked if end is None else []
                waiting += [(end, one) for one in asked] if end is not None else []
            for _, one in [pair for pair in waiting if pair[0] <= self._next]:
                one.set()
            waiting = [pair for pair in waiting if pair[0] > self._next]

    def _end(self) -> int | None:
        """Where the topic ends now, for readers of what is committed; None where Kafka does not say."""
        try:
            # Here, since calls on a consumer wait for the poll of another thread.
            marks = self._consumer.get_watermark_offsets(self._partition, timeout=ASK_SECONDS, cached=False)
            return None if marks is None else int(marks[1])
        except KafkaException as error:
            log.warning("control topic: its end is not known: %s", error.args[0].str())
            return None

    def _take_patiently(self, message: Message | None) -> bool:
        """As `_take`; waits for a schema registry that is away, since what the record says must not be passed over."""
        said = False
        while not self._stop.is_set():
            try:
                return self._take(message)
            except RegistryUnavailableError as error:
                if not said:
                    log.warning("control topic: an entry waits to be read: %s", error)
                    said = True
                self._stop.wait(ASK_SECONDS)
        return False

    def _take(self, message: Message | None) -> bool:
        if message is None:
            return False
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                # Beyond the markers of transactions, which are no messages.
                self._next = max(self._next, message.offset() or 0)
                self._at_end = True
            else:
                log.warning("control topic: %s", error.str())
            return False
        changed = bool(self._state.apply(message.key() or b"", message.value()))
        self._next = (message.offset() or 0) + 1
        return changed
