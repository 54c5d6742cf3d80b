"""Looks at an experiment: what counts, what does not, and that many small looks find what one look at all would."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from experiment_world import DAY0, Happened, Seen, World, at, definition, expected

from analytics.definitions import Definition, DefinitionError, Plan
from analytics.experiment_state import advance
from analytics.experiment_store import ExperimentStore, UnitSums
from analytics.warehouse import Warehouse


@pytest.fixture
def world(warehouse: Warehouse) -> World:
    return World(warehouse)


def started(some: Definition, hours: float = 0) -> Plan:
    return Plan(some).start(at(hours))


def look(world: World, plan: Plan, hours: float) -> dict[tuple[str, str], UnitSums]:
    """Look at a time and return the sums by metric and arm."""
    advance(world.warehouse, plan, at(hours))
    return sums(world, plan, hours)


def sums(world: World, plan: Plan, hours: float) -> dict[tuple[str, str], UnitSums]:
    return {(one.metric, one.variant): one for one in ExperimentStore(world.warehouse).sums(plan, at(hours))}


def counted(found: dict[tuple[str, str], UnitSums], metric: str = "bought") -> list[tuple[int, float]]:
    return [(found[metric, arm].n, found[metric, arm].y) for arm in "ab"]


METRICS: list[dict[str, Any]] = [
    {"name": "bought", "kind": "proportion", "outcome": "bought", "window": "2h"},
    {"name": "spent", "kind": "mean", "outcome": "bought", "window": "3h", "covariate_window": "5h", "cap_value": 4},
    {
        "name": "rate",
        "kind": "ratio",
        "numerator": {"outcome": "bought"},
        "denominator": {"prediction": "rows"},
        "window": "2h",
        "covariate_window": "3h",
    },
    {
        "name": "calls",
        "kind": "ratio",
        "numerator": {"outcome": "late", "value": "correct"},
        "denominator": {"outcome": "late", "value": "one"},
        "window": "2h",
    },
    {"name": "slowest", "kind": "mean", "source": {"prediction": "latency_ms", "aggregate": "max"}, "window": "1h"},
    {"name": "mean-score", "kind": "quantile", "prediction": "score", "percentile": 50, "window": "1h"},
]
SUMS = ("n", "events", "y", "x", "c", "d", "yy", "xx", "cc", "dd", "yx", "yc", "yd", "xc", "xd", "cd")
SCORES = (0.1, 0.5, 0.7, float("nan"))


def random_world(rng: random.Random, world: World, rows: int = 160) -> tuple[list[Seen], list[Happened]]:
    users = [f"u{number}" for number in range(24)]
    arm = {user: rng.choice("ab") for user in users}
    seen = []
    for number in range(rows):
        user = rng.choice(users)
        # Some meet the other arm, and some predictions are of another experiment, or of none.
        variant = arm[user] if rng.random() < 0.98 else rng.choice("ab")
        experiment = "exp" if rng.random() < 0.9 else rng.choice(["", "other"])
        hours = rng.choice([-2, -0.5, *[rng.uniform(0, 12)] * 8])
        code = "OK" if rng.random() < 0.95 else "MODEL_ERROR"
        seen.append(
            Seen(user, hours, variant if experiment else "", f"r{number}", rng.choice(SCORES), experiment, code=code)
        )
    happened = []
    for number in range(rows):
        about = rng.choice(seen)
        hours = about.hours + rng.uniform(-3, 4)
        name = rng.choice(["bought", "late"])
        value = float(rng.choice([0, 1, 3]))
        experiment = rng.choice(["exp", "exp", "", "other"])
        happened.append(Happened(about.user, hours, value, f"o{number}", name, about.request, experiment))
    # The same outcome reported again, with a later word on it.
    happened += [
        Happened(one.user, one.hours, 2.0, one.id, one.name, one.request, one.experiment) for one in happened[:9]
    ]
    return seen, happened


@pytest.mark.parametrize("seed", range(6))
def test_many_looks_while_rows_arrive_in_any_order_find_what_one_look_at_all_finds(world: World, seed: int) -> None:
    rng = random.Random(seed)
    plan = started(definition(*METRICS))
    seen, happened = random_world(rng, world)
    # Mostly in order of time, with some that come very late; repeated outcomes stay behind what they repeat.
    arrivals: list[tuple[float, int, Seen | Happened]] = []
    for number, row in enumerate([*seen, *happened]):
        arrivals.append((row.hours + rng.choice([0, 0, 0.3, 0.3, rng.uniform(0, 9)]), number, row))
    again = {one.id for one in happened[-9:]}
    arrivals = [
        (99.0 if isinstance(row, Happened) and row.id in again and number >= len(seen) + 160 else when, number, row)
        for when, number, row in arrivals
    ]
    arrivals.sort(key=lambda one: one[:2])
    clock = 0.0
    for begin in range(0, len(arrivals), 25):
        part = arrivals[begin : begin + 25]
        clock = max(clock, min(part[-1][0], 24.0))
        for _, _, row in part:
            if isinstance(row, Seen):
                world.see(row)
            else:
                world.happen(Happened(*[getattr(row, name) for name in _FIELDS], arrives=max(row.hours, clock)))
        advance(world.warehouse, plan, at(clock))
    found = look(world, plan, 40)
    for metric in plan.definition.metrics:
        reference = expected(world, plan.definition, metric, at(0), at(40))
        for arm in "ab":
            one = found[metric.name, arm]
            wanted = reference.get(arm, {})
            for name in SUMS:
                assert getattr(one, name) == pytest.approx(wanted.get(name, 0.0), rel=1e-9, abs=1e-9), (
                    f"{metric.name}/{arm}/{name}"
                )


_FIELDS = ("user", "hours", "value", "id", "name", "request", "experiment")


def test_a_look_that_finds_nothing_new_computes_nothing(world: World) -> None:
    plan = started(definition(*METRICS))
    world.see(Seen("u", 0.5, "a"), Seen("v", 0.6, "b"))
    world.happen(Happened("u", 1.0))
    first = advance(world.warehouse, plan, at(20))
    assert (first.folded, set(first.computed.values()), first.late) == (1, {1}, 0)
    again = advance(world.warehouse, plan, at(21))
    assert (again.folded, set(again.computed.values()), again.late) == (0, {0}, 0)


def test_only_what_is_new_is_computed(world: World) -> None:
    plan = started(definition())
    for hour in range(10):
        world.see(Seen(f"a{hour}", hour + 0.5, "a"), Seen(f"b{hour}", hour + 0.5, "b"))
    assert advance(world.warehouse, plan, at(10)).computed == {"bought": 7}  # a slot, 2 h of window and 1 h of delay
    world.see(Seen("new", 10.5, "a"))
    later = advance(world.warehouse, plan, at(11))
    assert (later.folded, later.computed) == (1, {"bought": 1})


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


class _BrokenError(Exception):
    pass


@pytest.mark.parametrize("stop_at", range(12))
def test_a_look_that_is_broken_off_anywhere_is_finished_by_the_next(world: World, stop_at: int) -> None:
    plan = started(definition(*METRICS[:2]))
    world.see(Seen("u", 0.5, "a"), Seen("v", 0.6, "b"), Seen("w", 1.6, "b"))
    world.happen(Happened("u", 1.0))
    advance(world.warehouse, plan, at(10))
    world.see(Seen("u", 10.5, "b"), Seen("x", 10.6, "a"), Seen("w", 0.1, "b"))
    world.happen(Happened("v", 1.5, 2.0, arrives=10), Happened("x", 10.7))
    breaking = _Breaking(world.warehouse, stop_at)
    try:
        advance(breaking, plan, at(20))  # type: ignore[arg-type]
    except _BrokenError:
        pass
    else:
        assert breaking.left > 0
    found = look(world, plan, 20)
    for metric in plan.definition.metrics:
        reference = expected(world, plan.definition, metric, at(0), at(20))
        for arm in "ab":
            for name in SUMS:
                assert getattr(found[metric.name, arm], name) == pytest.approx(reference.get(arm, {}).get(name, 0.0))


class _Breaking:
    """A warehouse that stops taking writes after so many."""

    def __init__(self, warehouse: Warehouse, writes: int) -> None:
        self._warehouse = warehouse
        self.left = writes

    def query(self, sql: str, parameters: Any = None) -> Any:
        if sql.lstrip().startswith("INSERT"):
            self._write()
        return self._warehouse.query(sql, parameters)

    def insert(self, table: str, rows: Any, token: str = "") -> None:
        self._write()
        self._warehouse.insert(table, rows, token)

    def _write(self) -> None:
        if self.left == 0:
            raise _BrokenError
        self.left -= 1


def test_a_small_benchmark_measures_what_it_says(warehouse: Warehouse) -> None:
    from benchmarks.experiments_sql import measure

    found = measure(warehouse, 20_000)
    assert found["units"] > 1500
    assert found["slots"]["first"] > 80 * found["slots"]["second"] > 0
    assert warehouse.query("SELECT count() FROM predictions").scalar() == 20_200
    assert found["idle_look_s"] < found["first_look_s"]


def test_an_outcome_logged_long_before_it_happened_does_not_count(world: World) -> None:
    plan = started(definition())
    world.see(Seen("u", 30.5, "a"), Seen("v", 30.5, "a"))
    world.happen(Happened("u", 31.0, arrives=30.2), Happened("v", 31.0, arrives=28.0))
    assert counted(look(world, plan, 50)) == [(2, 1.0), (0, 0.0)]
