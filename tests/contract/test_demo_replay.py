"""A replay over a real broker: what was sent, what came back, what came twice, and what never came."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from scorer import Behaviour, Scorer

from penstock.brokers import LocalBroker
from producers.inbox import Inbox
from producers.publisher import Publisher
from producers.replay import Event, NoAnswerError, Pace, Progress, Replay, in_order
from schemas.codec import Codec
from schemas.codes import Code
from schemas.partitioning import record_key
from schemas.records import Outcome, ScoreRequest
from schemas.topics import Topics

pytestmark = pytest.mark.kafka


@contextmanager
def replay_of(broker: LocalBroker, topics: Topics, *, patience: float = 60.0) -> Iterator[Replay]:
    config = {"bootstrap.servers": broker.address}
    inbox = Inbox(config, topics.replies, rng=random.Random(1))
    inbox.open(30)
    try:
        yield Replay(Publisher(config, Codec()), inbox, Codec(), topics, "run/", patience=patience)
    finally:
        inbox.close()


def recording(count: int) -> Iterator[Event]:
    """`count` requests, one a second of the recording; the even ones have an outcome 2.5 s later."""

    def pair(number: int) -> tuple[Event, Event | None]:
        name, user, at = f"run/{number}", f"user-{number % 7}", number * 1_000_000
        ask = Event(at, ScoreRequest(name, "m", user, 0, experiment="e", features={"a": float(number)}))
        after = at + 2_500_000
        outcome = Outcome(f"{name}/late", user, "late", 1.0, after, request_id=name, experiment="e")
        return ask, Event(after, outcome) if number % 2 == 0 else None

    return in_order(map(pair, range(count)))


def outcomes_on(broker: LocalBroker, topics: Topics, count: int) -> list[tuple[bytes | None, Outcome]]:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "look"})
    consumer.assign([TopicPartition(topics.outcomes, one, OFFSET_BEGINNING) for one in range(4)])
    found = [message for _ in range(count) for message in consumer.consume(1, 30)]
    consumer.close()
    return [(one.key(), Codec().decode(Outcome, one.value())) for one in found]


def test_every_request_is_answered_once_and_every_outcome_is_published(broker: LocalBroker, topics: Topics) -> None:
    seen: list[Progress] = []
    with Scorer(broker.address, topics) as scorer, replay_of(broker, topics) as replay:
        tally = replay.run(recording(300), Pace(None, 50), seen.append)
    assert (tally.requests, tally.answers, tally.unanswered, tally.duplicates) == (300, 300, 0, 0)
    assert tally.codes == {"OK": 300}
    assert len(tally.round_trips) == 300
    assert min(tally.round_trips) > 0
    assert scorer.most_unanswered <= 50
    assert [one.at for one in seen][:300] == [number * 1_000_000 for number in range(300)]
    assert seen[-1] == Progress(299_000_000, 300, 300, 150)

    outcomes = outcomes_on(broker, topics, tally.outcomes)
    assert tally.outcomes == 150 == len({one.outcome_id for _, one in outcomes})
    for key, one in outcomes:
        assert key == record_key(one.user_id, one.experiment), "an outcome lies beside its user's requests"
        assert one.occurred_at == int(one.request_id.removeprefix("run/")) * 1_000_000 + 2_500_000
        assert one.sent_at > one.occurred_at, "published by today's clock"


def test_answers_that_come_twice_are_counted_and_count_once(broker: LocalBroker, topics: Topics) -> None:
    with Scorer(broker.address, topics, Behaviour(copies=2)), replay_of(broker, topics) as replay:
        tally = replay.run(recording(100), Pace(500, 20))
    assert tally.answers == 100
    assert tally.duplicates >= 90, "those after the last answer may come too late to be counted"


def test_errors_are_answers_and_are_counted_by_code(broker: LocalBroker, topics: Topics) -> None:
    wrong = Behaviour(code_of=lambda request_id: Code.INVALID_ARGUMENT if request_id.endswith("0") else Code.OK)
    with Scorer(broker.address, topics, wrong), replay_of(broker, topics) as replay:
        tally = replay.run(recording(100), Pace(None, 20))
    assert tally.codes == {"OK": 90, "INVALID_ARGUMENT": 10}


def test_requests_that_nobody_answers_are_counted_once_it_has_been_silent(broker: LocalBroker, topics: Topics) -> None:
    deaf = Behaviour(drop=lambda request_id, _attempt: request_id == "run/7")
    with Scorer(broker.address, topics, deaf), replay_of(broker, topics, patience=2.0) as replay:
        tally = replay.run(recording(50), Pace(None, 20))
    assert (tally.answers, tally.unanswered) == (49, 1)


def test_a_replay_that_nobody_answers_at_all_ends_with_a_line(broker: LocalBroker, topics: Topics) -> None:
    with (
        replay_of(broker, topics, patience=1.0) as replay,
        pytest.raises(NoAnswerError, match=r"none of 5 requests was answered for 1 s"),
    ):
        replay.run(recording(50), Pace(None, 5))


def test_a_knock_returns_when_every_partition_has_answered(broker: LocalBroker, topics: Topics) -> None:
    with Scorer(broker.address, topics) as scorer, replay_of(broker, topics) as replay:
        replay.knock(ScoreRequest("knock", "m", "", 0, features={"a": 1.0}))
        tally = replay.run(recording(10), Pace(None, 5))
    assert {one.request_id for one in scorer.seen} >= {f"knock/{partition}" for partition in range(4)}
    assert tally.answers == 10, "a knock is no part of the tally"


def test_a_knock_that_nobody_answers_says_so(broker: LocalBroker, topics: Topics) -> None:
    with replay_of(broker, topics) as replay, pytest.raises(NoAnswerError, match=r"4 partitions of t\w+\.scoring"):
        replay.knock(ScoreRequest("knock", "m", "", 0, features={"a": 1.0}), seconds=1.0)


def test_a_knock_answered_by_an_error_gives_its_reason(broker: LocalBroker, topics: Topics) -> None:
    refusing = Behaviour(code=Code.UNKNOWN_MODEL, message="there is no model 'm'")
    with (
        Scorer(broker.address, topics, refusing),
        replay_of(broker, topics) as replay,
        pytest.raises(NoAnswerError, match=r"UNKNOWN_MODEL: there is no model 'm'"),
    ):
        replay.knock(ScoreRequest("knock", "m", "", 0, features={"a": 1.0}))
