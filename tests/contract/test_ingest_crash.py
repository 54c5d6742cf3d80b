"""kill -9 of ingest in every gap between plan, insert and commit leaves each row in ClickHouse exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ingest_kafka import client, committed, consumer, send
from prediction_batches import DAY, NOON, batch
from waiting import until

from penstock.brokers import LocalBroker
from schemas.topics import Topics

HERE = Path(__file__).parent
BATCHES = 48
ROWS = 5
EXACT = """
    SELECT count(), uniqExact(request_id), (SELECT sum(rows) FROM predictions_per_minute),
           (SELECT sum(latency_sum) FROM predictions_per_minute), sum(dateDiff('microsecond', sent_at, scored_at))
    FROM predictions SETTINGS optimize_use_projections = 0
"""
PROJECTED = "SELECT sum(rows) FROM predictions_per_minute SETTINGS force_optimize_projection = 1"

pytestmark = [pytest.mark.kafka]


def spawn(*arguments: str) -> subprocess.Popen[str]:
    root = HERE.parent.parent
    return subprocess.Popen(
        [sys.executable, str(HERE / "ingest_process.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def ask(folder: Path, sql: str) -> list[Any]:
    done = spawn("query", str(folder), "pen", sql)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err[-2000:]
    rows: list[Any] = json.loads(out)
    return rows


def test_a_kill_in_each_gap_leaves_every_row_once_in_table_and_roll_up(
    broker: LocalBroker, topics: Topics, tmp_path: Path
) -> None:
    folder, group = tmp_path / "chdb", f"{topics.prefix}ingest"
    wish = {
        "folder": str(folder),
        "prefix": topics.prefix,
        "client": client(broker.address),
        "consumer": consumer(broker.address, group),
    }
    # Neighbours in a partition lie on different days, so that every block comes in two pieces.
    batches = [batch(number, ROWS, scored_at=NOON + (number // 4 % 2) * DAY) for number in range(BATCHES)]
    send(broker.address, topics.predictions, batches)

    before = 0
    # Each run would cut other blocks than the one before, if it did not know what that had planned or inserted.
    for gap, records in (("planned", 3), ("part", 2), ("inserted", 4)):
        victim = spawn("run", json.dumps({**wish, "gap": gap, "rows": records * ROWS}))
        _, err = victim.communicate(timeout=90)
        assert victim.returncode == -9, f"{gap}: {err[-2000:]}"
        left = int(ask(folder, "SELECT count() FROM predictions")[0][0])
        assert before < left < BATCHES * ROWS, f"{gap}: the kill was to come in the middle"
        before = left

    heir = spawn("run", json.dumps({**wish, "gap": "", "rows": 3 * ROWS}))
    wanted = dict.fromkeys(range(4), BATCHES // 4)
    try:
        until(lambda: committed(broker.address, group, topics.predictions) == wanted, 60, "ingest did not get through")
    finally:
        heir.terminate()
        _, err = heir.communicate(timeout=30)
    assert heir.returncode == 0, err[-2000:]

    rows = BATCHES * ROWS
    assert ask(folder, EXACT) == [[rows, rows, rows, rows * 7000, rows * 7000]]
    assert ask(folder, PROJECTED) == [[rows]]
