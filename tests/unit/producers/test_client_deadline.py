"""What a caller is told when an answer, the deadline and a schema registry that is away come together. No Kafka."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from producers import client as client_module
from producers.client import ScoringClient
from producers.correlation import Envelope
from producers.errors import BrokerUnavailableError, DeadlineExceededError, UnavailableError
from schemas.codec import Codec
from schemas.codes import Code
from schemas.framing import ConfluentFraming
from schemas.records import ScoreReply, ScoreRequest
from schemas.topics import Topics


class Kafka:
    """The client's inbox and publisher. `at_deadline` is called when a caller, no longer waiting, looks once more."""

    topic, partition = "replies", 0

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.asked: queue.Queue[ScoreRequest] = queue.Queue()
        self.replies: queue.Queue[bytes] = queue.Queue()
        self.at_deadline = lambda: None

    def __call__(self, *_: Any, **__: Any) -> Kafka:
        return self

    def open(self, timeout: float) -> None:
        del timeout

    def close(self) -> None:
        pass

    def flush(self, timeout: float) -> None:
        del timeout

    def send_bytes(self, topic: str, value: bytes | None, **_: Any) -> None:
        del topic
        if value is not None:
            self.asked.put(self.codec.decode(ScoreRequest, value))

    def poll(self, timeout: float = 0, limit: int = 0) -> list[bytes]:
        del limit
        if threading.current_thread() is threading.main_thread():
            self.at_deadline()
        try:
            return [self.replies.get(timeout=timeout)] if timeout else []
        except queue.Empty:
            return []

    def reply(self, request_id: str) -> bytes:
        return self.codec.encode(ScoreReply(request_id, Code.OK))


class Registry:
    """It has what was registered, and for anything else cannot be reached."""

    def __init__(self) -> None:
        self.schemas: list[Any] = []

    def register_schema(self, name: str, schema: Any) -> int:
        del name
        self.schemas.append(schema)
        return len(self.schemas) - 1

    def get_schema(self, number: int) -> Any:
        if number >= len(self.schemas):
            raise OSError(f"no route to the registry of schema {number}")
        return self.schemas[number]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    made = Kafka(Codec(ConfluentFraming(Registry())))
    monkeypatch.setattr(client_module, "Inbox", made)
    monkeypatch.setattr(client_module, "Publisher", made)
    return made


@pytest.fixture
def client(kafka: Kafka) -> Iterator[ScoringClient]:
    with ScoringClient({"bootstrap.servers": "none:1"}, kafka.codec, Topics()) as made:
        yield made


def test_an_answer_that_comes_at_the_deadline_is_the_answer(kafka: Kafka, client: ScoringClient) -> None:
    def answer() -> None:
        request_id = kafka.asked.get_nowait().request_id
        assert client._table.answer(Envelope(request_id, kafka.reply(request_id)))

    kafka.at_deadline = answer
    asyncio.run(client.score("m", features={"a": 1.0}, timeout=0.05))
    assert client.counts.answered == 1


def test_a_refusal_that_comes_at_the_deadline_is_what_is_raised(kafka: Kafka, client: ScoringClient) -> None:
    kafka.at_deadline = lambda: client._table.fail(
        kafka.asked.get_nowait().request_id, BrokerUnavailableError("it was not taken")
    )
    with pytest.raises(BrokerUnavailableError, match="it was not taken"):
        asyncio.run(client.score("m", features={"a": 1.0}, timeout=0.05))


def test_without_either_it_is_the_deadline(kafka: Kafka, client: ScoringClient) -> None:
    with pytest.raises(DeadlineExceededError):
        asyncio.run(client.score("m", features={"a": 1.0}, timeout=0.05))
    request_id = kafka.asked.get_nowait().request_id
    assert not client._table.answer(Envelope(request_id, kafka.reply(request_id)))
    assert client.counts.late == 1


def test_a_registry_that_is_away_costs_the_answers_that_need_it_and_no_others(
    kafka: Kafka, client: ScoringClient
) -> None:
    def of_another_release(request_id: str) -> bytes:
        value = kafka.reply(request_id)
        return value[:1] + (200).to_bytes(4, "big") + value[5:]

    async def ask() -> None:
        strange = asyncio.create_task(client.score("m", features={"a": 1.0}, timeout=0.5))
        first = await asyncio.to_thread(kafka.asked.get, timeout=10)
        kafka.replies.put(of_another_release(first.request_id))
        known = asyncio.create_task(client.score("m", features={"a": 2.0}, timeout=10))
        second = await asyncio.to_thread(kafka.asked.get, timeout=10)
        kafka.replies.put(kafka.reply(second.request_id))
        await known
        with pytest.raises(DeadlineExceededError):
            await strange

    asyncio.run(ask())
    assert client.counts.unreadable == 1
    # Whose it is was known, and only what is in it not.
    question = SimpleNamespace(model="m")
    with pytest.raises(UnavailableError, match="cannot be read: the schema registry did not give schema 200: no route"):
        client._read(question, Envelope("r", of_another_release("r")))  # type: ignore[arg-type]
