"""The engine on a real warehouse: raised once, told once, written down, and found again by whoever comes next."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from alert_world import BEHIND, START, ShakyHistory, Topic, World, report

from analytics.alert_rules import Condition, Rule
from analytics.alert_silences import SilenceError
from analytics.warehouse import Warehouse


@pytest.fixture
def world(alerts_warehouse: Warehouse) -> World:
    return World(alerts_warehouse)


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
