"""The engine on a real warehouse: raised once, told once, written down, and found again by whoever comes next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chdb_home import fresh_warehouse
from prometheus_client import CollectorRegistry

from analytics.alert_catalogue import CATALOGUE
from analytics.alert_history import AlertHistory
from analytics.alert_outbox import Mail, Message, Policy
from analytics.alert_rules import Condition, Rule, shipped_rules
from analytics.alert_samples import Sampler, samples_of
from analytics.alert_silences import SilenceError
from analytics.alert_state import AlertSampleError, Report, Sample
from analytics.migrate import migrate
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse, WarehouseUnavailableError
from stream_workers.alert_engine import AlertEngine, Told
from stream_workers.alert_receivers import DeliveryFailedError
from stream_workers.alert_reports import NoReports, Reports
from stream_workers.ops_alerts import AlertMetrics

# Tables forget what is old by the real clock.
START = datetime.now(UTC).replace(second=0, microsecond=0)
BEHIND = Rule("behind", Condition(">", 100), "{value:.0f} behind on {topic}", metric="ingest_lag")
AT_ONCE = Policy(wait=timedelta(), interval=timedelta())


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Listener:
    """A receiver that may be away."""

    def __init__(self) -> None:
        self.away = False
        self.heard: list[tuple[list[str], list[str]]] = []

    def send(self, message: Message, now: datetime) -> None:
        del now
        if self.away:
            raise DeliveryFailedError("nobody there")
        self.heard.append(([one.rule for one in message.firing], [one.rule for one in message.resolved]))

    def close(self) -> None:
        """Nothing to let go of."""


class Topic:
    """Reports as the topic gives them: again from where offsets were committed."""

    def __init__(self, *reports: Report, leads: bool = True) -> None:
        self.reports = list(reports)
        self.leads = leads
        self.committed = 0
        self._read = 0

    def read(self, timeout: float) -> list[Report]:
        del timeout
        found = self.reports[self._read :]
        self._read = len(self.reports)
        return found

    def commit(self) -> None:
        self.committed = self._read

    def close(self) -> None:
        """Another process reads from here."""
        self._read = self.committed


class ShakyHistory(AlertHistory):
    """One whose ClickHouse may be away."""

    away = False

    def write(self, mails: Sequence[Mail], now: datetime) -> None:
        if self.away:
            raise WarehouseUnavailableError("ClickHouse is away")
        super().write(mails, now)


class World:
    """What is there whoever judges: warehouse, figures, clock, receiver, topic."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.clock = Clock()
        self.lag: dict[str, float] = {}
        self.listener = Listener()
        self.topic: Reports = NoReports()
        self.rules: tuple[Rule, ...] = (BEHIND,)
        self.policy = AT_ONCE
        self.registry = CollectorRegistry()

    def figures(self, series: str, labels: tuple[str, ...]) -> list[tuple[dict[str, str], float]]:
        assert (series, labels) == ("penstock_ingest_lag", ("topic",))
        return [({"topic": name}, value) for name, value in self.lag.items()]

    @contextmanager
    def engine(self, history: AlertHistory | None = None) -> Iterator[AlertEngine]:
        """An engine of a process that is not killed: what it has is written at its end."""
        made = self.process(history)
        yield made
        made.close()

    def process(self, history: AlertHistory | None = None) -> AlertEngine:
        """An engine that ends whenever nobody calls it any more, as by kill -9."""
        self.registry = CollectorRegistry()
        sampler = Sampler(self.warehouse, ReadOnlySql(self.warehouse.another()), self.figures)
        return AlertEngine(
            self.rules,
            sampler,
            history or AlertHistory(self.warehouse),
            self.topic,
            {"r": Told(self.listener, self.policy)},
            AlertMetrics(self.registry),
            clock=self.clock,
        )

    def step(self, engine: AlertEngine, seconds: float = 15) -> None:
        """One look and one chance for each receiver."""
        self.clock.go(seconds)
        engine.round(0, True)
        engine.tell("r")

    def rows(self, columns: str = "state, delivered") -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM alert_events FINAL ORDER BY changed_at, state"  # noqa: S608 - the test's own
        return list(self.warehouse.query(sql).rows)

    def now(self) -> list[tuple[str, str]]:
        return list(self.warehouse.query("SELECT rule, state FROM alerts_now ORDER BY rule, state").rows)  # type: ignore[arg-type]


@pytest.fixture
def world(alerts_warehouse: Warehouse) -> World:
    return World(alerts_warehouse)


