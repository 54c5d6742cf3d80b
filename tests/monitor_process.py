"""A real `penstock monitor` process, and somebody who writes summaries for it and reads what it says."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from service_process import ServiceProcess
from waiting import until

from penstock.brokers import LocalBroker, free_port
from penstock.child import spawn
from schemas.codec import Codec
from schemas.partitioning import PARTITIONER
from schemas.records import Alert, BatchSummary
from schemas.topics import Topics

ROOT = Path(__file__).parent.parent


class MonitorProcess(ServiceProcess):
    """`penstock monitor` until `stop`, or until it is killed; its log is a file."""

    def __init__(self, broker: LocalBroker, topics: Topics, store: Path, folder: Path, **more: str) -> None:
        port = free_port()
        log = folder / f"monitor-{uuid.uuid4().hex[:6]}.log"
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
        arguments = [sys.executable, "-m", "penstock", "monitor", "--port", str(port)]
        super().__init__(spawn(arguments, log, env=env), port, log)


class Log:
    """Writes summaries in transactions, as workers do, and reads every record of the topic of alerts ever written."""

    def __init__(self, broker: LocalBroker, topics: Topics) -> None:
        self._topics = topics
        self._codec = Codec()
        plain = {"bootstrap.servers": broker.address, "log_level": 0}
        self._producer = Producer({**plain, "partitioner": PARTITIONER, "transactional.id": f"{topics.prefix}log"})
        self._producer.init_transactions(30)
        # Of a topic that is being created a broker may say nothing yet, and librdkafka then goes by the reset policy.
        own = {"group.id": uuid.uuid4().hex, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        self._consumer = Consumer({**plain, **own})
        until(lambda: self._is_there(topics.alerts), 10, f"the broker does not answer for {topics.alerts}")
        self._consumer.assign([TopicPartition(topics.alerts, 0, OFFSET_BEGINNING)])
        self._alerts: list[Alert] = []

    def _is_there(self, topic: str) -> bool:
        """Whether the partition's leader answers for it."""
        try:
            return self._consumer.get_watermark_offsets(TopicPartition(topic, 0), 5) is not None
        except KafkaException:
            return False

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
            assert message.error() is None, message.error()
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
