"""A real `penstock monitor` process, and somebody who writes summaries for it and reads what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from penstock.brokers import LocalBroker, free_port
from penstock.child import spawn
from schemas.codec import Codec
from schemas.partitioning import PARTITIONER
from schemas.records import Alert, BatchSummary
from schemas.topics import Topics

ROOT = Path(__file__).parent.parent


def until(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> float:
    """Wait for a condition that has no event to wait on; the seconds it took. Fails with `complaint` at the end."""
    began, pause = time.monotonic(), threading.Event()
    while not condition():
        assert time.monotonic() - began < seconds, f"after {seconds:.0f} s: {complaint()}"
        pause.wait(0.05)
    return time.monotonic() - began


class MonitorProcess:
    """`penstock monitor` until `stop`, or until it is killed; its log is a file."""

    def __init__(self, broker: LocalBroker, topics: Topics, store: Path, folder: Path, **more: str) -> None:
        self.port = free_port()
        self.log = folder / f"monitor-{uuid.uuid4().hex[:6]}.log"
        own = {
            "KAFKA__BOOTSTRAP_SERVERS": broker.address,
            "KAFKA__TOPIC_PREFIX": topics.prefix,
            "KAFKA__SESSION_TIMEOUT_MS": "6000",
            "MODELS__STORE": str(store),
            "STACK__STATE": str(folder / "no-stack"),
            **more,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        env = {**kept, "PYTHONPATH": str(ROOT), **{f"PENSTOCK_{name}": value for name, value in own.items()}}
        arguments = [sys.executable, "-m", "penstock", "monitor", "--port", str(self.port)]
        self.process = spawn(arguments, self.log, env=env)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def await_ready(self, seconds: float = 60.0) -> Self:
        """Return once /readyz says 200."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.get("/readyz")[0] == 200

        until(ready, seconds, lambda: f"not ready: {self.get('/readyz')} {self.log.read_text()}")
        return self

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if (
                match
                and match[1] == name
                and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")).items()
            ):
                total += float(match[3])
        return total

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Log:
    """Writes summaries in transactions, as workers do, and reads every record of the topic of alerts ever written."""

    def __init__(self, broker: LocalBroker, topics: Topics) -> None:
        self._topics = topics
        self._codec = Codec()
        plain = {"bootstrap.servers": broker.address, "log_level": 0}
        self._producer = Producer({**plain, "partitioner": PARTITIONER, "transactional.id": f"{topics.prefix}log"})
        self._producer.init_transactions(30)
        self._consumer = Consumer({**plain, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(topics.alerts, 0, OFFSET_BEGINNING)])
        self._alerts: list[Alert] = []

    def send(self, summaries: Iterable[BatchSummary], commit: bool = True) -> None:
        """All in one transaction."""
        self._producer.begin_transaction()
        for one in summaries:
            self._producer.produce(self._topics.summaries, self._codec.encode(one), one.model.encode())
        assert self._producer.flush(30) == 0
        if commit:
            self._producer.commit_transaction(30)
        else:
            self._producer.abort_transaction(30)

    def alerts(self) -> list[Alert]:
        """Every record so far, in order, those that compaction would take among them."""
        while (message := self._consumer.poll(0.1)) is not None:
            if message.error() is None:
                self._alerts.append(self._codec.decode(Alert, message.value()))
        return list(self._alerts)

    def close(self) -> None:
        self._consumer.close()


def batch(model: str, rows: int = 100, failed: int = 0, **more: Any) -> BatchSummary:
    """A batch scored now."""
    fields: dict[str, Any] = {
        "batch_id": uuid.uuid4().hex,
        "worker": "w",
        "device": "cpu",
        "version": "1",
        "experiment": "",
        "variant": "",
        "topic": "scoring.requests",
        "scored_at": time.time_ns() // 1000,
        "latency_histogram": (0, rows),
        "errors": {"INFERENCE_FAILED": failed} if failed else {},
    }
    return BatchSummary(model=model, requests=rows, rows=rows, **{**fields, **more})


def evidence(alert: Alert) -> dict[str, Any]:
    """What an alert carries besides."""
    found: dict[str, Any] = json.loads(alert.evidence)
    return found