def report(state: str, seconds: float = 0) -> Report:
    at = START + timedelta(seconds=seconds)
    return Report(
        alert_id="m1",
        rule="guardrail",
        state=state,  # type: ignore[arg-type] - "firing" or "resolved"
        severity="critical",
        source="monitor",
        labels={"model": "a"},
        summary="p99 over its limit",
        value=2.0,
        threshold=1.0,
        n=50,
        raised_at=START,
        at=at,
        evidence='{"window": 1}',
    )


def test_an_alert_is_told_once_and_written_down_and_its_end_too(world: World) -> None:
    with world.engine() as engine:
        world.lag = {"predictions": 500}
        for _ in range(3):
            world.step(engine)
        assert world.listener.heard == [(["behind"], [])]
        told_at = (START + timedelta(seconds=15)).isoformat(timespec="milliseconds")
        assert world.rows() == [("firing", {"r": told_at})]
        (alert,) = engine.standing().alerts
        assert (alert[0].summary, alert[1], alert[2]) == ("500 behind on predictions", {"r": told_at}, "")
        assert world.registry.get_sample_value("penstock_alerts", {"state": "firing"}) == 1
        world.lag = {"predictions": 5}
        world.step(engine)
        world.step(engine)
    assert world.listener.heard == [(["behind"], []), ([], ["behind"])]
    assert [state for state, _ in world.rows()] == ["firing", "resolved"]
    assert world.now() == [("behind", "resolved")]
    values = world.rows("rule, severity, labels, value, threshold, source, toUnixTimestamp(started_at)")
    assert values[0] == ("behind", "warning", {"topic": "predictions"}, 500, 100, "rule", int(START.timestamp()) + 15)


def test_a_process_that_is_killed_at_any_step_raises_and_tells_nothing_twice(world: World) -> None:
    world.rules = (replace(BEHIND, hold=timedelta(seconds=30)),)
    world.lag = {"predictions": 500}
    world.step(world.process())
    assert [state for state, _ in world.rows()] == ["pending"]
    killed = world.process()
    world.clock.go(30)
    killed.round(0, True)
    assert world.rows()[-1] == ("firing", {"r": ""}), "written before anybody is told"
    world.step(world.process())
    assert world.listener.heard == [(["behind"], [])]
    world.step(world.process())
    world.lag = {}
    world.step(world.process())
    world.step(world.process())
    assert world.listener.heard == [(["behind"], []), ([], ["behind"])]
    assert [state for state, _ in world.rows()] == ["pending", "firing", "resolved"]
    assert len(set(world.rows("alert_id"))) == 1


def test_a_receiver_that_is_away_is_told_when_it_is_back_though_the_process_was_killed_meanwhile(world: World) -> None:
    world.lag, world.listener.away = {"predictions": 500}, True
    killed = world.process()
    for _ in range(5):
        world.step(killed)
    (line,) = killed.standing().receivers
    assert (line.waiting, line.problem) == (1, "nobody there")
    assert world.registry.get_sample_value("penstock_alerts_undelivered", {"receiver": "r"}) == 1
    assert (
        world.registry.get_sample_value("penstock_alert_messages_total", {"receiver": "r", "outcome": "failed"}) == 5
    ), "pauses of 1, 2, 4 and 8 s are over by the next look"
    assert world.rows() == [("firing", {"r": ""})]
    world.listener.away = False
    with world.engine() as engine:
        for _ in range(3):
            world.step(engine)
    assert world.listener.heard == [(["behind"], [])]


def test_while_clickhouse_is_away_people_are_told_and_it_is_written_later(world: World) -> None:
    world.topic = topic = Topic(report("firing"))
    history = ShakyHistory(world.warehouse)
    with world.engine(history) as engine:
        world.step(engine)
        assert topic.committed == 1
        history.away = True
        world.lag = {"predictions": 500}
        topic.reports.append(report("resolved", 30))
        world.step(engine)
        world.step(engine)
        assert world.listener.heard == [(["guardrail"], []), (["behind"], []), ([], ["guardrail"])]
        assert topic.committed == 1, "what is not written may be lost with this process, so Kafka keeps it"
        assert world.now() == [("guardrail", "firing")]
        history.away = False
        world.step(engine)
        assert topic.committed == 2
    assert world.now() == [("behind", "firing"), ("guardrail", "resolved")]


def test_a_report_that_is_read_again_is_one_alert_with_one_history(world: World) -> None:
    world.topic = topic = Topic(report("firing"))
    history = ShakyHistory(world.warehouse)
    history.away = True
    world.step(world.process(history))
    topic.close()
    world.step(world.process())
    topic.committed = 0
    topic.close()
    world.step(world.process())
    topic.reports.append(report("resolved", 20))
    world.step(world.process())
    topic.committed = 0
    topic.close()
    world.step(world.process())
    assert [state for state, _ in world.rows()] == ["firing", "resolved"]
    assert world.rows("evidence, n, toUnixTimestamp(fired_at)")[0] == ('{"window": 1}', 50, int(START.timestamp()))
    # The first process told before it died and could not write that down: the second had to tell again.
    assert world.listener.heard == [(["guardrail"], []), (["guardrail"], []), ([], ["guardrail"])]


