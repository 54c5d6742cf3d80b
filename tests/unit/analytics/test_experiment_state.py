"""What is kept of a run: many small looks find what one look at all would, cost what is new, and may break off."""

from __future__ import annotations

import random
from typing import Any

import pytest
from chdb_home import fresh_warehouse
from experiment_runs import METRICS, SUMS, counted, look, random_world, started, sums
from experiment_world import Happened, Seen, World, at, definition, expected

from analytics import experiment_state
from analytics.definitions import Plan
from analytics.experiment_state import advance
from analytics.experiment_store import ExperimentStore
from analytics.migrate import migrate, migrations
from analytics.warehouse import Warehouse


@pytest.fixture
def world(warehouse: Warehouse) -> World:
    return World(warehouse)


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
        world.see(*[row for _, _, row in part if isinstance(row, Seen)])
        world.happen(
            *[
                Happened(*[getattr(row, name) for name in _FIELDS], arrives=max(row.hours, clock))
                for _, _, row in part
                if isinstance(row, Happened)
            ]
        )
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


def test_slots_that_are_taken_in_parts_give_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_state, "FOLDED_AT_ONCE", 20)
    monkeypatch.setattr(experiment_state, "GATHERED_AT_ONCE", 100)
    plan = started(definition(*METRICS))
    seen, happened = random_world(random.Random(11), world)
    seen.sort(key=lambda one: one.hours)
    watched = _Watched(world.warehouse)
    for part in (seen[::20], [one for number, one in enumerate(seen) if number % 20]):
        world.see(*part)
        world.happen(*(one for one in happened if one.request in {some.request for some in part}))
        advance(watched, plan, at(20))  # type: ignore[arg-type]
    assert len(watched.into("experiment_exposures")) > 3
    assert len(watched.into("experiment_stats")) > 6
    found = sums(world, plan, 20)
    for metric in plan.definition.metrics:
        reference = expected(world, plan.definition, metric, at(0), at(20))
        for arm in "ab":
            for name in SUMS:
                assert getattr(found[metric.name, arm], name) == pytest.approx(reference[arm].get(name, 0.0), abs=1e-9)


def test_metrics_that_are_ready_together_are_computed_in_one_pass(world: World) -> None:
    plan = started(definition(*[{**one, "window": "2h"} for one in METRICS]))
    world.see(*[Seen(f"u{hour}", hour + 0.5, "ab"[hour % 2]) for hour in range(10)])
    world.happen(*[Happened(f"u{hour}", hour + 0.7) for hour in range(10)])
    watched = _Watched(world.warehouse)
    done = advance(watched, plan, at(30))  # type: ignore[arg-type]
    assert set(done.computed.values()) == {10}
    assert len(watched.into("experiment_stats")) == 1


def test_a_late_outcome_costs_nothing_to_what_is_made_of_predictions_alone(world: World) -> None:
    plan = started(definition(METRICS[0], METRICS[4]))
    world.see(Seen("u", 0.5, "a"))
    assert advance(world.warehouse, plan, at(20)).computed == {"bought": 1, "slowest": 1}
    world.happen(Happened("u", 1.0, arrives=19))
    watched = _Watched(world.warehouse)
    assert advance(watched, plan, at(21)).computed == {"bought": 1, "slowest": 0}  # type: ignore[arg-type]
    assert watched.into("experiment_counts") == []


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


class _BrokenError(Exception):
    pass


# So many writes does the look make: with fewer it would not be broken in the last case.
WRITES = 9


