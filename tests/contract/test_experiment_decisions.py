"""An experiment on a running stack, from its start on control to the decision that the worker obeys."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from waiting import until

from analytics.definition_reader import read as read_definition
from analytics.definitions import PLAN_KIND, Plan
from analytics.experiment_state import microseconds
from models.routing import Experiment, Router
from penstock.cli import build
from penstock.commands.request import client_config
from penstock.demo import MODEL, VERSIONS
from penstock.experiment_verdict import EPOCH
from penstock.experiment_watch import control_topic
from penstock.flights.data import features, flights
from penstock.settings import ExperimentSettings, HttpSettings, Settings, StackSettings
from penstock.stack import LocalStack
from penstock.warehouse_client import dicts
from producers.client import ScoringClient
from producers.publisher import Publisher
from schemas.records import Outcome

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NAME = "exp"
USERS = 300


def experiment() -> Experiment:
    return Experiment.create(NAME, MODEL, dict.fromkeys(VERSIONS, 0.5), VERSIONS)


def plan() -> Plan:
    """Started now; slots of a second, windows of two, no minimum runtime: an answer within seconds."""
    body = {
        "name": NAME,
        "hypothesis": "mlp pleases more",
        "model": MODEL,
        "control": "logistic",
        "slot": "1s",
        "maturity_delay": "0s",
        "minimum_runtime": "0s",
        "test": {"kind": "always-valid"},
        "variants": [{"name": name, "version": version, "share": 0.5} for name, version in VERSIONS.items()],
        "metrics": [
            {"name": "pleased", "kind": "proportion", "outcome": "pleased", "window": "2s", "mde": "50%"},
            {"name": "errors", "kind": "mean", "prediction": "error", "window": "2s", "direction": "decrease"},
        ],
        "guardrails": [{"metric": "errors", "margin": 0.05}],
    }
    return Plan(read_definition(body, "test")).start(EPOCH.fromtimestamp(time.time(), EPOCH.tzinfo))


@dataclass
class Running:
    """A stack with one worker, and a client of it."""

    stack: LocalStack
    client: ScoringClient

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    def ask(self, user: str, name: str = NAME) -> tuple[str, str]:
        """Version and variant of an answer."""
        score = self.client.score_sync(MODEL, user_id=user, experiment=name, features=FLIGHT, timeout=20)
        return score.version, score.variant

    def rows(self, statement: str) -> list[dict[str, Any]]:
        return dicts(self.settings, statement)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(build(), ["experiments", *arguments])

    def outcomes(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.run("watch", *arguments, "--json")
        assert done.exit_code == 0, done.output
        found: list[dict[str, Any]] = json.loads(done.stdout)["outcomes"]
        return found


FLIGHT = features(next(iter(flights(date(2013, 4, 9), 1))))


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    state = tmp_path / "state"
    settings = Settings(
        stack=StackSettings(state=str(state)),
        http=HttpSettings(warehouse_port=0),
        experiments=ExperimentSettings(watch_seconds=0),  # looks are made when this test asks for them
    )
    monkeypatch.setenv("PENSTOCK_STACK__STATE", str(state))

    def begin(chosen: Settings) -> None:
        topic = control_topic(chosen)
        topic.put("experiment", NAME, experiment().to_json())
        topic.put(PLAN_KIND, NAME, plan().to_json())

    with LocalStack(settings, workers=1, prepare=begin) as stack:
        chosen = stack.settings
        with ScoringClient(client_config(chosen), chosen.codec(), chosen.kafka.topics) as client:
            yield Running(stack, client)


def please(running: Running) -> None:
    """Everybody asks; of the network's users two in three are pleased, of the others one in three."""
    router = Router([experiment()])
    users = [f"u{number}" for number in range(USERS)]
    topic = running.settings.kafka.topics.outcomes
    with Publisher(running.settings.kafka.client(), running.settings.codec()) as publisher:
        for number, user in enumerate(users):
            variant = router.assign(NAME, user)
            assert variant is not None
            assert running.ask(user) == (variant.version, variant.name)
            if number % 3 == 0 or (number % 3 == 1 and variant.name == "mlp"):
                now = microseconds()
                publisher.send(topic, Outcome(f"o{number}", user, "pleased", 1.0, now, experiment=NAME, sent_at=now))
    wanted = sum(one % 3 == 0 or (one % 3 == 1 and name == "mlp") for one, name in enumerate(map(_arm(router), users)))

    def there() -> bool:
        [row] = running.rows(
            "SELECT (SELECT count() FROM predictions WHERE experiment = 'exp') AS seen, "
            "(SELECT count() FROM outcomes) AS told"
        )
        return (int(row["seen"]), int(row["told"])) == (USERS, wanted)

    until(there, 60, "predictions and outcomes did not arrive in ClickHouse")


