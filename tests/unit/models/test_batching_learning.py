"""What the policy learns (service time, arrival rate) and how the cap follows from it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.batching import DEFAULT_LIMITS, ArrivalRate, BatchLimits, BatchPolicy, ServiceTime

sizes = st.lists(st.integers(1, 2000), min_size=100, max_size=200)
slopes = st.floats(0, 0.01)
intercepts = st.floats(0, 0.1)


@settings(deadline=None)
@given(sizes, slopes, intercepts)
def test_a_straight_line_is_learned(rows: list[int], a: float, b: float) -> None:
    assume(max(rows[-40:]) > 1.5 * min(rows[-40:]))
    service = ServiceTime()
    for one in rows:
        service.observe(one, a * one + b)
    for one in rows[-40:]:
        assert service.estimate(one) == pytest.approx(a * one + b, rel=0.05, abs=1e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 10)), max_size=50), st.integers(0, 100_000))
def test_slope_intercept_and_estimate_are_finite_and_never_negative(seen: list[tuple[int, float]], rows: int) -> None:
    service = ServiceTime()
    for one, seconds in seen:
        service.observe(one, seconds)
    for value in (service.slope, service.intercept, service.estimate(rows)):
        assert math.isfinite(value)
        assert value >= 0


def test_nothing_is_known_before_the_first_batch() -> None:
    assert not ServiceTime().known
    assert ServiceTime().estimate(10) == 0


def test_noise_does_not_move_the_line_far() -> None:
    source = random.Random(1)
    service = ServiceTime()
    for _ in range(500):
        rows = source.randint(1, 64)
        service.observe(rows, (0.001 * rows + 0.02) * source.uniform(0.9, 1.1))
    assert service.slope == pytest.approx(0.001, rel=0.15)
    assert service.intercept == pytest.approx(0.02, rel=0.15)


def test_a_device_that_becomes_slower_is_followed() -> None:
    service = ServiceTime()
    for speed in (1, 3):
        for rows in [*range(1, 33)] * 10:
            service.observe(rows, speed * (0.0005 * rows + 0.01))
    assert service.estimate(16) == pytest.approx(3 * 0.018, rel=0.05)


def test_a_spell_of_equal_batches_keeps_the_slope() -> None:
    service = ServiceTime()
    for rows in [*range(1, 33)] * 4:
        service.observe(rows, 0.001 * rows + 0.01)
    for _ in range(2000):
        service.observe(8, 0.018)
    assert service.slope == pytest.approx(0.001, rel=0.05)
    assert service.estimate(32) == pytest.approx(0.042, rel=0.05)


@settings(deadline=None)
@given(st.integers(1, 50), st.floats(10, 5000))
def test_the_arrival_rate_is_learned_and_falls_when_nothing_comes(rows: int, per_second: float) -> None:
    arrivals = ArrivalRate()
    gap = rows / per_second
    for tick in range(max(int(5 / gap), 20)):
        arrivals.observe(100 + tick * gap, rows)
        last = 100 + tick * gap
    assert arrivals.known
    # A rate seen just after an arrival overstates by up to half a gap of its window.
    assert arrivals.per_second(last) == pytest.approx(per_second, rel=0.05 + gap)
    assert arrivals.per_second(last + 5) < 0.01 * arrivals.per_second(last)


def test_one_poll_of_many_rows_is_no_rate_yet() -> None:
    arrivals = ArrivalRate()
    arrivals.observe(1.0, 500)
    arrivals.observe(1.0, 500)
    assert not arrivals.known
    assert arrivals.per_second(1.0) == 0


def learned(limits: BatchLimits, a: float, b: float) -> BatchPolicy:
    policy = BatchPolicy(limits)
    for rows in [*range(1, 65)] * 4:
        policy.observe_batch(rows, a * rows + b)
    return policy


@settings(deadline=None)
@given(st.floats(1e-5, 1e-3), st.floats(0, 0.05), st.floats(0.001, 1), st.integers(1, 4096))
def test_the_target_caps_the_rows_so_that_two_batches_fit(a: float, b: float, target: float, rows: int) -> None:
    policy = learned(BatchLimits(max_rows=rows, p99_target=target), a, b)
    cap, service = policy.max_rows(), policy.service
    assert 1 <= cap <= rows
    assert cap == 1 or 2 * service.estimate(cap) <= target * (1 + 1e-9)
    if cap < rows:
        assert 2 * service.estimate(cap + 1) > target * (1 - 1e-9), "the largest that fits"


def test_a_target_that_arrivals_make_impossible_does_not_let_the_queue_grow() -> None:
    policy = learned(BatchLimits(max_rows=512, p99_target=0.060), 0.0003, 0.050)
    assert policy.max_rows() == 1  # 20 rows a second
    for tick in range(3000):
        policy.observe_arrival(tick * 0.002, 1)  # 500 rows a second
    cap = policy.max_rows()
    assert cap / policy.service.estimate(cap) >= 500
    assert cap < 60


def test_arrivals_faster_than_any_batch_get_the_configured_cap() -> None:
    policy = learned(BatchLimits(max_rows=512, p99_target=0.060), 0.001, 0.010)
    for tick in range(3000):
        policy.observe_arrival(tick * 0.0005, 1)  # 2,000 a second, at most 1,000 can be served
    assert policy.max_rows() == 512


@settings(deadline=None)
@given(st.floats(1e-6, 1e-2), st.floats(0, 0.5), st.floats(0.001, 1), st.integers(1, 4096))
def test_a_run_takes_its_longest_time_or_its_rows_four_fifths_of_it(
    a: float, b: float, longest: float, rows: int
) -> None:
    policy = learned(BatchLimits(max_rows=rows, max_run=longest), a, b)
    cap, service = policy.max_rows(), policy.service
    allowed = max(longest, 5 * service.intercept)
    assert 1 <= cap <= rows
    assert cap == 1 or service.estimate(cap) <= allowed * (1 + 1e-9)
    if cap < rows:
        assert service.estimate(cap + 1) > allowed * (1 - 1e-9), "the largest that fits"
    for tick in range(100):
        policy.observe_arrival(tick * 1e-4, 10_000)
    assert policy.max_rows() == cap, "more arrivals are no reason for longer runs"


def test_a_longest_run_and_a_target_both_hold() -> None:
    assert learned(BatchLimits(max_rows=512, p99_target=0.060, max_run=0.010), 0.0001, 0.0).max_rows() == 100
    assert learned(BatchLimits(max_rows=512, p99_target=0.010, max_run=0.060), 0.0001, 0.0).max_rows() == 50
    assert BatchPolicy(BatchLimits(max_rows=512, max_run=0.010)).max_rows() == 512, "while nothing is known"


@pytest.mark.parametrize(
    ("max_rows", "buckets", "cap"),
    [(100, (8, 32, 64), 64), (64, (8, 32, 64), 64), (63, (8, 32, 64), 32), (4, (8, 32), 8), (10, (), 10)],
)
def test_the_cap_is_rounded_down_to_a_bucket(max_rows: int, buckets: tuple[int, ...], cap: int) -> None:
    assert BatchPolicy(BatchLimits(max_rows=max_rows, buckets=buckets)).max_rows() == cap


def test_batches_longer_than_the_wait_are_not_queued_half_empty_behind_one_another() -> None:
    policy = learned(BatchLimits(max_rows=64, max_wait=0.005), 0.0003, 0.050)
    late = policy.decide(9.0, queued_rows=10, oldest=1.0, in_flight=1, device_free=False)
    assert (late.rows, late.wake_at) == (0, None)  # the completion asks again
    assert policy.decide(9.0, queued_rows=64, oldest=1.0, in_flight=1, device_free=False).rows == 64
    assert policy.decide(9.0, queued_rows=10, oldest=1.0, in_flight=0, device_free=False).rows == 10


def test_with_a_target_batches_queue_half_empty_only_where_three_fit_into_it() -> None:
    assert learned(BatchLimits(max_rows=10, p99_target=0.020), 0.0001, 0.004).slots() == 2
    assert learned(BatchLimits(max_rows=10, p99_target=0.014), 0.0001, 0.004).slots() == 1


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"max_rows": 0}, "max_rows"),
        ({"max_wait": -0.1}, "max_wait"),
        ({"max_wait": math.nan}, "max_wait"),
        ({"p99_target": 0.0}, "p99_target"),
        ({"max_run": 0.0}, "max_run"),
        ({"max_run": math.inf}, "max_run"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"buckets": (8, 8)}, "buckets"),
        ({"buckets": (0, 8)}, "buckets"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(wrong: dict[str, float], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} must be"):
        BatchLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [0.00033, 0.01])
@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, BatchLimits(p99_target=0.3)])
def test_one_late_batch_does_not_cut_batches_for_good(row: float, limits: BatchLimits) -> None:
    """A machine that stands still in one of the first batches teaches a slope by which a batch has room for one row."""

    def took(rows: int) -> float:
        return 0.05 + row * rows

    late, calm = BatchPolicy(limits), BatchPolicy(limits)
    for policy, stood_still in ((late, 0.3), (calm, 0.0)):
        policy.observe_batch(1, took(1))
        policy.observe_batch(5, took(5) + stood_still)
    assert late.max_rows() < 5
    for policy in (late, calm):
        for _ in range(2000):
            policy.observe_batch(policy.max_rows(), took(policy.max_rows()))
    assert late.max_rows() == pytest.approx(calm.max_rows(), rel=0.1)


def test_a_cap_is_put_to_the_test_once_in_a_while_and_no_more() -> None:
    policy = BatchPolicy(DEFAULT_LIMITS)
    for rows in (1, 8, 64, 512):
        policy.observe_batch(rows, 0.0001 * rows)
    caps = []
    for _ in range(2000):
        caps.append(policy.max_rows())
        policy.observe_batch(caps[-1], 0.0001 * caps[-1])
    usual = sorted(caps)[1000]
    assert 5 <= sum(one > 1.1 * usual for one in caps) <= 10
    assert max(caps) <= 2 * usual + 1
