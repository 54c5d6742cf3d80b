"""The views that people ask: they agree with what looks computed, and with the assignment as Python knows it."""

# ruff: noqa: S608 - queries of our own making

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from experiment_world import DAY0, Happened, Seen, World, at, definition
from scipy import stats

from analytics.definitions import DefinitionError, Plan
from analytics.experiment_state import advance
from analytics.experiment_store import ExperimentStore
from analytics.warehouse import Warehouse
from models.routing import Experiment, Router, bucket_many
from schemas.records import Control
from stream_workers.ingest_rows import LogRecord, build

CHECK = files("analytics").joinpath("queries", "assignment_check.sql").read_text("utf-8")
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def world(warehouse: Warehouse) -> World:
    return World(warehouse)


class Topic:
    """The control topic as ingest writes its history."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._offset = 0

    def put(self, kind: str, name: str, body: str, hours: float) -> None:
        micros = (at(hours) - DAY0) // MICROSECOND + round(DAY0.timestamp()) * 1_000_000
        record = Control(kind, name, micros if body else 0, body, micros)
        self._offset += 1
        self._warehouse.insert(
            "control_history", build([LogRecord(self._offset, micros // 1000, 10, record)], "control@1", 0)
        )


def halves(name: str = "exp", **more: Any) -> Experiment:
    return Experiment.create(name, "m", {"a": 0.1, "b": 0.5}, {"a": "1", "b": "2"}, **more)


def checked(warehouse: Warehouse) -> dict[str, tuple[int, int]]:
    rows = warehouse.query(CHECK, {"slack": 5}).rows
    return {row[0]: (row[1], row[2]) for row in rows}


def test_runs_are_those_that_were_started_with_their_last_word(world: World) -> None:
    topic = Topic(world.warehouse)
    created = Plan(definition())
    first = created.start(at(1))
    topic.put("experiment-plan", "exp", created.to_json(), 0)
    topic.put("experiment-plan", "exp", first.to_json(), 1)
    topic.put("experiment-plan", "exp", first.ramp({"a": 0.2}).to_json(), 2)
    topic.put("experiment-plan", "exp", first.stop(at(3)).to_json(), 3)
    topic.put("experiment-plan", "exp", first.stop(at(3)).start(at(5)).to_json(), 5)
    rows = world.warehouse.query("SELECT * FROM experiment_runs ORDER BY started_at").rows
    assert [(row[0], row[1], row[3], row[4]) for row in rows] == [("exp", at(1), "m", "a"), ("exp", at(5), "m", "a")]
    assert rows[0][2] == at(3)
    assert rows[1][2] > at(24 * 365)


def test_exposures_and_units_are_those_that_a_look_folds(world: World) -> None:
    topic = Topic(world.warehouse)
    plan = Plan(definition()).start(at(1))
    topic.put("experiment-plan", "exp", plan.to_json(), 1)
    world.see(
        Seen("early", 0.5, "a"),
        Seen("u", 1.5, "a", "r-first"),
        Seen("u", 2.5, "a"),
        Seen("v", 2.0, "b"),
        Seen("two", 2.1, "b"),
        Seen("two", 3.1, "a"),
        Seen("", 3.0, "a"),
        Seen("out", 3.0, ""),
        Seen("wild", 3.0, "x", experiment="unplanned"),
    )
    rows = world.warehouse.query(
        "SELECT user_id, variant, first_at, request_id, crossed FROM experiment_units "
        "WHERE experiment = 'exp' ORDER BY user_id"
    ).rows
    assert [(row[0], row[1], row[2], row[4]) for row in rows] == [
        ("two", "", at(2.1), 1),
        ("u", "a", at(1.5), 0),
        ("v", "b", at(2.0), 0),
    ]
    assert rows[1][3] == "r-first"
    advance(world.warehouse, plan, at(20))
    folded = ExperimentStore(world.warehouse).exposures_by_day(plan, at(20))
    assert {one.variant: one.units for one in folded} == {"": 1, "a": 1, "b": 1}
    unplanned = world.warehouse.query("SELECT user_id, started_at FROM exposures WHERE experiment = 'unplanned'").rows
    assert [(row[0], row[1].year) for row in unplanned] == [("wild", 1970)]


def test_metrics_and_timeseries_are_what_the_store_says(world: World) -> None:
    ratio = {
        "name": "rate",
        "kind": "ratio",
        "numerator": {"outcome": "bought"},
        "denominator": {"prediction": "rows"},
        "window": "2h",
    }
    mean = {"name": "spent", "kind": "mean", "outcome": "bought", "window": "2h"}
    plan = Plan(definition(ratio, mean)).start(at(0))
    for number in range(40):
        world.see(Seen(f"u{number}", number * 1.5, "ab"[number % 2]))
        world.happen(Happened(f"u{number}", number * 1.5 + 0.5, number % 5))
    advance(world.warehouse, plan, at(30))
    advance(world.warehouse, plan, at(90))
    columns = "metric, variant, units, sum_y, sum_x, sum_yy, sum_yx"
    rows = world.warehouse.query(f"SELECT {columns}, value FROM experiment_metrics ORDER BY metric, variant").rows
    wanted = [
        (one.metric, one.variant, one.n, one.y, one.x, one.yy, one.yx)
        for one in sorted(
            ExperimentStore(world.warehouse).sums(plan, at(90)), key=lambda one: (one.metric, one.variant)
        )
    ]
    assert [row[:-1] for row in rows] == wanted
    assert rows[0][-1] == pytest.approx(rows[0][3] / rows[0][4])
    assert rows[2][-1] == pytest.approx(rows[2][3] / rows[2][2])
    last = world.warehouse.query(
        "SELECT metric, variant, max(units), argMax(sum_y, day), count() FROM experiment_timeseries "
        "GROUP BY metric, variant ORDER BY metric, variant"
    ).rows
    assert [row[:4] for row in last] == [row[:4] for row in wanted]
    assert {row[4] for row in last} == {3}


def test_a_look_that_is_written_twice_is_one_result(world: World) -> None:
    for decision in ("keep going", "ship"):
        world.warehouse.insert(
            "experiment_looks",
            pa.table(
                {
                    "experiment": ["exp"],
                    "started_at": pa.array([at(0)], pa.timestamp("us", "UTC")),
                    "look": pa.array([1], pa.uint32()),
                    "looked_at": pa.array([at(9)], pa.timestamp("us", "UTC")),
                    "metric": ["bought"],
                    "variant": ["b"],
                    "decision": [decision],
                }
            ),
        )
    rows = world.warehouse.query("SELECT look, decision FROM experiment_results").rows
    assert rows == ((1, "ship"),)


def test_the_variant_recomputed_in_sql_is_the_logged_one_through_ramps_and_layers(world: World) -> None:
    topic = Topic(world.warehouse)
    users = [f"ü{number}" for number in range(3000)]
    first = halves(layer="home", layer_ranges=((0, 3000), (5000, 9000)))
    second = first.ramp({"a": 0.5})
    third = second.ramp({"a": 0.2, "b": 0.1})
    for hours, experiment in ((0, first), (10, second), (20, third)):
        topic.put("experiment", "exp", experiment.to_json(), hours)
        met = Router([experiment]).assign_many("exp", users)
        world.see(*[Seen(user, hours + 1, one.name) for user, one in zip(users, met, strict=True) if one])
    found = checked(world.warehouse)
    assert found["exp"][1] == 0
    assert found["exp"][0] > 1500
    world.see(Seen("ü1", 12, "a"), Seen("ü1", 12, "b"))
    assert checked(world.warehouse)["exp"][1] >= 1, "a user cannot be right in both"


def test_a_variant_of_an_assignment_that_no_longer_held_is_found(world: World) -> None:
    topic = Topic(world.warehouse)
    first = halves()
    moved = Experiment.create("exp", "m", {"a": 0.1, "b": 0.5}, {"a": "1", "b": "2"}, salt="another")
    topic.put("experiment", "exp", first.to_json(), 0)
    topic.put("experiment", "exp", moved.to_json(), 10)
    users = [f"u{number}" for number in range(500)]
    old = Router([first]).assign_many("exp", users)
    new = Router([moved]).assign_many("exp", users)
    stayed = [(user, one.name) for user, one, other in zip(users, old, new, strict=True) if one and other != one]
    world.see(*[Seen(user, 10 + 4 / 3600, variant) for user, variant in stayed])
    assert checked(world.warehouse)["exp"] == (len(stayed), 0), "within the slack a worker may not have heard"
    world.see(*[Seen(user, 11, variant) for user, variant in stayed[:7]])
    assert checked(world.warehouse)["exp"][1] == 7


def test_sql_hashes_the_published_vectors_as_they_are(warehouse: Warehouse) -> None:
    vectors = json.loads((Path(__file__).parents[3] / "schemas" / "vectors" / "buckets.json").read_text("utf-8"))
    table = pa.table({name: [one[name] for one in vectors] for name in ("salt", "user_id")})
    warehouse.command("CREATE TABLE vectors (salt String, user_id String, number UInt32) ENGINE = Memory")
    warehouse.insert("vectors", table.append_column("number", pa.array(range(len(vectors)), pa.uint32())))
    rows = warehouse.query(
        "SELECT lower(leftPad(hex(xxh3(salt || ':' || user_id)), 16, '0')), xxh3(salt || ':' || user_id) % 10000 "
        "FROM vectors ORDER BY number"
    ).rows
    assert [tuple(row) for row in rows] == [(one["xxh3_64"], one["bucket"]) for one in vectors]


USERS = 1_000_000
# 10 tests of shares and 45 of pairs at 1e-5 each: a fair hash fails one run in 1,800, and the ids are fixed.
FAIR = 1e-5


def test_a_million_users_in_ten_experiments_have_their_shares_and_are_independent_in_sql(warehouse: Warehouse) -> None:
    names = [f"experiment-{number}" for number in range(10)]
    arms = ", ".join(f"multiIf(b{n} < 5000, 0, b{n} < 8000, 1, b{n} < 9500, 2, 3) AS a{n}" for n in range(10))
    hashes = ", ".join(f"xxh3('{name}:user-' || toString(number)) % 10000 AS b{n}" for n, name in enumerate(names))
    warehouse.command(
        f"CREATE TABLE arms ENGINE = Memory AS SELECT {arms} FROM (SELECT {hashes} FROM numbers({USERS}))"
    )
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    for n in range(10):
        counts = dict(warehouse.query(f"SELECT a{n}, count() FROM arms GROUP BY a{n}").rows)
        assert stats.chisquare([counts[arm] for arm in range(4)], shares * USERS).pvalue > FAIR
    for left, right in combinations(range(10), 2):
        rows = warehouse.query(f"SELECT a{left} * 4 + a{right} AS c, count() FROM arms GROUP BY c ORDER BY c").rows
        table = np.array([row[1] for row in rows]).reshape(4, 4)
        assert stats.chi2_contingency(table).pvalue > FAIR
    ten = [f"user-{number}" for number in range(10)]
    buckets = bucket_many("experiment-3", ten)
    sql = warehouse.query("SELECT xxh3('experiment-3:user-' || toString(number)) % 10000 FROM numbers(10)").rows
    assert [row[0] for row in sql] == buckets


def test_a_ramp_from_10_to_50_percent_moves_nobody_out_in_python_and_sql(warehouse: Warehouse) -> None:
    before = Experiment.create("ramp", "m", {"a": 0.1, "b": 0.1}, {"a": "1", "b": "2"})
    after = before.ramp({"a": 0.5, "b": 0.5})
    users = [str(number) for number in range(200_000)]
    was, now = (Router([one]).assign_many("ramp", users) for one in (before, after))
    moves = Counter((one.name if one else "", other.name if other else "") for one, other in zip(was, now, strict=True))
    assert set(moves) == {("a", "a"), ("b", "b"), ("", "a"), ("", "b")}

    def variant(experiment: Experiment) -> str:
        owned = ", ".join(
            f"bucket >= {lo} AND bucket < {hi}, '{one.name}'" for one in experiment.variants for lo, hi in one.ranges
        )
        return f"multiIf({owned}, '')"

    rows = warehouse.query(
        f"SELECT {variant(before)} AS was, {variant(after)} AS now, count() FROM "
        "(SELECT xxh3('ramp:' || toString(number)) % 10000 AS bucket FROM numbers(200000)) GROUP BY was, now"
    ).rows
    assert {(row[0], row[1]): row[2] for row in rows} == moves


def test_users_that_a_ramp_brings_in_are_kept_apart_in_the_sample_ratio_check(world: World) -> None:
    topic = Topic(world.warehouse)
    first = Experiment.create("exp", "m", {"a": 0.1, "b": 0.5}, {"a": "1", "b": "2"})
    second = first.ramp({"a": 0.5})
    topic.put("experiment", "exp", first.to_json(), 0)
    topic.put("experiment", "exp", second.to_json(), 10)
    users = [f"u{number}" for number in range(4000)]
    for hours, experiment in ((1, first), (11, second)):
        met = Router([experiment]).assign_many("exp", users)
        world.see(*[Seen(user, hours, one.name) for user, one in zip(users, met, strict=True) if one])
    plan = Plan(definition()).start(at(0))
    advance(world.warehouse, plan, at(30))
    slices = {(one.kind, one.value): one for one in ExperimentStore(world.warehouse).unit_counts(plan, at(30))}
    whole = slices["all", ""]
    assert whole.expected == {"a": 1000, "b": 5000}
    assert whole.units == Counter(one.name for one in Router([first]).assign_many("exp", users) if one)
    assert slices["joined", "later"].units["b"] == 0
    assert slices["joined", "later"].units["a"] > 1000


def test_an_assignment_that_cannot_be_read_is_named(world: World) -> None:
    Topic(world.warehouse).put("experiment", "exp", '{"salt": "exp"}', 0)
    world.see(Seen("u", 1, "a"))
    with pytest.raises(DefinitionError, match="'exp': control_history holds a body that is no experiment"):
        advance(world.warehouse, Plan(definition()).start(at(0)), at(30))
