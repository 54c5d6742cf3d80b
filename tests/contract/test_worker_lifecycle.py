"""A worker starts ready or says why not, shares with others, tells what it does, and ends without a loose end."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer
from one_broker import on_one_broker
from worker_process import Scene, command, worker_environment

from models.importing import source_of
from models.registry import ModelStore, Registry
from models.session import DeviceError, Session
from models.signature import Signature, TensorSpec
from penstock.brokers import EmbeddedBroker, LocalBroker, free_port
from producers.publisher import create_topics
from schemas.codes import Code
from schemas.tensors import to_tensor
from schemas.topics import Topics

pytestmark = pytest.mark.kafka
ONES = {"x": np.ones((1, 3), np.float32)}


def run_to_its_end(address: str, topics: Topics, store: Path, port: str = "0", **more: str) -> tuple[int, str]:
    """Exit status and the last line of a worker that should not stay."""
    done = subprocess.run(
        command("worker", "--name", "w", *(["--port", port] if port else [])),
        env=worker_environment(address, topics, store, **more),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_metrics_health_and_readiness_tell_what_the_worker_does(scene: Scene) -> None:
    worker = scene.worker
    scene.ask(scene.request("sum", ONES, version="1"), scene.request("none", ONES))
    assert worker.get("/healthz")[0] == 200
    status, text = worker.get("/readyz")
    assert status == 200
    assert {"control", "models", "requests", "bulk"} <= json.loads(text)["reasons"].keys()
    assert "spoilt" in json.loads(text)["reasons"]["models"]
    assert worker.metric("penstock_requests_total", code="OK", model="sum", version="1") >= 1
    assert worker.metric("penstock_requests_total", code="UNKNOWN_MODEL") >= 1
    assert worker.metric("penstock_commits_total") >= 1
    assert worker.metric("penstock_device_info", device="cpu") == 1
    for name in ("queue_seconds", "batch_seconds", "inference_seconds", "batch_rows"):
        assert worker.metric(f"penstock_{name}_count", model="sum") >= 1, name
    assert worker.metric("penstock_publish_seconds_count") >= 1
    assert "penstock_lag" in worker.get("/metrics")[1]


def test_what_a_worker_writes_has_the_keys_that_the_reference_names(scene: Scene) -> None:
    scene.ask(scene.request("sum", ONES, version="1"))
    batch = scene.batch("sum", 1, version="1", inputs=(to_tensor("x", ONES["x"]),))
    scene.send(batch)
    scene.batch_answer(batch)
    topics = scene.topics
    wanted = {topics.predictions: b"w1", topics.summaries: b"sum", topics.bulk_results: batch.job.encode()}
    found: dict[str, set[bytes | None]] = defaultdict(set)
    reader = Consumer(
        {"bootstrap.servers": scene.broker.address, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    try:
        reader.subscribe(list(wanted))
        end = time.monotonic() + 30
        while not all(key in found[topic] for topic, key in wanted.items()):
            assert time.monotonic() < end, found
            for message in reader.consume(100, 0.5):
                found[str(message.topic())].add(message.key())
    finally:
        reader.close()
    assert found[topics.predictions] == {b"w1"}


def test_two_workers_share_and_one_that_leaves_takes_nothing_along(empty_scene: Scene) -> None:
    scene = empty_scene
    first = scene.start_worker("w1").await_ready()
    requests = [scene.request("sum", ONES, version="1", user_id=f"user {n}") for n in range(6_000)]
    scene.spread(requests[:2_000])
    second = scene.start_worker("w2").await_ready()
    scene.wait(
        "both to have partitions",
        lambda: all(worker.metric("penstock_rebalances_total") >= 1 for worker in (first, second)),
    )
    scene.spread(requests[2_000:4_000])
    assert first.stop() == 0
    scene.spread(requests[4_000:])
    scene.answers_to_all(requests)
    assert Counter(len(scene.fates[one.request_id]) for one in requests) == {1: len(requests)}


def test_sigterm_ends_a_worker_within_seconds_and_nothing_of_what_it_took_is_done_again(empty_scene: Scene) -> None:
    scene = empty_scene
    worker = scene.start_worker().await_ready()
    requests = [scene.request("sum", ONES, version="1", user_id=f"user {n}") for n in range(3_000)]
    scene.spread(requests)
    scene.wait("the first answers", lambda: len(scene.answers) > 0)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 12
    scene.start_worker("w2").await_ready()
    scene.answers_to_all(requests)
    assert Counter(len(scene.fates[one.request_id]) for one in requests) == {1: len(requests)}
    # At least once is promised for replies; a graceful end does not make use of it.
    assert Counter(len(scene.answers[one.request_id]) for one in requests) == {1: len(requests)}


def test_a_worker_without_bulk_leaves_batches_to_others(empty_scene: Scene) -> None:
    scene = empty_scene
    worker = scene.start_worker(WORKER__BULK="false").await_ready()
    assert "bulk" not in json.loads(worker.get("/readyz")[1])["reasons"]
    assert scene.ask(scene.request("sum", ONES, version="1"))[0].reply.code is Code.OK


@on_one_broker
def test_cuda_that_cannot_be_had_ends_the_worker_with_one_line(
    broker: LocalBroker, topics: Topics, model_store: Path
) -> None:
    signature = Signature((TensorSpec("x", "FP32", ("rows", 3)),), (TensorSpec("y", "FP32", ("rows", 1)),))
    try:
        Session.open(model_store / "sum" / "1" / "sum1.onnx", signature, "cuda")
    except DeviceError:
        pass
    else:
        pytest.skip("this machine has CUDA")
    status, line = run_to_its_end(broker.address, topics, model_store, MODELS__DEVICE="cuda")
    assert status == 1
    assert line.startswith("penstock: device cuda was asked for, and cannot be had")


def test_a_worker_over_an_empty_store_stays_out_of_the_group_until_there_is_a_model(
    empty_scene: Scene, tmp_path: Path
) -> None:
    scene = empty_scene
    full, empty = scene.store, tmp_path / "store"
    empty.mkdir()
    scene.start_worker("full").await_ready()
    scene.store = empty
    beside = scene.start_worker("empty")
    scene.wait("the reason", lambda: f"there is no model in {empty} yet" in beside.get("/readyz")[1], 60)
    assert (beside.get("/readyz")[0], beside.get("/healthz")[0]) == (503, 200)
    # On every partition: it took none of them.
    requests = [scene.request("sum", ONES, version="1", user_id=f"user-{number}") for number in range(40)]
    scene.spread(requests)
    assert {one.reply.code for one in scene.answers_to(requests)} == {Code.OK}
    with source_of(full / "sum" / "1", "sum", "1") as source:
        Registry(empty).add(source.folder, source.manifest)
    beside.await_ready()
    assert "there is no model" not in beside.get("/readyz")[1]


def test_a_store_that_does_not_exist_is_one_line_that_names_the_key(model_store: Path) -> None:
    status, line = run_to_its_end("127.0.0.1:1", Topics(), model_store / "none")
    assert (status, line) == (2, f"penstock: models.store = '{model_store / 'none'}': there is no such folder")


def test_a_worker_none_of_whose_models_can_serve_takes_no_partitions_until_one_is_mended(
    empty_scene: Scene, model_store: Path, tmp_path: Path
) -> None:
    scene = empty_scene
    good, scene.store = scene.store, tmp_path / "store"
    shutil.copytree(model_store / "spoilt", scene.store / "spoilt")
    spoilt = scene.start_worker("spoilt")
    reason = "no model can serve, so this worker takes no partitions: spoilt 1: model spoilt 1: spoilt.onnx should have"
    scene.wait("the reason", lambda: reason in spoilt.get("/readyz")[1], 60)
    assert (spoilt.get("/readyz")[0], spoilt.get("/healthz")[0]) == (503, 200)
    assert any(reason in line["message"] for line in spoilt.lines())
    # A worker with whole models scores all requests beside it, on every partition.
    scene.store = good
    scene.start_worker("whole").await_ready()
    requests = [scene.request("sum", ONES, version="1", user_id=f"user-{number}") for number in range(40)]
    scene.spread(requests)
    assert {one.reply.code for one in scene.answers_to(requests)} == {Code.OK}
    assert spoilt.metric("penstock_rebalances_total") == 0
    assert scene.workers[1].stop() == 0
    # An older version that is whole serves in place of one that is spoilt.
    ModelStore(tmp_path / "store").add_onnx("spoilt", "0", good / "sum" / "1" / "sum1.onnx")
    spoilt.await_ready()
    assert "spoilt 1: model spoilt 1: spoilt.onnx should have" in spoilt.get("/readyz")[1]
    (answer,) = scene.ask(scene.request("spoilt", ONES))
    assert (answer.reply.code, answer.reply.version) == (Code.OK, "0")


def test_a_broker_that_is_not_there_is_one_line(model_store: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    status, line = run_to_its_end(address, Topics(), model_store)
    assert status == 1
    assert line.startswith(f"penstock: Kafka does not answer at {address}: ")


def test_topics_that_are_not_there_are_one_line(embedded_broker: EmbeddedBroker, model_store: Path) -> None:
    status, line = run_to_its_end(embedded_broker.address, Topics(prefix="never-made."), model_store)
    assert status == 1
    assert line.startswith("penstock: Kafka has no topic never-made.batch.summaries, ")
    assert "`penstock topics` creates" in line


def test_sigterm_ends_a_worker_that_waits_for_kafka(model_store: Path, tmp_path: Path) -> None:
    with EmbeddedBroker(log=tmp_path / "tansu.log") as broker:
        create_topics(broker.address, Topics(), 1)
        scene = Scene(broker, Topics(), model_store, tmp_path)
    worker = scene.start_worker()
    scene.wait("the reason", lambda: "does not answer" in worker.get("/readyz")[1], 60)
    assert worker.get("/readyz")[0] == 503
    assert worker.stop(10) == 0
    scene.close()


@on_one_broker
def test_a_port_that_is_taken_is_one_line(scene: Scene) -> None:
    more = {"HTTP__WORKER_PORT": str(scene.worker.port)}
    status, line = run_to_its_end(scene.broker.address, scene.topics, scene.store, port="", **more)
    assert status == 1
    assert line.startswith(f"penstock: cannot serve metrics on 127.0.0.1:{scene.worker.port}:")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"WORKER__MAX_ROWS": "0"}, "PENSTOCK_WORKER__MAX_ROWS"),
        ({"MODELS__DEVICE": "tpu"}, "PENSTOCK_MODELS__DEVICE"),
        ({"WORKER__MAX_ROW": "1"}, "PENSTOCK_WORKER__MAX_ROW"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_is_one_line_that_names_the_key(model_store: Path, more: dict[str, str], said: str) -> None:
    status, line = run_to_its_end("127.0.0.1:1", Topics(), model_store, **more)
    assert status == 2
    assert line.startswith("penstock: ")
    assert said in line
