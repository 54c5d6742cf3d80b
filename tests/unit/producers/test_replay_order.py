"""The order and the pace of a replay, on a clock of the test's own."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.replay import Event, Pace, in_order
from schemas.records import Outcome, ScoreRequest


def asked(at: int, name: str) -> Event:
    return Event(at, ScoreRequest(name, "m", "u", 0))


def told(at: int, name: str) -> Event:
    return Event(at, Outcome(name, "u", "late", 1.0, at, request_id=name))


@st.composite
def recordings(draw: st.DrawFn) -> list[tuple[Event, Event | None]]:
    times = sorted(draw(st.lists(st.integers(0, 1000), max_size=40)))
    later = st.none() | st.integers(-50, 1000)
    pairs: list[tuple[Event, Event | None]] = []
    for number, at in enumerate(times):
        after = draw(later)
        pairs.append((asked(at, f"r{number}"), None if after is None else told(at + after, f"r{number}")))
    return pairs


@given(recordings())
def test_every_event_is_replayed_once(pairs: list[tuple[Event, Event | None]]) -> None:
    replayed = list(in_order(pairs))
    wanted = [one for pair in pairs for one in pair if one is not None]
    assert sorted(map(id, replayed)) == sorted(map(id, wanted))


@given(recordings())
def test_an_outcome_follows_its_request_even_where_the_recording_has_it_earlier(
    pairs: list[tuple[Event, Event | None]],
) -> None:
    seen: set[str] = set()
    for event in in_order(pairs):
        if isinstance(event.record, ScoreRequest):
            seen.add(event.record.request_id)
        else:
            assert event.record.request_id in seen


@given(recordings())
def test_no_event_is_replayed_after_a_later_one_unless_its_request_was(
    pairs: list[tuple[Event, Event | None]],
) -> None:
    possible = [(ask, None if tell is None or tell.at < ask.at else tell) for ask, tell in pairs]
    times = [event.at for event in in_order(possible)]
    assert times == sorted(times)


def test_a_flight_that_lands_when_the_next_one_leaves_has_landed_before() -> None:
    order = list(in_order([(asked(0, "a"), told(5, "a")), (asked(5, "b"), None)]))
    assert [(type(one.record).__name__, one.at) for one in order] == [
        ("ScoreRequest", 0),
        ("Outcome", 5),
        ("ScoreRequest", 5),
    ]


def drive(pace: Pace, seconds: float, *, answers_after: float, step: float = 0.001) -> list[float]:
    """Times of departure when every answer takes `answers_after` and the sender looks every `step`."""
    left: list[float] = []
    open_until: deque[float] = deque()
    for tick in range(round(seconds / step)):
        now = 100.0 + tick * step
        while open_until and open_until[0] <= now:
            open_until.popleft()
        while pace.wait(now, len(open_until)) == 0:
            pace.sent(now)
            left.append(now)
            open_until.append(now + answers_after)
    return left


@settings(deadline=None)
@given(st.floats(20, 900))
def test_requests_leave_at_the_rate_whatever_the_sender_s_grain(rate: float) -> None:
    left = drive(Pace(rate, 10_000), 1.0, answers_after=0.01)
    assert len(left) == pytest.approx(rate, abs=2)


@settings(deadline=None)
@given(st.integers(1, 30), st.floats(0.001, 0.2))
def test_never_more_than_so_many_are_unanswered(in_flight: int, answers_after: float) -> None:
    left = drive(Pace(None, in_flight), 0.3, answers_after=answers_after)
    for first, last in zip(left, left[in_flight:], strict=False):
        assert last >= first + answers_after, "the one after a full window waits for the window's first answer"
    assert len(left) >= in_flight


def test_without_room_nothing_leaves_before_an_answer() -> None:
    pace = Pace(100, 2)
    assert pace.wait(0.0, 2) == math.inf
    assert pace.wait(0.0, 1) == 0


def test_a_stall_moves_the_rest_and_is_not_caught_up_by_a_burst() -> None:
    pace = Pace(100, 10, slack=0.05)
    pace.sent(0.0)
    burst = 0
    while pace.wait(10.0, 0) == 0:
        pace.sent(10.0)
        burst += 1
    assert burst <= 6  # the slack, 0.05 s at 100 a second, and the one that is due


def test_requests_that_were_due_and_had_no_room_are_counted() -> None:
    pace = Pace(100, 1)
    pace.sent(0.0)
    assert pace.wait(0.005, 1) == math.inf
    pace.sent(0.01)
    assert pace.held_back == 0, "it was not due yet while there was no room"
    assert pace.wait(0.05, 1) == math.inf
    pace.sent(0.06)
    assert pace.held_back == 1


@pytest.mark.parametrize(("rate", "in_flight"), [(0.0, 1), (-1.0, 1), (math.nan, 1), (1.0, 0)])
def test_a_pace_that_lets_nothing_through_is_refused(rate: float, in_flight: int) -> None:
    with pytest.raises(ValueError, match="lets nothing through"):
        Pace(rate, in_flight)
