"""The ladder is gone down in its order and no further than needed, and a limit of rows is learned and forgotten."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from models.batching import BatchLimits, BatchPolicy
from models.degradation import (
    GROWTH_SECONDS,
    PROBE_SECONDS,
    Footing,
    Level,
    Readiness,
    RowLimit,
    Rung,
    choose,
    fallback_name,
    level_name,
    level_of,
)

READY, LOADING, ABSENT, FAILED = Readiness.READY, Readiness.LOADING, Readiness.ABSENT, Readiness.FAILED
footings = st.builds(Footing, st.sampled_from(Readiness), st.booleans())
ladders = st.dictionaries(st.sampled_from(Rung), footings, max_size=4)


@settings(max_examples=500)
@given(rungs=ladders, tried=st.sets(st.sampled_from(Rung)))
def test_the_best_rung_that_can_be_taken_is_and_one_that_is_only_not_loaded_is_loaded(
    rungs: dict[Rung, Footing], tried: set[Rung]
) -> None:
    choice = choose(rungs, tried)
    open_to = {rung: one.readiness for rung, one in rungs.items() if rung not in tried and one.closed}
    ready = sorted(rung for rung, readiness in open_to.items() if readiness is READY)
    assert choice.rung == (ready[0] if ready else None)
    above = {rung for rung in open_to if choice.rung is None or rung < choice.rung}
    assert set(choice.load) == {rung for rung in above if open_to[rung] is ABSENT}
    # It waits only for what will come.
    assert choice.wait == (not ready and any(one in (ABSENT, LOADING) for one in open_to.values()))


def test_the_levels_by_what_is_left() -> None:
    down = Footing(READY, closed=False)
    ladder = {rung: Footing(READY) for rung in Rung}
    seen = []
    for rung in (None, *Rung):
        if rung is not None:
            ladder[rung] = down
        seen.append(level_of(choose(ladder), limited=False))
    assert seen == [Level.FULL, Level.CPU, Level.FALLBACK, Level.FALLBACK, Level.UNAVAILABLE]
    assert level_of(choose({Rung.DEVICE: Footing(READY)}), limited=True) is Level.HALF_BATCH


def test_while_a_better_rung_loads_a_worse_one_that_is_ready_serves() -> None:
    ladder = {
        Rung.DEVICE: Footing(READY, closed=False), Rung.CPU: Footing(ABSENT), Rung.FALLBACK: Footing(READY)
    }  # fmt: skip
    choice = choose(ladder)
    assert (choice.rung, choice.load) == (Rung.FALLBACK, (Rung.CPU,))


def test_names_of_levels_are_few_whatever_the_fallback_is_called() -> None:
    assert level_name(fallback_name("late", "2-int8")) == "fallback"
    assert [level_name(one) for one in ("", "half-batch", "cpu", "cached")] == ["", "half-batch", "cpu", "cached"]


def test_a_limit_is_learned_tried_upwards_and_forgotten() -> None:
    limit = RowLimit(1000)
    assert limit.allowed(0.0) is None
    limit.ran_out(0.0, 1000, 500)
    assert limit.allowed(PROBE_SECONDS - 1) == 500
    now = PROBE_SECONDS
    assert limit.allowed(now) == 625
    limit.fitted(now, 400)
    assert limit.allowed(now) == 625, "less than the limit says nothing"
    limit.fitted(now, 625)
    assert limit.allowed(now) == 625
    while limit.rows is not None:
        now += GROWTH_SECONDS
        allowed = limit.allowed(now)
        assert allowed is not None
        limit.fitted(now, allowed)
    assert limit.allowed(now) is None


def test_a_try_upwards_in_vain_keeps_what_fitted_and_waits_twice_as_long() -> None:
    limit = RowLimit(1000)
    limit.ran_out(0.0, 1000, 500)
    limit.ran_out(PROBE_SECONDS, 625, 313)
    assert limit.allowed(PROBE_SECONDS) == 500
    assert limit.allowed(3 * PROBE_SECONDS - 1) == 500
    assert limit.allowed(3 * PROBE_SECONDS) == 625
    # And less than what fitted before is the truth from then on.
    limit.ran_out(3 * PROBE_SECONDS, 500, 250)
    assert limit.rows == 250


def test_with_buckets_the_next_bucket_is_tried() -> None:
    limit = RowLimit(64, (8, 16, 64))
    limit.ran_out(0.0, 64, 16)
    assert limit.allowed(PROBE_SECONDS) == 64


@settings(max_examples=200)
@given(
    capacity=st.integers(1, 2000),
    most=st.integers(1, 2000),
    steps=st.lists(st.tuples(st.floats(0, 4000), st.integers(1, 2000)), min_size=1, max_size=40),
)
def test_a_device_is_hardly_ever_asked_for_more_than_it_holds(
    capacity: int, most: int, steps: list[tuple[float, int]]
) -> None:
    limit, now, ran_out = RowLimit(most), 0.0, []
    for seconds, wanted in steps:
        now += seconds
        allowed = limit.allowed(now)
        rows = min(wanted, most if allowed is None else allowed)
        assert rows >= 1
        if rows <= capacity:
            limit.fitted(now, rows)
            assert limit.rows is None or limit.rows <= max(capacity, 1)
            continue
        ran_out.append(now)
        # Halved, as the device does, until both halves fit.
        while rows > capacity:
            failed, rows = rows, (rows + 1) // 2
        limit.ran_out(now, failed, rows)
        assert limit.rows is not None
        assert limit.rows <= capacity
    # Each failure is followed by a time without another one.
    assert all(later - earlier >= GROWTH_SECONDS for earlier, later in pairwise(ran_out))


def test_the_policy_asks_for_no_more_than_fits() -> None:
    policy = BatchPolicy(BatchLimits(max_rows=64))
    policy.memory_rows = 20
    decision = policy.decide(0.0, queued_rows=100, oldest=0.0, in_flight=0, device_free=True)
    assert decision.rows == 20
    bucketed = BatchPolicy(BatchLimits(max_rows=64, buckets=(8, 16, 64)))
    bucketed.memory_rows = 20
    assert bucketed.max_rows() == 16
