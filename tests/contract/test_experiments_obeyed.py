"""`penstock experiments` over a real topic, and a real worker that obeys it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_topic import MemoryTopic
from typer.testing import CliRunner, Result
from worker_process import Scene

from analytics.definition_reader import from_toml
from models.registry import ModelStore
from models.routing import Router
from penstock.brokers import LocalBroker
from penstock.cli import build
from penstock.experiments import Experiments, states_of
from penstock.settings import KafkaSettings
from producers.control import ControlTopic
from schemas.codec import Codec
from schemas.topics import Topics

FILE = """
name = "doubled"
hypothesis = "Twice the sum sells more."
model = "sum"
control = "plain"

[[variants]]
name = "plain"
version = "1"
share = "10%"

[[variants]]
name = "double"
version = "2"
share = "10%"

[[metrics]]
name = "bought"
kind = "proportion"
outcome = "purchase"
mde = "10%"
"""


def penstock(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments))


def answer(*arguments: str) -> Any:
    result = penstock("experiments", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def place(
    broker: LocalBroker, topics: Topics, model_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a definition, and settings that name the test's topics; no warehouse answers."""
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", broker.address)
    monkeypatch.setenv("PENSTOCK_KAFKA__TOPIC_PREFIX", topics.prefix)
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(model_store))
    monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doubled.toml").write_text(FILE, "utf-8")
    return tmp_path


def variants(scene: Scene, users: list[str]) -> dict[str, str]:
    """What a worker gives each user just now."""
    requests = [
        scene.request("sum", {"x": np.ones((1, 3), np.float32)}, user_id=user, experiment="doubled") for user in users
    ]
    scene.spread(requests)
    scene.answers_to_all(requests)
    return {one.user_id: scene.fates[one.request_id][0].variant for one in requests}


@pytest.mark.kafka
def test_a_worker_obeys_start_ramp_and_stop(place: Path, empty_scene: Scene) -> None:
    scene = empty_scene
    worker = scene.start_worker().await_ready()
    users = [f"user {number}" for number in range(300)]

    def expected() -> dict[str, str]:
        states = states_of(ControlTopic(scene.broker.address, Codec(), scene.topics.control).entries())
        router = Router(one.assignment for one in states.values() if one.assignment)
        found = router.assign_many("doubled", users)
        return {user: one.name if one else "" for user, one in zip(users, found, strict=True)}

    def obeyed() -> dict[str, str]:
        """Once the worker has heard of it."""
        wanted = expected()
        scene.wait("the worker to obey", lambda: variants(scene, users) == wanted)
        return wanted

    created = answer("create", "doubled.toml")
    assert created["experiment"]["status"] == "created"
    assert set(variants(scene, users).values()) == {""}

    assert answer("start", "doubled")["experiment"]["status"] == "running"
    first = obeyed()
    assert set(first.values()) == {"", "plain", "double"}

    ramped = answer("ramp", "doubled", "plain=50%", "double=0.5")
    assert ramped["done"] == "experiment 'doubled' is ramped: plain 50%, double 50%"
    second = obeyed()
    assert "" not in second.values()
    assert all(second[user] == variant for user, variant in first.items() if variant)
    versions = Counter((fate.variant, fate.version) for fates in scene.fates.values() for fate in fates if fate.variant)
    assert set(versions) == {("plain", "1"), ("double", "2")}

    assert answer("stop", "doubled")["experiment"]["status"] == "stopped"
    assert set(obeyed().values()) == {""}

    assert answer("start", "doubled")["experiment"]["status"] == "running"
    assert obeyed() == second, "in the next run users meet what they met"
    assert worker.stop() == 0


@pytest.mark.kafka
def test_the_topic_in_memory_that_unit_tests_use_behaves_as_the_real_one(
    place: Path, broker: LocalBroker, topics: Topics, model_store: Path
) -> None:
    kafka = KafkaSettings(bootstrap_servers=broker.address)
    memory = MemoryTopic()
    real = ControlTopic(kafka.client(), Codec(), topics.control, now_us=memory.now)
    definition = from_toml(place / "doubled.toml")
    found = []
    for topic in (real, memory):
        memory.clock = 1_900_000_000_000_000
        ours = Experiments(topic, ModelStore(model_store), memory.now)
        ours.create(definition, "doubled.toml")
        ours.start("doubled")
        ours.ramp("doubled", {"plain": 0.3})
        ours.stop("doubled")
        topic.put("model", "sum", {"version": "2"})
        topic.put("experiment", "gone", "{}")
        topic.remove("experiment", "gone")
        found.append(topic.entries())
    assert found[0] == found[1]
    assert {kind for kind, _ in found[0]} == {"experiment", "experiment-plan", "model"}


def test_a_broker_that_is_not_there_is_one_line_and_exit_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("producers.control.ControlTopic.entries.__defaults__", (0.3,))
    result = penstock("experiments", "list")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "127.0.0.1:1" in result.stderr
