"""How long each page takes on ten million predictions: real requests over HTTP to the warehouse's application.

`python -m benchmarks.page` fills a chDB of its own with a week of predictions and their batches, serves the page, asks
for each page by turns and prints p50 and p99 in milliseconds as JSON (`--output FOLDER` writes it there). Nothing is
cached between two requests but what ClickHouse and the operating system keep.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry

from analytics.dashboard.sessions import Sessions
from analytics.migrate import migrate
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse, WarehouseConfig
from benchmarks.page_world import fill_drift
from models.registry import ModelStore
from penstock.page import Sources, serve_page
from penstock.page_access import Access
from penstock.page_guard import Guard
from penstock.page_models import versions_in
from penstock.settings import ModelSettings
from penstock.warehouse_app import AppServer, create_app
from stream_workers.ops_health import Health

THREADS: Final = 2
LIMIT_MS: Final = 300.0
_CHUNK: Final = 1_000_000
_BATCH: Final = 64
_DAYS: Final = 7
PAGES: Final = {
    "overview, 1 hour": "/?span=1h",
    "overview, 24 hours": "/?span=24h",
    "overview, 7 days": "/?span=7d",
    "experiments": "/experiments",
    "drift": "/drift",
    "alerts": "/alerts",
    "models": "/models",
    "console, an answer": "/console?query=SELECT+version,+count()+FROM+predictions+GROUP+BY+version",
}


def fill(warehouse: Warehouse, predictions: int, now: datetime) -> None:
    """Predictions of two versions, evenly over the week before `now`, 64 to a batch; one in 500 failed."""
    began = round((now - timedelta(days=_DAYS)).timestamp() * 1e6)
    step = (_DAYS * 86_400_000_000) // predictions
    for at in range(0, predictions, _CHUNK):
        count = min(_CHUNK, predictions - at)
        warehouse.command(
            f"""
            INSERT INTO predictions (request_id, row_number, user_id, model, version, experiment, variant, topic,
                partition, offset, sent_at, received_at, scored_at, code, score, features, batch_id, worker, device,
                log, log_partition, log_offset, log_time)
            WITH intDiv(number, {_BATCH}) AS batch, batch % 2 = 0 AS first,
                fromUnixTimestamp64Micro(toInt64({began} + (batch + 1) * {_BATCH} * {step}), 'UTC') AS moment
            SELECT 'r' || toString(number), 0, 'u' || toString(cityHash64(number) % 200000), 'm',
                if(first, '1', '2'), 'e', if(first, 'a', 'b'), 'scoring.requests', number % 8, number,
                moment - toIntervalMicrosecond(1000 + cityHash64(number, 2) % 9000),
                moment - toIntervalMicrosecond(600), moment,
                if(cityHash64(number, 5) % 500 = 0, 'DEADLINE_EXCEEDED', 'OK'),
                (cityHash64(number, 3) % 1000) / 1000, map('x', toFloat64(number % 97)), 'b' || toString(batch),
                'w' || toString(batch % 2), 'cpu', 'p@1', 0, number, moment + toIntervalMillisecond(60)
            FROM numbers({at}, {count})
            """,  # noqa: S608 - numbers of ours
        )
    warehouse.command(
        f"""
        INSERT INTO batch_summaries (* EXCEPT(batches, degraded, feature_histograms))
        WITH fromUnixTimestamp64Micro(toInt64({began} + (number + 1) * {_BATCH} * {step}), 'UTC') AS moment
        SELECT 'b' || toString(number), 'w' || toString(number % 2), 'cpu', 'm', if(number % 2 = 0, '1', '2'), 'e',
            if(number % 2 = 0, 'a', 'b'), 'scoring.requests', moment, {_BATCH}, {_BATCH}, 0,
            {_BATCH} * (400 + cityHash64(number) % 9000), {_BATCH} * (200 + cityHash64(number, 1) % 900),
            600 + cityHash64(number, 2) % 300, [], {_BATCH}, {_BATCH} / 2, {_BATCH} / 3, [], map(), 's@1', 0, number,
            moment + toIntervalMillisecond(60)
        FROM numbers({predictions // _BATCH})
        """,  # noqa: S608 - numbers of ours
    )


def measure(url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds by page, from the request to the last byte, over `rounds` requests by turns after one warm-up.

    `cpu_ms` is what this process worked meanwhile, all threads and the asking included: others on the machine disturb
    it less.
    """
    taken: dict[str, list[float]] = {name: [] for name in PAGES}
    worked: dict[str, list[float]] = {name: [] for name in PAGES}
    for number in range(rounds + 1):
        for name, path in PAGES.items():
            began, busy = time.perf_counter(), time.process_time()
            with urllib.request.urlopen(f"{url}{path}", timeout=120) as answer:  # noqa: S310 - our own address
                size = len(answer.read())
            spent = 1000 * (time.perf_counter() - began)
            if number:
                taken[name].append(spent)
                worked[name].append(1000 * (time.process_time() - busy))
            elif not size:
                raise RuntimeError(f"{path} answered nothing")
    return {
        name: {
            "p50_ms": round(float(np.quantile(some, 0.5)), 1),
            "p99_ms": round(float(np.quantile(some, 0.99)), 1),
            "cpu_ms": round(float(np.quantile(worked[name], 0.5)), 1),
        }
        for name, some in taken.items()
    }


def main() -> int:
    """Measure and print. Ends with 1 where the overview's median is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path, help="a folder for the result")
    options = parser.parse_args()
    now = datetime.now(UTC)
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        Warehouse.open(WarehouseConfig(path=folder, settings={"max_threads": str(THREADS)})) as warehouse,
    ):
        migrate(warehouse)
        fill(warehouse, options.predictions, now)
        fill_drift(warehouse, date(2013, 2, 1), 40)
        found = _measured(warehouse, options.rounds)
        parts = warehouse.query("SELECT count() FROM system.parts WHERE table = 'predictions' AND active").scalar()
        about = {
            "predictions": options.predictions, "parts": parts, "rounds": options.rounds, "pages": found,
            "clickhouse": warehouse.version(), "threads": THREADS, "cores": os.cpu_count(),
            "load_1m": round(os.getloadavg()[0], 2), "python": platform.python_version(), "limit_ms": LIMIT_MS,
        }  # fmt: skip
    text = json.dumps(about, indent=1) + "\n"
    sys.stdout.write(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"{now:%Y-%m-%d}-page.json").write_text(text, "utf-8")
    slow = [name for name, one in found.items() if name.startswith("overview") and one["p50_ms"] > LIMIT_MS]
    return 1 if slow else 0


def _measured(warehouse: Warehouse, rounds: int) -> dict[str, dict[str, float]]:
    sessions = Sessions(warehouse)
    store = ModelSettings().store
    access = Access(hosts=frozenset({"127.0.0.1"}))
    with warehouse.another() as session:
        sql = ReadOnlySql(session)
        app = create_app(sql, Health(), CollectorRegistry())
        serve_page(app, Sources(sessions, sql, access, versions_in(ModelStore(store)), store))
        with AppServer(Guard(app, access), "127.0.0.1", 0) as server:
            found = measure(server.url, rounds)
        sql.close()
    sessions.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
