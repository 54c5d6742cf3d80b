"""`penstock ingest` as its own process: it fills chDB, answers `penstock sql`, and stops cleanly on SIGTERM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ingest_kafka import committed, send
from prediction_batches import batch
from service_process import ServiceProcess
from waiting import until

from penstock.brokers import LocalBroker, free_port
from penstock.child import spawn
from schemas.topics import Topics

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.kafka]


def test_the_process_fills_answers_and_stops_cleanly(broker: LocalBroker, topics: Topics, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": broker.address,
        "PENSTOCK_KAFKA__TOPIC_PREFIX": topics.prefix,
        "PENSTOCK_KAFKA__SESSION_TIMEOUT_MS": "6000",
        "PENSTOCK_CLICKHOUSE__PATH": str(tmp_path / "chdb"),
        "PENSTOCK_HTTP__WAREHOUSE_PORT": str(port),
    }
    penstock = [sys.executable, "-m", "penstock"]
    send(broker.address, topics.predictions, [batch(number) for number in range(20)])
    log = tmp_path / "log"
    ingest = ServiceProcess(spawn([*penstock, "ingest"], log, env=environment, cwd=tmp_path), port, log)
    try:
        ingest.await_ready()
        wanted = dict.fromkeys(range(4), 5)
        until(lambda: committed(broker.address, "penstock-ingest", topics.predictions) == wanted, 40, "no progress")
        question = "SELECT count() AS n, uniqExact(request_id) AS u FROM predictions"
        done = subprocess.run(
            [*penstock, "sql", question, "--json"], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] == [[60, 60]]
        assert ingest.metric("penstock_ingest_rows_total", table="predictions") == 60.0
    finally:
        assert ingest.stop() == 0, log.read_text()
    assert '"message": "stopped"' in log.read_text()
