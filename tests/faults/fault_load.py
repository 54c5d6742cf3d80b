"""A steady stream of requests of every kind, each with the fate it must meet, and the replies that came."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Self

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from fault_models import EXPERIMENT, weights_of

from models.routing import Experiment, Router
from schemas.codec import Codec
from schemas.codes import Code
from schemas.partitioning import PARTITIONER, record_key
from schemas.records import FeatureValue, ScoreReply, ScoreRequest, Tensor
from schemas.tensors import from_tensor, to_tensor
from schemas.topics import Topics

TICK = 0.02
HOUR_US = 3600 * 1_000_000


@dataclass(slots=True)
class Asked:
    """A request, what must become of it, and what did."""

    request_id: str
    code: Code | None  # None: it cannot be read, so a dead letter and no reply
    sent: float
    rows: int = 1
    outputs: tuple[float, ...] = ()
    version: str = ""
    variant: str = ""
    place: tuple[int, int] | None = None  # partition and offset, once Kafka has it
    answered: float | None = None
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What of a reply must be the same whenever it is sent again."""

    code: Code
    outputs: tuple[float, ...]
    version: str
    variant: str


@dataclass(slots=True)
class Book:
    """Everything asked and answered; shared by the threads under `lock`."""

    asked: dict[str, Asked] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def waiting(self) -> list[Asked]:
        """Those that should have an answer and have none."""
        with self.lock:
            return [one for one in self.asked.values() if one.code is not None and one.answered is None]


