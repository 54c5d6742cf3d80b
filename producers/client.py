"""Asks models over Kafka and awaits the answers: `await client.score(...)`, or `client.score_sync(...)` from a thread.

The exceptions are drawn in `producers.errors`. A client may be used from any number of threads and event loops at
once. Answers come to one partition of the reply topic, which the client reads by itself from the moment it opened;
each request is registered before it is sent, so no answer can be missed, and one that nobody waits for is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException, Message
from opentelemetry import propagate, trace

from producers.correlation import Correlation, Counts, Envelope, Pending, Slots
from producers.errors import (
    BrokerUnavailableError,
    ClientClosedError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ScoringError,
    TooLargeError,
    UnavailableError,
)
from producers.inbox import Inbox
from producers.kafka import Config, address_of
from producers.publisher import Publisher
from producers.questions import Question, Score, ask, score_of
from producers.wakeups import Wakeups
from schemas.codec import Codec, DecodeError, EncodeError
from schemas.framing import RegistryUnavailableError
from schemas.partitioning import record_key
from schemas.placement import Place, Placement
from schemas.records import FeatureValue, ScoreReply, ScoreRequest
from schemas.tensors import Array
from schemas.topics import Topics

__all__ = ["Score", "ScoringClient"]

LOG: Final = logging.getLogger(__name__)
CLOSED: Final = "the client was closed"
POLL_SECONDS: Final = 0.1
# A request is worth sending at once; and one that Kafka did not take in half a minute has no one waiting for it.
SENDING: Final[Config] = {"linger.ms": 0, "message.timeout.ms": 30_000}


class ScoringClient:
    """Request/reply over Kafka. Opens itself with the first request; close it, or use it as a context manager.

    `config`: librdkafka properties (`bootstrap.servers` and whatever else). `timeout`: seconds a request has unless it
    says otherwise. `max_in_flight`: requests beyond this wait for their turn, within their own time. `connect_timeout`:
    seconds the broker has to answer at the start. `place`: where a model's requests go, by its name
    (`schemas.placement.Placement.of`, `producers.moves.Moves.of`); None: to `topics.requests`, whose workers hand on
    what is another pool's. `clock`: seconds since the epoch.
    """

    def __init__(
        self,
        config: Config,
        codec: Codec,
        topics: Topics,
        *,
        timeout: float = 5.0,
        max_in_flight: int = 1000,
        connect_timeout: float = 5.0,
        place: Callable[[str], Place] | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._codec = codec
        self._place = place or Placement.create(topics).of
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._inbox = Inbox(config, topics.replies, rng=rng or random.SystemRandom())
        self._table = Correlation(uuid.uuid4().hex)
        self._slots = Slots(max_in_flight)
        self._wakeups = Wakeups()
        self._publisher: Publisher | None = None
        self._down = ""  # why Kafka takes nothing just now, where it said so
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._opened: Future[None] | None = None
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> Counts:
        """Requests and replies so far, with what was dropped."""
        return self._table.counts()

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._table)

    async def score(
        self,
        model: str,
        *,
        user_id: str = "",
        experiment: str = "",
        features: Mapping[str, FeatureValue] | None = None,
        inputs: Mapping[str, Array] | None = None,
        version: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - it travels with the request as its deadline
    ) -> Score:
        """Ask `model` for one row of named `features`, or for the rows of `inputs` (arrays, rows first).

        Raises a `ScoringError`; nothing else for anything that may happen in operation.
        """
        seconds = self._timeout if timeout is None else timeout
        question = ask(model, version, user_id, experiment, features, inputs, seconds)
        await self._within(question, self._opening())
        turn = self._slots.acquire()
        if turn is not None:
            try:
                await self._within(question, turn)
            except BaseException:
                self._slots.abandon(turn)
                raise
        try:
            pending = self._send(question)
            try:
                async with asyncio.timeout(self._left(question)):
                    reply = await self._wakeups.result(pending.future)
            except TimeoutError:
                reply = self._missed(question, pending)
            finally:
                self._table.expire(pending.request_id)
        finally:
            self._slots.release()
        return self._read(question, reply)

    def score_sync(
        self,
        model: str,
        *,
        user_id: str = "",
        experiment: str = "",
        features: Mapping[str, FeatureValue] | None = None,
        inputs: Mapping[str, Array] | None = None,
        version: str = "",
        timeout: float | None = None,
    ) -> Score:
        """`score`, for a thread without an event loop: blocks until the answer is there."""
        seconds = self._timeout if timeout is None else timeout
        question = ask(model, version, user_id, experiment, features, inputs, seconds)
        try:
            self._opening().result(self._left(question))
        except TimeoutError:
            raise self._no_broker(question) from None
        turn = self._slots.acquire()
        if turn is not None:
            try:
                turn.result(self._left(question))
            except BaseException as error:
                self._slots.abandon(turn)
                if isinstance(error, TimeoutError):
                    raise self._no_turn(question) from None
                raise
        try:
            pending = self._send(question)
            try:
                reply = pending.future.result(self._left(question))
            except TimeoutError:
                reply = self._missed(question, pending)
            finally:
                self._table.expire(pending.request_id)
        finally:
            self._slots.release()
        return self._read(question, reply)

    def open(self) -> Self:
        """Connect now, not with the first request. Raises `BrokerUnavailableError` within `connect_timeout` seconds."""
        self._opening().result()
        return self

    def close(self) -> None:
        """Fail what is pending with `ClientClosedError`, and stop. May be called twice."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        self._table.close(ClientClosedError(CLOSED))
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.wrap_future(self._opening())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def _send(self, question: Question) -> Pending:
        publisher = self._publisher
        assert publisher is not None  # noqa: S101 - opened before
        now = self._clock()
        left = self._left(question)
        if left <= 0:
            raise self._no_turn(question)
        pending = self._table.register(question.model)
        carrier: dict[str, str] = {}
        if trace.get_current_span().get_span_context().is_valid:
            propagate.inject(carrier)
        try:
            value = self._codec.encode(
                ScoreRequest(
                    request_id=pending.request_id,
                    model=question.model,
                    user_id=question.user_id,
                    sent_at=round(now * 1e6),
                    version=question.version,
                    experiment=question.experiment,
                    deadline=round((now + left) * 1e6),
                    reply_topic=self._inbox.topic,
                    reply_partition=self._inbox.partition,
                    inputs=question.inputs,
                    features=question.features,
                )
            )
            publisher.send_bytes(
                self._place(question.model).requests,
                value,
                key=record_key(question.user_id, question.experiment),
                headers=carrier,
                on_delivery=partial(self._on_delivery, pending),
                timeout=0,
            )
        except EncodeError as error:
            self._table.fail(pending.request_id, InvalidArgumentError(str(error), model=question.model))
        except KafkaException as error:
            self._table.fail(pending.request_id, self._refused(pending, error.args[0]))
        except ScoringError as error:
            self._table.fail(pending.request_id, error)
        return pending

    def _on_delivery(self, pending: Pending, error: KafkaError | None, message: Message) -> None:
        del message
        if error is None:
            self._down = ""
            self._table.delivered(pending.request_id)
        else:
            self._table.fail(pending.request_id, self._refused(pending, error))

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._AUTHENTICATION):
            self._down = error.str()

    # Time, and what its end means.

    def _left(self, question: Question) -> float:
        return max(0.0, question.asked + question.timeout - time.perf_counter())

    async def _within(self, question: Question, future: Future[None]) -> None:
        if future.done():
            future.result()
            return
        try:
            async with asyncio.timeout(self._left(question)):
                await asyncio.wrap_future(future)
        except TimeoutError:
            raise (self._no_broker if future is self._opened else self._no_turn)(question) from None

    def _missed(self, question: Question, pending: Pending) -> Envelope:
        """Nothing came in time. The answer after all, if it came this very moment; else raises why it did not."""
        publisher = self._publisher
        if publisher is not None:
            publisher.poll(0)  # whether Kafka took the request may be known by now
        if not self._table.expire(pending.request_id):
            return pending.future.result()
        about = {"model": question.model, "request_id": pending.request_id}
        late = f"within {question.timeout:g} s"
        if not pending.delivered and self._down:
            raise BrokerUnavailableError(
                f"{address_of(self._config)} did not take the request {late}: {self._down}", **about
            )
        unsure = "" if pending.delivered else ", nor had Kafka confirmed the request"
        raise DeadlineExceededError(f"no answer from {question.model!r} {late}{unsure}", **about)

    def _no_turn(self, question: Question) -> ScoringError:
        return DeadlineExceededError(
            f"{self._slots.limit} requests were in flight already, for {question.timeout:g} s; raise max_in_flight, "
            "or ask for less at once",
            model=question.model,
        )

    def _no_broker(self, question: Question) -> ScoringError:
        return BrokerUnavailableError(
            f"no Kafka broker answered at {address_of(self._config)} within {question.timeout:g} s",
            model=question.model,
        )

    def _refused(self, pending: Pending, error: KafkaError) -> ScoringError:
        about = {"model": pending.model, "request_id": pending.request_id}
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return TooLargeError("the request is larger than Kafka takes (message.max.bytes); send fewer rows", **about)
        return BrokerUnavailableError(f"{address_of(self._config)} did not take the request: {error.str()}", **about)

    # The thread that reads answers.

    def _opening(self) -> Future[None]:
        with self._lock:
            self._table.raise_if_closed()
            if self._opened is None:
                self._opened = Future()
                # Many wait for it: none of them may cancel it for the others.
                self._opened.set_running_or_notify_cancel()
                self._thread = threading.Thread(
                    target=self._run, args=(self._opened,), name="penstock-replies", daemon=True
                )
                self._thread.start()
            return self._opened

    def _run(self, opened: Future[None]) -> None:
        try:
            self._inbox.open(self._connect_timeout)
            self._publisher = Publisher({**SENDING, **self._config, "error_cb": self._on_error}, self._codec)
            self._warm_up(self._publisher)
        except (ScoringError, KafkaException, ValueError) as error:
            with self._lock:
                self._opened = None  # the next request tries again
            opened.set_exception(
                error if isinstance(error, ScoringError) else UnavailableError(f"Kafka client: {error}")
            )
            return
        opened.set_result(None)
        why: ScoringError = InternalError("the thread that reads answers ended")
        try:
            while not self._stop.is_set():
                for value in self._inbox.poll(POLL_SECONDS):
                    self._receive(value)
                self._publisher.poll(0)
            why = ClientClosedError(CLOSED)
        except KafkaException as error:
            why = UnavailableError(f"answers can no longer be read from {self._inbox.topic!r}: {error.args[0].str()}")
        finally:
            self._stop.set()
            self._table.close(why)
            self._inbox.close()

    def _warm_up(self, publisher: Publisher) -> None:
        # An idempotent producer takes half a second to get its id, which the first request would have to wait for. A
        # record without a value on the own partition is what nobody reads; where it is not allowed, nothing is lost.
        publisher.send_bytes(
            self._inbox.topic, None, partition=self._inbox.partition, on_delivery=lambda _error, _message: None
        )
        with contextlib.suppress(BrokerUnavailableError):
            publisher.flush(min(2.0, self._connect_timeout))

    def _receive(self, value: bytes) -> None:
        if self._table.is_foreign(value):
            return
        try:
            request_id = self._codec.reply_id(value)
            if request_id not in self._table:
                self._codec.decode(ScoreReply, value)  # nobody will open it: it is late, a second one, or no answer
        except (DecodeError, RegistryUnavailableError) as error:
            # Without its schema nobody knows whose it is: who waits for it is told at the deadline.
            self._unreadable(error)
            return
        self._table.answer(Envelope(request_id, value))

    def _read(self, question: Question, envelope: Envelope) -> Score:
        try:
            reply = self._codec.decode(ScoreReply, envelope.value)
        except (DecodeError, RegistryUnavailableError) as error:
            self._unreadable(error)
            about = {"model": question.model, "request_id": envelope.request_id}
            kind = InternalError if isinstance(error, DecodeError) else UnavailableError
            raise kind(f"the answer cannot be read: {error}", **about) from None
        return score_of(question, reply)

    def _unreadable(self, error: Exception) -> None:
        self._table.unreadable()
        LOG.warning("an answer could not be read: %s", error)
