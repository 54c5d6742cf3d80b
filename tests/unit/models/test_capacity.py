"""How many devices: the issue's example, the p99 that is searched for, a failure, and a sweep to a million."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from models.batching import BatchLimits
from models.capacity import Capacity, Wanted, plan, simulate, unbatched
from models.errors import PlanError
from models.failure import Failure, fail_one
from models.fleet import Limits, size, sweep
from models.simulation import Load, ServiceCurve, Worker

# 50 ms for 1 row and 60 ms for 32.
EXAMPLE = Worker(ServiceCurve(((1, 0.050), (32, 0.060))), BatchLimits(max_rows=32))
WANTED = Wanted(Load(1000.0), EXAMPLE, requests=20_000)


def test_a_thousand_requests_a_second_need_two_devices_and_fifty_without_batching() -> None:
    assert WANTED.keep_up() == 2
    assert unbatched(WANTED).keep_up() == 50
    found = plan(WANTED)
    assert (found.devices, found.keep_up, found.best_batch) == (2, 2, 32)
    assert found.per_device == pytest.approx(32 / 0.060)
    assert found.load == pytest.approx(1000 / (2 * 32 / 0.060))
    # A batch of about 500 a second each, and a request waits for half of one and then for its own.
    assert found.run.rows_per_batch == pytest.approx(500 * 0.0595, rel=0.03)
    assert 1.4 * 0.0595 < found.run.mean < 1.9 * 0.0595


def test_the_fewest_devices_that_hold_a_p99_are_found() -> None:
    found = plan(replace(WANTED, p99=0.130))
    assert found.run.p99 <= 0.130
    assert simulate(WANTED, found.devices - 1).p99 > 0.130
    assert found.devices == 3
    # Without batching each request has to meet almost nobody.
    alone = plan(replace(unbatched(WANTED), p99=0.130))
    assert simulate(unbatched(WANTED), alone.devices - 1).p99 > 0.130 >= alone.run.p99
    assert alone.devices > 100


def test_a_p99_that_no_number_of_devices_holds_is_named() -> None:
    with pytest.raises(PlanError, match="p99: 40 ms cannot be had: a request that meets nobody takes 50 ms"):
        plan(replace(WANTED, p99=0.040))
    with pytest.raises(PlanError, match=r"p99: 55 ms is not held: .* devices come to .* ms, .* there are 8;"):
        plan(replace(WANTED, p99=0.055, partitions=8))


def test_a_p99_hardly_above_one_batch_is_found_with_many_devices() -> None:
    slow = Wanted(Load(20.0), Worker(ServiceCurve(((1, 0.050),)), BatchLimits(max_rows=1)), p99=0.0505, requests=20_000)
    found = plan(slow)
    # Fewer than one in a hundred meets another: the device is busy for less than a hundredth of the time.
    assert found.run.busy < 0.012
    assert found.devices > 80


def test_partitions_that_are_too_few_or_uneven_are_taken_into_account() -> None:
    # Three devices on four partitions: one has half of all requests.
    assert replace(WANTED, load=Load(1300.0)).keep_up() == 3
    assert replace(WANTED, load=Load(1300.0), partitions=4).keep_up() == 4
    with pytest.raises(
        PlanError, match=r"2 are too few: one of them gets 650 requests/s and a device serves 533; take 3"
    ):
        replace(WANTED, load=Load(1300.0), partitions=2).keep_up()


def test_cost_is_that_of_the_devices() -> None:
    found = plan(replace(WANTED, cost=2.5))
    assert found.per_hour == 5.0
    assert found.per_million == pytest.approx(5.0 / 3.6)
    assert plan(WANTED).per_hour is None


def test_batches_larger_than_any_that_was_measured_are_told() -> None:
    assert plan(WANTED).extrapolated is None
    drawn_on = plan(replace(WANTED, worker=replace(EXAMPLE, limits=BatchLimits())))
    assert drawn_on.devices == 1
    assert drawn_on.extrapolated is not None
    assert drawn_on.extrapolated > 32


def test_requests_of_many_rows_count_as_rows() -> None:
    rows = replace(WANTED, load=Load(1000.0 / 16, rows_each=16))
    assert rows.keep_up() == 2
    assert plan(rows).run.rows_per_batch > 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"p99": 0.0}, "p99: expected more than 0"),
        ({"partitions": 0}, "partitions: expected 1"),
        ({"worker_limit": 0.0}, "worker limit"),
        ({"cost": -1.0}, "cost: expected 0 or more"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, float], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        replace(WANTED, **change)  # type: ignore[arg-type]


FOUR = Wanted(Load(1000.0), EXAMPLE, requests=20_000)


def test_a_dead_devices_requests_wait_for_the_takeover_and_the_backlog_is_worked_off() -> None:
    found = fail_one(FOUR, 4, Failure(takeover=5.0, watch=60.0))
    assert found.takers == 3  # its four partitions go to three others
    assert found.keeps_up
    # A quarter of five seconds' requests, and those that were waiting or running.
    assert found.met == pytest.approx(1250, rel=0.1)
    assert found.met < found.backlog < found.met + 600
    assert 5.0 <= found.longest < 7.0
    # Each of two takers has 312 + 417 a second to come to, 533 at most: the one with two partitions cannot.
    assert found.p99_before < 0.130
    assert found.p99_during > 4.0


def test_the_time_to_catch_up_is_the_backlog_by_the_spare() -> None:
    # Eight devices at 62% of what they serve, then seven at 71%; a dead one's partitions go to four of them.
    wanted = replace(WANTED, load=Load(8 * 333.0))
    found = fail_one(wanted, 8, Failure(takeover=10.0, watch=60.0))
    backlog_each = 333 * 10 / 4
    spare = 32 / 0.060 - 333 * 1.25
    assert found.takers == 4
    assert found.caught_up == pytest.approx(10 + backlog_each / spare, abs=3.0)
    assert found.p99_after < 0.25


def test_others_that_cannot_keep_up_never_catch_up_until_it_is_back() -> None:
    forever = fail_one(WANTED, 2, Failure(takeover=2.0, watch=20.0))
    assert not forever.keeps_up
    assert forever.caught_up == math.inf
    assert math.isnan(forever.p99_after)
    # Alone it serves 533 of 1,000: of ten seconds 4,670 are left over, at least.
    assert forever.backlog > 15 * 467
    wanted = replace(WANTED, load=Load(700.0))
    back = fail_one(wanted, 2, Failure(takeover=2.0, back=12.0, watch=60.0))
    assert not back.keeps_up
    # By then 2 s x 350 wait, and 10 s x 167 more; afterwards 183 a second are worked off.
    assert back.caught_up == pytest.approx(12 + (700 + 1670) / 183, abs=4.0)
    assert back.p99_after < 0.3


def test_a_fleet_of_one_waits_for_its_replacement() -> None:
    wanted = replace(WANTED, load=Load(300.0))
    found = fail_one(wanted, 1, Failure(takeover=8.0, watch=60.0))
    assert found.takers == 1
    assert found.longest == pytest.approx(8.0, abs=0.6)
    assert found.caught_up == pytest.approx(8 + 300 * 8 / (533 - 300), abs=3.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"takeover": -1.0}, "takeover: expected 0 or more"),
        ({"takeover": 5.0, "back": 4.0}, "back: expected more than the takeover's 5 s, got 4 s"),
        ({"takeover": 5.0, "watch": 5.0}, "watch: expected more than 5 s"),
    ],
)
def test_a_failure_that_makes_no_sense_is_named(arguments: dict[str, float], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Failure(**arguments)


def test_a_failure_too_large_to_simulate_says_what_to_do() -> None:
    quick = Worker(ServiceCurve.line(1e-6, 1e-4))
    with pytest.raises(PlanError, match="watch for a shorter time"):
        fail_one(Wanted(Load(1e6), quick), 3, Failure())


def test_a_sweep_to_a_million_requests_a_second() -> None:
    found = list(sweep(replace(WANTED, p99=0.130, cost=2.0, requests=10_000), Limits()))
    assert [one.capacity.wanted.load.rate for one in found] == [1e3, 1e4, 1e5, 1e6]
    for one in found:
        capacity = one.capacity
        assert capacity.run.p99 <= 0.130
        assert capacity.devices >= capacity.keep_up
        assert capacity.run.partitions % capacity.devices == 0
    devices = [one.capacity.devices for one in found]
    # Whole devices round up where there are few; with many the cost of a million requests settles.
    assert devices == sorted(devices)
    assert 2000 < devices[-1] < 2500
    last, before = (one.capacity.per_million for one in (found[-1], found[-2]))
    assert last == pytest.approx(before, rel=0.03)
    assert [one.brokers for one in found] == [3, 3, 4, 24]


def test_brokers_bear_every_copy_also_with_one_of_them_away() -> None:
    limits = Limits(broker=100_000.0, replication=3)
    # 12 records in or out for a request.
    assert limits.brokers(100_000 / 12 * 5) == 6
    assert limits.brokers(1.0) == 3
    assert Limits(broker=100_000.0, replication=1).brokers(25_000.0) == 1
    assert Limits(broker=100_000.0, replication=1).brokers(25_001.0) == 2


def test_a_quick_device_is_bounded_by_its_workers_process() -> None:
    quick = Wanted(Load(1e6), Worker(ServiceCurve.line(1e-7, 1e-4)), requests=10_000)
    found = size(quick, Limits(worker=250_000.0))
    assert (found.capacity.devices, found.capacity.per_device) == (4, 250_000.0)


def test_more_partitions_where_one_bears_less_than_its_share() -> None:
    quick = Wanted(Load(1e6), Worker(ServiceCurve.line(1e-7, 1e-4)), requests=10_000)
    found = size(quick, Limits(worker=250_000.0, partition=10_000.0))
    assert found.capacity.run.partitions == 100
    with pytest.raises(PlanError, match="16 get 62,500 requests/s each, a partition bears 10,000; take 100 or more"):
        size(replace(quick, partitions=16), Limits(worker=250_000.0, partition=10_000.0))


@pytest.mark.parametrize("change", [{"worker": 0.0}, {"partition": -1.0}, {"broker": math.inf}, {"replication": 0}])
def test_limits_that_make_no_sense_are_named(change: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=next(iter(change))):
        Limits(**change)  # type: ignore[arg-type]


def test_a_plan_as_json_names_its_units() -> None:
    found = plan(replace(WANTED, cost=1.0))
    document = found.to_json()
    assert document["p99_ms"] == found.run.p99 * 1e3
    assert document["devices"] == 2
    assert isinstance(found, Capacity)
