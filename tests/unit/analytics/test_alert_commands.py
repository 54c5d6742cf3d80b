"""`penstock alerts` against the process that holds the warehouse, over HTTP as it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from analytics.alert_history import AlertHistory
from analytics.alert_rules import Condition, Rule
from analytics.alert_samples import Sampler
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse
from penstock import alert_desk
from penstock.alert_watch import AlertWatch, figures_in, receivers_of
from penstock.commands import alerts as alerts_command
from penstock.settings import AlertSettings, SettingsError, load
from penstock.warehouse_app import AppServer, create_app
from stream_workers.alert_engine import AlertEngine
from stream_workers.alert_reports import NoReports
from stream_workers.ops import Health, IngestMetrics
from stream_workers.ops_alerts import AlertMetrics

RULE = Rule("behind", Condition(">", 100), "{value:.0f} behind on {topic}", metric="ingest_lag")


class Desk:
    """A running process: the engine, its metrics, and the command line that asks it."""

    def __init__(self, engine: AlertEngine, metrics: IngestMetrics, server: AppServer) -> None:
        self.engine = engine
        self.metrics = metrics
        self.url = server.url
        self.app = typer.Typer()
        alerts_command.register(self.app)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(self.app, ["alerts", *arguments])
        return found.exit_code, found.stdout, found.stderr


@pytest.fixture
def desk(alerts_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    warehouse, registry, health = alerts_warehouse, CollectorRegistry(), Health()
    metrics = IngestMetrics(registry)
    ours, asked = ReadOnlySql(warehouse.another()), ReadOnlySql(warehouse.another())
    engine = AlertEngine(
        (RULE,),
        Sampler(warehouse, ours, figures_in(registry)),
        AlertHistory(warehouse),
        NoReports(),
        receivers_of(AlertSettings(group_by=("topic",))),
        AlertMetrics(registry),
    )
    app = create_app(asked, health, registry)
    alert_desk.serve(app, engine)
    with AppServer(app, "127.0.0.1", 0) as server:
        monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(server.port))
        yield Desk(engine, metrics, server)
    engine.close()
    ours.close()
    asked.close()


def raised(desk: Desk) -> None:
    desk.metrics.lag("predictions", 0, 300)
    desk.metrics.lag("predictions", 1, 200)
    desk.engine.round(0, True)
    desk.engine.tell("log")


def test_list_shows_what_is_on_and_who_was_told(desk: Desk) -> None:
    desk.engine.round(0, True)
    assert desk.run("list") == (0, "", "no alert is on\n")
    raised(desk)
    code, out, _ = desk.run("list")
    assert code == 0
    assert all(one in out for one in ("firing", "warning", "behind", "topic=predictions", "500 behind on", "log"))
    found = json.loads(desk.run("list", "--json")[1])
    (alert,) = found["alerts"]
    assert (alert["value"], alert["labels"], alert["silenced_by"]) == (500, {"topic": "predictions"}, "")
    assert found["receivers"] == [{"receiver": "log", "waiting": 0, "problem": ""}]


def test_history_tells_what_changed_newest_first(desk: Desk) -> None:
    raised(desk)
    desk.metrics.assigned(set())
    desk.engine.round(0, True)
    rows = json.loads(desk.run("history", "--json")[1])
    assert [one["state"] for one in rows] == ["resolved", "firing"]
    assert rows[0]["alert_id"] == rows[1]["alert_id"]
    assert datetime.fromisoformat(rows[0]["changed_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    assert json.loads(desk.run("history", "--rule", "it's", "--json")[1]) == []
    assert "500 behind on predictions" in desk.run("history", "--rule", "behind")[1]
    assert desk.run("history", "--since", "soon")[0] == 2


def test_a_silence_is_made_seen_and_ended(desk: Desk) -> None:
    raised(desk)
    code, out, err = desk.run("silence", "rule=behind", "--for", "1h", "--comment", "moving", "--by", "me", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert (made["matchers"], made["comment"], made["author"]) == (["rule=behind"], "moving", "me")
    _, out, err = desk.run("list")
    assert "firing (silenced)" in out
    assert f"silence {made['silence_id']} until {made['until']} on rule=behind: moving (me)" in err
    assert desk.run("unsilence", made["silence_id"])[2] == f"silence {made['silence_id']} has ended\n"
    assert json.loads(desk.run("list", "--json")[1])["silences"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("silence", "behind", "--comment", "x"), "matcher 'behind': expected NAME=VALUE"),
        (("silence", "rule=~(", "--comment", "x"), "no regular expression"),
        (
            ("silence", "rule=a", "--comment", "x", "--for", "long"),
            "--for: expected a duration such as '48h'",
        ),
        (("silence", "rule=a", "--comment", "x", "--for", "300d"), "a silence lasts up to 90 days"),
        (("silence", "rule=a", "--comment", " ", "--by", "me"), "comment: say why"),
        (("silence", "region=", "--comment", "x"), "does not fit an alert without labels"),
        (("unsilence", "no/such"), "not found"),
        (("unsilence", "nosuch"), "no silence 'nosuch' holds; `penstock alerts list` names those that do"),
        (("test", "nowhere.toml"), "nowhere.toml cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_line(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = desk.run(*arguments)
    assert (code, out) == (2, "")
    assert said.lower() in err.lower()
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1


def test_rules_are_tried_those_in_use_and_those_of_a_file(desk: Desk, tmp_path: Path) -> None:
    desk.metrics.lag("predictions", 0, 300)
    code, out, _ = desk.run("test")
    assert (code, "300 behind on predictions" in out) == (0, True)
    file = tmp_path / "mine.toml"
    file.write_text('[[rules]]\nname = "mine"\nwhen = "> 0"\nsql = "SELECT nothing AS value"\n')
    code, out, _ = desk.run("test", str(file), "--send", "--json")
    found = json.loads(out)
    assert code == 1, "a rule that cannot be looked at is a failure"
    assert "nothing" in found["rules"][0]["error"]
    assert found["receivers"] == [{"receiver": "log", "error": ""}]
    file.write_text('[[rules]]\nname = "mine"\nwhen = "> 0"\n')
    code, _, err = desk.run("test", str(file))
    assert (code, "mine.toml: rules[0] (mine): it names no metric" in err) == (2, True)


@pytest.mark.parametrize(
    "wish", [{"matchers": "x"}, {"matchers": ["rule=a"]}, {"matchers": ["rule=a"], "seconds": True}]
)
def test_a_silence_that_is_asked_for_wrongly_is_a_400_that_names_the_key(desk: Desk, wish: dict[str, Any]) -> None:
    answer = httpx.post(f"{desk.url}/api/alerts/silences", json=wish)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(("matchers: ", "seconds: "))


def test_a_form_of_another_site_and_another_machine_change_nothing(desk: Desk) -> None:
    wish = json.dumps({"matchers": ["rule=a"], "seconds": 60, "comment": "x", "author": "y"})
    answer = httpx.post(f"{desk.url}/api/alerts/silences", content=wish, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400
    registry = CollectorRegistry()
    app = create_app(ReadOnlySql.__new__(ReadOnlySql), Health(), registry)
    alert_desk.serve(app, desk.engine)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app, client=("10.1.2.3", 999))
        async with httpx.AsyncClient(transport=transport, base_url="http://warehouse") as client:
            return [
                (await client.post("/api/alerts/silences", json={})).status_code,
                (await client.post("/api/alerts/test", json={"send": True})).status_code,
                (await client.request("DELETE", "/api/alerts/silences/x", json={})).status_code,
                (await client.get("/api/alerts")).status_code,
            ]

    assert asyncio.run(ask()) == [403, 403, 403, 200]
    assert desk.engine.standing().silences == ()


def test_the_threads_judge_tell_and_end(alerts_warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    warehouse, registry, health = alerts_warehouse, CollectorRegistry(), Health()
    IngestMetrics(registry).lag("predictions", 0, 500)
    told = receivers_of(AlertSettings(group_wait_seconds=0))
    readonly = ReadOnlySql(warehouse.another())
    sampler = Sampler(warehouse, readonly, figures_in(registry))
    engine = AlertEngine((RULE,), sampler, AlertHistory(warehouse), NoReports(), told, AlertMetrics(registry))
    ended: list[str] = []
    with caplog.at_level("WARNING", "penstock.alerts"):
        with AlertWatch(engine, 0.05, closing=lambda: ended.append("closed"), beat=health.beat):
            while not any("500 behind" in one.getMessage() for one in caplog.records):
                pass
        assert health.alive() == (True, {"alerts": "ok", "alerts-log": "ok"})
    assert ended == ["closed"]
    assert warehouse.query("SELECT count() FROM alert_events FINAL WHERE delivered['log'] != ''").scalar() == 1
    readonly.close()


def test_without_an_interval_nothing_is_judged(alerts_warehouse: Warehouse) -> None:
    warehouse, registry = alerts_warehouse, CollectorRegistry()
    readonly = ReadOnlySql(warehouse.another())
    sampler = Sampler(warehouse, readonly, figures_in(registry))
    engine = AlertEngine((RULE,), sampler, AlertHistory(warehouse), NoReports(), {}, AlertMetrics(registry))
    with AlertWatch(engine, 0):
        assert engine.standing().leads is False
    assert registry.get_sample_value("penstock_alert_leader") == 0
    readonly.close()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PENSTOCK_ALERTS__ALERTMANAGER": '["am:9093"]'}, "PENSTOCK_ALERTS__ALERTMANAGER: expected http(s)://host"),
        ({"PENSTOCK_ALERTS__ALERTMANAGER": '["http://a", "http://a"]'}, "an Alertmanager is there twice"),
        ({"PENSTOCK_ALERTS__WEBHOOKS__LOG__URL": "http://x"}, "'log' is no name for a webhook"),
        ({"PENSTOCK_ALERTS__WEBHOOKS__TEAM__URL": "ftp://x"}, "PENSTOCK_ALERTS__WEBHOOKS__TEAM__URL: expected http"),
        ({"PENSTOCK_ALERTS__WEBHOOKS__TEAM__FORM": "json"}, "alerts.webhooks.team.url"),
        ({"PENSTOCK_ALERTS__REPEAT_SECONDS": "5"}, "PENSTOCK_ALERTS__REPEAT_SECONDS"),
        ({"PENSTOCK_ALERTS__RULE": "x"}, "PENSTOCK_ALERTS__RULE: no such key; did you mean rules?"),
        ({"PENSTOCK_ALERTS__LINK": "here"}, "PENSTOCK_ALERTS__LINK: expected http"),
    ],
)
def test_a_setting_that_is_wrong_names_its_key(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ=environment, stack=False)
    assert said in str(caught.value)


def test_the_address_of_a_webhook_is_nobodys_business(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(
        '[alerts.webhooks.team]\nurl = "https://hooks.example.org/topsecret"\nform = "slack"\n'
        'headers = { Authorization = "Bearer topsecret" }\n'
    )
    settings = load(file, environ={}, stack=False)
    assert settings.alerts.webhooks["team"].url.endswith("topsecret")
    assert "topsecret" not in str(settings)
    assert "'form': 'slack'" in str(settings)
    assert list(receivers_of(settings.alerts)) == ["team", "log"]
    child = load(environ=settings.environment(), stack=False)
    assert child.alerts == settings.alerts, "what `penstock up` was told is what ingest is told"
