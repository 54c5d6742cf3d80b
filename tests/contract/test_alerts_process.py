"""`penstock ingest` hears the topic of alerts, judges and tells: killed in between, everybody is told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ingest_kafka import committed, send
from prometheus_programs import Hook, free_port
from waiting import until

from penstock.brokers import LocalBroker
from schemas.records import Alert
from schemas.topics import Topics

ROOT = Path(__file__).parent.parent.parent
PENSTOCK = [sys.executable, "-m", "penstock"]
RULES = """
[[rules]]
name = "monitor-is-alarmed"
metric = "monitor_alerts"
when = "> 0"
summary = "{value:.0f} alerts of {monitor_rule}"
"""
NOTED = "SELECT count() FROM alert_events FINAL WHERE delivered['test'] != '' AND delivered['log'] != ''"
pytestmark = pytest.mark.kafka


class Process:
    """`penstock ingest` with rules and a webhook of the test's own; it may be killed and started again."""

    def __init__(self, broker: LocalBroker, topics: Topics, hook: Hook, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        (folder / "rules.toml").write_text(RULES)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": broker.address,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": topics.prefix,
            "PENSTOCK_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "PENSTOCK_CLICKHOUSE__PATH": str(folder / "chdb"),
            "PENSTOCK_HTTP__WAREHOUSE_PORT": str(self.port),
            "PENSTOCK_ALERTS__RULES": str(folder / "rules.toml"),
            "PENSTOCK_ALERTS__WATCH_SECONDS": "0.2",
            "PENSTOCK_ALERTS__GROUP": f"{topics.prefix}alerts",
            "PENSTOCK_ALERTS__WEBHOOKS__TEST__URL": hook.url,
            "PENSTOCK_ALERTS__GROUP_WAIT_SECONDS": "0",
            "PENSTOCK_ALERTS__GROUP_INTERVAL_SECONDS": "0",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*PENSTOCK, "ingest"], env=self.environment, stderr=log, cwd=self.folder)
        until(self._answers, 40, "ingest does not answer")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def stop(self) -> int:
        if self._process is None:
            return 0
        self._process.terminate()
        return self._process.wait(30)

    def penstock(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PENSTOCK, *arguments], env=self.environment, capture_output=True, text=True, cwd=self.folder, check=False
        )

    def ask(self, sql: str) -> object:
        return httpx.post(f"http://127.0.0.1:{self.port}/sql", content=sql).json()["rows"]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as made:
        yield made


@pytest.fixture
def process(broker: LocalBroker, topics: Topics, hook: Hook, tmp_path: Path) -> Iterator[Process]:
    made = Process(broker, topics, hook, tmp_path)
    yield made
    made.stop()


def report(state: str, at: int) -> Alert:
    return Alert(
        alert_id="guardrail-1",
        rule="guardrail",
        state=state,
        raised_at=at,
        severity="critical",
        source="monitor",
        labels={"model": "a"},
        summary="p99 over its limit",
    )


# Kafka alone: that offsets are kept over a kill is its part of the promise.
@pytest.mark.parametrize("broker", [pytest.param("apache", marks=pytest.mark.apache)], indirect=True)
def test_a_report_is_told_once_though_the_process_is_killed_and_the_report_comes_twice(
    process: Process, broker: LocalBroker, topics: Topics, hook: Hook
) -> None:
    def told() -> Counter[tuple[str, str]]:
        return Counter((one["rule"], one["state"]) for body in list(hook.bodies) for one in body["alerts"])

    raised = time.time_ns() // 1000 - 10_000_000
    send(broker.address, topics.alerts, [report("firing", raised), b"no Avro"], partitions=1)
    process.start()
    both = {("guardrail", "firing"): 1, ("monitor-is-alarmed", "firing"): 1}
    until(lambda: told() == both, 60, "not both were told")
    group = process.environment["PENSTOCK_ALERTS__GROUP"]
    until(lambda: committed(broker.address, group, topics.alerts, [0]) == {0: 2}, 30, "offsets were not committed")
    listed = process.penstock("alerts", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {one["rule"]: sorted(one["delivered"]) for one in json.loads(listed.stdout)["alerts"]} == {
        "guardrail": ["log", "test"],
        "monitor-is-alarmed": ["log", "test"],
    }

    # Killed before it has noted whom it told it would tell them again, as the page says.
    until(lambda: process.ask(NOTED) == [[2]], 30, "it was not noted who was told")
    process.kill()
    again = [report("firing", raised), report("resolved", raised + 9_000_000)]
    send(broker.address, topics.alerts, again, partitions=1)
    process.start()
    until(lambda: len(told()) == 4, 60, "nobody was told of the end")
    assert told() == {**both, ("guardrail", "resolved"): 1, ("monitor-is-alarmed", "resolved"): 1}
    history = process.penstock("alerts", "history", "--json")
    assert history.returncode == 0, history.stderr
    rows = [(one["rule"], one["state"], one["source"]) for one in json.loads(history.stdout)]
    assert sorted(rows) == [
        ("guardrail", "firing", "monitor"),
        ("guardrail", "resolved", "monitor"),
        ("monitor-is-alarmed", "firing", "rule"),
        ("monitor-is-alarmed", "resolved", "rule"),
    ]
    metrics = httpx.get(f"http://127.0.0.1:{process.port}/metrics").text
    assert "penstock_alert_leader 1.0" in metrics
    assert process.stop() == 0
    said = (process.folder / "log").read_text()
    assert "the record at offset 1 cannot be read and is left out" in said
