"""A real `penstock worker` process, and somebody who writes what it reads and reads all that it writes."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from service_process import ServiceProcess

from penstock.brokers import LocalBroker, free_port
from penstock.child import spawn
from schemas.codec import Codec
from schemas.codes import CODES, Code
from schemas.partitioning import PARTITIONER, record_key
from schemas.records import Control, DeadLetter, PredictionBatch, ScoreBatch, ScoreReply, ScoreRequest, Tensor
from schemas.tensors import Array, from_tensor, to_tensor, unpack_strings
from schemas.topics import Topics
from stream_workers.messages import headers_of

WAIT = 30.0
PENSTOCK = (sys.executable, "-m", "penstock")
# The same, with a device that fails as the file named by TEST_FAULTS says.
FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_worker.py")))
Headers = list[tuple[str, bytes]]


def worker_environment(broker: str, topics: Topics, store: Path, **more: str) -> dict[str, str]:
    """The environment of a worker process; `more` wins, its names without PENSTOCK_."""
    own = {
        "KAFKA__BOOTSTRAP_SERVERS": broker,
        "KAFKA__TOPIC_PREFIX": topics.prefix,
        "MODELS__STORE": str(store),
        "MODELS__CACHE": str(store.parent / "models-cache"),
        "MODELS__DEVICE": "cpu",
        "WORKER__GROUP": f"{topics.prefix}scoring",
        "STACK__STATE": str(store.parent / "no-stack"),
        **more,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**kept, **{f"PENSTOCK_{name}": value for name, value in own.items()}}


def command(*arguments: str) -> list[str]:
    """`penstock` as this interpreter runs it."""
    return [*PENSTOCK, *arguments]


class WorkerProcess(ServiceProcess):
    """`penstock worker` until `stop`; its log is a file. Also a context manager."""

    def __init__(
        self,
        broker: LocalBroker,
        topics: Topics,
        store: Path,
        folder: Path,
        name: str = "w1",
        program: Sequence[str] = PENSTOCK,
        pool: str = "",
        **more: str,
    ):
        port = free_port()
        log = folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        own = {"KAFKA__GROUP_PROTOCOL": broker.group_protocol, **more}
        if broker.session_timeout_ms is not None:
            own["KAFKA__SESSION_TIMEOUT_MS"] = str(broker.session_timeout_ms)
        env = worker_environment(broker.address, topics, store, **own)
        of_pool = ("--pool", pool) if pool else ()
        command = [*program, "worker", "--name", name, "--port", str(port), *of_pool]
        super().__init__(spawn(command, log, env=env), port, log)

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def __enter__(self) -> Self:
        return self.await_ready()

    def __exit__(self, *exc: object) -> None:
        self.stop()


@dataclass(frozen=True)
class Fate:
    """A row of the prediction log."""

    code: Code
    message: str
    user: str
    version: str
    experiment: str
    variant: str
    row: int
    partition: int
    offset: int
    score: float
    features: Mapping[str, Any]
    degraded: str


@dataclass(frozen=True)
class Answer:
    """A reply as it came."""

    reply: ScoreReply
    partition: int
    headers: Mapping[str, bytes]

    @property
    def outputs(self) -> dict[str, Array]:
        return {one.name: from_tensor(one) for one in self.reply.outputs}


@dataclass
class Scene:
    """Topics with somebody at each end. Ids are made here, so that tests may share a worker."""

    broker: LocalBroker
    topics: Topics
    store: Path
    folder: Path
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    fates: dict[str, list[Fate]] = field(default_factory=lambda: defaultdict(list))
    letters: list[DeadLetter] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.codec = Codec()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._numbers = count()
        self.run = uuid.uuid4().hex[:8]
        quiet = {"bootstrap.servers": self.broker.address, "log_level": 0}
        self._producer = Producer({**quiet, "partitioner": PARTITIONER, "linger.ms": 5, "message.max.bytes": 16 << 20})
        self._consumer = Consumer(
            {
                **quiet,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 16 << 20,
                "receive.message.max.bytes": 64 << 20,
            }
        )
        own = self.topics
        readers: dict[str, Callable[[Message], None]] = {
            own.replies: self._reply,
            own.bulk_results: self._reply,
            own.predictions: self._prediction,
            own.dead_letters: self._letter,
        }
        self._readers = readers
        known = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [TopicPartition(name, part, OFFSET_BEGINNING) for name in readers for part in known[name].partitions]
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def start_worker(
        self, name: str = "w1", program: Sequence[str] = PENSTOCK, pool: str = "", **more: str
    ) -> WorkerProcess:
        """One more worker; the scene stops it at its end."""
        worker = WorkerProcess(self.broker, self.topics, self.store, self.folder, name, program, pool, **more)
        self.workers.append(worker)
        return worker

    @property
    def worker(self) -> WorkerProcess:
        """The first."""
        return self.workers[0]

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def request(self, model: str, inputs: Mapping[str, Array] | None = None, **fields: Any) -> ScoreRequest:
        """A request with an id of its own, that wants its reply in partition 0."""
        plain = {
            "request_id": f"{self.run}-{next(self._numbers)}",
            "user_id": "user",
            "sent_at": time.time_ns() // 1000,
            "reply_topic": self.topics.replies,
            "reply_partition": 0,
            "inputs": tuple(to_tensor(name, array) for name, array in (inputs or {}).items()),
        }
        return ScoreRequest(model=model, **{**plain, **fields})

    def send(
        self,
        *values: ScoreRequest | ScoreBatch | bytes | None,
        headers: Headers | None = None,
        key: bytes = b"together",
    ) -> None:
        """All to one partition in this order, so that they are likely to be in one poll."""
        for value in values:
            topic = self.topics.bulk if isinstance(value, ScoreBatch) else self.topics.requests
            raw = value if isinstance(value, bytes) or value is None else self.codec.encode(value)
            self._producer.produce(topic, raw, key, headers=[*(headers or [])])
        assert self._producer.flush(WAIT) == 0

    def send_bulk(self, value: bytes) -> None:
        """Bytes to the bulk topic."""
        self._producer.produce(self.topics.bulk, value, b"together")
        assert self._producer.flush(WAIT) == 0

    def spread(self, requests: Iterable[ScoreRequest], topic: str = "") -> None:
        """Each to the partition of its key, as a client does; to the default pool's topic unless another is named."""
        for one in requests:
            while True:
                try:
                    key = record_key(one.user_id, one.experiment)
                    self._producer.produce(topic or self.topics.requests, self.codec.encode(one), key)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(WAIT) == 0

    def control(self, kind: str, name: str, body: str | None, revision: int = 1) -> None:
        """Put or delete (None) a control entry."""
        value = None if body is None else self.codec.encode(Control(kind, name, revision, body, 0))
        self._producer.produce(self.topics.control, value, f"{kind}/{name}".encode())
        assert self._producer.flush(WAIT) == 0

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = WAIT) -> None:
        """Return once it holds; looked at whenever something was read."""
        end = time.monotonic() + seconds
        with self._changed:
            while not condition():
                left = end - time.monotonic()
                assert left > 0, f"{what}: not within {seconds} s; the worker's log: {self._tails()}"
                self._changed.wait(min(left, 0.2))

    def ask(self, *requests: ScoreRequest, headers: Headers | None = None) -> list[Answer]:
        """Send, and the one answer to each, which has its one fate in the prediction log too."""
        self.send(*requests, headers=headers)
        return self.answers_to(requests)

    def answers_to(self, requests: Sequence[ScoreRequest]) -> list[Answer]:
        ids = [one.request_id for one in requests]
        self.wait("answers", lambda: all(self.answers.get(one) and self.fates.get(one) for one in ids))
        for one in ids:
            assert len(self.answers[one]) == 1
            reply = self.answers[one][0].reply
            said = (reply.code, reply.message, reply.degraded)
            assert {(fate.code, fate.message, fate.degraded) for fate in self.fates[one]} == {said}
        return [self.answers[one][0] for one in ids]

    def answers_to_all(
        self, requests: Sequence[ScoreRequest], seconds: float = 60, *, may_pass_over: bool = False
    ) -> None:
        """Wait for an answer and a fate of each; a failure says whether what did not come stands on the topics.

        `may_pass_over`: take it from there, for readers have passed over records of the embedded broker.
        """
        ids = [one.request_id for one in requests]
        try:
            self.wait("all answers", lambda: all(one in self.answers and one in self.fates for one in ids), seconds)
        except AssertionError as error:
            late = [one for one in ids if one not in self.answers or one not in self.fates]
            answers, fates = self.read_again()
            gone = [one for one in late if one not in answers or one not in fates]
            if gone or not may_pass_over:
                told = f"{len(late)} did not come, {len(gone)} of them are not on the topics, as {gone[:9]}; {error}"
                raise AssertionError(told) from error
            print(f"passed over and read again: {late}")
            self.answers.update({one: answers[one] for one in late if one not in self.answers})
            self.fates.update({one: fates[one] for one in late if one not in self.fates})

    def read_again(self) -> tuple[dict[str, list[Answer]], dict[str, list[Fate]]]:
        """Every reply to clients and every row of the prediction log that stands on its topic, from its beginning."""
        plain = {"bootstrap.servers": self.broker.address, "log_level": 0, "group.id": uuid.uuid4().hex}
        consumer = Consumer({**plain, "enable.auto.commit": False, "auto.offset.reset": "earliest"})
        answers, fates = defaultdict(list), defaultdict(list)
        names = (self.topics.replies, self.topics.predictions)
        known = consumer.list_topics(timeout=10).topics
        consumer.assign(
            [TopicPartition(name, part, OFFSET_BEGINNING) for name in names for part in known[name].partitions]
        )
        while messages := consumer.consume(500, 2.0):
            for message in (one for one in messages if one.error() is None):
                if message.topic() == self.topics.predictions:
                    for request_id, fate in self._fates(message):
                        fates[request_id].append(fate)
                elif message.value() is not None:
                    answer = self._answer(message)
                    answers[answer.reply.request_id].append(answer)
        consumer.close()
        return answers, fates

    def fate(self, request: ScoreRequest) -> Fate:
        """The only row of the prediction log that a request has."""
        self.wait("a fate", lambda: bool(self.fates.get(request.request_id)))
        (fate,) = self.fates[request.request_id]
        return fate

    def batch_answer(self, batch: ScoreBatch) -> Answer:
        name = f"{batch.job}/{batch.sequence}"
        self.wait("a bulk answer", lambda: bool(self.answers.get(name)))
        (answer,) = self.answers[name]
        return answer

    def letter(self, value: bytes | None) -> DeadLetter:
        """The only dead letter with this value."""
        found: list[DeadLetter] = []

        def there() -> bool:
            found[:] = [one for one in self.letters if one.value == value]
            return bool(found)

        self.wait("a dead letter", there)
        (letter,) = found
        return letter

    def batch(self, model: str, rows: int, **fields: Any) -> ScoreBatch:
        plain = {"job": self.run, "sequence": next(self._numbers), "sent_at": time.time_ns() // 1000}
        return ScoreBatch(model=model, rows=rows, **{**plain, "reply_topic": self.topics.bulk_results, **fields})

    def _tails(self) -> str:
        # The spoilt model of the store is refused every ten seconds.
        logs = [
            [line for line in one.log.read_text().splitlines() if "models.residency" not in line]
            for one in self.workers
        ]
        return "\n".join(line for log in logs for line in log[-10:])

    def _read(self) -> None:
        while not self._stop.is_set():
            messages = [one for one in self._consumer.consume(500, 0.1) if one.error() is None]
            if messages:
                with self._changed:
                    for message in messages:
                        self._readers[message.topic() or ""](message)
                    self._changed.notify_all()

    def _reply(self, message: Message) -> None:
        if message.value() is None:
            return  # a client that opened its partition
        answer = self._answer(message)
        self.answers[answer.reply.request_id].append(answer)

    def _answer(self, message: Message) -> Answer:
        reply = self.codec.decode(ScoreReply, message.value())
        return Answer(reply, message.partition() or 0, dict(headers_of(message)))

    def _letter(self, message: Message) -> None:
        self.letters.append(self.codec.decode(DeadLetter, message.value()))

    def _prediction(self, message: Message) -> None:
        for request_id, fate in self._fates(message):
            self.fates[request_id].append(fate)

    def _fates(self, message: Message) -> Iterator[tuple[str, Fate]]:
        one = self.codec.decode(PredictionBatch, message.value())
        numbers = {
            name: np.frombuffer(getattr(one, name), kind).tolist()
            for name, kind in {"partitions": "<i4", "offsets": "<i8", "row_numbers": "<i4", "scores": "<f8"}.items()
        }
        features = {
            column.name: unpack_strings(column.strings)
            if column.strings is not None
            else from_tensor(Tensor(column.name, column.datatype, column.shape, column.data)).tolist()
            for column in one.features
        }
        texts = zip(
            unpack_strings(one.request_ids), unpack_strings(one.user_ids), unpack_strings(one.messages), strict=True
        )
        for i, (request_id, user, text) in enumerate(texts):
            yield (
                request_id,
                Fate(
                    code=CODES[one.codes[i]],
                    message=text,
                    user=user,
                    version=one.version,
                    experiment=one.experiment,
                    variant=one.variant,
                    row=numbers["row_numbers"][i],
                    partition=numbers["partitions"][i],
                    offset=numbers["offsets"][i],
                    score=numbers["scores"][i],
                    features={name: values[i] for name, values in features.items()},
                    degraded=one.degraded,
                ),
            )
