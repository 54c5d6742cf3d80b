"""Looks at an experiment: what counts and what does not, by window, unit, arm, slice and clock."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from experiment_runs import METRICS, SUMS, counted, look, started, sums
from experiment_world import DAY0, Happened, Seen, World, at, definition

from analytics.definitions import DefinitionError, Plan
from analytics.experiment_state import advance
from analytics.experiment_store import ExperimentStore, UnitSums
from analytics.warehouse import Warehouse


@pytest.fixture
def world(warehouse: Warehouse) -> World:
    return World(warehouse)


def test_outcomes_count_in_the_window_and_only_there(world: World) -> None:
    plan = started(definition())
    users = ["before", "first", "last", "after"]
    world.see(*[Seen(user, 1.0, "a") for user in users])
    world.happen(
        Happened("before", 0.999), Happened("first", 1.0), Happened("last", 3.0), Happened("after", 3.001, arrives=3.1)
    )
    assert counted(look(world, plan, 30)) == [(4, 2.0), (0, 0.0)]


def test_a_unit_counts_once_its_window_has_closed_and_the_delay_has_passed(world: World) -> None:
    plan = started(definition())
    world.see(Seen("u", 0.5, "a"))
    world.happen(Happened("u", 1.0))
    # Its slot ends at 1 h; two hours of window, one of delay.
    assert counted(look(world, plan, 3.99)) == [(0, 0.0), (0, 0.0)]
    assert counted(look(world, plan, 4.0)) == [(1, 1.0), (0, 0.0)]
    assert counted(sums(world, plan, 3.99)) == [(0, 0.0), (0, 0.0)], "an earlier look can be asked again"


def test_a_late_outcome_is_taken_in_by_the_next_look(world: World) -> None:
    plan = started(definition())
    world.see(Seen("u", 0.5, "a"), Seen("v", 5.5, "a"))
    assert counted(look(world, plan, 20)) == [(2, 0.0), (0, 0.0)]
    world.happen(Happened("u", 1.0, arrives=19))
    done = advance(world.warehouse, plan, at(21))
    assert (done.late, done.computed) == (1, {"bought": 1})
    assert counted(sums(world, plan, 21)) == [(2, 1.0), (0, 0.0)]


def test_an_outcome_reported_twice_counts_once_with_its_last_value(world: World) -> None:
    plan = started(definition({"name": "bought", "kind": "mean", "outcome": "bought", "window": "2h"}))
    world.see(Seen("u", 0.5, "a"))
    world.happen(Happened("u", 1.0, 3.0, "same"))
    world.happen(Happened("u", 1.0, 5.0, "same", arrives=1.5))
    assert counted(look(world, plan, 20)) == [(1, 5.0), (0, 0.0)]
    world.happen(Happened("u", 1.0, 4.0, "same", arrives=19))
    assert counted(look(world, plan, 21)) == [(1, 4.0), (0, 0.0)]


def test_a_unit_that_meets_both_arms_is_dropped_and_counted_even_after_it_counted(world: World) -> None:
    plan = started(definition())
    world.see(*[Seen(f"u{number}", 0.5, "a") for number in range(50)])
    world.happen(Happened("u0", 1.0))
    assert counted(look(world, plan, 10)) == [(50, 1.0), (0, 0.0)]
    world.see(Seen("u0", 10.5, "b"))
    assert counted(look(world, plan, 12)) == [(49, 0.0), (0, 0.0)]
    crossed = ExperimentStore(world.warehouse).crossed(plan, at(12))
    assert (crossed.units, crossed.crossed, crossed.alarm) == (50, 1, True)
    assert crossed.share == pytest.approx(0.02)
    assert not ExperimentStore(world.warehouse).crossed(plan, at(0.5)).alarm, "there were no units yet"


def test_exposures_before_the_start_and_from_the_stop_on_never_count(world: World) -> None:
    plan = Plan(definition()).start(at(2)).stop(at(4))
    world.see(Seen("early", 1.9, "a"), Seen("early", 3.0, "a"), Seen("in", 3.5, "b"), Seen("out", 4.0, "b"))
    world.happen(Happened("early", 2.5), Happened("in", 5.0))
    # The early user's first exposure of this run is at 3 h, after its outcome.
    assert counted(look(world, plan, 30)) == [(1, 0.0), (1, 1.0)]


def test_a_restart_is_another_run_that_knows_nothing_of_the_first(world: World) -> None:
    first = Plan(definition()).start(at(0)).stop(at(5))
    world.see(Seen("u", 0.5, "a"), Seen("v", 0.5, "b"))
    world.happen(Happened("u", 1.0))
    assert counted(look(world, first, 20)) == [(1, 1.0), (1, 0.0)]
    again = first.start(at(6))
    world.see(Seen("u", 6.5, "b"), Seen("w", 7.5, "a"))
    assert counted(look(world, again, 30)) == [(1, 0.0), (1, 0.0)], "u met b alone in this run"
    assert counted(look(world, first, 30)) == [(1, 1.0), (1, 0.0)]
    with pytest.raises(DefinitionError, match="has not been started"):
        advance(world.warehouse, Plan(definition()), at(30))


def test_an_experiment_under_another_name_is_another_experiment(world: World) -> None:
    world.see(Seen("u", 0.5, "a"), Seen("u", 5.5, "b", experiment="renamed"))
    renamed = started(definition(name="renamed"))
    assert counted(look(world, started(definition()), 30)) == [(1, 0.0), (0, 0.0)]
    assert counted(look(world, renamed, 30)) == [(0, 0.0), (1, 0.0)]


def test_a_changed_metric_is_computed_anew_and_the_others_are_not(world: World) -> None:
    two = [{"name": name, "kind": "mean", "outcome": "bought", "window": "2h"} for name in ("bought", "other")]
    plan = started(definition(*two))
    world.see(Seen("u", 0.5, "a"))
    world.happen(Happened("u", 3.0, 7.0))
    assert counted(look(world, plan, 20)) == [(1, 0.0), (0, 0.0)]
    wider = Plan(definition({**two[0], "window": "4h"}, two[1]), plan.started_at)
    assert advance(world.warehouse, wider, at(20)).computed == {"bought": 1, "other": 0}
    assert counted(sums(world, wider, 20)) == [(1, 7.0), (0, 0.0)]
    assert counted(sums(world, plan, 20)) == [(1, 0.0), (0, 0.0)]


def test_no_outcomes_an_empty_arm_one_unit_and_equal_values_are_defined(world: World) -> None:
    mean = {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h"}
    quantile = {"name": "speed", "kind": "quantile", "prediction": "latency_ms", "percentile": 90, "window": "1h"}
    plan = started(definition(mean, quantile))
    nobody = look(world, plan, 5)
    assert {(one.n, one.y, one.yy) for one in nobody.values()} == {(0, 0.0, 0.0)}
    world.see(Seen("only", 5.5, "a"))
    found = look(world, plan, 20)
    assert (found["spent", "a"].n, found["spent", "a"].events, found["spent", "a"].y) == (1, 0, 0.0)
    assert found["spent", "b"] == UnitSums("spent", "b")
    world.see(*[Seen(f"u{number}", 20.5, arm) for number, arm in enumerate("ab" * 5)])
    world.happen(*[Happened(f"u{number}", 21.0, 3.0) for number in range(10)])
    found = look(world, plan, 40)
    same = found["spent", "b"]
    assert (same.n, same.y, same.yy) == (5, 15.0, 45.0), "variance is exactly 0"
    speeds = ExperimentStore(world.warehouse).bins(plan, plan.definition.metric("speed"), at(40))
    assert [(one.variant, one.counts) for one in speeds] == [("a", (6,)), ("b", (5,))]
    assert speeds[0].at_rank(6) == pytest.approx(5.0, rel=0.01)
    with pytest.raises(ValueError, match="rank 6 of 5 units"):
        speeds[1].at_rank(6)


def test_values_that_are_no_numbers_do_not_count(world: World) -> None:
    plan = started(definition({"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h"}))
    world.see(Seen("u", 0.5, "a"))
    world.happen(*[Happened("u", 1.0, value) for value in (float("nan"), float("inf"), 2.0)])
    found = look(world, plan, 20)["spent", "a"]
    assert (found.n, found.events, found.y) == (1, 1, 2.0)


@pytest.mark.parametrize("value", [1.797e308, -1.797e308, 1e151, 3.4e38, -1e38, float("inf"), float("nan")])
def test_a_value_larger_than_anything_measured_does_not_count_wherever_it_enters(world: World, value: float) -> None:
    plan = started(
        definition(
            {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h", "covariate_window": "2h"},
            {
                "name": "share",
                "kind": "ratio",
                "numerator": {"outcome": "bought"},
                "denominator": {"outcome": "basket"},
                "window": "2h",
                "covariate_window": "2h",
            },
            {
                "name": "each",
                "kind": "ratio",
                "numerator": {"outcome": "bought"},
                "denominator": {"outcome": "bought", "value": "one"},
                "window": "2h",
            },
            {"name": "capped", "kind": "mean", "outcome": "bought", "window": "2h", "cap_value": 4},
            {"name": "score", "kind": "mean", "prediction": "score", "window": "2h"},
            {"name": "off", "kind": "mean", "source": {"outcome": "label", "value": "absolute_error"}, "window": "2h"},
        )
    )
    world.see(Seen("u", 2.0, "a", "r1", 0.25), Seen("u", 2.1, "a", "r2", value), Seen("v", 2.0, "a", "r3", 0.5))
    world.happen(
        *[Happened("u", hours, value, name=name) for name in ("bought", "basket") for hours in (1.0, 3.0)],
        *[Happened("u", 1.0, 2.0), Happened("u", 3.0, 3.0), Happened("v", 3.0, 5.0)],
        *[Happened("u", 3.0, 8.0, name="basket"), Happened("u", 1.0, 4.0, name="basket")],
        Happened("u", 3.0, 1.0, name="label", request="r1"),
        Happened("u", 3.1, 1.0, name="label", request="r2"),
        Happened("v", 3.0, value, name="label", request="r3"),
    )
    found = look(world, plan, 20)
    kept = {name: found[name, "a"] for name in ("spent", "share", "each", "capped", "score", "off")}
    assert {name: (one.n, one.events) for name, one in kept.items()} == dict.fromkeys(kept, (2, 2)) | {"off": (2, 1)}
    assert [(one.y, one.yy) for one in kept.values()] == [
        *[(8.0, 34.0)] * 3,
        (7.0, 25.0),
        (0.75, 0.3125),
        (0.75, 0.5625),
    ]
    assert (kept["spent"].c, kept["spent"].cc, kept["spent"].yc) == (2.0, 4.0, 6.0)
    ratio = kept["share"]
    assert (ratio.x, ratio.xx, ratio.c, ratio.d, ratio.yx, ratio.cd) == (8.0, 64.0, 2.0, 4.0, 24.0, 8.0)
    assert (kept["each"].x, kept["each"].xx) == (2.0, 2.0)


def test_a_percentile_cap_is_that_of_both_arms_together(world: World) -> None:
    metric = {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h", "cap_percentile": 90}
    plan = started(definition(metric))
    values = [float(number) for number in range(1, 101)]
    random.Random(1).shuffle(values)
    for number, value in enumerate(values):
        world.see(Seen(f"u{number}", 0.5 + number / 25, "ab"[number % 2]))
        world.happen(Happened(f"u{number}", 1.0 + number / 25, value))
    found = look(world, plan, 30)
    whole = found["spent", "a"].y + found["spent", "b"].y
    capped = sum(min(value, 90.0) for value in values)
    # The cap is the upper edge of the bin that 90 is in: at most 2% above.
    assert capped <= whole <= sum(min(value, 90 * 1.0203) for value in values)
    days = ExperimentStore(world.warehouse).sums_by_day(plan, at(30))
    assert sum(one.sums.y for one in days) == pytest.approx(whole)


def test_a_sketch_of_a_quantile_is_within_one_percent(world: World) -> None:
    metric = {"name": "speed", "kind": "quantile", "prediction": "latency_ms", "percentile": 90, "window": "1h"}
    plan = started(definition(metric))
    rng = random.Random(7)
    values = sorted(rng.lognormvariate(2, 1) for _ in range(300))
    world.see(*[Seen(f"u{number}", 0.5, "a", latency_ms=round(value, 3)) for number, value in enumerate(values)])
    advance(world.warehouse, plan, at(20))
    (a, b) = ExperimentStore(world.warehouse).bins(plan, plan.definition.metric("speed"), at(20))
    assert (a.n, b.n) == (300, 0)
    for rank in (1, 30, 150, 270, 299, 300):
        assert a.at_rank(rank) == pytest.approx(round(values[rank - 1], 3), rel=0.0101)


def test_sums_of_days_add_up_to_the_whole_and_the_timeseries_ends_with_it(world: World) -> None:
    plan = started(definition(*METRICS))
    rng = random.Random(3)
    for number in range(120):
        hours = rng.uniform(0, 70)
        world.see(Seen(f"u{number}", hours, "ab"[number % 2]))
        world.happen(Happened(f"u{number}", hours + rng.uniform(0, 3), rng.choice([0.0, 1.0, 9.0])))
    found = look(world, plan, 100)
    store = ExperimentStore(world.warehouse)
    last = {(one.sums.metric, one.sums.variant): one for one in store.timeseries(plan, at(100))}
    assert {one.day for one in last.values()} == {(DAY0 + timedelta(days=2)).date()}
    for key, one in found.items():
        if one.n:
            for name in SUMS:
                assert getattr(last[key].sums, name) == pytest.approx(getattr(one, name)), (key, name)
    by_day = store.exposures_by_day(plan, at(100))
    assert sum(one.units for one in by_day) == 120
    assert [one.units for one in by_day if one.day == DAY0.date()] == [
        sum(1 for one in world.predictions if one.hours < 24 and one.variant == arm) for arm in "ab"
    ]


def test_units_are_counted_by_slice(world: World) -> None:
    plan = started(definition())
    for number in range(40):
        arm = "ab"[number % 2]
        world.see(
            Seen(
                f"u{number}", number, arm, version="12"[number % 2], worker=f"w{number % 4 // 2}", partition=number % 3
            )
        )
    advance(world.warehouse, plan, at(50))
    slices = {(one.kind, one.value): one for one in ExperimentStore(world.warehouse).unit_counts(plan, at(50))}
    assert slices["all", ""].units == {"a": 20, "b": 20}
    assert slices["all", ""].expected == {"a": 5000, "b": 5000}
    assert slices["worker", "w1"].units == {"a": 10, "b": 10}
    assert slices["version", "2"].units == {"a": 0, "b": 20}
    assert sum(sum(slices["partition", str(n)].units.values()) for n in range(3)) == 40
    assert slices["day", (DAY0 + timedelta(days=1)).date().isoformat()].units == {"a": 8, "b": 8}


def test_sums_of_different_arms_do_not_add_up() -> None:
    one = UnitSums("m", "a", n=2, y=3.0)
    assert one + one == UnitSums("m", "a", n=4, y=6.0)
    with pytest.raises(ValueError, match="m/a and m/b do not add up"):
        one + UnitSums("m", "b")


def test_an_outcome_logged_long_before_it_happened_does_not_count(world: World) -> None:
    plan = started(definition())
    world.see(Seen("u", 30.5, "a"), Seen("v", 30.5, "a"))
    world.happen(Happened("u", 31.0, arrives=30.2), Happened("v", 31.0, arrives=28.0))
    assert counted(look(world, plan, 50)) == [(2, 1.0), (0, 0.0)]


def test_what_counts_of_a_slot_does_not_depend_on_the_slots_computed_with_it(world: World) -> None:
    # Both say how a call went long before the call was made: no clock is that wrong, however old the other slots are.
    plan = started(definition(METRICS[3]))
    world.see(Seen("early", 0.5, "a", "r0"), Seen("u", 10.5, "a", "r1"), Seen("v", 10.5, "a", "r2"))
    world.happen(Happened("u", 8.0, 1.0, name="late", request="r1"), Happened("v", 9.6, 1.0, name="late", request="r2"))
    assert look(world, plan, 30)["calls", "a"].events == 1
    again = Plan(definition({**METRICS[3], "window": "3h"}), plan.started_at)
    for hours in (5, 30):
        found = look(world, again, hours)
    assert found["calls", "a"].events == 1
