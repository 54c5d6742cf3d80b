"""A poll loop that has too much under way waits for room, and pauses only where the room does not come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_workers.pipeline import PAUSE_SECONDS, Room


def test_a_short_fullness_is_waited_out_without_a_pause() -> None:
    room = Room()
    assert room.look(False, 0.0) == "take"
    assert [room.look(True, 1.0 + tenth / 10) for tenth in range(29)] == ["wait"] * 29
    assert room.look(False, 3.95) == "take"


def test_a_long_fullness_pauses_so_that_polls_go_on_until_there_is_room() -> None:
    room = Room()
    room.look(True, 10.0)
    assert room.look(True, 10.0 + PAUSE_SECONDS) == "pause"
    assert room.look(True, 100.0) == "pause"
    assert room.look(False, 100.1) == "take"
    assert room.look(True, 100.2) == "wait"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=50), st.floats(0.1, 5))
def test_it_takes_whenever_there_is_room_and_pauses_only_after_its_patience(
    steps: list[tuple[bool, float]], patience: float
) -> None:
    room = Room(patience)
    now, since = 0.0, None
    for full, later in steps:
        now += later
        since = (now if since is None else since) if full else None
        turn = room.look(full, now)
        assert (turn == "take") is not full
        assert (turn == "pause") is (since is not None and now - since >= patience)
