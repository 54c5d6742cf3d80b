"""Makes an epoch durable: replies delivered, then outputs and offsets committed, in that order.

1. every record of the epoch has its fate, and what was drafted for its log is written;
2. the epoch's replies are acknowledged by the broker;
3. exactly once: one transaction holds the outputs and the consumed offsets (KIP-98, KIP-447);
   at least once: the outputs are acknowledged, then the offsets are committed.
A crash between any two steps repeats work and never loses it; with the transaction no output is seen twice.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from stream_workers.errands import Errands
from stream_workers.ledger import Epoch, Ledger
from stream_workers.outputs import Attempt, OnGivenUp
from stream_workers.threads import NamedThread

log = logging.getLogger(__name__)

# How long one step of a commit may take before it counts as failed; a broker restart takes less.
STEP_SECONDS: Final = 60.0
ATTEMPTS: Final = 3


class CommitFailedError(RuntimeError):
    """The epoch was not committed and its transaction was aborted: the partitions must be read again.

    `given_up`: outputs that their topics refused, which are not in the epoch any more or will be sent alone.
    """

    def __init__(self, why: str, *, given_up: int = 0) -> None:
        super().__init__(why)
        self.given_up = given_up


class AbandonedError(RuntimeError):
    """The epoch's partitions were lost while it was being committed."""


class WorkerFencedError(RuntimeError):
    """Another producer took this worker's transactional id: this process must end."""


class Replies(Protocol):
    """Where replies went."""

    def flush(self, parity: int, timeout: float) -> int:
        """Wait for the deliveries of one parity; returns how many are still under way."""


class Delivery(Protocol):
    """How outputs and offsets become durable."""

    def commit(self, epoch: Epoch) -> None:
        """Publish outputs and commit offsets. Raises `CommitFailedError` where no offset was committed."""

    def under_way(self) -> float:
        """For how many seconds the step that is under way has been; 0 where none is."""


class ExactlyOnce:
    """Outputs and offsets in one transaction."""

    def __init__(
        self,
        producer: Producer,
        consumer: Consumer,
        errands: Errands,
        on_given_up: OnGivenUp,
        *,
        timeout: float = STEP_SECONDS,
    ) -> None:
        """`on_given_up` is told of each output that its topic refuses: the topic and the error's name."""
        self._producer = producer
        self._consumer = consumer
        self._errands = errands
        self._on_given_up = on_given_up
        self._timeout = timeout
        self._step_began: float | None = None
        self._step(producer.init_transactions)

    def commit(self, epoch: Epoch) -> None:
        """One transaction, tried again within the time-out where Kafka says it may be."""
        producer, attempt = self._producer, Attempt(epoch)
        try:
            self._step(lambda _: producer.begin_transaction())
            attempt.produce(producer, self._timeout, tell_all=False)
            group = self._errands.ask(self._consumer.consumer_group_metadata, self._timeout)
            if epoch.abandoned:
                # Its partitions were lost before the group was asked: a fresh membership must not commit for them.
                raise AbandonedError
            offsets = offsets_of(epoch)
            self._step(lambda left: producer.send_offsets_to_transaction(offsets, group, left))
            self._step(producer.commit_transaction)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.fatal():
                raise WorkerFencedError(f"the transactional producer cannot go on: {cause.str()}") from error
            self._abort(cause.str(), lambda: attempt.give_up(self._on_given_up))
        except AbandonedError:
            self._abort("its partitions were lost")
        except TimeoutError:
            self._abort("the poll loop did not answer")

    def _abort(self, why: str, give_up: Callable[[], int] = lambda: 0) -> None:
        try:
            self._step(self._producer.abort_transaction)
        except KafkaException as second:
            raise WorkerFencedError(f"a transaction could not be aborted: {second.args[0].str()}") from second
        raise CommitFailedError(f"transaction aborted: {why}", given_up=give_up())

    def under_way(self) -> float:
        """See `Delivery`."""
        began = self._step_began
        return 0.0 if began is None else monotonic() - began

    def _step(self, call: Callable[[float], Any]) -> None:
        self._step_began = monotonic()
        try:
            retrying(call, self._timeout)
        finally:
            self._step_began = None


class AtLeastOnce:
    """Outputs acknowledged first, offsets committed second."""

    def __init__(
        self,
        producer: Producer,
        consumer: Consumer,
        errands: Errands,
        on_given_up: OnGivenUp,
        *,
        timeout: float = STEP_SECONDS,
    ) -> None:
        """See `ExactlyOnce`."""
        self._producer = producer
        self._consumer = consumer
        self._errands = errands
        self._on_given_up = on_given_up
        self._timeout = timeout

    def commit(self, epoch: Epoch) -> None:
        """Flush, then commit synchronously."""
        attempt = Attempt(epoch)
        attempt.produce(self._producer, self._timeout, tell_all=True)
        if self._producer.flush(self._timeout) > 0:
            raise CommitFailedError(f"outputs were not acknowledged within {self._timeout:.0f} s")
        given_up = attempt.give_up(self._on_given_up)
        if attempt.failed:
            raise CommitFailedError(f"{len(attempt.failed)} outputs were refused: {attempt.failed[0].str()}")
        if given_up:
            raise CommitFailedError(f"{given_up} outputs were refused by their senders' topics", given_up=given_up)
        try:
            self._errands.ask(lambda: self._commit_offsets(epoch), self._timeout)
        except KafkaException as error:
            raise CommitFailedError(f"offsets were not committed: {error.args[0].str()}") from error
        except TimeoutError:
            raise CommitFailedError("offsets were not committed: the poll loop did not answer") from None

    def _commit_offsets(self, epoch: Epoch) -> None:
        # In the poll loop, where partitions are lost: an epoch that was forgotten meanwhile has no outputs any more.
        if epoch.abandoned:
            raise CommitFailedError("offsets were not committed: its partitions were lost")
        self._consumer.commit(offsets=offsets_of(epoch), asynchronous=False)

    def under_way(self) -> float:
        """Each step keeps its time-out: nobody needs to know."""
        return 0.0


