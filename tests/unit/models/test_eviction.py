"""What leaves memory for another version: nothing pinned or busy, least recently used first, no more than needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.eviction import FITS, LATER, NEVER, Held, Plan, plan

BYTES = st.integers(0, 50)


@st.composite
def loaded(draw: st.DrawFn) -> list[Held]:
    count = draw(st.integers(0, 8))
    return [
        Held(("m", str(i)), draw(BYTES), float(draw(st.integers(0, 5))), draw(st.booleans()), draw(st.booleans()))
        for i in range(count)
    ]


@given(loaded(), BYTES, st.integers(0, 200))
def test_what_is_evicted_makes_room_is_neither_fixed_nor_busy_and_is_the_least_recently_used(
    held: list[Held], wanted: int, budget: int
) -> None:
    found = plan(held, wanted, budget)
    by_key = {one.key: one for one in held}
    gone = [by_key[key] for key in found.evict]
    assert not any(one.fixed or one.busy for one in gone)
    stays = [one for one in held if one.key not in found.evict]
    if found.outcome == FITS:
        assert found.drain == ()
        assert sum(one.bytes for one in stays) + wanted <= budget
    newest = max((one.used for one in gone), default=float("-inf"))
    assert all(one.used >= newest for one in stays if not one.fixed and not one.busy)
    if found.evict:
        fewer = plan([one for one in held if one.key not in found.evict[:-1]], wanted, budget)
        assert fewer.evict[0] == found.evict[-1], "it named no more than it needed"


@given(loaded(), BYTES, st.integers(0, 200))
def test_it_waits_only_where_the_busy_ones_would_make_room_and_gives_up_only_where_they_would_not(
    held: list[Held], wanted: int, budget: int
) -> None:
    found = plan(held, wanted, budget)
    fixed = sum(one.bytes for one in held if one.fixed)
    by_key = {one.key: one for one in held}
    assert (found.outcome == NEVER) == (fixed + wanted > budget)
    if found.outcome == LATER:
        assert all(by_key[key].busy and not by_key[key].fixed for key in found.drain)
        idle = [replace(one, busy=False) for one in held]
        left = sum(one.bytes for one in held if one.key not in (*found.evict, *found.drain))
        assert left + wanted <= budget
        assert plan(idle, wanted, budget).outcome == FITS
    if found.outcome == NEVER:
        assert found == Plan(NEVER)


@given(loaded(), BYTES)
def test_without_a_budget_nothing_ever_leaves(held: list[Held], wanted: int) -> None:
    assert plan(held, wanted, None) == Plan(FITS)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (20, Plan(FITS)),
        (21, Plan(FITS, (("b", "1"),))),
        (51, Plan(FITS, (("b", "1"), ("a", "1")))),
        (61, Plan(LATER, (("b", "1"), ("a", "1")), (("c", "1"),))),
        (91, Plan(NEVER)),
    ],
)
def test_of_100_bytes_those_go_that_were_not_used_for_longest(wanted: int, found: Plan) -> None:
    held = [
        Held(("a", "1"), 10, 4.0),
        Held(("b", "1"), 30, 3.0),
        Held(("c", "1"), 30, 1.0, busy=True),
        Held(("d", "1"), 10, 2.0, fixed=True),
    ]
    assert plan(held, wanted, 100) == found