def test_a_process_that_does_not_lead_says_what_the_leader_wrote_and_takes_over_from_there(world: World) -> None:
    world.lag = {"predictions": 500}
    world.step(world.process())
    world.topic = topic = Topic(leads=False)
    with world.engine() as engine:
        world.step(engine)
        standing = engine.standing()
        assert (standing.leads, [one.rule for one, _, _ in standing.alerts]) == (False, ["behind"])
        topic.leads = True
        world.lag = {}
        world.step(engine)
        assert engine.standing().leads
        topic.leads = False
        world.lag = {"predictions": 500}
        world.step(engine)
    assert world.listener.heard == [(["behind"], []), ([], ["behind"])]


def test_an_alert_of_a_rule_that_was_taken_out_is_resolved_by_the_next_process(world: World) -> None:
    world.lag = {"predictions": 500}
    world.step(world.process())
    world.rules = ()
    with world.engine() as engine:
        world.step(engine)
    assert world.listener.heard == [(["behind"], []), ([], ["behind"])]


def test_silences_hold_in_every_process_and_can_be_ended(world: World) -> None:
    world.lag = {"predictions": 500}
    with world.engine() as engine:
        made = engine.silence(["rule=behind", 'topic=~"pred.*"'], timedelta(hours=1), "moving", "me")
        world.step(engine)
        assert world.listener.heard == []
        assert engine.standing().alerts[0][2] == made.silence_id
    with world.engine() as engine:
        world.step(engine)
        assert world.listener.heard == []
        (there,) = engine.standing().silences
        assert [str(one) for one in there.matchers] == ["rule=behind", "topic=~pred.*"]
        assert engine.end_silence(made.silence_id).until == world.clock.now
        world.step(engine)
        assert world.listener.heard == [(["behind"], [])]
        assert engine.standing().silences == ()
        with pytest.raises(SilenceError, match="no silence"):
            engine.end_silence(made.silence_id)


def test_a_question_that_fails_leaves_its_alerts_as_they_are_and_says_so(world: World) -> None:
    world.warehouse.command("CREATE TABLE ours (topic String, value Float64) ENGINE = Memory")
    world.warehouse.command("INSERT INTO ours VALUES ('t', 7), ('u', 1)")
    ours = Rule("ours", Condition(">", 5), "{topic}: {value}", sql="SELECT topic, value FROM ours")
    world.rules = (ours, BEHIND)
    world.lag = {"predictions": 500}
    with world.engine() as engine:
        world.step(engine)
        world.warehouse.command("DROP TABLE ours")
        world.lag = {}
        world.step(engine)
        standing = engine.standing()
        assert [one.rule for one, _, _ in standing.alerts] == ["ours"], "and the other rule is judged all the same"
        assert "ours" in standing.problems["ours"]
        assert world.registry.get_sample_value("penstock_alert_rule_failing", {"rule": "ours"}) == 1
        world.warehouse.command("CREATE TABLE ours (topic String, value Float64) ENGINE = Memory")
        world.step(engine)
        assert (engine.standing().alerts, engine.standing().problems) == ((), {})
        world.warehouse.command("DROP TABLE ours")


def test_rules_can_be_tried_without_raising_anything(world: World) -> None:
    world.lag = {"predictions": 500}
    held = replace(BEHIND, hold=timedelta(hours=1))
    bad = Rule("bad", Condition(">", 5), "x", sql="SELECT 1 AS one")
    with world.engine() as engine:
        first, second = engine.try_rules([held, bad])
        assert (first["samples"], [one["summary"] for one in first["alerts"]]) == (1, ["500 behind on predictions"])
        assert "its question has no column `value`, only one" in second["error"]
        assert engine.try_receivers() == [{"receiver": "r", "error": ""}]
        world.listener.away = True
        assert engine.try_receivers() == [{"receiver": "r", "error": "nobody there"}]
    assert world.rows() == []


def test_every_metric_of_the_catalogue_can_be_asked_of_an_empty_warehouse(world: World) -> None:
    sampler = Sampler(world.warehouse, ReadOnlySql(world.warehouse.another()), lambda _series, _labels: [])
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
    SELECT 'exp', {t} - INTERVAL 9 DAY, number, {t} - toIntervalHour(2 - number), 'm', 'b',
        if(number = 2, 'roll back', 'keep going'), if(number = 2, 0.001, 0.5), 2000, 40
    FROM numbers(3)""",
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
