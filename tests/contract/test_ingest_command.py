"""`penstock ingest` as its own process: it fills chDB, answers `penstock sql`, and stops cleanly on SIGTERM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from ingest_kafka import committed, send
from prediction_batches import batch
from waiting import until

from penstock.brokers import LocalBroker
from schemas.topics import Topics

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.kafka]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


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
    log = (tmp_path / "log").open("w+")
    ingest = subprocess.Popen([*penstock, "ingest"], env=environment, stderr=log, cwd=tmp_path)
    try:

        def ready() -> bool:
            assert ingest.poll() is None, (tmp_path / "log").read_text()[-2000:]
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, 40, "ingest did not become ready")
        wanted = dict.fromkeys(range(4), 5)
        until(lambda: committed(broker.address, "penstock-ingest", topics.predictions) == wanted, 40, "no progress")
        question = "SELECT count() AS n, uniqExact(request_id) AS u FROM predictions"
        done = subprocess.run(
            [*penstock, "sql", question, "--json"], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] == [[60, 60]]
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'penstock_ingest_rows_total{table="predictions"} 60.0' in metrics
    finally:
        ingest.terminate()
        assert ingest.wait(30) == 0
        log.close()
    assert '"message": "stopped"' in (tmp_path / "log").read_text()
