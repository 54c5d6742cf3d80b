"""A breaker opens on failures in a row, lets one probe through at a time, and closes on one that works."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.breaker import FAILURES, FIRST_WAIT, LONGEST_WAIT, Breaker, BreakerState


def test_failures_in_a_row_open_it_and_one_that_worked_begins_the_row_anew() -> None:
    breaker = Breaker(failures=3)
    for _ in range(2):
        breaker.failed(0.0, "no")
    breaker.worked()
    for _ in range(2):
        breaker.failed(0.0, "no")
    assert breaker.closed
    breaker.failed(0.0, "no, for the third time")
    assert (breaker.state, breaker.why) == (BreakerState.OPEN, "no, for the third time")


def test_a_fatal_failure_opens_it_at_once() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "the device is lost", fatal=True)
    assert not breaker.closed


def test_one_probe_goes_after_a_while_and_closes_it_where_it_works() -> None:
    breaker = Breaker(first_wait=1.0)
    breaker.failed(10.0, "lost", fatal=True)
    assert not breaker.begin_probe(10.9)
    assert breaker.begin_probe(11.0)
    assert not breaker.begin_probe(99.0), "one is under way"
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.end_probe(11.1)
    assert breaker.closed
    assert breaker.why == ""


def test_each_probe_that_fails_waits_twice_as_long_up_to_a_limit() -> None:
    breaker, now, waits = Breaker(first_wait=1.0, longest_wait=10.0), 0.0, []
    breaker.failed(now, "lost", fatal=True)
    for _ in range(6):
        began = now
        while not breaker.begin_probe(now):
            now += 0.5
        waits.append(now - began)
        breaker.end_probe(now, "still lost")
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert breaker.probes_failed == 6


def test_what_fails_again_soon_after_a_probe_worked_waits_longer() -> None:
    breaker = Breaker(first_wait=1.0)
    breaker.failed(0.0, "lost", fatal=True)
    assert breaker.begin_probe(1.0)
    breaker.end_probe(1.0)
    breaker.failed(1.5, "lost again", fatal=True)
    assert not breaker.begin_probe(2.6)
    assert breaker.begin_probe(3.5)
    breaker.end_probe(3.5)
    breaker.failed(1000.0, "much later", fatal=True)
    assert breaker.begin_probe(1001.0)


@given(late=st.lists(st.booleans(), max_size=5))
def test_runs_that_began_before_it_opened_neither_close_it_nor_make_it_wait_longer(late: list[bool]) -> None:
    breaker = Breaker(first_wait=1.0)
    breaker.failed(0.0, "lost", fatal=True)
    for worked in late:
        if worked:
            breaker.worked()
        else:
            breaker.failed(0.9, "late", fatal=True)
    assert breaker.why == "lost"
    assert breaker.begin_probe(1.0)


class AnyCourse(RuleBasedStateMachine):
    """Whatever happens in whatever order, the laws hold."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.in_a_row = 0
        self.under_way = False
        self.opened = 0.0

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(fatal=st.booleans())
    def a_run_fails(self, fatal: bool) -> None:
        was_closed = self.breaker.closed
        self.breaker.failed(self.now, "no", fatal=fatal)
        if was_closed:
            self.in_a_row += 1
            assert self.breaker.closed == (not fatal and self.in_a_row < FAILURES)
            if not self.breaker.closed:
                self.in_a_row, self.opened = 0, self.now

    @rule()
    def a_run_works(self) -> None:
        was = self.breaker.state
        self.breaker.worked()
        assert self.breaker.state is was
        if was is BreakerState.CLOSED:
            self.in_a_row = 0

    @rule()
    def somebody_asks_for_a_probe(self) -> None:
        was_open = self.breaker.state is BreakerState.OPEN
        if self.breaker.begin_probe(self.now):
            assert was_open
            assert not self.under_way
            assert self.now - self.opened >= FIRST_WAIT
            self.under_way = True
        else:
            assert not was_open or self.now - self.opened < LONGEST_WAIT

    @precondition(lambda self: self.under_way)
    @rule(works=st.booleans())
    def the_probe_ends(self, works: bool) -> None:
        self.under_way = False
        self.breaker.end_probe(self.now, "" if works else "no")
        assert self.breaker.closed == works
        if not works:
            self.opened = self.now

    @invariant()
    def it_is_half_open_exactly_while_a_probe_is_under_way(self) -> None:
        assert (self.breaker.state is BreakerState.HALF_OPEN) == self.under_way
        assert bool(self.breaker.why) or self.breaker.closed


TestAnyCourse = AnyCourse.TestCase