def _arm(router: Router) -> Callable[[str], str]:
    def arm(user: str) -> str:
        variant = router.assign(NAME, user)
        return variant.name if variant else ""

    return arm


def test_from_the_first_request_to_a_worker_that_serves_the_winner(running: Running) -> None:
    none = running.run("decide", NAME)
    assert (none.exit_code, none.stderr.startswith("penstock: experiment 'exp' has not been looked at")) == (2, True)
    please(running)
    # Nothing has been written yet; an unplanned look is made at once, planned ones are due each minute.
    looked: list[dict[str, Any]] = []

    def decided() -> bool:
        looked.extend(running.outcomes("--once", "--now"))
        return looked[-1]["decision"] == "ship"

    until(decided, 60, "the winner was not found")
    last = looked[-1]
    assert last["reason"].startswith("mlp is better than logistic on pleased: +")
    assert [one["look"] for one in looked] == list(range(1, len(looked) + 1))
    written = running.rows("SELECT look, metric, variant, decision FROM experiment_results ORDER BY look, metric")
    assert len(written) == 2 * len(looked)
    assert {(one["metric"], one["variant"], one["decision"]) for one in written if one["look"] == last["look"]} == {
        ("pleased", "mlp", "ship"),
        ("errors", "mlp", "ship"),
    }
    said = running.run("decide", NAME, "--json")
    assert json.loads(said.stdout)["winner"] == "mlp"
    assert json.loads(said.stdout)["applied"] is None
    assert running.ask("somebody", NAME) == running.ask("somebody", NAME), "asking alone changes nothing"

    done = running.run("decide", NAME, "--apply", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["applied"]) == 3
    until(lambda: running.ask("u0") == ("2", ""), 60, "the worker goes on assigning")
    assert {running.ask(f"u{number}") for number in range(20)} == {("2", "")}
    assert running.ask("a stranger", "") == ("2", "")
    before = control_topic(running.settings).entries()
    again = running.run("decide", NAME, "--apply")
    assert (again.exit_code, "it has been applied before" in again.stderr) == (0, True)
    assert control_topic(running.settings).entries() == before


def test_what_is_not_decided_is_not_applied_unless_somebody_says_why(running: Running) -> None:
    [one] = running.outcomes("--once", "--now")
    assert one["decision"] == "keep going"
    assert running.outcomes("--name", NAME, "--once")[0]["error"] == ""
    refused = running.run("decide", NAME, "--apply")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "penstock: experiment 'exp': there is nothing to apply of the decision 'keep going': "
        "wait for another one, or overrule it by --force WHY\n"
    )
    assert running.run("decide", NAME, "--force", "because").exit_code == 2
    assert running.run("decide", NAME, "--apply", "--force", "because", "--to", "nobody").exit_code == 2
    assert ("model", MODEL) not in control_topic(running.settings).entries()
    unknown = running.run("watch", "--once", "--name", "other")
    assert unknown.stderr == "penstock: there is no experiment 'other' that has been started\n"
    forced = running.run("decide", NAME, "--apply", "--force", "the vendor withdrew the network")
    assert forced.exit_code == 0, forced.output
    until(lambda: running.ask("u0") == ("1", ""), 60, "the worker did not roll back")
    entry = control_topic(running.settings).entries()["model", MODEL]
    assert entry.author == "penstock experiments decide, forced: the vendor withdrew the network"


def test_without_a_stack_watch_says_what_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_STACK__STATE", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", "1")
    done = CliRunner().invoke(build(), ["experiments", "watch", "--once"])
    assert done.exit_code == 1
    assert done.stderr.endswith("start it by `penstock up`\n")
    assert CliRunner().invoke(build(), ["experiments", "watch", "--every", "soon"]).stderr == (
        "penstock: --every: expected a duration such as '48h', got 'soon'\n"
    )
