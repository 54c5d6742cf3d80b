"""Two workers, a monitor that drives rollouts, models to be rolled out, and users who ask again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from monitor_process import Log, MonitorProcess
from onnx_models import node, write
from waiting import until
from worker_process import Answer, Scene

from models.batching import BatchLimits
from models.registry import ModelStore, Registry
from models.rollout import Guard, Rollout, steps_of
from models.signature import Score, Signature, TensorSpec
from penstock.brokers import EmbeddedBroker, LocalBroker
from penstock.live_rollouts import LiveRollouts, Terms
from penstock.settings import KafkaSettings
from producers.control import ControlTopic
from producers.publisher import create_topics
from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import Alert, PredictionBatch, ScoreRequest
from schemas.tensors import unpack_strings
from schemas.topics import Topics

# Six scores, so that a few dozen users are enough to see a shift.
TABLE = [(number % 6 + 0.5) / 6 for number in range(24)]
USERS = [f"user {number}" for number in range(120)]
SIGNATURE = Signature(
    (TensorSpec("x", "INT64", ("rows",)),), (TensorSpec("y", "FP32", ("rows",)),), score=Score("y")
)  # fmt: skip
HIGH = TABLE[-1:] * 24
MODELS = {
    "good": TABLE,
    "kills": TABLE,
    "ends": TABLE,
    "errors": TABLE[:2],
    "shifted": HIGH,
    "slow": TABLE,
    "ghost": TABLE,
    "haunted": HIGH,
}
QUICK = Terms(steps_of([0.4, 0.7]), 1.0, 60, Guard(p99_ms=None, p99_ratio=None, min_rows=60))


def fill(root: Path, scratch: Path) -> ModelStore:
    """Each of MODELS with a version 1, and a version 2 that has its table: y = table[x]."""
    store = ModelStore(root)
    scratch.mkdir()
    for name, second in MODELS.items():
        for version, table in (("1", TABLE), ("2", second)):
            nodes = [node("Gather", ["table", "x"], ["y"])]
            constants = {"table": np.array(table, np.float32)}
            if (name, version) == ("slow", "2"):
                nodes = [
                    node("Gather", ["table", "x"], ["found"]),
                    # A product that needs the input, or it would be computed once, when the model is loaded.
                    node("ReduceMax", ["found"], ["most"], keepdims=0),
                    node("Mul", ["a", "most"], ["b"]),
                    node("MatMul", ["b", "a"], ["c"]),
                    node("ReduceMax", ["c"], ["d"], keepdims=0),
                    node("Mul", ["d", "none"], ["e"]),
                    node("Add", ["found", "e"], ["y"]),
                ]
                rng = np.random.default_rng(1)
                constants |= {"a": rng.random((1800, 1800), np.float32), "none": np.float32(0.0)}
            path = write(
                scratch / f"{name}{version}.onnx",
                nodes,
                [("x", "INT64", ("rows",))],
                [("y", "FP32", ("rows",))],
                constants,
            )
            # The same bytes would be the same artifact, not the same version: a name of its own is enough.
            store.add_onnx(name, version, path, SIGNATURE, BatchLimits(max_rows=16 if name == "slow" else 64))
    return store


class World:
    """Everything that a rollout needs, on topics of its own."""

    def __init__(self, broker: LocalBroker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.topics = Topics(prefix=f"r{time.time_ns():x}.")
        create_topics(broker.address, self.topics, 4)
        self.store = Registry(fill(folder / "store", folder / "onnx").root, folder / "cache")
        client = KafkaSettings(bootstrap_servers=broker.address).client()
        self.control = ControlTopic(client, Codec(), self.topics.control)
        for name in MODELS:
            self.control.put("model", name, {"version": "1"})
        self.rollouts = LiveRollouts(self.control, self.store)
        self.scene = Scene(broker, self.topics, folder / "store", folder)
        self.log = Log(broker, self.topics)
        self.monitor = self.start_monitor()
        for name in ("w1", "w2"):
            self.scene.start_worker(name)
        for worker in self.scene.workers:
            worker.await_ready()

    def start_monitor(self) -> MonitorProcess:
        """A monitor; what it drives it reads from Kafka."""
        return MonitorProcess(self.broker, self.topics, self.folder / "store", self.folder)

    def rollout(self, name: str) -> Rollout:
        """As control has it now."""
        return Rollout.from_json(self.control.entries()[("rollout", name)].body)

    def live(self, name: str) -> str:
        """The body of the entry that says which version is live."""
        return self.control.entries()[("model", name)].body

    def until(self, name: str, condition: Callable[[Rollout], bool], seconds: float = 40) -> Rollout:
        """The rollout once the condition holds."""
        found: list[Rollout] = []

        def holds() -> bool:
            found[:] = [self.rollout(name)]
            return condition(found[0])

        def complaint() -> str:
            tails = [one.log.read_text()[-1500:] for one in (self.monitor, *self.scene.workers)]
            return f"{found} " + "\n".join(tails)

        until(holds, seconds, complaint)
        return found[0]

    def alerts(self, name: str) -> list[Alert]:
        """What was told of a model's rollouts."""
        return [one for one in self.log.alerts() if one.rule == "rollout" and one.labels["model"] == name]

    def shadows(self, model: str) -> Callable[[], list[tuple[str, str]]]:
        """Reads what a shadow of a model has scored so far: request and version of each row."""
        codec, consumer = (
            Codec(),
            Consumer({"bootstrap.servers": self.broker.address, "group.id": "none", "auto.offset.reset": "earliest"}),
        )
        topic = self.topics.shadow_predictions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(4)])

        def read() -> list[tuple[str, str]]:
            found: list[tuple[str, str]] = []
            while messages := consumer.consume(500, 1.0):
                for one in messages:
                    if one.error() is None:
                        batch = codec.decode(PredictionBatch, one.value())
                        names = unpack_strings(batch.request_ids) if batch.model == model else []
                        found += [(name, batch.version) for name in names]
            consumer.close()
            return found

        return read

    def close(self) -> None:
        with suppress(Exception):
            self.log.close()
        self.scene.close()
        assert self.monitor.stop() == 0, self.monitor.log.read_text()


