"""ClickHouse behind HTTP goes away, comes back, hangs up: ingest stays in its group and loses nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ingest_kafka import committed, send
from ingest_threads import ingesting
from prediction_batches import batch
from waiting import until

from analytics.migrate import migrate
from analytics.warehouse import Warehouse, WarehouseConfig, WarehouseError
from penstock.brokers import LocalBroker
from schemas.topics import Topics
from stream_workers.ingest_sink import WarehouseSink
from stream_workers.ops_health import Health

pytestmark = [pytest.mark.kafka]


class Server:
    """The HTTP front over chDB in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        front = Path(__file__).parent.parent / "clickhouse_front.py"
        command = [sys.executable, str(front), str(self._folder), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[1])

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def misbehave(self, mode: str, times: int = 1, seconds: float = 0.0) -> None:
        httpx.post(f"{self.url}/_front", json={"mode": mode, "times": times, "seconds": seconds}).raise_for_status()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "chdb")
    one.start()
    yield one
    one.kill()


def count(warehouse: Warehouse) -> int:
    try:
        return int(warehouse.query("SELECT count() FROM predictions").scalar())
    except WarehouseError:
        return -1


def test_ingest_rides_out_a_clickhouse_that_goes_and_comes(server: Server, broker: LocalBroker, topics: Topics) -> None:
    config = WarehouseConfig(url=server.url, database="pen", timeout=5)
    warehouse = Warehouse.open(config)
    migrate(warehouse)
    health = Health()
    group = f"{topics.prefix}ingest"
    with ingesting(broker.address, topics, WarehouseSink(warehouse.another()), rows=30, health=health):
        send(broker.address, topics.predictions, [batch(number) for number in range(40)])
        until(lambda: count(warehouse) == 120, 40, "nothing arrived while all was well")

        server.misbehave("lose", times=3)
        send(broker.address, topics.predictions, [batch(number) for number in range(40, 80)])
        until(lambda: count(warehouse) >= 240, 40, "blocks whose answer was lost did not arrive")

        server.kill()
        send(broker.address, topics.predictions, [batch(number) for number in range(80, 160)])
        until(lambda: not health.ready()[0], 20, "ingest did not notice that ClickHouse is away")
        assert "cannot be reached" in health.ready()[1]["warehouse"]
        time.sleep(8)  # longer than the group's session timeout of 6 s: it would be thrown out if it did not poll
        server.start()
        until(lambda: count(warehouse) >= 480, 40, "ingest did not go on when ClickHouse was back")
        until(lambda: health.ready()[0], 20, "ingest does not say that all is well again")

        server.misbehave("refuse", times=3)
        send(broker.address, topics.predictions, [batch(number) for number in range(160, 200)])
        until(lambda: count(warehouse) >= 600, 40, "refused blocks did not arrive")
        until(lambda: committed(broker.address, group, topics.predictions) == dict.fromkeys(range(4), 50), 20, "commit")
    assert count(warehouse) == 600
    assert warehouse.query("SELECT sum(duplicated_rows), count() FROM prediction_fates").rows == ((0, 600),)
    assert warehouse.query("SELECT sum(rows) FROM predictions_per_minute").scalar() == 600
