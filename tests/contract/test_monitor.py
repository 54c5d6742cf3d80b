"""The live monitor beside real workers: a variant that does harm is stopped, and everybody obeys within seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from monitor_process import Log, MonitorProcess, evidence
from onnx_models import node, write
from waiting import until
from worker_process import Scene

from analytics.definition_reader import from_toml
from models.batching import BatchLimits
from models.registry import ModelStore
from penstock.brokers import LocalBroker
from penstock.experiments import Experiments
from penstock.settings import KafkaSettings
from producers.control import ControlTopic
from producers.publisher import create_topics
from schemas.codec import Codec
from schemas.codes import Code
from schemas.topics import Topics

DEFINITION = """
name = "worse"
hypothesis = "A shorter table does as well."
model = "pick"
control = "plain"
[[variants]]
name = "plain"
version = "1"
share = "50%"
[[variants]]
name = "short"
version = "2"
share = "50%"
[[metrics]]
name = "bought"
kind = "proportion"
outcome = "purchase"
mde = "10%"
"""
USERS = [f"user {number}" for number in range(60)]
LIMITS = {"MONITOR__MIN_ROWS": "40", "MONITOR__WINDOW_SECONDS": "6", "MONITOR__PANE_SECONDS": "1"}


def pick_store(root: Path, scratch: Path) -> ModelStore:
    """pick 1 and 2: y [rows] = table[x [rows]]; the table of 2 has one entry, so that x = 1 raises there."""
    store = ModelStore(root)
    for version, table in (("1", [10.0, 20.0]), ("2", [10.0])):
        path = write(
            scratch / f"pick{version}.onnx",
            [node("Gather", ["table", "x"], ["y"])],
            [("x", "INT64", ("rows",))],
            [("y", "FP32", ("rows",))],
            {"table": np.array(table, np.float32)},
        )
        store.add_onnx("pick", version, path, batching=BatchLimits(max_rows=64))
    return store


class Traffic:
    """Every user asks again and again; `value` is what they ask. Notes who was answered by which version when."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.value = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent: list[tuple[float, str, str, int]] = []

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            x = {"x": np.array([self.value], np.int64)}
            requests = [self.scene.request("pick", x, user_id=user, experiment="worse") for user in USERS]
            now = time.monotonic()
            self.scene.spread(requests)
            self.sent += [(now, one.user_id, one.request_id, self.value) for one in requests]

    def round_after(self, moment: float) -> dict[str, str]:
        """The version that answered each user in the last round whose answers are all there; empty where none is."""
        rounds: dict[float, list[tuple[str, str]]] = {}
        for at, user, request_id, _ in self.sent[-20 * len(USERS) :]:
            if at > moment:
                rounds.setdefault(at, []).append((user, request_id))
        for at in sorted(rounds, reverse=True):
            own = rounds[at]
            answers = [self.scene.answers.get(request_id) for _, request_id in own]
            if len(own) == len(USERS) and all(answers):
                return {
                    user: one[0].reply.version if one[0].reply.code is Code.OK else "failed"
                    for (user, _), one in zip(own, answers, strict=True)
                    if one
                }
        return {}

    @contextmanager
    def flowing(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


@pytest.mark.kafka
def test_a_variant_that_fails_is_stopped_and_every_worker_obeys_within_ten_seconds(
    broker: LocalBroker, tmp_path: Path
) -> None:
    topics = Topics(prefix=f"m{time.time_ns():x}.")
    create_topics(broker.address, topics, 2)
    (tmp_path / "onnx").mkdir()
    store = pick_store(tmp_path / "store", tmp_path / "onnx")
    (tmp_path / "worse.toml").write_text(DEFINITION, "utf-8")
    control = ControlTopic(KafkaSettings(bootstrap_servers=broker.address).client(), Codec(), topics.control)
    experiments = Experiments(control, store, lambda: time.time_ns() // 1000)
    experiments.create(from_toml(tmp_path / "worse.toml"), "worse.toml")
    experiments.start("worse")
    scene, log = Scene(broker, topics, store.root, tmp_path), Log(broker, topics)
    monitor = MonitorProcess(broker, topics, store.root, tmp_path, **LIMITS)
    try:
        workers = [scene.start_worker(name) for name in ("w1", "w2")]
        for worker in workers:
            worker.await_ready()
        monitor.await_ready()
        traffic = Traffic(scene)
        with traffic.flowing():
            until(lambda: set(traffic.round_after(0).values()) == {"1", "2"}, 30, lambda: str(traffic.round_after(0)))
            assert log.alerts() == []
            traffic.value = 1
            harm = time.monotonic()
            until(lambda: "failed" in traffic.round_after(harm).values(), 10, lambda: "nothing fails")
            until(
                lambda: set(traffic.round_after(harm).values()) == {"1"},
                10,
                lambda: f"{traffic.round_after(harm)} {log.alerts()} {monitor.log.read_text()}",
            )
            took = time.monotonic() - harm
            assert took < 10, f"everybody obeys after {took:.1f} s"
        until(lambda: len(log.alerts()) > 0, 10, lambda: f"no alert: {monitor.log.read_text()}")
        fired = log.alerts()[0]
        assert (fired.rule, fired.state) == ("error_rate", "firing")
        assert fired.labels == {"model": "pick", "version": "2", "experiment": "worse", "variant": "short"}
        assert evidence(fired)["stopped"] == [
            "pick 1 (plain) is the default",
            "worse assigns nobody any more",
            "worse has stopped",
        ]
        assert all(worker.metric("penstock_requests_total", code="OK") > 0 for worker in workers)
        until(lambda: len(log.alerts()) == 2, 20, lambda: str(log.alerts()))
        assert log.alerts()[1].state == "resolved"
        assert log.alerts()[1].alert_id == fired.alert_id
        assert monitor.metric("penstock_monitor_stops_total", outcome="done") == 1
        assert monitor.metric("penstock_monitor_alerts_total") == 2
        assert monitor.get("/healthz")[0] == 200
        print(f"{broker.name}: everybody obeyed {took:.1f} s after the first failing request was sent")
    finally:
        with suppress(Exception):
            log.close()
        scene.close()
        assert monitor.stop() == 0, monitor.log.read_text()
