"""An ingest process that kills itself in a chosen gap, and the reader of what it left. Run by test_ingest_crash.py.

`ingest_process.py run JSON` ingests until SIGTERM; `ingest_process.py query FOLDER DATABASE SQL` prints the rows as
JSON. A chDB folder belongs to one process at a time, so reading takes a process too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from analytics.migrate import migrate
from analytics.warehouse import Warehouse, WarehouseConfig
from schemas.codec import Codec
from schemas.topics import Topics
from stream_workers.ingest import Ingest, KafkaConfigs
from stream_workers.ingest_blocks import Block, BlockLimits
from stream_workers.ingest_sink import Sink, WarehouseSink


def die() -> None:
    """As kill -9 does it."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingSink:
    """Dies around the `countdown`-th block of predictions: "planned", before the insert; "inserted", after it."""

    def __init__(self, inner: Sink, gap: str, countdown: int) -> None:
        self._inner, self._gap, self._countdown = inner, gap, countdown

    def landed(self, table: str, log: str, partition: int, first: int, last: int | None = None) -> Sequence[int]:
        """As the real one."""
        return self._inner.landed(table, log, partition, first, last)

    def write(self, block: Block, *, suspect: bool) -> None:
        """As the real one, unless it is time to die."""
        self._countdown -= block.table == "predictions" and bool(block.records)
        last = self._countdown == 0
        if last and self._gap == "planned":
            die()
        self._inner.write(block, suspect=suspect)
        if last and self._gap == "inserted":
            die()


class DyingWarehouse(Warehouse):
    """Dies when the first of several pieces of a block is in ("part")."""

    pieces = 0

    def insert(self, table: str, rows: pa.Table, token: str = "") -> None:
        """As the real one."""
        super().insert(table, rows, token)
        self.pieces += table == "predictions"
        if self.pieces == 3:
            die()


def run(wish: dict[str, Any]) -> None:
    """Ingest as the wish says."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    kind = DyingWarehouse if wish["gap"] == "part" else Warehouse
    warehouse = kind.open(WarehouseConfig(path=wish["folder"], url=wish.get("url", ""), database="pen"))
    migrate(warehouse)
    sink: Sink = WarehouseSink(warehouse)
    if wish["gap"] in ("planned", "inserted"):
        sink = DyingSink(sink, wish["gap"], 2)
    kafka = KafkaConfigs(wish["client"], wish["consumer"], wish["client"])
    limits = BlockLimits(rows=wish.get("rows", 1000), seconds=wish.get("seconds", 0.5))
    Ingest(kafka, Codec(), Topics(wish["prefix"]), sink, limits=limits).run(stop)
    warehouse.close()


def query(folder: str, database: str, sql: str) -> None:
    """Print the rows."""
    with Warehouse.open(WarehouseConfig(path=folder, database=database)) as warehouse:
        print(json.dumps(warehouse.query(sql).rows, default=str))


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(json.loads(sys.argv[2]))
    else:
        query(*sys.argv[2:5])
