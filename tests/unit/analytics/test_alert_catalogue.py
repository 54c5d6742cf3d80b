"""Every metric of the catalogue, asked of a real warehouse, and rules that ask questions of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from alert_world import START, Topic, World, report
from chdb_home import fresh_warehouse

from analytics.alert_catalogue import CATALOGUE
from analytics.alert_rules import Condition, Rule, shipped_rules
from analytics.alert_samples import Sampler, samples_of
from analytics.alert_state import AlertSampleError, Sample
from analytics.migrate import migrate
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse


def test_every_metric_of_the_catalogue_can_be_asked_of_an_empty_warehouse(alerts_warehouse: Warehouse) -> None:
    sampler = Sampler(alerts_warehouse, ReadOnlySql(alerts_warehouse.another()), lambda _series, _labels: [])
    for name in CATALOGUE:
        rule = Rule("r", Condition(">", 0), "x", metric=name)
        assert sampler.samples(rule, START) == [], name


MINUTE = f"toDateTime64('{START - timedelta(seconds=90):%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
# {t} is a minute and a half before START, {ms} the same to the millisecond.
FILL = (
    """INSERT INTO predictions (request_id, model, version, code, sent_at, scored_at, received_at, log_time)
    SELECT toString(number), 'a', '1',
        if(number % 10 = 0, 'INTERNAL', if(number % 10 = 1, 'INVALID_ARGUMENT', 'OK')),
        {t} - toIntervalMillisecond(number), {t}, {t}, {ms}
    FROM numbers(1000)""",
    """INSERT INTO dead_letters (topic, partition, offset, reason, failed_at, log_time)
    SELECT 'outcomes', 0, number, 'INVALID', {t}, {ms} FROM numbers(3)""",
    """INSERT INTO drift_results (model, version, window_start, window_end, slice_by, slice, kind, feature, metric,
        value, n, reference_value, quiet_95, threshold, verdict, message, computed_at)
    SELECT 'a', '1', {t} - toIntervalDay(number), {t} - toIntervalDay(number), '', '', 'data', 'distance', 'psi',
        if(number = 0, 0.4, 0.01), 900, nan, 0.02, 0.2, if(number = 0, 'drift', 'ok'), '', {t}
    FROM numbers(2)
    UNION ALL
    SELECT 'a', '1', {t}, {t}, '', '', 'concept', '', 'auc', 0.63, 800, 0.7, nan, nan, 'drift', '', {t}""",
    """INSERT INTO experiment_looks (experiment, started_at, look, looked_at, metric, variant, decision, srm_p, units,
        crossed)
    SELECT if(number < 3, 'exp', 'stopped'), {t} - INTERVAL 9 DAY, number % 3, {t} - toIntervalHour(2 - number % 3),
        'm', 'b', if(number % 3 = 2, 'roll back', 'keep going'), if(number % 3 = 2, 0.001, 0.5), 2000, 40
    FROM numbers(6)""",
    """INSERT INTO control_history (kind, name, body, deleted, log_time)
    SELECT 'experiment-plan', ['exp', 'stopped'][number + 1],
        concat('{"started_at": 1, "stopped_at": ', toString(number), ', "definition": {"model": "a", "control": "c"}}'),
        false, {ms}
    FROM numbers(2)""",
    """INSERT INTO control_history (kind, name, changed_at, deleted, log_time, log_offset)
    SELECT 'retrain', ['a', 'b', 'b'][number + 1], {t} - INTERVAL 50 HOUR, number = 2, {ms}, number FROM numbers(3)""",
)


@pytest.fixture(scope="module")
def filled() -> Iterator[Warehouse]:
    """Something of everything that the catalogue measures; nobody writes to it but the last rounds of one engine."""
    with fresh_warehouse() as made:
        migrate(made)
        for sql in FILL:
            made.command(sql.replace("{t}", MINUTE).replace("{ms}", f"toDateTime64({MINUTE}, 3)"))
        yield made


def test_the_metrics_of_the_catalogue_measure_what_they_say(filled: Warehouse) -> None:
    world = World(filled)
    sampler = Sampler(world.warehouse, ReadOnlySql(world.warehouse.another()), world.figures)
    world.lag = {"predictions": 12}

    def found(metric: str) -> list[Sample]:
        return sampler.samples(Rule("r", Condition(">", 0), "x", metric=metric, window=CATALOGUE[metric].window), START)

    one = {"model": "a", "version": "1"}
    assert found("error_share") == [Sample(one, 0.1, 1000)]
    assert found("refused_share") == [Sample(one, 0.1, 1000)]
    assert found("late_share") == [Sample(one, 0.0, 1000)]
    (slow,) = found("latency_p99_ms")
    assert (slow.n, slow.value) == (800, pytest.approx(990, rel=0.01))
    assert found("seconds_since_prediction") == [Sample({"model": "a"}, 120, 1000)]
    assert found("dead_letters") == [Sample({"topic": "outcomes", "reason": "INVALID"}, 3, 3)]
    drifted, fallen = sorted(found("drift"), key=lambda one: one.labels["kind"], reverse=True)
    assert (drifted.labels["feature"], drifted.value, drifted.n) == ("distance", 2, 900)
    assert (drifted.figures["figure"], drifted.figures["quiet_95"]) == (0.4, 0.02)
    assert fallen.labels["metric"] == "auc"
    (fall,) = found("performance_fall")
    assert (fall.value, fall.figures) == (pytest.approx(0.1), {"figure": 0.63, "reference": 0.7})
    assert found("experiment_split_p") == [Sample({"experiment": "exp"}, 0.001, 2000)]
    assert found("experiment_crossed_share") == [Sample({"experiment": "exp"}, 0.02, 2000)]
    assert found("experiment_rollback") == [Sample({"experiment": "exp"}, 1, 2000)]
    (waits,) = found("retrain_open_hours")
    assert (waits.labels, waits.value) == ({"model": "a"}, pytest.approx(50 + 90 / 3600))
    assert found("ingest_lag") == [Sample({"topic": "predictions"}, 12)]
    assert found("monitor_alerts") == []
    world.topic, world.rules = Topic(report("firing")), shipped_rules()
    world.rules = tuple(one for one in world.rules if not one.metric.startswith("ingest_paused"))
    with world.engine() as engine:
        engine.round(0, True)
        on = {one.rule: one for one, _, _ in engine.standing().alerts}
        assert engine.standing().problems == {}
    assert {name for name, one in on.items() if one.state == "firing"} == {
        *("guardrail", "unreadable-records", "drift", "performance", "performance-in-doubt", "broken-split"),
        *("crossed-users", "roll-back", "retraining-waits"),
    }
    assert on["errors"].state == "pending"
    assert on["drift"].summary == "distance of a version 1 drifts: psi 0.400 over 900 rows, 0.020 without drift"
    assert on["performance"].summary == "auc of a version 1 is 0.630 over 800 outcomes, 0.700 in the reference"
    assert found("monitor_alerts") == [Sample({"monitor_rule": "guardrail"}, 1, 1)]


DRIFT = """INSERT INTO drift_results (model, version, window_start, window_end, slice_by, slice, kind, feature, metric,
    value, n, reference_value, quiet_95, threshold, verdict, message, computed_at) VALUES"""
MIDNIGHT = START.replace(hour=0, minute=0)


def drift_row(feature: str, days: int, ended: float, value: float, verdict: str) -> str:
    """A window of so many days that ended so many hours before midnight; the metric is the AUC where no feature is."""
    kind, metric = ("data", "psi") if feature else ("concept", "auc")
    end = MIDNIGHT - timedelta(hours=ended)
    times = ", ".join(f"'{one:%Y-%m-%d %H:%M:%S}'" for one in (end - timedelta(days=days), end, end))
    start, stop, computed = times.split(", ")
    return (
        f"('a', '1', {start}, {stop}, '', '', '{kind}', '{feature}', '{metric}', "
        f"{value}, {days * 100}, 0.8, 0.02, 0.2, '{verdict}', '', {computed})"
    )


@pytest.mark.parametrize("turn", [1, -1])
def test_each_length_of_a_drift_window_is_judged_by_its_newest_and_the_worst_counts(
    warehouse: Warehouse, turn: int
) -> None:
    rows = [
        *(drift_row("slow", 28, 24, 0.31, "drift"), drift_row("slow", 1, 24, 0.01, "ok")),
        drift_row("slow", 1, 5, 0.02, "watch"),
        *(drift_row("over", 28, 24, 0.03, "ok"), drift_row("over", 1, 48, 0.4, "drift")),
        *(drift_row("over", 1, 24, 0.04, "ok"), drift_row("over", 28, 48, 0.5, "drift")),
        *(drift_row("sudden", 28, 24, 0.05, "ok"), drift_row("sudden", 1, 24, 0.6, "drift")),
        drift_row("last", 28, 7 * 24, 0.45, "drift"),
        *(drift_row("gone", 28, 9 * 24, 0.7, "drift"), drift_row("gone", 1, 9 * 24, 0.7, "drift")),
        *(drift_row("", 28, 24, 0.72, "watch"), drift_row("", 1, 24, 0.6, "drift")),
    ]
    for row in rows[::turn]:
        warehouse.command(f"{DRIFT} {row}")
    sampler = Sampler(warehouse, ReadOnlySql(warehouse.another()), lambda _series, _labels: [])
    found = sampler.samples(Rule("r", Condition(">", 0), "x", metric="drift"), START)
    assert sorted((one.labels["feature"], one.value, one.figures["figure"], one.n) for one in found) == [
        ("", 2, 0.6, 100),
        ("last", 2, 0.45, 2800),
        ("over", 0, 0.03, 2800),
        ("slow", 2, 0.31, 2800),
        ("sudden", 2, 0.6, 100),
    ]
    [fall] = sampler.samples(Rule("r", Condition(">", 0), "x", metric="performance_fall"), START)
    assert (fall.value, fall.n, fall.figures) == (pytest.approx(0.25), 100, {"figure": 0.6, "reference": 0.8})


@pytest.mark.parametrize(
    "name", ["error_share", "refused_share", "late_share", "latency_p99_ms", "seconds_since_prediction"]
)
def test_what_is_asked_of_predictions_every_few_seconds_reads_minutes_and_no_predictions(
    filled: Warehouse, name: str
) -> None:
    parameters = {"now": round(START.timestamp() * 1e6), "window": 300}
    filled.query(f"{CATALOGUE[name].sql} SETTINGS force_optimize_projection = 1", parameters)


def test_a_rules_own_question_gives_labels_a_value_and_figures() -> None:
    columns = [("model", "LowCardinality(String)"), ("value", "Float64"), ("n", "UInt64"), ("limit", "Nullable(Int32)")]
    rows = json.loads('[["a", 0.5, 10, 3], ["b", null, 10, 3], ["c", 2, 0, null]]')
    first, second = samples_of(columns, rows)
    assert first == Sample({"model": "a"}, 0.5, 10, {"limit": 3.0})
    assert (second.labels, second.n, str(second.figures["limit"])) == ({"model": "c"}, 0, "nan")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([("n", "UInt64")], "has no column `value`, only n"),
        ([("value", "String")], "column value is String, expected a number"),
        (
            [("value", "UInt8"), ("at", "DateTime('UTC')")],
            "column at is DateTime('UTC'), expected text (a label) or a number",
        ),
        ([("value", "UInt8"), ("severity", "String")], "column severity would be a label of a reserved name"),
    ],
)
def test_a_question_whose_answer_is_no_sample_is_told_why(columns: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(AlertSampleError) as caught:
        samples_of(columns, [])
    assert said in str(caught.value)
