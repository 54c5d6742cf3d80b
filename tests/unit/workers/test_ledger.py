"""The ledger commits an output with its record's offset or not at all, whatever finishes, fails or is lost when."""

from __future__ import annotations

import threading
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_workers.ledger import Epoch, Ledger, LedgerError, Output, short_key
from tests.waiting import until

HERE = ("requests", 0)


class Numbers(list[int]):
    """A draft of records' numbers."""

    def outputs(self) -> list[Output]:
        return [Output("predictions", str(number).encode()) for number in self]


class LedgerLaws(RuleBasedStateMachine):
    """A partition of numbered records, read by a worker that commits, fails and starts over."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.position = 0
        self.pending: list[tuple[Epoch, int]] = []
        self.closed: Epoch | None = None
        self.log: list[int] = []
        self.offset = 0

    @precondition(lambda self: not self.ledger.halted)
    @rule(records=st.integers(1, 5))
    def poll(self, records: int) -> None:
        end = self.position + records
        epoch = self.ledger.admit({HERE: end}, records, 10 * records)
        self.pending += [(epoch, number) for number in range(self.position, end)]
        self.position = end

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def finish_one(self, data: st.DataObject) -> None:
        epoch, number = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        self.ledger.finish(epoch, 1, [Output("predictions", str(number).encode())])

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def draft_one(self, data: st.DataObject) -> None:
        epoch, number = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        cast("Numbers", epoch.drafts.setdefault(number % 2, Numbers())).append(number)
        self.ledger.finish(epoch, 1)

    @precondition(lambda self: self.closed is None)
    @rule()
    def close(self) -> None:
        self.closed = self.ledger.close()

    @precondition(lambda self: self.closed is not None)
    @rule()
    def commit(self) -> None:
        epoch = self.closed
        assert epoch is not None
        if not self.ledger.settled(epoch, 0):
            return
        self.closed = None
        if epoch.abandoned:
            return
        assert not any(one is epoch for one, _ in self.pending), "an epoch settled with records pending"
        self.ledger.write(epoch)
        self.log += [int(output.value) for output in epoch.outputs]
        self.offset = epoch.offsets[HERE]
        self.ledger.committed(epoch)

    @rule()
    def halt(self) -> None:
        self.ledger.halt()

    @precondition(lambda self: self.ledger.halted)
    @rule()
    def start_over(self) -> None:
        self.position = self.offset
        self.ledger.resume()

    @invariant()
    def every_record_before_the_offset_is_logged_once_and_none_behind_it(self) -> None:
        assert sorted(self.log) == list(range(self.offset))

    @invariant()
    def what_is_in_flight_is_what_lacks_a_fate(self) -> None:
        assert self.ledger.in_flight == sum(not epoch.abandoned for epoch, _ in self.pending)


LedgerLaws.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_the_ledger_keeps_its_laws_in_any_order_of_events = LedgerLaws.TestCase


def test_a_record_cannot_have_two_fates() -> None:
    ledger = Ledger()
    epoch = ledger.admit({HERE: 1}, 1, 10)
    ledger.finish(epoch, 1)
    with pytest.raises(LedgerError, match="finished twice"):
        ledger.finish(epoch, 1)


def test_what_an_abandoned_epoch_still_finishes_is_thrown_away() -> None:
    ledger = Ledger()
    epoch = ledger.admit({HERE: 1}, 1, 10)
    ledger.halt()
    ledger.finish(epoch, 1, [Output("predictions", b"late")])
    assert epoch.outputs == []
    assert ledger.settled(epoch, 0)


def test_who_waits_for_room_is_woken_when_half_is_done_or_something_is_committed_and_not_before() -> None:
    ledger, woken = Ledger(), threading.Event()

    def wait() -> threading.Thread:
        woken.clear()
        thread = threading.Thread(target=lambda: (ledger.await_room(20), woken.set()))
        thread.start()
        until(lambda: ledger._awaited >= 0, 20, "nobody waits")
        return thread

    epoch = ledger.admit({HERE: 8}, 8, 10)
    waiting = wait()
    ledger.finish(epoch, 3)
    assert not woken.wait(0.1), "five of eight are in flight"
    ledger.finish(epoch, 1)
    waiting.join(20)
    assert woken.is_set()
    waiting = wait()
    ledger.committed(epoch)
    waiting.join(20)
    assert woken.is_set()


def test_the_end_of_an_epoch_is_told_at_once() -> None:
    ledger, settled = Ledger(), threading.Event()
    epoch = ledger.admit({HERE: 2}, 2, 10)
    thread = threading.Thread(target=lambda: ledger.settled(epoch, 20) and settled.set())
    thread.start()
    ledger.finish(epoch, 1)
    assert not settled.wait(0.1)
    ledger.finish(epoch, 1)
    assert settled.wait(5)


def test_nothing_is_committed_between_halt_and_resume() -> None:
    ledger = Ledger()
    ledger.halt()
    ledger.admit({HERE: 9}, 1, 10)
    assert ledger.close() is None
    ledger.resume()
    assert ledger.close() is None


def test_epochs_in_a_row_have_different_parities() -> None:
    ledger = Ledger()
    first = ledger.admit({HERE: 1}, 1, 10)
    assert ledger.close() is first
    assert ledger.admit({HERE: 2}, 1, 10).parity != first.parity


@pytest.mark.parametrize(("key", "kept"), [(None, None), (b"", b""), (b"k" * 4096, b"k" * 4096), (b"k" * 4097, None)])
def test_a_key_that_would_not_leave_room_for_the_value_is_left_out(key: bytes | None, kept: bytes | None) -> None:
    assert short_key(key) == kept
