"""Publishes recorded events again, in their order and at a chosen pace, and keeps account of every answer.

Two clocks never mix: events carry the time at which they once happened, which only decides their order; requests are
sent, and have their deadline, by today's clock. So a month goes by in half a minute and latencies are still real ones.
`in_order` and `Pace` are pure; `Replay` does the sending and the listening, in the caller's thread.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from time import time
from typing import Final

from producers.inbox import Inbox
from producers.publisher import Publisher
from schemas.codec import Codec, DecodeError
from schemas.codes import Code
from schemas.placement import Place, Placement
from schemas.records import Outcome, ScoreReply, ScoreRequest
from schemas.topics import Topics

# How far behind its times of departure a replay may catch up at once; what it lost beyond that moves the rest.
SLACK_SECONDS: Final = 0.05
# librdkafka waits in whole milliseconds: less would be no wait at all, and a spinning core.
_SHORTEST_WAIT: Final = 0.001
_LONGEST_WAIT: Final = 0.1


class NoAnswerError(RuntimeError):
    """Nobody answers the requests, in one line."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened `at` (microseconds since the epoch, on the recording's clock) and is to happen again."""

    at: int
    record: ScoreRequest | Outcome


def in_order(pairs: Iterable[tuple[Event, Event | None]]) -> Iterator[Event]:
    """Requests and what came of them, as one stream in order of `at`.

    `pairs`: a request and its outcome (None: it has none), in order of the requests. An outcome never comes before its
    own request, whatever the recording says. Holds the outcomes still to come and nothing else.
    """
    to_come: list[tuple[int, int, Event]] = []
    for number, (request, outcome) in enumerate(pairs):
        while to_come and to_come[0][0] <= request.at:
            yield heappop(to_come)[2]
        yield request
        if outcome is not None:
            heappush(to_come, (outcome.at, number, outcome))
    while to_come:
        yield heappop(to_come)[2]