class Load:
    """Sends `rate` requests a second from `start` until `finish`. Ids are unique, contents follow from the seed."""

    def __init__(self, address: str, topics: Topics, experiment: Experiment, rate: int, seed: int) -> None:
        self.book = Book()
        self._codec = Codec()
        self._topics = topics
        self._rate = rate
        self._rng = Random(seed)
        self._router = Router([experiment])
        self._undelivered: list[str] = []
        self._stop, self._closed = threading.Event(), threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": address,
                "enable.idempotence": True,
                "partitioner": PARTITIONER,
                "linger.ms": 2,
                "message.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._inbox = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": f"{topics.prefix}inbox",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_uncommitted",
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._inbox.assign([TopicPartition(topics.replies, 0, OFFSET_BEGINNING)])
        self._threads = [
            threading.Thread(target=self._send, daemon=True),
            threading.Thread(target=self._read, daemon=True),
        ]

    def start(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def finish(self, seconds: float = 60.0) -> Book:
        """Ask no more; returns when Kafka has everything, with the inbox still open. Fails where it has not."""
        self._stop.set()
        self._threads[0].join(seconds)
        left = self._producer.flush(seconds)
        assert not left, f"Kafka did not take {left} requests in {seconds:.0f} s"
        assert not self._undelivered, self._undelivered[:5]
        return self.book

    def close(self) -> None:
        """Read no more replies."""
        self._stop.set()
        self._closed.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)
        self._inbox.close()

    def answered(self) -> int:
        """Requests that have an answer."""
        with self.book.lock:
            return sum(one.answered is not None for one in self.book.asked.values())

    def served_since(self, moment: float) -> dict[int, float]:
        """For each partition, how long after `moment` a request sent after it was first answered."""
        first: dict[int, float] = {}
        with self.book.lock:
            for one in reversed(self.book.asked.values()):
                if one.sent < moment:
                    break
                if one.answered is not None and one.place is not None:
                    took = one.answered - moment
                    first[one.place[0]] = min(first.get(one.place[0], took), took)
        return first

    def longest_wait(self, moment: float) -> float:
        """The longest time that a request sent from a second before `moment` on has waited for its answer."""
        with self.book.lock:
            recent = itertools.takewhile(lambda one: one.sent > moment - 1, reversed(self.book.asked.values()))
            return max((one.answered - one.sent for one in recent if one.answered is not None), default=0.0)

    # -- sending

    def _send(self) -> None:
        makers = self._kinds()
        began, sent = time.monotonic(), 0
        while not self._stop.wait(TICK):
            due = int((time.monotonic() - began) * self._rate) - sent
            # After a stall of this process: a burst would be another load than the one that was meant.
            for _ in range(min(due, self._rate)):
                key, value, asked = next(makers)()
                with self.book.lock:
                    self.book.asked[asked.request_id] = asked
                self._produce(key, value, asked)
            sent += due
            self._producer.poll(0)

    def _produce(self, key: bytes, value: bytes, asked: Asked) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._undelivered.append(error.str())
                return
            asked.place = (message.partition() or 0, message.offset() or 0)

        while True:
            try:
                self._producer.produce(self._topics.requests, value, key, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _mix(self) -> list[Callable[[], tuple[bytes, bytes, Asked]]]:
        """The kinds of requests, each as often as it is to come in a round."""
        return [
            *[self._plain] * 10,
            *(self._many_rows, self._pinned, self._named, self._text, self._looked_up),
            *(self._missing_feature, self._wrong_shape, self._culprit, self._unknown, self._late, self._unreadable),
        ]

    def _kinds(self) -> Iterator[Callable[[], tuple[bytes, bytes, Asked]]]:
        kinds = self._mix()
        while True:
            self._rng.shuffle(kinds)
            yield from kinds

    def _request(
        self,
        code: Code,
        model: str,
        *,
        inputs: tuple[Tensor, ...] = (),
        features: dict[str, FeatureValue] | None = None,
        version: str = "",
        experiment: str = EXPERIMENT,
        deadline: int = 0,
        asked: Asked | None = None,
    ) -> tuple[bytes, bytes, Asked]:
        asked = asked or self._asked(code)
        user = asked.request_id.rpartition("/")[2]
        experiment = "" if version else experiment
        now = time.time_ns() // 1000
        record = ScoreRequest(
            request_id=asked.request_id,
            model=model,
            user_id=user,
            sent_at=now,
            version=version,
            experiment=experiment,
            deadline=now + deadline if deadline else 0,
            reply_topic=self._topics.replies,
            reply_partition=0,
            inputs=inputs,
            features=features or {},
        )
        return record_key(user, experiment), self._codec.encode(record), asked

    def _asked(self, code: Code | None, rows: int = 1) -> Asked:
        return Asked(f"{len(self.book.asked)}/u{self._rng.randrange(500)}", code, time.monotonic(), rows)

    def _x(self, rows: int, width: int = 3) -> tuple[tuple[Tensor, ...], list[list[float]]]:
        # Halves add up without rounding, whatever the order.
        values = [[self._rng.randrange(-20, 20) / 2 for _ in range(width)] for _ in range(rows)]
        return (to_tensor("x", np.array(values, np.float32)),), values

    def _plain(self, rows: int = 1) -> tuple[bytes, bytes, Asked]:
        inputs, values = self._x(rows)
        asked = self._asked(Code.OK, rows)
        variant = self._router.assign(EXPERIMENT, asked.request_id.rpartition("/")[2])
        assert variant is not None
        asked.version, asked.variant = variant.version, variant.name
        asked.outputs = dot(values, variant.version)
        return self._request(Code.OK, "sum", inputs=inputs, asked=asked)

    def _many_rows(self) -> tuple[bytes, bytes, Asked]:
        return self._plain(self._rng.randrange(2, 6))

    def _pinned(self) -> tuple[bytes, bytes, Asked]:
        inputs, values = self._x(1)
        asked = self._asked(Code.OK)
        asked.version, asked.outputs = "1", dot(values, "1")
        return self._request(Code.OK, "sum", inputs=inputs, version="1", asked=asked)

    def _named(self) -> tuple[bytes, bytes, Asked]:
        _, values = self._x(1)
        asked = self._asked(Code.OK)
        asked.version, asked.outputs = "1", dot(values, "1")
        return self._request(Code.OK, "named", features=dict(zip("abc", values[0], strict=True)), asked=asked)

    def _text(self) -> tuple[bytes, bytes, Asked]:
        return self._request(Code.INVALID_ARGUMENT, "named", features={"a": "one", "b": 2.0, "c": 3.0})

    def _looked_up(self) -> tuple[bytes, bytes, Asked]:
        asked = self._asked(Code.OK)
        asked.version, asked.outputs = "1", (20.0,)
        return self._request(Code.OK, "lookup", inputs=(to_tensor("x", np.array([1])),), asked=asked)

    def _culprit(self) -> tuple[bytes, bytes, Asked]:
        return self._request(Code.INFERENCE_FAILED, "lookup", inputs=(to_tensor("x", np.array([7])),))

    def _missing_feature(self) -> tuple[bytes, bytes, Asked]:
        return self._request(Code.INVALID_ARGUMENT, "named", features={"a": 1.0, "b": 2.0})

    def _wrong_shape(self) -> tuple[bytes, bytes, Asked]:
        return self._request(Code.INVALID_ARGUMENT, "sum", inputs=self._x(1, 4)[0])

    def _unknown(self) -> tuple[bytes, bytes, Asked]:
        return self._request(Code.UNKNOWN_MODEL, "nobody", inputs=self._x(1)[0])

    def _late(self) -> tuple[bytes, bytes, Asked]:
        return self._request(Code.DEADLINE_EXCEEDED, "sum", inputs=self._x(1)[0], deadline=-HOUR_US)

    def _unreadable(self) -> tuple[bytes, bytes, Asked]:
        key, value, asked = self._request(Code.OK, "sum", inputs=self._x(1)[0])
        asked.code = None
        broken = (b"", value[: len(value) // 2], self._rng.randbytes(40), b"\xc3\x01" + self._rng.randbytes(60))
        return key, self._rng.choice(broken), asked

    # -- what comes back

    def _read(self) -> None:
        while not self._closed.is_set():
            for message in self._inbox.consume(500, 0.05):
                if message.error() is None:
                    self._receive(self._codec.decode(ScoreReply, message.value()))

    def _receive(self, reply: ScoreReply) -> None:
        now = time.monotonic()
        outputs = tuple(float(value) for one in reply.outputs for value in from_tensor(one).ravel())
        with self.book.lock:
            asked = self.book.asked.get(reply.request_id)
            if asked is None or asked.code is None:
                self.book.wrong.append(f"a reply to {reply.request_id!r}, which nobody could have read: {reply}")
                return
            asked.answers += 1
            asked.answered = asked.answered or now
            got = Answer(reply.code, outputs, reply.version, reply.variant)
            wanted = self._wanted(asked, got)
            # An error says nothing of versions that a request must have.
            if got.code != wanted.code or (got.code is Code.OK and got != wanted):
                self.book.wrong.append(f"{asked.request_id}: {got} ({reply.message}), expected {wanted}")

    def _wanted(self, asked: Asked, got: Answer) -> Answer:
        """What a reply must be. `got`: what it is, where that decides."""
        del got
        assert asked.code is not None
        return Answer(asked.code, asked.outputs, asked.version, asked.variant)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dot(values: list[list[float]], version: str) -> tuple[float, ...]:
    """What version `version` of "sum" answers to these rows."""
    weights = weights_of(version)
    return tuple(sum(one * weight for one, weight in zip(row, weights, strict=True)) for row in values)


def codes_of(book: Book) -> Counter[str]:
    """How many requests must end with each code."""
    return Counter(str(one.code or "dead letter") for one in book.asked.values())
