"""`penstock topics` against brokers: creates what is missing, leaves the rest alone, says so."""

from __future__ import annotations

import json
import uuid
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from penstock.brokers import LocalBroker
from penstock.cli import build
from producers.publisher import create_topics
from schemas.topics import Topics, topic_specs

pytestmark = pytest.mark.kafka


def test_missing_topics_are_created_and_a_second_run_creates_none(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"t{uuid.uuid4().hex[:10]}."
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", broker.address)
    monkeypatch.setenv("PENSTOCK_KAFKA__TOPIC_PREFIX", prefix)
    monkeypatch.setenv("PENSTOCK_KAFKA__PARTITIONS", "3")
    specs = {spec.name: spec for spec in topic_specs(Topics(prefix), 3)}

    first = CliRunner().invoke(build(), ["topics", "--json"])
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout) == [{"topic": name, "created": True} for name in specs]
    there = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=10).topics
    assert {name: len(there[name].partitions) for name in specs} == {
        name: spec.partitions for name, spec in specs.items()
    }

    second = CliRunner().invoke(build(), ["topics"])
    assert (second.exit_code, second.stdout) == (0, "")
    assert second.stderr.splitlines() == [f"exists  {name}" for name in specs]


def test_a_broker_that_is_not_there_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("producers.publisher.create_topics", partial(create_topics, timeout=1.0))
    result = CliRunner().invoke(build(), ["topics", "--json"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1
