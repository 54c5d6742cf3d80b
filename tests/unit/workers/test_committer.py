"""Who commits, and what a poll loop that wants everything committed waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stream_workers.commit import CommitFailedError, Committer
from stream_workers.ledger import Epoch, Ledger, Output

FOREVER = 3600.0


class Delivery:
    """Keeps what it commits; with a gate it hangs until that is opened, as librdkafka may."""

    def __init__(self, gate: threading.Event | None = None, refuses: bool = False) -> None:
        self._gate = gate
        self._refuses = refuses
        self.entered = threading.Event()
        self.threads: set[str] = set()
        self.epochs: list[Epoch] = []

    def commit(self, epoch: Epoch) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        if self._gate is not None:
            self._gate.wait()
        if self._refuses:
            raise CommitFailedError("no")
        self.epochs.append(epoch)

    def under_way(self) -> float:
        return 0.0


class NoReplies:
    def flush(self, parity: int, timeout: float) -> int:
        del parity, timeout
        return 0


def committer(ledger: Ledger, delivery: Delivery, failures: list[BaseException] | None = None) -> Committer:
    """One that commits when it is asked to."""
    complain: Callable[[BaseException], None] = ([] if failures is None else failures).append
    made = Committer(
        ledger, delivery, NoReplies(), interval=FOREVER, on_commit=lambda _epoch, _seconds: None, on_failure=complain
    )  # fmt: skip
    made.start()
    return made


def admit(ledger: Ledger, offset: int) -> Epoch:
    return ledger.admit({("requests", 0): offset}, 1, 10)


def nothing() -> None:
    """No errand waits."""


def test_a_drain_commits_what_is_open_in_the_thread_that_commits() -> None:
    ledger, delivery = Ledger(), Delivery()
    own = committer(ledger, delivery)
    ledger.finish(admit(ledger, 1), 1, [Output("predictions", b"a")])
    assert own.drain(10.0, nothing)
    assert [one.offsets for one in delivery.epochs] == [{("requests", 0): 1}]
    assert delivery.threads == {"commit"}
    assert own.drain(10.0, nothing), "nothing is open, and that is done at once"
    own.stop(nothing)
    assert own.drain(10.0, nothing), "after the end, as when the consumer is closed, nothing is left to do"
    assert len(delivery.epochs) == 1
    admit(ledger, 2)
    assert not own.drain(10.0, nothing), "nobody is there to commit it"


def test_a_commit_that_hangs_does_not_hold_the_poll_loop() -> None:
    gate = threading.Event()
    ledger, delivery = Ledger(), Delivery(gate)
    own = committer(ledger, delivery)
    ledger.finish(admit(ledger, 1), 1)
    turns = 0

    def serve() -> None:
        nonlocal turns
        turns += 1

    assert not own.drain(0.2, serve)
    assert turns > 0, "whoever drains goes on running errands"
    assert not own.while_idle(nothing), "the commit is still under way"
    gate.set()
    own.stop(nothing)
    assert len(delivery.epochs) == 1


def test_what_a_drain_could_not_wait_for_is_not_committed() -> None:
    ledger, delivery = Ledger(), Delivery()
    own = committer(ledger, delivery)
    epoch = admit(ledger, 1)
    assert not own.drain(0.1, nothing)
    ledger.halt()
    ledger.finish(epoch, 1)
    ledger.resume()
    ledger.finish(admit(ledger, 1), 1)
    assert own.drain(10.0, nothing)
    assert len(delivery.epochs) == 1
    assert delivery.epochs[0] is not epoch
    own.stop(nothing)


def test_a_drain_that_was_given_up_takes_no_epoch_with_it() -> None:
    """The wish is still there when the hang is over; by then the ledger has begun anew."""
    gate = threading.Event()
    ledger, delivery = Ledger(), Delivery(gate)
    own = committer(ledger, delivery)
    ledger.finish(admit(ledger, 1), 1)
    own._wake.set()  # its interval is over
    assert delivery.entered.wait(10)
    assert not own.drain(0.1, nothing)
    ledger.halt()
    ledger.resume()
    later = admit(ledger, 5)
    gate.set()
    while own._drain is not None:  # until the old wish has been looked at
        threading.Event().wait(0.001)
    ledger.finish(later, 1)
    assert own.drain(10.0, nothing)
    own.stop(nothing)
    assert later in delivery.epochs


def test_a_refused_commit_ends_a_drain_and_halts_the_ledger() -> None:
    failures: list[BaseException] = []
    ledger = Ledger()
    own = committer(ledger, Delivery(refuses=True), failures)
    ledger.finish(admit(ledger, 1), 1)
    assert not own.drain(10.0, nothing)
    assert ledger.halted
    assert [str(one) for one in failures] == ["no"]
    own.stop(nothing)