class Load:
    """Users of one model, each of whom asks again and again, and what each was answered."""

    def __init__(self, world: World, model: str, *, users: int = len(USERS), pause: float = 0.3) -> None:
        self._world = world
        self._model = model
        self._users = [*USERS[:users], ""]
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent: list[tuple[float, ScoreRequest]] = []

    @contextmanager
    def flowing(self) -> Iterator[Load]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def goes_on(self, seconds: float) -> None:
        """Return once something was asked that much later than now."""
        after = time.monotonic() + seconds
        until(lambda: bool(self.sent) and self.sent[-1][0] > after, seconds + 30, "nothing is asked any more")

    def answers(self) -> list[tuple[float, str, Answer]]:
        """The first answer to each request, in the order in which they were sent: when, to whom, what."""
        scene = self._world.scene
        embedded = isinstance(scene.broker, EmbeddedBroker)
        scene.answers_to_all([one for _, one in self.sent], 30, may_pass_over=embedded)
        return [(at, one.user_id, scene.answers[one.request_id][0]) for at, one in self.sent]

    def versions(self) -> dict[str, list[str]]:
        """The versions that answered each user, in order; asserts that none of their requests failed."""
        found: dict[str, list[str]] = {}
        for _, user, answer in self.answers():
            assert answer.reply.code is Code.OK, answer.reply
            found.setdefault(user, []).append(answer.reply.version)
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            requests = [
                self._world.scene.request(self._model, {"x": np.array([at % 24], np.int64)}, user_id=user)
                for at, user in enumerate(self._users)
            ]
            now = time.monotonic()
            self._world.scene.spread(requests)
            self.sent += [(now, one) for one in requests]
