"""The client's table of pending requests: every request ends once, every reply is counted once."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from producers.correlation import REMEMBERED, Correlation, Envelope, Slots
from producers.errors import (
    BrokerUnavailableError,
    ClientClosedError,
    InternalError,
    InvalidArgumentError,
    ScoringError,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
    error_for,
)
from schemas.codes import Code


def reply(request_id: str) -> Envelope:
    return Envelope(request_id, b"")


def test_a_reply_reaches_the_one_who_asked_and_nobody_else() -> None:
    table = Correlation("me")
    first, second = table.register("m"), table.register("m")
    assert table.answer(reply(second.request_id))
    assert second.future.result(0).request_id == second.request_id
    assert not first.future.done()
    assert len(table) == 1


def test_a_second_reply_is_dropped_and_counted_as_a_duplicate() -> None:
    table = Correlation("me")
    one = table.register("m")
    assert table.answer(reply(one.request_id))
    assert not table.answer(reply(one.request_id))
    assert (table.counts().answered, table.counts().duplicate, table.counts().late) == (1, 1, 0)


def test_a_reply_after_its_time_is_late_and_the_next_one_a_duplicate() -> None:
    table = Correlation("me")
    one = table.register("m")
    assert table.expire(one.request_id)
    assert not table.expire(one.request_id)
    assert not table.answer(reply(one.request_id))
    assert not table.answer(reply(one.request_id))
    counts = table.counts()
    assert (counts.expired, counts.late, counts.duplicate, counts.answered) == (1, 1, 1, 0)


def test_a_reply_for_another_client_is_known_by_its_bytes() -> None:
    table = Correlation("abc123")
    assert not table.is_foreign(b"....abc123-7....")
    assert table.is_foreign(b"....abc124-7....")
    assert table.counts().foreign == 1


def test_closing_fails_what_is_pending_and_what_comes_later() -> None:
    table = Correlation("me")
    one = table.register("m")
    assert table.close(ClientClosedError("closed")) == 1
    with pytest.raises(ClientClosedError) as caught:
        one.future.result(0)
    assert caught.value.request_id == one.request_id
    with pytest.raises(ClientClosedError):
        table.register("m")


def test_a_request_fails_once_with_its_first_error() -> None:
    table = Correlation("me")
    one = table.register("m")
    table.fail(one.request_id, TooLargeError("big"))
    table.fail(one.request_id, UnavailableError("later"))
    with pytest.raises(TooLargeError):
        one.future.result(0)


def test_an_answer_to_a_cancelled_waiter_disturbs_nobody() -> None:
    table = Correlation("me")
    one = table.register("m")
    one.future.cancel()
    assert table.answer(reply(one.request_id))


def test_the_memory_of_expired_requests_is_bounded() -> None:
    table = Correlation("me")
    first = table.register("m")
    table.expire(first.request_id)
    for _ in range(REMEMBERED):
        table.expire(table.register("m").request_id)
    table.answer(reply(first.request_id))
    assert (table.counts().late, table.counts().duplicate) == (0, 1)


def test_no_more_than_the_limit_hold_a_slot_and_turns_come_in_order() -> None:
    slots = Slots(2)
    assert slots.acquire() is None
    assert slots.acquire() is None
    third, fourth = slots.acquire(), slots.acquire()
    assert third is not None
    assert fourth is not None
    slots.release()
    assert third.done()
    assert not fourth.done()
    slots.release()
    assert fourth.done()


def test_a_slot_given_up_while_waiting_goes_to_the_next_in_line() -> None:
    slots = Slots(1)
    assert slots.acquire() is None
    gives_up, waits = slots.acquire(), slots.acquire()
    assert gives_up is not None
    assert waits is not None
    slots.abandon(gives_up)
    slots.release()
    assert waits.done()


def test_a_slot_that_came_in_the_moment_of_giving_up_is_not_lost() -> None:
    slots = Slots(1)
    assert slots.acquire() is None
    turn = slots.acquire()
    assert turn is not None
    slots.release()
    assert turn.done()
    slots.abandon(turn)
    assert slots.acquire() is None


def test_slots_survive_many_threads() -> None:
    slots = Slots(3)
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(200):
            turn: Future[None] | None = slots.acquire()
            if turn is not None:
                turn.result(10)
            with lock:
                inside.append(1)
                most.append(len(inside))
            with lock:
                inside.pop()
            slots.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert max(most) <= 3
    assert all(slots.acquire() is None for _ in range(3))


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_has_an_exception_that_says_it(code: Code) -> None:
    error = error_for(code, "why", model="m", request_id="1")
    assert isinstance(error, ScoringError)
    assert (error.code, str(error), error.model, error.request_id) == (code, "why", "m", "1")
    assert type(error) is not ScoringError


def test_what_may_be_tried_again_can_be_told_from_what_may_not() -> None:
    assert issubclass(BrokerUnavailableError, UnavailableError)
    assert not any(
        issubclass(one, UnavailableError) for one in (InvalidArgumentError, UnknownModelError, InternalError)
    )