@pytest.mark.parametrize("stop_at", range(WRITES))
def test_a_look_that_is_broken_off_anywhere_is_finished_by_the_next(world: World, stop_at: int) -> None:
    plan = started(definition(*METRICS[:2]))
    world.see(Seen("u", 0.5, "a"), Seen("v", 0.6, "b"), Seen("w", 1.6, "b"))
    world.happen(Happened("u", 1.0))
    advance(world.warehouse, plan, at(10))
    world.see(Seen("u", 10.5, "b"), Seen("x", 10.6, "a"), Seen("w", 0.1, "b"))
    world.happen(Happened("v", 1.5, 2.0, arrives=10), Happened("x", 10.7))
    breaking = _Breaking(world.warehouse, stop_at)
    with pytest.raises(_BrokenError):
        advance(breaking, plan, at(20))  # type: ignore[arg-type]
    found = look(world, plan, 20)
    for metric in plan.definition.metrics:
        reference = expected(world, plan.definition, metric, at(0), at(20))
        for arm in "ab":
            for name in SUMS:
                assert getattr(found[metric.name, arm], name) == pytest.approx(reference.get(arm, {}).get(name, 0.0))


class _Watched:
    """A warehouse that keeps the names of the tables it writes to."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._writes: list[str] = []

    def into(self, table: str) -> list[str]:
        return [one for one in self._writes if one == table]

    def query(self, sql: str, parameters: Any = None) -> Any:
        if sql.lstrip().startswith("INSERT"):
            self._writes.append(sql.split()[2])
        return self._warehouse.query(sql, parameters)

    def arrow(self, sql: str, parameters: Any = None) -> Any:
        return self._warehouse.arrow(sql, parameters)

    def insert(self, table: str, rows: Any, token: str = "") -> None:
        self._writes.append(table)
        self._warehouse.insert(table, rows, token)


class _Breaking:
    """A warehouse that stops taking writes after so many."""

    def __init__(self, warehouse: Warehouse, writes: int) -> None:
        self._warehouse = warehouse
        self.left = writes

    def query(self, sql: str, parameters: Any = None) -> Any:
        if sql.lstrip().startswith("INSERT"):
            self._write()
        return self._warehouse.query(sql, parameters)

    def arrow(self, sql: str, parameters: Any = None) -> Any:
        return self._warehouse.arrow(sql, parameters)

    def insert(self, table: str, rows: Any, token: str = "") -> None:
        self._write()
        self._warehouse.insert(table, rows, token)

    def _write(self) -> None:
        if self.left == 0:
            raise _BrokenError
        self.left -= 1


def test_a_small_benchmark_measures_what_it_says(warehouse: Warehouse) -> None:
    from benchmarks.experiments_sql import Watched, measure

    with Watched.open(warehouse.config, create=False) as watched:
        found = measure(watched, 20_000)
    assert found["units"] > 1500
    assert found["slots"]["first"] > 80 * found["slots"]["second"] > 0
    # A hundredth more, and then the shares of `looks_over_more`.
    assert warehouse.query("SELECT count() FROM predictions").scalar() == 20_200 + 202 + 404 + 1010 + 2020
    assert [one["slots"] > 0 for one in found["looks_over_more"]] == [True] * 4
    assert found["idle_look_s"] < found["first_look_s"]


def found_is_expected(world: World, plan: Plan, hours: float) -> None:
    """Look, and hold what is found to a computation over all rows."""
    found = look(world, plan, hours)
    for metric in plan.definition.metrics:
        reference = expected(world, plan.definition, metric, at(0), at(hours))
        for arm in "ab":
            for name in SUMS:
                wanted = reference.get(arm, {}).get(name, 0.0)
                assert getattr(found[metric.name, arm], name) == pytest.approx(wanted, abs=1e-9), (
                    metric.name,
                    arm,
                    name,
                )


def test_predictions_that_come_late_where_none_had_been_count_in_windows_computed_without_them(world: World) -> None:
    plan = started(definition(METRICS[2]))
    world.see(Seen("u", 1.5, "a"), Seen("v", 1.6, "b"))
    world.happen(Happened("u", 2.0))
    found_is_expected(world, plan, 20)
    # In hours of which nothing had been there: in a window, and behind one.
    world.see(Seen("u", 3.2, "a"), Seen("v", 8.0, "b"))
    found_is_expected(world, plan, 21)
    assert sums(world, plan, 21)["rate", "a"].x == 2.0


def test_an_outcome_that_names_the_request_of_another_user_does_not_count_however_it_is_read(world: World) -> None:
    plan = started(definition(METRICS[3]))
    world.see(*[Seen(f"u{hour}", hour + 0.5, "a", f"r{hour}", 0.9) for hour in range(20)])
    world.happen(
        Happened("u3", 3.6, 1.0, name="late", request="r3"), Happened("stranger", 3.7, 1.0, name="late", request="r4")
    )
    found_is_expected(world, plan, 30)
    # This look takes one slot of twenty, by its users; the first took all.
    world.happen(Happened("u4", 4.6, 1.0, name="late", request="r4", arrives=29.5))
    found_is_expected(world, plan, 31)
    assert sums(world, plan, 31)["calls", "a"].events == 2


def test_an_outcome_that_is_corrected_to_a_time_outside_its_window_is_taken_back(world: World) -> None:
    plan = started(definition())
    world.see(*[Seen(f"u{number}", 0.5, "ab"[number % 2]) for number in range(100)])
    world.happen(*[Happened(f"u{number}", 1.5, id=f"o{number}") for number in range(100)])
    assert counted(look(world, plan, 10)) == [(50, 50.0), (50, 50.0)]
    world.happen(*[Happened(f"u{number}", 7.5, id=f"o{number}", arrives=30) for number in range(100)])
    assert advance(world.warehouse, plan, at(31)).late == 1
    assert counted(sums(world, plan, 31)) == [(50, 0.0), (50, 0.0)]


def test_an_outcome_that_is_corrected_to_a_time_long_before_its_covariate_window_is_taken_back(world: World) -> None:
    plan = started(
        definition({"name": "bought", "kind": "mean", "outcome": "bought", "window": "2h", "covariate_window": "3h"})
    )
    world.see(Seen("u", 5.5, "a"))
    world.happen(Happened("u", 4.5, 6.0, id="o"))
    assert look(world, plan, 10)["bought", "a"].c == 6.0
    world.happen(Happened("u", 1.5, 6.0, id="o", arrives=30))
    assert look(world, plan, 31)["bought", "a"].c == 0.0


def test_outcomes_outside_of_windows_that_take_nothing_back_change_no_slot(world: World) -> None:
    plan = started(definition(METRICS[0], {**METRICS[1], "name": "other", "outcome": "other"}))
    world.see(Seen("u", 0.5, "a"), Seen("v", 1.5, "b"), Seen("w", 40.5, "b"))
    world.happen(Happened("u", 1.5, id="o"), Happened("v", 9.5, id="p"))
    advance(world.warehouse, plan, at(10))
    world.happen(
        Happened("u", 29.0, id="new"),
        Happened("u", 29.0, id="p"),
        Happened("v", 29.0, id="o"),
        Happened("v", 29.0, id="p"),
        Happened("u", 29.0, id="o", name="other"),
        Happened("u", 29.0, id="o", experiment=""),
    )
    done = advance(world.warehouse, plan, at(30))
    assert (done.late, set(done.computed.values())) == (0, {0})


def test_sums_that_an_earlier_release_made_of_an_absurd_outcome_are_made_anew_once(world: World) -> None:
    plan = started(definition(METRICS[0], {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h"}))
    world.see(Seen("u", 0.5, "a"), Seen("v", 1.5, "b"))
    world.happen(Happened("u", 1.0), Happened("v", 2.0, 3.0), Happened("v", 2.0, 1e200))
    advance(world.warehouse, plan, at(20), clock=lambda: 6)
    key = plan.definition.metric_key(plan.definition.metrics[1])
    for table, columns, numbers in (
        ("experiment_stats", ", metric, variant, n, events, y, yy", ", 'spent', 'b', 1, 2, 1e200, inf"),
        ("experiment_sealed", "", ""),
    ):
        world.warehouse.command(
            f"INSERT INTO {table} (experiment, started_at, grain, metric_key, slot, computed{columns}) "
            f"SELECT 'exp', toDateTime64({at(0).timestamp():.6f}, 6), 3600, '{key}', "
            f"toDateTime({int(at(1).timestamp())}, 'UTC'), 7{numbers}"
        )
    assert sums(world, plan, 20)["spent", "b"].yy == float("inf")
    assert advance(world.warehouse, plan, at(21)).computed == {"bought": 0, "spent": 1}
    assert sums(world, plan, 21)["spent", "b"].yy == 9.0
    assert advance(world.warehouse, plan, at(22)).computed == {"bought": 0, "spent": 0}


def test_a_mean_of_no_events_is_0_and_not_no_number(world: World) -> None:
    source = {"outcome": "bought", "aggregate": "mean"}
    plan = started(
        definition(
            {"name": "basket", "kind": "mean", "source": source, "covariate_window": "3h", "only_with_events": False}
        )
    )
    world.see(Seen("u", 1.5, "a"), Seen("v", 1.5, "a"))
    world.happen(Happened("u", 2.0, 4.0), Happened("u", 2.1, 6.0), Happened("v", 1.0, 3.0))
    found_is_expected(world, plan, 30)
    found = sums(world, plan, 30)["basket", "a"]
    assert (found.n, found.y, found.c) == (2, 5.0, 3.0)


def test_what_an_earlier_release_kept_of_a_run_is_gone_on_with() -> None:
    with fresh_warehouse() as warehouse:
        # Looked at by a release that had no more than these, which broke off before it had computed what it folded.
        migrate(warehouse, migrations()[:5])
        world = World(warehouse)
        plan = started(definition(METRICS[0], METRICS[4]))
        world.see(Seen("u", 0.5, "a"), Seen("v", 1.5, "b"))
        world.happen(Happened("v", 2.0))
        run = f"'exp', toDateTime64({at(0).timestamp():.6f}, 6), 3600"
        for user, hours, arm in (("u", 0.5, "a"), ("v", 1.5, "b")):
            first = f"toDateTime64({at(hours).timestamp():.6f}, 6)"
            warehouse.command(
                "INSERT INTO experiment_exposures (experiment, started_at, grain, slot, user_id, first_at, variant, "
                f"version, worker, partition, low, high) SELECT {run}, toStartOfHour({first}), '{user}', {first}, "
                f"'{arm}', '1', 'w0', 0, '{arm}', '{arm}'"
            )
        hours = [f"toDateTime({int(at(hour).timestamp())}, 'UTC')" for hour in (0, 1)]
        warehouse.command(
            "INSERT INTO experiment_folds (experiment, started_at, grain, slot, rows, changed) "  # noqa: S608
            f"VALUES ({run}, {hours[0]}, 1, 7), ({run}, {hours[1]}, 1, 7)"
        )
        keys = ["", *(plan.definition.metric_key(one) for one in plan.definition.metrics)]
        sealed = ", ".join(f"({run}, '{key}', {hours[0]}, 6)" for key in keys)
        warehouse.command(
            f"INSERT INTO experiment_sealed (experiment, started_at, grain, metric_key, slot, computed) VALUES {sealed}"  # noqa: S608
        )
        assert [one.number for one in migrate(warehouse)] == [one.number for one in migrations()[5:]]
        found_is_expected(world, plan, 20)
        assert ExperimentStore(warehouse).crossed(plan, at(20)).units == 2
        world.see(Seen("u", 20.5, "b"))
        world.happen(Happened("v", 1.9, arrives=20.6))
        found_is_expected(world, plan, 30)
        assert ExperimentStore(warehouse).crossed(plan, at(30)).crossed == 1
