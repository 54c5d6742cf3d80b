"""One consumer group member: polls, hands on, holds back, and answers rebalances so that nothing is lost or doubled.

Revoked: nothing new is taken, what is in flight is finished and committed, then the partitions go. Lost: everything not
committed is forgotten, since their next owner does it again. The poll loop itself never waits for a device or a broker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream_workers.commit import CommitFailedError, Committer
from stream_workers.errands import Errands
from stream_workers.ledger import Epoch, Ledger
from stream_workers.ops import Health, WorkerMetrics

log = logging.getLogger(__name__)

# Full for longer than this, the partitions are paused, so that polls and with them rebalances go on.
PAUSE_SECONDS: Final = 3.0
FULL_WAIT_SECONDS: Final = 0.02
# A poll that found so many is worth what it costs, and a backlog must not wait.
FEW: Final = 30
POLL_SECONDS: Final = 0.05
LAG_SECONDS: Final = 5.0
# A rebalance waits this long for what is in flight; the default max.poll.interval.ms is 300 s.
DRAIN_SECONDS: Final = 30.0
LEAST_DRAIN_SECONDS: Final = 1.0
REWIND_SECONDS: Final = 10.0
# Twice the transaction time-out: what a step was to commit has long been rolled back.
HANG_SECONDS: Final = 20.0

Take = Callable[[Sequence[Message]], None]


class PipelineError(RuntimeError):
    """The consumer cannot go on; the process ends and is started again."""


class Room:
    """What a poll loop does while too much is under way; pure, with the clock passed in.

    Room comes back soon as a rule, so it waits: a pause would throw away what librdkafka has fetched already. Only
    where the room does not come are the partitions paused, because polls, and with them rebalances, must go on.
    """

    def __init__(self, patience: float = PAUSE_SECONDS) -> None:
        self._patience = patience
        self._full_since: float | None = None

    def look(self, full: bool, now: float) -> Literal["take", "wait", "pause"]:
        """What to do at `now` (seconds of a steady clock)."""
        if not full:
            self._full_since = None
            return "take"
        if self._full_since is None:
            self._full_since = now
        return "wait" if now - self._full_since < self._patience else "pause"


class Pipeline:
    """A consumer, the ledger of what it polled, and its commits."""

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        topics: Sequence[str],
        ledger: Ledger,
        take: Take,
        errands: Errands,
        *,
        max_poll: int,
        held_back: Callable[[], bool],
        health: Health,
        metrics: WorkerMetrics,
        on_assigned: Callable[[], None] = lambda: None,
        around_few: Callable[[], AbstractContextManager[None]] = nullcontext,
        between_polls: Callable[[], None] = lambda: None,
    ) -> None:
        """`held_back`: whether too much is under way to take more. `around_few`: within it a poll of a few records is
        taken. `between_polls`: called after one, to wait for milliseconds where more of them at once do as well, or
        where others are to go first.

        `on_assigned` is called when partitions came, before anything of them is read; it must not take long.
        """
        self._name = name
        self._consumer = consumer
        self._topics = list(topics)
        self._ledger = ledger
        self._take = take
        self._errands = errands
        self._max_poll = max_poll
        self._held_back = held_back
        self._health = health
        self._metrics = metrics
        self._on_assigned = on_assigned
        self._around_few = around_few
        self._between_polls = between_polls
        self._paused: bool | None = False
        self._room = Room()
        self._failure: BaseException | None = None
        self._lag_at = 0.0
        self._answered: list[float] = []
        self._taken_away: set[tuple[str | None, int | None]] = set()
        self._committer: Committer | None = None

    def committed(self, epoch: Epoch, seconds: float) -> None:
        """For the committer: an epoch is durable."""
        del epoch
        self._metrics.commits.inc()
        self._metrics.publish_seconds.observe(seconds)

    def commit_failed(self, error: BaseException) -> None:
        """For the committer: an epoch was not committed. The poll loop deals with it."""
        self._failure = error

    def run(self, stop: threading.Event, committer: Committer) -> None:
        """Poll until `stop` is set, then finish and commit what is in flight. Raises `PipelineError`."""
        self._committer = committer
        self._errands.own()
        self._consumer.subscribe(
            self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )  # fmt: skip
        committer.start()
        try:
            while not stop.is_set():
                self._errands.run()
                self._recover(committer)
                self._health.beat(self._name)
                halted = self._ledger.halted
                turn = self._room.look(not halted and self._held_back(), monotonic())
                if turn == "wait":
                    self._ledger.await_room(FULL_WAIT_SECONDS)
                    continue
                self._breathe(turn == "pause" or halted)
                messages = self._poll()
                # A rebalance within the poll may have halted the ledger: these are read again with the others.
                if messages and not self._ledger.halted:
                    if len(messages) < FEW:
                        with self._around_few():
                            self._take(messages)
                        self._between_polls()
                    else:
                        self._take(messages)
                self._tell_lag()
            if not committer.drain(DRAIN_SECONDS, self._errands.run):
                log.warning("%s: what was in flight is left to be done again", self._name)
                self._ledger.halt()
            committer.stop(self._errands.run)
        except BaseException as error:
            # Something of the open epoch will never be finished, so there is nothing to wait for: not for a commit
            # under way either, which may wait for a broker long after another worker could have these partitions.
            log.error("%s: ends, what was in flight is left to be done again: %s", self._name, error)
            self._ledger.halt()
            raise
        finally:
            # Closing revokes the partitions; nothing is in flight any more, so that is quick.
            self._consumer.close()

    def _poll(self) -> list[Message]:
        # consume() alone would wait its whole time-out to fill up; one message is worth acting on.
        first = self._consumer.poll(POLL_SECONDS)
        if first is None:
            return []
        messages = [first]
        if not self._paused:
            self._taken_away.clear()
            messages += self._consumer.consume(self._max_poll - 1, 0)
            # What consume() holds back of partitions that went within it, it does not know of the first.
            if self._taken_away and (first.topic(), first.partition()) in self._taken_away:
                del messages[0]
        good = [message for message in messages if message.error() is None]
        for message in messages if len(good) < len(messages) else ():
            self._complain(message.error())
        return good

    def _complain(self, error: KafkaError | None) -> None:
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            return
        if error.fatal():
            raise PipelineError(f"{self._name}: the consumer cannot go on: {error.str()}")
        log.warning("%s: %s", self._name, error.str())

    def _breathe(self, held_back: bool) -> None:
        """Pause or resume all partitions, where they are not so already; polls go on, which keeps the membership."""
        if held_back == self._paused:
            return
        assigned = self._consumer.assignment()
        if held_back:
            self._consumer.pause(assigned)
        else:
            self._consumer.resume(assigned)
        self._paused = held_back
        self._metrics.paused.set(held_back)

    def _recover(self, committer: Committer) -> None:
        """Where the ledger was halted: go back to the last commit and begin anew."""
        failure, self._failure = self._failure, None
        if failure is not None:
            if not isinstance(failure, CommitFailedError):
                raise PipelineError(f"{self._name}: {failure}") from failure
            log.warning("%s: %s; reading again from the last commit", self._name, failure)
        self._look_for_a_hang(committer)
        if self._ledger.halted:
            # A commit under way may still succeed, and what it commits must not be read again.
            committer.while_idle(self._begin_anew)

    def _look_for_a_hang(self, committer: Committer) -> None:
        """End where a step of a commit does not return although Kafka answers: a new process goes on.

        librdkafka 2.16's send_offsets_to_transaction may miss that the group's coordinator is back, and then pays no
        heed to its time-out (confluentinc/librdkafka, issues 5456 and 5511).
        """
        under_way, now = committer.under_way(), monotonic()
        if under_way < HANG_SECONDS:
            self._answered = []
        elif not self._answered or now - self._answered[-1] >= 1.0:
            try:
                self._consumer.list_topics(self._topics[0], timeout=1.0)
            except KafkaException:
                self._answered = []
                return
            self._answered.append(now)
            # A step that waited for Kafka's return gets a while to notice it.
            if now - self._answered[0] > HANG_SECONDS / 2:
                raise PipelineError(
                    f"{self._name}: a commit has hung for {under_way:.0f} s; a new process has to go on"
                )

    def _begin_anew(self) -> None:
        try:
            self._rewind()
        except KafkaException as error:
            log.warning("%s: cannot go back to the last commit yet: %s", self._name, error.args[0].str())
        else:
            self._ledger.resume()

    def _rewind(self) -> None:
        assigned = self._consumer.assignment()
        if not assigned:
            return
        for place in self._consumer.committed(assigned, timeout=REWIND_SECONDS):
            if place.error is not None:
                raise KafkaException(place.error)
            offset = place.offset
            if offset < 0:
                # Nothing was ever committed, so the first record is where it began.
                marks = self._consumer.get_watermark_offsets(place, timeout=REWIND_SECONDS)
                if marks is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                offset = marks[0]
            self._consumer.seek(TopicPartition(place.topic, place.partition, offset))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        del consumer
        self._metrics.rebalances.inc()
        # New partitions come running and old ones as they were: the next look makes all of them the same.
        self._paused = None
        log.info("%s: assigned %s", self._name, _named(partitions))
        if partitions:
            self._on_assigned()

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        del consumer
        log.info("%s: giving back %s", self._name, _named(partitions))
        self._taken_away.update((place.topic, place.partition) for place in partitions)
        if self._committer is None or self._ledger.halted:
            return
        # What a commit under way has taken already counts: one that hangs never ends, and the next owner waits.
        patience = max(DRAIN_SECONDS - self._committer.under_way(), LEAST_DRAIN_SECONDS)
        if not self._committer.drain(patience, self._errands.run):
            log.warning("%s: not all was finished in time; it will be done again", self._name)
            self._ledger.halt()

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        del consumer
        log.warning("%s: lost %s; what was in flight is theirs to do again", self._name, _named(partitions))
        self._taken_away.update((place.topic, place.partition) for place in partitions)
        self._ledger.halt()

    def _tell_lag(self) -> None:
        now = monotonic()
        if now - self._lag_at < LAG_SECONDS:
            return
        self._lag_at = now
        assigned = self._consumer.assignment()
        self._metrics.assigned(self._topics, {(place.topic, place.partition) for place in assigned})
        for place in self._consumer.position(assigned):
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            if high >= 0 and place.offset >= 0:
                self._metrics.lag(place.topic, place.partition, max(0, high - place.offset))


def _named(partitions: Sequence[Any]) -> str:
    return ", ".join(f"{place.topic}[{place.partition}]" for place in partitions) or "nothing"
