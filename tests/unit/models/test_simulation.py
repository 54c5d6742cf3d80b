"""The simulated devices: queueing theory where it has a formula, the policy's own laws where it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batching import DEFAULT_LIMITS, BatchLimits, BatchPolicy
from models.errors import PlanError
from models.simulation import (
    DeviceRun,
    Load,
    ServiceCurve,
    Worker,
    arrivals,
    quantiles,
    run_device,
    run_fleet,
    shares,
    worker_policy,
)

EXAMPLE = ServiceCurve(((1, 0.050), (32, 0.060)))
ALONE = BatchLimits(max_rows=1, max_in_flight=1)


def served(rate: float, seconds: float, curve: ServiceCurve, limits: BatchLimits, runs: int = 1) -> np.ndarray:
    """Latencies of Poisson arrivals at one device, the first tenth of the time left out."""
    came = arrivals("poisson", rate, 1.0, seconds, np.random.default_rng(1))
    run = run_device(came, curve, worker_policy(limits, curve), runs=runs)
    return (run.done - came)[came > seconds / 10]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_without_batching_the_mean_wait_is_that_of_an_md1_queue(load: float) -> None:
    # Pollaczek (1930), Khinchine (1932), for a constant service time s: W = rho * s / (2 * (1 - rho)).
    service = 0.050
    latency = served(load / service, 6000, ServiceCurve(((1, service),)), ALONE)
    assert latency.mean() - service == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def erlang(time: float, rate: float, service: float) -> float:
    """P(wait <= time) of an M/D/1 queue (Erlang, 1909)."""
    terms = (
        (-rate * (time - k * service)) ** k / math.factorial(k) * math.exp(rate * (time - k * service))
        for k in range(int(time / service) + 1)
    )
    return (1 - rate * service) * math.fsum(terms)


def test_without_batching_waits_are_distributed_as_erlang_says() -> None:
    rate, service = 14.0, 0.050
    waits = served(rate, 9000, ServiceCurve(((1, service),)), ALONE) - service
    for time in (0.0, 0.025, 0.05, 0.1, 0.2, 0.3):
        assert (waits <= time + 1e-9).mean() == pytest.approx(erlang(time, rate, service), abs=0.012)


def bulk_queue(rate: float, curve: ServiceCurve, most: int) -> float:
    """The mean latency of the queue whose free server takes what waits, up to `most`, solved without simulating.

    The queue as a batch begins is a Markov chain (Bailey, 1954): what is left over and what comes meanwhile, Poisson.
    Little's law gives the latency from the mean number present, batches weighted by their length.
    """
    size = 400
    step = np.zeros((size, size))
    for queued in range(size):
        taken = min(max(queued, 1), most)
        mean = rate * curve.seconds(taken)
        left = max(queued, 1) - taken
        come = [math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(size - left)]
        step[queued, left : left + len(come)] = come
        step[queued, size - 1] += 1 - sum(come)
    chain = np.full(size, 1 / size)
    for _ in range(3000):
        chain = chain @ step
    present = time = 0.0
    for queued, share in enumerate(chain):
        taken = min(max(queued, 1), most)
        busy = curve.seconds(taken)
        # An empty queue idles until the next one comes.
        time += share * (busy + (1 / rate if queued == 0 else 0.0))
        # Those here at the beginning stay to its end, later ones for half of it on average.
        present += share * (max(queued, 1) * busy + rate * busy * busy / 2)
    return present / time / rate


@pytest.mark.parametrize(("rate", "most"), [(100.0, 32), (400.0, 32), (500.0, 32), (60.0, 4)])
def test_a_device_that_batches_is_a_bulk_service_queue(rate: float, most: int) -> None:
    limits = BatchLimits(max_rows=most, max_in_flight=1)
    found = served(rate, max(60_000 / rate, 200), EXAMPLE, limits).mean()
    assert found == pytest.approx(bulk_queue(rate, EXAMPLE, most), rel=0.03)


times_ = st.lists(st.integers(0, 400).map(lambda at: at / 1000) | st.floats(0, 0.4), max_size=80).map(sorted)
curves_ = st.builds(
    ServiceCurve.line, st.floats(0, 0.002, allow_subnormal=False), st.floats(0.001, 0.03, allow_subnormal=False)
)
limits_ = st.builds(
    BatchLimits,
    max_rows=st.integers(1, 20),
    max_wait=st.floats(0, 0.02),
    p99_target=st.none() | st.floats(0.01, 0.2),
    max_in_flight=st.integers(1, 3),
)


@settings(max_examples=150, deadline=None)
@given(times_, curves_, limits_, st.integers(1, 3), st.integers(1, 4))
def test_every_request_is_served_once_in_order_and_never_while_the_device_does_another_batch(
    came: list[float], curve: ServiceCurve, limits: BatchLimits, runs: int, rows_each: int
) -> None:
    run = run_device(came, curve, worker_policy(limits, curve), runs=runs, rows_each=rows_each)
    assert int(run.rows.sum()) == len(came) * rows_each
    assert np.isfinite(run.done).all()
    assert (np.diff(run.done) >= 0).all()
    assert (run.done >= np.asarray(came) + curve.seconds(rows_each) - 1e-9).all()
    starts = run.ends - run.seconds
    assert (starts[1:] >= run.ends[:-1] - 1e-9).all(), "two batches ran at once"
    assert run.seconds == pytest.approx([curve.seconds(int(rows)) for rows in run.rows])
    assert all(rows <= max(limits.max_rows, rows_each) for rows in run.rows)


@settings(max_examples=50, deadline=None)
@given(times_, curves_, limits_)
def test_a_free_device_does_not_let_anybody_wait(came: list[float], curve: ServiceCurve, limits: BatchLimits) -> None:
    run = run_device(came, curve, worker_policy(limits, curve))
    free = [0.0, *run.ends.tolist()]
    first = np.cumsum([0, *run.rows.tolist()])
    for number, (end, busy) in enumerate(zip(run.ends.tolist(), run.seconds.tolist(), strict=True)):
        assert end - busy == pytest.approx(max(free[number], came[first[number]]))


def test_the_policy_that_decides_is_the_one_that_is_given() -> None:
    asked: list[tuple[int, int]] = []

    class Watched(BatchPolicy):
        def decide(self, now: float, **state: object) -> object:  # type: ignore[override]
            decision = super().decide(now, **state)  # type: ignore[arg-type]
            asked.append((state["queued_rows"], decision.rows))  # type: ignore[arg-type]
            return decision

    policy = Watched(BatchLimits(max_rows=4))
    run = run_device([0.0, 0.001, 0.002, 0.003, 0.004, 0.005], EXAMPLE, policy)  # type: ignore[arg-type]
    assert asked == [(1, 1), (5, 4), (1, 1)]
    assert run.rows.tolist() == [1, 4, 1]
    # It learned what a worker would have measured.
    assert policy.service.estimate(4) == pytest.approx(EXAMPLE.seconds(4), rel=0.01)
    assert policy.service.estimate(1) == pytest.approx(0.050, rel=0.01)


def test_a_second_thread_hands_a_batch_over_while_the_first_runs() -> None:
    curve = ServiceCurve(((1, 0.010), (8, 0.011)))
    limits = BatchLimits(max_rows=8, max_wait=0.020)
    came = [0.0, 0.001, 0.002]
    one = run_device(came, curve, worker_policy(limits, curve), runs=1)
    two = run_device(came, curve, worker_policy(limits, curve), runs=2)
    assert one.rows.tolist() == two.rows.tolist() == [1, 2]
    # A full batch leaves at once, and waits on the device, where it is measured from the hand-over.
    full = [0.0, *[0.001] * 8]
    policy = worker_policy(limits, curve)
    run_device(full, curve, policy, runs=2)
    assert policy.service.estimate(8) > curve.seconds(8)


def test_a_device_that_dies_leaves_what_it_has_not_done() -> None:
    run = run_device([0.0, 0.01, 0.02, 0.2], EXAMPLE, BatchPolicy(DEFAULT_LIMITS), until=0.060)
    assert run.done.tolist() == [0.050, math.inf, math.inf, math.inf]
    assert run.rows.tolist() == [1]


def test_the_example_keeps_up_with_two_devices_and_needs_fifty_without_batching() -> None:
    batched = Worker(EXAMPLE, BatchLimits(max_rows=32)).per_second()
    assert batched == (pytest.approx(32 / 0.060), 32)
    assert Worker(EXAMPLE, ALONE).per_second() == (pytest.approx(20.0), 1)
    # Requests of 20 rows cannot fill a batch of 32.
    assert Worker(EXAMPLE, BatchLimits(max_rows=32)).per_second(20) == (
        pytest.approx(1 / EXAMPLE.seconds(20)),
        20,
    )


def test_a_curve_is_straight_between_its_points_and_beyond_them() -> None:
    curve = ServiceCurve(((1, 0.050), (32, 0.060), (64, 0.100)))
    assert [curve.seconds(rows) for rows in (1, 32, 48, 64, 96)] == pytest.approx([0.05, 0.06, 0.08, 0.1, 0.14])
    assert curve.largest == 64
    assert ServiceCurve(((8, 0.02), (16, 0.03))).seconds(3) == 0.02
    assert ServiceCurve.line(0.001, 0.01).seconds(50) == pytest.approx(0.060)
    assert curve.per_second(64) == (pytest.approx(64 / 0.1), 64)
    # Beyond 64 rows a row costs 1.25 ms, so that larger batches still serve more.
    assert curve.per_second(640)[1] == 640


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ((), "needs a point"),
        (((0, 0.1),), "rows from 1 and more than 0 seconds, got 0"),
        (((1, 0.0),), "got 1:0s"),
        (((8, 0.1), (8, 0.2)), "rows must ascend, got 8 after 8"),
        (((1, 0.2), (8, 0.1)), "8 rows take 100 ms, fewer than the 200 ms of 1"),
    ],
)
def test_points_that_are_no_curve_are_named(points: tuple[tuple[int, float], ...], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        ServiceCurve(points)


def test_one_point_says_nothing_of_larger_batches() -> None:
    with pytest.raises(PlanError, match="1 rows are measured and 8 are asked for: give a second point"):
        ServiceCurve(((1, 0.05),)).seconds(8)


@pytest.mark.parametrize("kind", ["poisson", "steady"])
def test_arrivals_have_their_rate_and_their_share(kind: str) -> None:
    came = arrivals(kind, 1000.0, 0.25, 200.0, np.random.default_rng(3))  # type: ignore[arg-type]
    assert len(came) == pytest.approx(50_000, rel=0.02)
    assert 0 <= came[0] <= came[-1] <= 200.0
    assert (np.diff(came) >= 0).all()
    gaps = np.diff(came)
    # Of a steady stream a random quarter is geometric, hardly less even than a Poisson one.
    assert gaps.std() / gaps.mean() == pytest.approx(math.sqrt(0.75) if kind == "steady" else 1.0, rel=0.03)


def test_a_whole_steady_stream_is_even() -> None:
    came = arrivals("steady", 100.0, 1.0, 2.0, np.random.default_rng(3))
    assert np.diff(came) == pytest.approx(np.full(199, 0.01))


@given(st.integers(1, 200), st.integers(0, 500))
def test_partitions_are_spread_as_evenly_as_they_can_be(devices: int, more: int) -> None:
    found = shares(devices, devices + more)
    assert sum(count for count, _ in found) == devices
    assert sum(count * own for count, own in found) == devices + more
    assert max(own for _, own in found) - min(own for _, own in found) <= 1


def test_a_fleet_is_so_many_queues_and_not_one_for_all() -> None:
    # Two devices at load 0.8: each an M/D/1 queue. One queue for both (M/D/2) would wait less than half as long.
    worker = Worker(ServiceCurve(((1, 0.050),)), ALONE, overhead=0.004)
    run = run_fleet(Load(32.0), worker, 2, 8, np.random.default_rng(5), requests=150_000)
    assert run.mean - 0.054 == pytest.approx(0.8 * 0.050 / (2 * 0.2), rel=0.06)
    assert run.busy == pytest.approx(0.8, rel=0.02)
    assert run.rows_per_batch == 1.0
    assert run.p99_low <= run.p99 <= run.p99_high


def test_an_uneven_share_of_partitions_is_a_busier_device() -> None:
    worker = Worker(ServiceCurve(((1, 0.010),)), ALONE)
    even = run_fleet(Load(150.0), worker, 3, 6, np.random.default_rng(5), requests=60_000)
    uneven = run_fleet(Load(150.0), worker, 3, 4, np.random.default_rng(5), requests=60_000)
    assert even.busy == pytest.approx(0.5, rel=0.03)
    assert uneven.busy == pytest.approx(0.75, rel=0.03)
    assert uneven.p99 > even.p99 * 1.3


def test_a_sample_stands_for_a_large_fleet() -> None:
    worker = Worker(EXAMPLE, BatchLimits(max_rows=32))
    all_of_them = run_fleet(Load(4000.0), worker, 16, 64, np.random.default_rng(1))
    sample = run_fleet(Load(400_000.0), worker, 1600, 6400, np.random.default_rng(2))
    assert sample.mean == pytest.approx(all_of_them.mean, rel=0.03)
    assert sample.p99 == pytest.approx(all_of_them.p99, rel=0.05)
    assert sample.requests < 80_000


def test_the_same_seed_is_the_same_fleet() -> None:
    def one(seed: int) -> object:
        return run_fleet(Load(500.0), Worker(EXAMPLE), 2, 8, np.random.default_rng(seed), requests=2000)

    assert one(4) == one(4)
    assert one(4) != one(5)


def test_more_devices_than_partitions_are_refused() -> None:
    with pytest.raises(PlanError, match="5 devices need 5 partitions or more, there are 4"):
        run_fleet(Load(10.0), Worker(EXAMPLE), 5, 4, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((0.0,), "rate: expected more than 0"), ((1.0, 0), "rows of a request"), ((1.0, 1, "rush"), "got 'rush'")],
)
def test_a_load_that_makes_no_sense_is_named(arguments: Sequence[object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Load(*arguments)  # type: ignore[arg-type]


def test_quantiles_go_by_weight() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 98.0, 1.0])
    assert quantiles(values, weights, (0.5, 0.985, 0.999)) == [1.0, 2.0, 3.0]
    assert quantiles(np.array([1.0, math.inf]), np.ones(2), (0.99,)) == [math.inf]


def test_a_warmed_up_policy_knows_what_a_workers_does(tmp_path: object) -> None:
    # Of a slow model the worker warms up one row alone; of a quick one all sizes (see the loading tests).
    slow = worker_policy(DEFAULT_LIMITS, EXAMPLE)
    assert (slow.service.estimate(1), slow.service.slope) == (pytest.approx(0.050), 0.0)
    quick = worker_policy(DEFAULT_LIMITS, ServiceCurve.line(1e-6, 1e-4))
    assert quick.service.slope == pytest.approx(1e-6, rel=0.05)
    assert isinstance(run_device([0.0], EXAMPLE, slow), DeviceRun)
