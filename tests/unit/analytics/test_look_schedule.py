"""When looks are due: at times that hang on the plan alone."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from experiment_figures import BOUGHT, START, at, definition, started
from hypothesis import given
from hypothesis import strategies as st

from analytics.definitions import Plan
from analytics.look_schedule import due, next_due

HOUR = timedelta(hours=1)


def plan(**more: object) -> Plan:
    return started(definition(BOUGHT, **more))


def every(some: Plan, until: datetime) -> list[datetime]:
    """All looks of a job that runs all the time."""
    found: list[datetime] = []
    now = START
    while True:
        coming = next_due(some, now)
        if coming is None or coming > until:
            return found
        last = found[-1] if found else None
        assert due(some, last, coming - timedelta(microseconds=1)) is None
        assert due(some, last, coming) == coming
        found.append(coming)
        now = coming


def test_fourteen_looks_until_the_minimum_runtime_and_one_a_day_from_then_on() -> None:
    looks = every(plan(), at(4))
    assert looks[0] == START + timedelta(seconds=6172)
    assert len([one for one in looks if one <= at(1)]) == 14
    assert looks[-4:] == [at(1), at(2), at(3), at(4)]


def test_a_plan_not_started_has_no_looks_and_one_that_starts_tomorrow_none_today() -> None:
    assert due(Plan(definition()), None, at(9)) is None
    assert next_due(Plan(definition()), at(9)) is None
    assert due(plan(), None, START - HOUR) is None
    assert due(plan(), None, START) is None


def test_what_was_missed_is_one_look_not_many() -> None:
    assert due(plan(), None, at(9.4)) == at(9)
    assert due(plan(), at(9), at(9.4)) is None


def test_a_short_experiment_is_looked_at_as_often_as_it_is_short_but_not_more_than_a_slot_or_a_minute() -> None:
    hours = every(plan(minimum_runtime="3h", slot="1s"), START + 9 * HOUR)
    assert hours[-2:] == [START + 6 * HOUR, START + 9 * HOUR]
    assert every(plan(minimum_runtime="0s", slot="1h"), START + 3 * HOUR) == [START + n * HOUR for n in (1, 2, 3)]
    minutes = every(plan(minimum_runtime="0s", slot="1s"), START + timedelta(minutes=3))
    assert minutes == [START + timedelta(minutes=n) for n in (1, 2, 3)]


def test_a_stopped_experiment_has_one_last_look_when_all_has_matured() -> None:
    stopped = plan().stop(at(3.2))  # windows of two hours, a slot of one, a delay of one
    closing = at(3.2) + 4 * HOUR
    assert every(stopped, at(30))[-2:] == [at(3), closing]
    assert next_due(stopped, closing) is None
    assert due(stopped, closing, at(30)) is None
    assert due(stopped, None, at(30)) == closing, "even where the job was away all the time"


@given(
    minutes=st.integers(0, 3000),
    looks=st.integers(1, 30),
    asked=st.lists(st.floats(0, 10), min_size=1, max_size=30),
)
def test_looks_never_go_back_and_never_hang_on_when_the_job_happens_to_run(
    minutes: int, looks: int, asked: list[float]
) -> None:
    some = plan(minimum_runtime=f"{minutes}m", test={"kind": "group-sequential", "looks": looks})
    last: datetime | None = None
    for now in sorted(at(days) for days in asked):
        found = due(some, last, now)
        assert found == due(some, last, now), "the same again after a crash"
        if found is not None:
            assert START < found <= now
            assert last is None or found > last
            last = found
        coming = next_due(some, now)
        assert coming is not None
        assert coming > now
        assert due(some, last, coming) == coming


@pytest.mark.parametrize("days", [0.5, 1, 7])
def test_the_minimum_runtime_itself_is_a_look(days: float) -> None:
    assert at(days) in every(plan(minimum_runtime=f"{round(days * 24)}h"), at(days + 1))