def offsets_of(epoch: Epoch) -> list[TopicPartition]:
    """The epoch's offsets as Kafka takes them."""
    return [TopicPartition(topic, number, offset) for (topic, number), offset in epoch.offsets.items()]


def retrying(call: Callable[[float], Any], timeout: float) -> None:
    """Call, with the seconds left, until it works, fails for good, or the time is over. Kafka blocks within a try."""
    end = monotonic() + timeout
    while True:
        try:
            # A try that has hardly any time left would only hide why the one before failed.
            call(max(1.0, end - monotonic()))
        except KafkaException as error:
            if not error.args[0].retriable() or monotonic() >= end:
                raise
        else:
            return


class _Drain:
    """A wish of the poll loop: commit what is in flight by `end` (monotonic seconds)."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.over = threading.Event()
        self.committed = False


class Committer:
    """The thread that ends an epoch every `interval` seconds, or at once when asked, and makes it durable.

    No other thread commits: a step may hang for ever in librdkafka, and whoever polls must be able to tell.
    """

    def __init__(
        self,
        ledger: Ledger,
        delivery: Delivery,
        replies: Replies,
        *,
        interval: float,
        on_commit: Callable[[Epoch, float], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`on_failure`: told why an epoch was not committed, with the ledger halted, or why this thread ended."""
        self._ledger = ledger
        self._delivery = delivery
        self._replies = replies
        self._interval = interval
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._one_at_a_time = threading.Lock()
        self._wake = threading.Event()
        self._drain: _Drain | None = None
        self._stopping = False
        self._thread = NamedThread(target=self._run, name="commit", daemon=True)

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def stop(self, serve: Callable[[], None]) -> None:
        """End the thread; what is open stays uncommitted unless `drain` was called. `serve`: as there.

        A step that pays no heed to its time-out is not waited for; the process ends without it.
        """
        self._stopping = True
        self._wake.set()
        while self._thread.is_alive() and self.under_way() <= STEP_SECONDS:
            serve()
            self._thread.join(0.01)

    def under_way(self) -> float:
        """See `Delivery`."""
        return self._delivery.under_way()

    def while_idle(self, call: Callable[[], None]) -> bool:
        """Make the call while nothing is being committed; False, and no call, where something is."""
        if not self._one_at_a_time.acquire(blocking=False):
            return False
        try:
            call()
        finally:
            self._one_at_a_time.release()
        return True

    def drain(self, timeout: float, serve: Callable[[], None]) -> bool:
        """Commit all that is in flight; False where that was not done in time, and then the ledger is to be halted.

        Called by the poll loop. `serve` runs its errands: the commit waits for one. After False it may go on.
        """
        if not self._thread.is_alive():
            return self._ledger.close() is None
        wish = self._drain = _Drain(monotonic() + timeout)
        self._wake.set()
        while not wish.over.wait(0.01) and self._thread.is_alive() and monotonic() < wish.end:
            serve()
        return wish.committed

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.wait(self._interval)
                self._wake.clear()
                with self._one_at_a_time:
                    wish, self._drain = self._drain, None
                    # Whoever wished has given up, and may have begun anew: what is open now has all its time.
                    if wish is None or monotonic() >= wish.end:
                        self._end_epoch()
                    else:
                        wish.committed = self._end_epoch(wish.end)
                        wish.over.set()
        except BaseException as error:
            self._on_failure(error)
            raise

    def _end_epoch(self, end: float = math.inf) -> bool:
        """Commit what is open, once each record of it has its fate; False where that was not by `end` or before a stop.

        Such an epoch is never committed, so who gets False halts the ledger.
        """
        epoch = self._ledger.close()
        if epoch is None:
            return True
        while not self._ledger.settled(epoch, min(0.5, max(0.0, end - monotonic()))):
            if self._stopping or monotonic() >= end:
                return False
        return self._commit(epoch)

    def _commit(self, epoch: Epoch) -> bool:
        if epoch.abandoned:
            return False
        began = monotonic()
        self._ledger.write(epoch)
        try:
            if self._replies.flush(epoch.parity, STEP_SECONDS) > 0:
                raise CommitFailedError(f"replies were not acknowledged within {STEP_SECONDS:.0f} s")
            self._deliver(epoch)
        except (CommitFailedError, WorkerFencedError) as error:
            # Halted before the lock is released: the next epoch's offsets lie behind those of this one.
            if not epoch.abandoned:
                self._ledger.halt()
                self._on_failure(error)
            return False
        self._ledger.committed(epoch)
        self._on_commit(epoch, monotonic() - began)
        return True

    def _deliver(self, epoch: Epoch) -> None:
        """Commit, and try again where it was aborted: nothing of it was seen, and a rebalance may just have passed."""
        left = ATTEMPTS
        while True:
            try:
                self._delivery.commit(epoch)
            except CommitFailedError as error:
                # What was given up will not be refused again, and there is an end to it.
                left -= not error.given_up
                if not left or epoch.abandoned:
                    raise
                log.info("%s; trying again", error)
            else:
                return
