"""Request and reply over a real broker: everybody gets their own answer, or an exception that says why not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from confluent_kafka import Producer
from one_broker import on_one_broker
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from scorer import Behaviour, Scorer
from waiting import until

from penstock.brokers import ApacheKafka, LocalBroker, free_port
from producers.client import Score, ScoringClient
from producers.errors import (
    BrokerUnavailableError,
    ClientClosedError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ScoringError,
    TooLargeError,
    error_for,
)
from producers.publisher import create_topics
from schemas.codec import Codec
from schemas.codes import Code
from schemas.partitioning import partition_for, record_key
from schemas.records import ScoreReply
from schemas.topics import MAX_MESSAGE_BYTES, Topics

pytestmark = pytest.mark.kafka


@pytest.fixture
def scorer(broker: LocalBroker, topics: Topics) -> Iterator[Scorer]:
    with Scorer(broker.address, topics) as running:
        yield running


@pytest.fixture
def client(broker: LocalBroker, topics: Topics, scorer: Scorer) -> Iterator[ScoringClient]:
    with client_of(broker, topics, timeout=60) as opened:
        yield opened


def client_of(broker: LocalBroker, topics: Topics, *, timeout: float = 60, max_in_flight: int = 1000) -> ScoringClient:
    return ScoringClient(
        {"bootstrap.servers": broker.address}, Codec(), topics, timeout=timeout, max_in_flight=max_in_flight
    )


def score_value(score: Score) -> float:
    return float(score.outputs["score"][0])


def test_a_request_says_who_asks_and_comes_back_with_all_there_is_to_know(
    client: ScoringClient, scorer: Scorer
) -> None:
    before = time.time()
    score = client.score_sync("m", user_id="ü", experiment="e", features={"a": 1, "b": 2.5, "c": "xy", "d": True})
    assert score_value(score) == 6.5
    assert score.outputs["pair"].tolist() == [[6.5, -6.5]]
    assert (score.model, score.version) == ("m", "1")
    assert 0 < score.latency < 60
    (seen,) = scorer.seen
    assert (seen.user_id, seen.experiment, seen.request_id) == ("ü", "e", score.request_id)
    assert before <= seen.sent_at / 1e6 <= time.time()
    assert 55e6 < seen.deadline - seen.sent_at <= 60e6


def test_tensors_and_a_pinned_version_travel(client: ScoringClient) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    score = client.score_sync("m", inputs={"x": x}, version="7")
    assert score.outputs["score"].tolist() == [1.0, 5.0, 9.0]
    assert score.version == "7"


def test_many_in_flight_each_get_their_own_answer(client: ScoringClient) -> None:
    async def ask() -> list[Score]:
        return await asyncio.gather(
            *(client.score("m", user_id=str(number), features={"a": number}) for number in range(2000))
        )

    scores = asyncio.run(ask())
    assert [score_value(one) for one in scores] == list(range(2000))
    counts = client.counts
    assert (counts.sent, counts.answered, counts.late, counts.duplicate) == (2000, 2000, 0, 0)
    assert client.in_flight == 0


def test_event_loops_and_threads_share_a_client(client: ScoringClient) -> None:
    def loop(start: int) -> list[float]:
        async def ask() -> list[float]:
            scores = await asyncio.gather(*(client.score("m", features={"a": start + n}) for n in range(200)))
            return [score_value(one) for one in scores]

        return asyncio.run(ask())

    def plain(start: int) -> list[float]:
        return [score_value(client.score_sync("m", features={"a": start + n})) for n in range(50)]

    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(loop, start) for start in (0, 10_000)]
        plains = [pool.submit(plain, start) for start in (20_000, 30_000)]
        assert [one.result(60) for one in loops] == [[float(start + n) for n in range(200)] for start in (0, 10_000)]
        assert [one.result(60) for one in plains] == [
            [float(start + n) for n in range(50)] for start in (20_000, 30_000)
        ]


def test_clients_on_one_partition_do_not_see_each_others_answers(broker: LocalBroker, scorer: Scorer) -> None:
    class First:
        def randrange(self, _count: int) -> int:
            return 0

    config = {"bootstrap.servers": broker.address}
    first = ScoringClient(config, Codec(), scorer.topics, timeout=60, rng=First())  # type: ignore[arg-type]
    second = ScoringClient(config, Codec(), scorer.topics, timeout=60, rng=First())  # type: ignore[arg-type]
    with first, second:
        for number in range(20):
            assert score_value(first.score_sync("m", features={"a": number})) == number
            assert score_value(second.score_sync("m", features={"a": -number})) == -number
        until(lambda: first.counts.foreign == 20, 10, lambda: str(first.counts))
        assert (first.counts.duplicate, first.counts.late, first.counts.answered) == (0, 0, 20)


def test_a_duplicate_reply_is_dropped(client: ScoringClient, scorer: Scorer) -> None:
    scorer.behaviour.copies = 2
    assert [score_value(client.score_sync("m", features={"a": n})) for n in range(10)] == list(range(10))
    until(lambda: client.counts.duplicate == 10, 10, lambda: str(client.counts))
    assert client.counts.late == 0


def test_no_answer_in_time_is_a_deadline_exceeded_and_the_late_reply_is_dropped(
    client: ScoringClient, scorer: Scorer
) -> None:
    client.score_sync("m", features={"a": 1})
    scorer.behaviour.delay = 1.0
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"no answer from 'm' within 0\.3 s"):
        client.score_sync("m", features={"a": 2}, timeout=0.3)
    with pytest.raises(DeadlineExceededError):
        asyncio.run(client.score("m", features={"a": 3}, timeout=0.3))
    assert time.monotonic() - began < 5
    until(lambda: client.counts.late == 2, 10, lambda: str(client.counts))
    scorer.behaviour.delay = 0.0
    assert score_value(client.score_sync("m", features={"a": 4})) == 4
    assert client.in_flight == 0


def test_an_asker_who_leaves_leaves_nothing_behind(client: ScoringClient, scorer: Scorer) -> None:
    scorer.behaviour.delay = 0.5

    async def leave() -> None:
        task = asyncio.create_task(client.score("m", features={"a": 1}))
        await asyncio.to_thread(until, lambda: client.in_flight == 1, 10, "it is not under way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert client.in_flight == 0
    until(lambda: client.counts.late == 1, 10, lambda: str(client.counts))


def test_each_code_is_raised_as_its_exception(client: ScoringClient, scorer: Scorer) -> None:
    scorer.behaviour.message = "feature 'a': expected a number"
    for code in (one for one in Code if one is not Code.OK):
        scorer.behaviour.code = code
        with pytest.raises(type(error_for(code, ""))) as caught:
            client.score_sync("m", features={"a": 1})
        assert caught.value.code is code
        assert str(caught.value) == "feature 'a': expected a number"
        assert caught.value.request_id
        assert caught.value.model == "m"


@on_one_broker
def test_what_no_model_could_answer_is_refused_before_it_is_sent(client: ScoringClient, scorer: Scorer) -> None:
    for arguments in (
        {},
        {"features": {"a": 1}, "inputs": {"x": np.zeros((1, 1))}},
        {"features": {"a": [1]}},
        {"inputs": {"x": np.zeros(1, np.complex64)}},
        {"features": {"a": 1}, "timeout": 0},
        {"features": {"a": 1}, "user_id": "\ud800"},
    ):
        with pytest.raises(InvalidArgumentError):
            client.score_sync("m", **arguments)
    with pytest.raises(InvalidArgumentError):
        client.score_sync("", features={"a": 1})
    assert scorer.seen == []
    assert client.in_flight == 0


def test_a_request_that_kafka_does_not_take_for_its_size_is_too_large(client: ScoringClient) -> None:
    noise = np.random.default_rng(1).integers(0, 255, MAX_MESSAGE_BYTES + 1, np.uint8)
    with pytest.raises(TooLargeError, match="larger than Kafka takes"):
        client.score_sync("m", inputs={"x": noise})


def test_requests_beyond_the_limit_wait_for_their_turn(broker: LocalBroker, topics: Topics) -> None:
    with (
        Scorer(broker.address, topics, Behaviour(delay=0.1)) as scorer,
        client_of(broker, topics, max_in_flight=5) as client,
    ):

        async def ask() -> list[Score]:
            return await asyncio.gather(*(client.score("m", features={"a": n}) for n in range(40)))

        assert [score_value(one) for one in asyncio.run(ask())] == list(range(40))
        assert scorer.most_unanswered <= 5
        scorer.behaviour.delay = 2.0

        async def crowd() -> list[Score | BaseException]:
            return await asyncio.gather(
                *(client.score("m", features={"a": n}, timeout=0.5) for n in range(8)), return_exceptions=True
            )

        assert [type(one) for one in asyncio.run(crowd())] == [DeadlineExceededError] * 8


def test_closing_fails_what_is_pending_and_what_comes_after(broker: LocalBroker, topics: Topics) -> None:
    with Scorer(broker.address, topics, Behaviour(delay=30)):
        client = client_of(broker, topics).open()
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(client.score_sync, "m", features={"a": 1}) for _ in range(3)]
            until(lambda: client.in_flight == 3, 10, "not all are under way")
            client.close()
            for one in asked:
                with pytest.raises(ClientClosedError):
                    one.result(5)
        with pytest.raises(ClientClosedError):
            client.score_sync("m", features={"a": 1})
        with pytest.raises(ClientClosedError):
            asyncio.run(client.score("m", features={"a": 1}))
        client.close()
        assert not [one for one in threading.enumerate() if one.name == "penstock-replies"]


def test_an_unreadable_reply_is_counted_and_disturbs_nobody(
    broker: LocalBroker, client: ScoringClient, scorer: Scorer
) -> None:
    client.score_sync("m", features={"a": 1})
    seen = scorer.seen[0]
    value = Codec().encode(ScoreReply(seen.request_id, Code.OK))
    producer = Producer({"bootstrap.servers": broker.address})
    for bad in (value[:-1], b"", b"nonsense"):
        producer.produce(scorer.topics.replies, bad, partition=seen.reply_partition)
    producer.flush(10)
    until(lambda: client.counts.unreadable == 1 and client.counts.foreign == 2, 10, lambda: str(client.counts))
    assert score_value(client.score_sync("m", features={"a": 2})) == 2


def test_an_answer_that_cannot_be_read_is_told_at_once_to_the_one_who_waits_for_it(
    broker: LocalBroker, client: ScoringClient, scorer: Scorer
) -> None:
    client.open()
    producer = Producer({"bootstrap.servers": broker.address})

    def spoil(number: int) -> None:
        until(lambda: len(scorer.seen) > number, 10, "the request is not under way")
        seen = scorer.seen[number]
        value = Codec().encode(ScoreReply(seen.request_id, Code.OK))
        producer.produce(scorer.topics.replies, value[:-1], partition=seen.reply_partition)
        assert producer.flush(10) == 0

    scorer.behaviour.delay = 1.5
    with ThreadPoolExecutor(1) as pool:
        spoiling = pool.submit(spoil, 0)
        with pytest.raises(InternalError, match="the answer cannot be read: ScoreReply ends before its last field"):
            client.score_sync("m", features={"a": 1}, timeout=20)
        spoiling.result()
        spoiling = pool.submit(spoil, 1)
        with pytest.raises(InternalError, match="the answer cannot be read"):
            asyncio.run(client.score("m", features={"a": 1}, timeout=20))
        spoiling.result()
    # What was to be their answers comes too late, and the next is not disturbed.
    until(lambda: client.counts.duplicate == 2, 10, lambda: str(client.counts))
    assert client.counts.unreadable == 2
    scorer.behaviour.delay = 0.0
    assert score_value(client.score_sync("m", features={"a": 2})) == 2


def test_the_key_puts_a_request_where_a_java_producer_would(
    broker: LocalBroker, client: ScoringClient, scorer: Scorer
) -> None:
    wanted = {}
    for number in range(12):
        client.score_sync("m", user_id=f"user-{number}", experiment="exp", features={"a": 1})
        wanted[f"user-{number}"] = partition_for(record_key(f"user-{number}", "exp"), 4)
    assert {one.user_id: where for one, where in zip(scorer.seen, scorer.partitions, strict=True)} == wanted


def test_the_trace_goes_along_only_where_there_is_one(client: ScoringClient, scorer: Scorer) -> None:
    client.score_sync("m", features={"a": 1})
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        client.score_sync("m", features={"a": 2})
    assert scorer.headers == [{}, {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01".encode()}]


def test_a_broker_that_is_not_there_is_named_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    client = ScoringClient({"bootstrap.servers": address}, Codec(), Topics(), connect_timeout=1)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=address):
        client.score_sync("m", features={"a": 1})

    async def crowd() -> list[Score | BaseException]:
        return await asyncio.gather(*(client.score("m", features={}) for _ in range(50)), return_exceptions=True)

    errors = asyncio.run(crowd())
    assert {type(one) for one in errors} == {BrokerUnavailableError}
    assert time.monotonic() - began < 8  # together, not one after the other
    client.close()
    with pytest.raises(BrokerUnavailableError, match=address):
        create_topics(address, Topics(), timeout=1)


def test_a_missing_reply_topic_is_named(broker: LocalBroker) -> None:
    client = ScoringClient({"bootstrap.servers": broker.address}, Codec(), Topics("nobody-made."))
    with pytest.raises(BrokerUnavailableError, match=r"nobody-made\.scoring\.replies"):
        client.open()


def test_creating_topics_again_changes_nothing(broker: LocalBroker, topics: Topics) -> None:
    assert create_topics(broker.address, topics) == ()
    fresh = Topics(topics.prefix + "x.")
    assert fresh.requests in create_topics({"bootstrap.servers": broker.address}, fresh, 3)
    assert create_topics(broker.address, fresh, 3) == ()


@pytest.mark.apache
def test_a_client_outlives_a_restart_of_the_broker(own_kafka: ApacheKafka) -> None:
    topics = Topics()
    create_topics(own_kafka.address, topics, 2)
    with Scorer(own_kafka.address, topics), client_of(own_kafka, topics, timeout=90) as client:
        assert score_value(client.score_sync("m", features={"a": 1})) == 1
        own_kafka.kill()
        with pytest.raises(ScoringError) as caught:
            client.score_sync("m", features={"a": 2}, timeout=1)
        assert isinstance(caught.value, BrokerUnavailableError | DeadlineExceededError)
        with ThreadPoolExecutor(1) as pool:
            meanwhile = pool.submit(client.score_sync, "m", features={"a": 3})
            own_kafka.restart()
            assert score_value(meanwhile.result(90)) == 3
        assert score_value(client.score_sync("m", features={"a": 4})) == 4
