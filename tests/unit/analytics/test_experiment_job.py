"""The job on chDB: looks when they are due, once each, whatever kills it; on made-up worlds and on real flights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from experiment_world import DAY0, HOUR, Happened, Seen, World, at, definition

from analytics import experiment_job
from analytics.definitions import Plan
from analytics.experiment_job import ExperimentJob, current, look, past_looks
from analytics.experiment_store import ExperimentStore
from analytics.look_records import record
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from models.registry import ModelStore
from penstock.flights.evidence import fill
from penstock.settings import ModelSettings

COLUMNS = "* EXCEPT written_at"


@pytest.fixture
def world(warehouse: Warehouse) -> World:
    return World(warehouse)


def plan_of(**more: Any) -> Plan:
    """Daily looks from one day on; the metric is mature four hours after its slot began."""
    metric = {"name": "bought", "kind": "proportion", "outcome": "bought", "window": "2h", "mde": "30%"}
    return Plan(definition(metric, **{"test": {"kind": "always-valid"}, **more})).start(DAY0)


def people(world: World, first: int, last: int, arm: Callable[[int], str] = lambda number: "ab"[number % 2]) -> None:
    """A user every six minutes; of b more buy than of a."""
    some = range(first, last)
    world.see(*[Seen(f"u{number}", number / 10, arm(number)) for number in some])
    buyers = [number for number in some if number % 20 in (0, 1, 3, 5, 7, 9, 11)]
    world.happen(*[Happened(f"u{number}", number / 10 + 0.5) for number in buyers])


def job_of(world: World, *plans: Plan, hours: float | Callable[[], float]) -> ExperimentJob:
    clock = hours if callable(hours) else lambda: hours
    return ExperimentJob(
        world.warehouse,
        lambda: [(one.definition.name, one.to_json()) for one in plans],
        clock=lambda: at(clock()),
    )


def written(world: World, columns: str = COLUMNS) -> list[tuple[Any, ...]]:
    """As text: what is not known is NaN, which nothing is equal to."""
    rows = world.warehouse.query(f"SELECT {columns} FROM experiment_results ORDER BY experiment, started_at, look").rows  # noqa: S608
    return [tuple(map(str, row)) for row in rows]


def test_looks_are_made_when_they_are_due_and_written_once(world: World) -> None:
    people(world, 0, 600)
    now = 24.5
    job = job_of(world, plan_of(), hours=lambda: now)
    [first] = job.run()
    assert (first.look, first.looked_at) == (1, at(24))
    assert first.decision == "ship", "six in ten buy, where one in ten did"
    [idle] = job.run()
    assert (idle.look, idle.next_at, idle.error) == (None, at(48), "")
    now = 49.0
    [second] = job.run()
    assert (second.look, second.looked_at) == (2, at(48))
    assert written(world, "look, metric, variant, n_control, n_variant") == [
        ("1", "bought", "b", "105", "105"),
        ("2", "bought", "b", "225", "225"),
    ]
    assert [one.number for one in past_looks(world.warehouse, plan_of())] == [1, 2]


def test_a_row_says_what_the_reading_says(world: World) -> None:
    people(world, 0, 600)
    plan = plan_of()
    job_of(world, plan, hours=48).run()
    reading = look(world.warehouse, ExperimentStore(world.warehouse), plan, at(48), [])
    [row] = world.warehouse.query("SELECT * FROM experiment_results").dicts()
    arm = reading.arms[0]
    assert (row["experiment"], row["started_at"], row["looked_at"]) == ("exp", DAY0, at(48))
    assert (row["role"], row["control"], row["variant"], row["method"]) == ("metric", "a", "b", arm.absolute.method)
    assert arm.absolute.values == (row["mean_control"], row["mean_variant"])
    assert arm.absolute.interval is not None
    assert arm.relative.interval is not None
    assert (row["low"], row["high"]) == (arm.absolute.interval.low, arm.absolute.interval.high)
    assert (row["lift"], row["lift_low"]) == (arm.relative.estimate, arm.relative.interval.low)
    assert (row["p_value"], row["p_adjusted"]) == (arm.absolute.p_value, arm.p_adjusted)
    assert (row["information"], row["chance_to_win"]) == (arm.fraction, arm.chance_to_win)
    # Units count as exposed when their slot has ended; statistics are there once they are mature.
    assert (row["units"], row["crossed"], row["srm_p"]) == (480, 0, 1.0)
    assert (row["decision"], row["reason"]) == (reading.decision, reading.reason)


class _KilledError(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("where", ["advance", "read", "insert"])
def test_a_job_killed_at_any_point_makes_the_same_look_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    people(world, 0, 600)
    plan = plan_of()
    with monkeypatch.context() as patch:
        if where == "insert":
            insert = world.warehouse.insert

            def killed(table: str, *rest: Any) -> None:
                if table == "experiment_looks":
                    raise _KilledError
                insert(table, *rest)

            patch.setattr(world.warehouse, "insert", killed)
        else:
            real = getattr(experiment_job, where)

            def after(*arguments: Any) -> None:
                real(*arguments)
                raise _KilledError

            patch.setattr(experiment_job, where, after)
        with pytest.raises(_KilledError):
            job_of(world, plan, hours=24.1).run()
    assert written(world) == []
    # It comes back hours later, when more is mature: the look is of the time at which it was due.
    [again] = job_of(world, plan, hours=33.0).run()
    assert (again.look, again.looked_at) == (1, at(24))
    made = written(world)
    world.warehouse.command("TRUNCATE TABLE experiment_looks")
    for table in ("exposures", "folds", "marks", "sealed", "counts", "stats"):
        world.warehouse.command(f"TRUNCATE TABLE experiment_{table}")
    job_of(world, plan, hours=24.1).run()
    assert written(world) == made, "a job that nobody killed"


def test_two_jobs_at_once_make_one_look(world: World) -> None:
    people(world, 0, 600)
    plan = plan_of()
    past = past_looks(world.warehouse, plan)
    store = ExperimentStore(world.warehouse)
    for _ in range(2):  # both have read the past before either wrote
        look(world.warehouse, store, plan, at(24), past)
    assert written(world, "look, metric, variant") == [("1", "bought", "b")]
    job = job_of(world, plan, hours=48)
    threads = [threading.Thread(target=job.run) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert written(world, "look") == [("1",), ("2",)]


def test_many_looks_decide_as_one_job_would_that_was_started_anew_each_time(world: World) -> None:
    people(world, 0, 900)
    plan = plan_of(test={"kind": "group-sequential"})
    hours = (24, 48, 72)
    for one in hours:
        job_of(world, plan, hours=one).run()
    store = ExperimentStore(world.warehouse)
    past: list[Any] = []
    for number, one in enumerate(hours, 1):
        made = experiment_job.read(plan, number, at(one), experiment_job.summed(store, plan, at(one)), past)
        past.append(record(made))
    assert past_looks(world.warehouse, plan) == past
    again = current(store, plan, past)
    assert again is not None
    assert (again.decision, again.history) == (made.decision, made.history)
    assert current(store, plan, []) is None


def test_a_restart_is_another_run_with_looks_of_its_own(world: World) -> None:
    people(world, 0, 900)
    first = plan_of()
    job_of(world, first, hours=24).run()
    stopped = first.stop(at(30))
    [closing] = job_of(world, stopped, hours=50).run()
    assert (closing.look, closing.looked_at) == (2, at(34))
    again = stopped.start(at(40))
    [fresh] = job_of(world, again, hours=65).run()
    assert (fresh.look, fresh.looked_at) == (1, at(64))
    assert written(world, "started_at, look, n_control + n_variant") == [
        (str(DAY0), "1", "210"),
        (str(DAY0), "2", "300"),
        (str(at(40)), "1", "210"),
    ]


def test_an_experiment_under_another_name_begins_anew(world: World) -> None:
    people(world, 0, 600)
    plan = plan_of()
    job_of(world, plan, hours=24).run()
    renamed = replace(plan, definition=replace(plan.definition, name="other"))
    [one] = job_of(world, renamed, hours=24).run()
    assert (one.experiment, one.look, one.decision) == ("other", 1, "keep going")
    assert one.reason == "There is nothing to test yet: the control has no units, a test needs 50."
    assert written(world, "experiment, look, n_control") == [("exp", "1", "105"), ("other", "1", "0")]


def test_outcomes_before_the_exposure_count_for_nothing(world: World) -> None:
    people(world, 0, 300)
    # Nine in ten of b bought before they were exposed.
    world.happen(*[Happened(f"u{number}", number / 10 - 0.01) for number in range(1, 300, 2)])
    job_of(world, plan_of(), hours=24).run()
    [with_early] = written(world, "mean_control, mean_variant")
    assert [float(one) for one in with_early] == pytest.approx([0.1 * 11 / 10.5, 0.6], abs=0.02)


def test_a_split_that_broke_is_found_and_stays_found(world: World) -> None:
    people(world, 0, 2400, lambda number: "b" if number % 5 else "a")
    job = job_of(world, plan_of(), hours=200)
    assert job.run()[0].decision == "unhealthy"
    people(world, 2400, 4000, lambda number: "a" if number % 20 else "b")
    [later] = job_of(world, plan_of(), hours=400).run()
    assert later.decision == "unhealthy"
    assert later.reason.startswith("The split is broken")


def test_one_broken_plan_does_not_keep_the_others_from_their_looks(world: World) -> None:
    people(world, 0, 600)
    job = ExperimentJob(
        world.warehouse,
        lambda: [("broken", "{"), ("exp", plan_of().to_json()), ("idle", Plan(plan_of().definition).to_json())],
        clock=lambda: at(24),
    )
    broken, sound = job.run()
    assert broken.error.startswith("experiment-plan/broken: no JSON")
    assert sound.look == 1
    assert [one.experiment for one in job.run(only="exp")] == ["exp"]
    assert job.run(only="unknown") == []


@pytest.mark.parametrize(("value", "counts"), [(1.797e308, False), (9.9e37, True), (-9.9e37, True)])
def test_one_absurd_outcome_keeps_nobody_from_a_look(world: World, value: float, counts: bool) -> None:
    metrics = [
        {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h"},
        {"name": "before", "kind": "mean", "outcome": "bought", "window": "2h", "covariate_window": "5h"},
        {
            "name": "basket",
            "kind": "ratio",
            "numerator": {"outcome": "bought"},
            "denominator": {"outcome": "basket"},
            "window": "2h",
            "covariate_window": "5h",
        },
        {"name": "median", "kind": "quantile", "outcome": "bought", "percentile": 50, "window": "2h"},
    ]
    people(world, 0, 600)
    world.happen(*[Happened(f"u{number}", number / 10 + 1, 2.0, name="basket") for number in range(600)])
    world.happen(*[Happened(f"u{number}", number / 10 - 1, 1.0) for number in range(100, 600)])
    hours = (9, 11)
    world.happen(*[Happened("u100", hour, value, name=name) for hour in hours for name in ("bought", "basket")])
    plan = Plan(definition(*metrics, test={"kind": "always-valid"})).start(DAY0)
    [done] = job_of(world, plan, hours=24.5).run()
    assert (done.look, done.error) == (1, "")
    found = {one.metric: one for one in ExperimentStore(world.warehouse).sums(plan, at(24)) if one.variant == "a"}
    # Eleven of those whose windows have closed bought, and u100 is one of them.
    assert found["spent"].y == (value if counts else 11.0)


def test_a_look_can_be_forced_and_is_a_look_like_any_other(world: World) -> None:
    people(world, 0, 600)
    job = job_of(world, plan_of(), hours=30.5)
    assert [job.run()[0].looked_at, job.run(force=True)[0].looked_at] == [at(24), at(30.5)]
    assert job.run(force=True)[0].look is None, "at the very time of the last look there is nothing new"
    assert [one.number for one in past_looks(world.warehouse, plan_of())] == [1, 2]


def test_a_warehouse_that_is_away_is_the_callers_business_and_one_that_refuses_is_the_experiments(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(world, plan_of(), hours=24)

    def away(*_: Any) -> None:
        raise WarehouseUnavailableError("away")

    def refuses(*_: Any) -> None:
        raise WarehouseError("no such table")

    monkeypatch.setattr(experiment_job, "advance", away)
    with pytest.raises(WarehouseUnavailableError):
        job.run()
    monkeypatch.setattr(experiment_job, "advance", refuses)
    assert job.run()[0].error == "no such table"


def test_real_flights_are_decided_on(warehouse: Warehouse) -> None:
    """Five days of flights of April 2013: more calls of the network's are right."""
    store = ModelStore(ModelSettings().store)
    now = datetime.now(DAY0.tzinfo).replace(microsecond=0)
    plan = fill(warehouse, store, date(2013, 4, 1), 5, now)
    plan = replace(plan, definition=replace(plan.definition, minimum_runtime=timedelta(0)))
    reading = look(warehouse, ExperimentStore(warehouse), plan, now + HOUR, [])
    correct = reading.of("correct", "mlp")
    assert correct.absolute.interval is not None
    assert correct.absolute.values is not None
    assert correct.absolute.n[0] + correct.absolute.n[1] == reading.crossed.units
    assert 0.6 < min(correct.absolute.values) < 1
    assert reading.crossed.crossed == 0
    assert reading.trusted
    assert reading.of("errors", "mlp").verdict == "safe", "not one error in thousands of aircraft"
    assert reading.decision in ("keep going", "ship", "no difference", "roll back")
    assert [row[0] for row in warehouse.query("SELECT metric FROM experiment_results ORDER BY metric").rows] == [
        "correct",
        "errors",
        "log_loss",
    ]
