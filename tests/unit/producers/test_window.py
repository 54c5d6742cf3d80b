"""The bulk window: bounded, in order, patient with slow workers, insistent with silent ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.window import Window


def test_the_window_holds_no_more_than_its_limit_until_the_oldest_leaves() -> None:
    window: Window[str, str] = Window(2, 30)
    assert [window.add("a", 0), window.add("b", 0)] == [0, 1]
    assert not window.open
    with pytest.raises(ValueError, match="2 batches"):
        window.add("c", 0)
    assert window.answered(1, "B", 1)
    assert list(window.take()) == []  # the first is still out: its place stays taken
    assert not window.open
    assert window.answered(0, "A", 2)
    assert list(window.take()) == [(0, "A"), (1, "B")]
    assert window.open
    assert window.most == 2


@given(st.permutations(range(8)), st.integers(0, 5))
def test_results_leave_in_order_whatever_order_they_come_in(order: list[int], first: int) -> None:
    window: Window[int, int] = Window(8, 30, first)
    for number in range(8):
        window.add(number, 0)
    out = []
    for number in order:
        assert window.answered(first + number, number, 1)
        assert not window.answered(first + number, -1, 1)
        out += list(window.take())
    assert out == [(first + number, number) for number in range(8)]
    assert len(window) == 0


def test_an_answer_for_a_batch_that_was_never_sent_is_refused() -> None:
    window: Window[str, str] = Window(2, 30)
    assert not window.answered(7, "x", 0)
    assert window.waiting(7) is None


def test_silence_makes_all_unanswered_batches_due_once_and_the_next_time_later() -> None:
    window: Window[str, str] = Window(3, 10)
    for name in "abc":
        window.add(name, 0)
    window.answered(1, "B", 1)
    assert window.due(11) == []
    assert window.due(11.5) == [(0, "a"), (2, "c")]
    assert window.due(20) == []
    assert window.due(31) == []
    assert window.due(32) == [(0, "a"), (2, "c")]
    assert window.silence(32) == 31


def test_a_worker_that_is_merely_slow_is_not_asked_again() -> None:
    window: Window[str, str] = Window(10, 10)
    for name in "abcdef":
        window.add(name, 0)
    for number in range(5):
        now = 9.0 * (number + 1)
        assert window.due(now) == []
        window.answered(number, "x", now)
    assert window.due(45 + 35) == []
    assert window.due(45 + 37) == [(5, "f")]


def test_a_pause_without_anything_to_answer_is_no_silence() -> None:
    window: Window[str, str] = Window(3, 10)
    assert window.silence(500) == 0
    window.add("a", 500)
    assert window.due(505) == []
    assert window.silence(505) == 5


def test_a_batch_sent_back_is_due_at_its_own_time() -> None:
    window: Window[str, str] = Window(3, 100)
    window.add("a", 0)
    window.add("b", 0)
    window.retry(1, 5)
    assert window.due(4) == []
    assert window.due(5) == [(1, "b")]
    assert window.due(6) == []
    window.retry(9, 5)


def test_a_lost_batch_does_not_make_it_patient_with_the_next() -> None:
    window: Window[str, str] = Window(10, 10)
    now = 0.0
    for number in range(5):
        window.add(f"lost {number}", now)
        assert window.due(now + 10) == []
        assert window.due(now + 11) == [(2 * number, f"lost {number}")]
        window.answered(2 * number, "x", now + 12)
        window.add("fine", now + 12)
        window.answered(2 * number + 1, "x", now + 13)
        now += 13
        list(window.take())


def test_a_worker_slower_than_the_first_guess_is_repeated_to_once() -> None:
    window: Window[str, str] = Window(1, 30)
    repeated = []
    now = 0.0
    for number in range(6):
        window.add(f"batch {number}", now)
        for second in range(40):
            repeated += window.due(now + second)
        now += 40
        window.answered(number, "x", now)
        list(window.take())
    # An empty window begins anew with each batch, but what was learned stays.
    assert repeated == [(0, "batch 0")]