class Pace:
    """When the next request may leave: `rate` a second, evenly, and never more than `in_flight` unanswered ones.

    `rate` None: as soon as there is room. All times are seconds of one clock. `held_back` counts the requests that were
    due and waited for room: where there are many of them the latencies are those of a lower rate than was asked for.
    """

    def __init__(self, rate: float | None, in_flight: int, *, slack: float = SLACK_SECONDS) -> None:
        if in_flight < 1 or (rate is not None and not rate > 0):
            raise ValueError(f"a pace of {rate} a second with {in_flight} in flight lets nothing through")
        self.rate = rate
        self.in_flight = in_flight
        self.held_back = 0
        self._slack = slack
        self._next = -math.inf
        self._held = False

    def wait(self, now: float, unanswered: int) -> float:
        """Seconds until one more may leave: 0 now, infinite not before an answer has come."""
        left = self._next - now if self.rate is not None else 0.0
        if unanswered >= self.in_flight:
            self._held |= left <= 0
            return math.inf
        return max(0.0, left)

    def sent(self, now: float) -> None:
        """One has left."""
        self.held_back += self._held
        self._held = False
        if self.rate is not None:
            first = self._next == -math.inf
            self._next = (now if first else max(self._next, now - self._slack)) + 1 / self.rate


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is: `at` is the time of the last request on the recording's clock, in microseconds."""

    at: int
    requests: int
    answers: int
    outcomes: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What was sent and what came back.

    `duplicates`: answers to requests that had been answered. `unanswered`: requests without an answer at the end.
    `codes`: answers by code. `round_trips`: seconds from sending to having the answer, in the order of the answers.
    """

    requests: int
    outcomes: int
    answers: int
    duplicates: int
    unanswered: int
    held_back: int
    codes: Mapping[str, int]
    round_trips: array[float]


class Replay:
    """Sends events and listens to the answers on the partition that `inbox` (open) reads.

    Every request's id must begin with `prefix`; answers to other ids are other people's. `timeout`: seconds from
    sending to a request's deadline. `patience`: seconds of silence after which no more answers are expected. `place`:
    where a model's requests go, by its name; None: to `topics.requests`.
    `clock`: seconds since the epoch.
    """

    def __init__(
        self,
        publisher: Publisher,
        inbox: Inbox,
        codec: Codec,
        topics: Topics,
        prefix: str,
        *,
        timeout: float = 30.0,
        patience: float = 45.0,
        place: Callable[[str], Place] | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._publisher = publisher
        self._inbox = inbox
        self._codec = codec
        self._topics = topics
        self._place = place or Placement.create(topics).of
        self._prefix = prefix
        self._timeout = timeout
        self._patience = patience
        self._clock = clock
        self._open: dict[str, float] = {}
        self._codes: Counter[str] = Counter()
        self._round_trips = array("d")
        self._duplicates = 0
        self._heard = 0.0

    def knock(self, request: ScoreRequest, seconds: float = 60.0) -> None:
        """Send `request` to each partition and return when all are answered: whoever is to read them does.

        The ids are made of the request's. Raises `NoAnswerError` after `seconds`, or for an answer that is an error.
        """
        waiting = set()
        topic = self._place(request.model).requests
        for partition in range(self._publisher.partitions(topic, seconds)):
            asked = replace(request, request_id=f"{request.request_id}/{partition}")
            waiting.add(asked.request_id)
            self._publisher.send(topic, self._addressed(asked, self._clock()), partition=partition)
        give_up = self._clock() + seconds
        while waiting:
            for reply in self._replies(_LONGEST_WAIT):
                if reply.request_id in waiting and reply.code is not Code.OK:
                    raise NoAnswerError(f"the first answer is {reply.code}: {reply.message}")
                waiting.discard(reply.request_id)
            self._publisher.poll()
            if waiting and self._clock() > give_up:
                raise NoAnswerError(
                    f"no scoring worker answers for {len(waiting)} partitions of {topic} after {seconds:.0f} s"
                )

    def run(
        self, events: Iterable[Event], pace: Pace, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> Tally:
        """Send all events and wait for the answers. `on_progress` is called often; it should be quick.

        Raises `DeliveryError` and `BrokerUnavailableError` where Kafka does not take a record, and `NoAnswerError`
        where nothing is answered for `patience` seconds and no more may be sent.
        """
        requests = outcomes = at = 0
        self._heard = self._clock()
        for event in events:
            if isinstance(event.record, Outcome):
                outcome = replace(event.record, sent_at=_microseconds(self._clock()))
                self._publisher.send(self._topics.outcomes, outcome)
                outcomes += 1
                continue
            now = self._await_turn(pace)
            self._open[event.record.request_id] = now
            topic = self._place(event.record.model).requests
            self._publisher.send(topic, self._addressed(event.record, now, self._timeout))
            pace.sent(now)
            requests += 1
            at = event.at
            on_progress(Progress(at, requests, len(self._round_trips), outcomes))
        self._publisher.flush()
        self._heard = self._clock()
        while self._open and self._clock() - self._heard < self._patience:
            self._listen(_LONGEST_WAIT)
            on_progress(Progress(at, requests, len(self._round_trips), outcomes))
        self._listen(0)  # an answer that came twice is most likely here by now
        return Tally(
            requests=requests,
            outcomes=outcomes,
            answers=len(self._round_trips),
            duplicates=self._duplicates,
            unanswered=len(self._open),
            held_back=pace.held_back,
            codes=dict(self._codes),
            round_trips=self._round_trips,
        )

    def _addressed(self, request: ScoreRequest, now: float, timeout: float = 0.0) -> ScoreRequest:
        return replace(
            request,
            sent_at=_microseconds(now),
            deadline=_microseconds(now + timeout) if timeout else 0,
            reply_topic=self._inbox.topic,
            reply_partition=self._inbox.partition,
        )

    def _await_turn(self, pace: Pace) -> float:
        """Listen until one more request may leave; returns the time."""
        # Also when nothing keeps it back: an answer's time is taken when it is read, so it is read at once.
        self._listen(0)
        while wait := pace.wait(now := self._clock(), len(self._open)):
            if wait == math.inf and now - self._heard > self._patience:
                raise NoAnswerError(
                    f"none of {len(self._open):,} requests was answered for {self._patience:.0f} s; "
                    "the workers' logs may say why"
                )
            self._listen(min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT))
        return now

    def _listen(self, seconds: float) -> None:
        for reply in self._replies(seconds):
            if not reply.request_id.startswith(self._prefix):
                continue
            sent = self._open.pop(reply.request_id, None)
            if sent is None:
                self._duplicates += 1
                continue
            self._heard = self._clock()
            self._round_trips.append(self._heard - sent)
            self._codes[str(reply.code)] += 1

    def _replies(self, seconds: float) -> Iterator[ScoreReply]:
        for value in self._inbox.poll(seconds):
            try:
                yield self._codec.decode(ScoreReply, value)
            except DecodeError:
                continue  # not one of ours: the partition may be shared


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
