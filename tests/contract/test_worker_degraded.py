"""Devices and models fail under a real worker: nobody loses an answer that somebody could give, and each says how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from faulty_session import DEVICE, FaultFile
from onnx_models import linear
from worker_process import FAULTY, Answer, Scene, WorkerProcess

from models.batching import BatchLimits
from models.registry import ModelStore
from schemas.codes import Code
from schemas.records import Alert, ScoreRequest
from schemas.tensors import to_tensor

pytestmark = pytest.mark.kafka


@pytest.fixture
def faults(empty_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultFile:
    """What is wrong with the device of `FAULTY` workers: nothing yet. The scene's store has models to fall back on.

    sum 1; leaning 1, whose fallback is leaning 1-small; known 1, whose last answers may be given again; mended 1, and 2
    with a bit that is wrong.
    """
    store = ModelStore(tmp_path / "store")
    limits = BatchLimits(max_rows=64)
    store.add_onnx("sum", "1", linear(tmp_path / "sum.onnx"), batching=limits)
    small = store.add_onnx("leaning", "1-small", linear(tmp_path / "small.onnx"), batching=limits)
    for name, about in (("leaning", {"fallback": "leaning/1-small"}), ("known", {"last_answer_seconds": 600.0})):
        manifest = store.add_onnx(name, "1", linear(tmp_path / f"{name}.onnx"), batching=limits)
        replace(manifest, **about).write(tmp_path / "store" / name / "1" / "manifest.json")  # type: ignore[arg-type]
    # The newest serves by default, and that is to be version 1.
    replace(small, stage="candidate").write(tmp_path / "store" / "leaning" / "1-small" / "manifest.json")
    for version in ("1", "2"):
        store.add_onnx("mended", version, linear(tmp_path / "mended.onnx"), batching=limits)
    spoil(tmp_path / "store")
    empty_scene.store = tmp_path / "store"
    found = FaultFile(tmp_path / "faults.json")
    found.write()
    monkeypatch.setenv("TEST_FAULTS", str(tmp_path / "faults.json"))
    return found


def spoil(store: Path) -> None:
    """Turn a bit of mended 2 over: the first time it is spoilt, the second time whole again."""
    artifact = store / "mended" / "2" / "mended.onnx"
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def some(scene: Scene, model: str, count: int, begin: int = 0) -> list[ScoreRequest]:
    """Requests of `count` users whose answers differ."""
    return [
        scene.request(model, {"x": np.full((1, 3), n, np.float32)}, user_id=f"user-{n}")
        for n in range(begin, begin + count)
    ]


def said(answers: Sequence[Answer]) -> Counter[tuple[Code, str, str]]:
    return Counter((one.reply.code, one.reply.version, one.reply.degraded) for one in answers)


def level(worker: WorkerProcess, model: str) -> float:
    return worker.metric("penstock_degradation_level", model=model, version="1")


def test_every_level_down_to_unavailable_and_back(empty_scene: Scene, faults: FaultFile) -> None:
    scene = empty_scene
    worker = scene.start_worker("w1", FAULTY, MODELS__DEVICE="auto", WORKER__ON_DEVICE_LOSS="cpu").await_ready()
    # A newer version of "mended" has other bytes than it says: it is refused, that is told, and version 1 goes on.
    refused = {"model": "mended", "version": "2"}
    assert worker.metric("penstock_version_refused", **refused) == 1
    assert said(scene.ask(*some(scene, "mended", 1))) == {(Code.OK, "1", ""): 1}
    raised = alert(scene)
    assert (raised.state, raised.rule, raised.labels) == ("firing", "version-refused", refused)
    assert "should have SHA-256" in raised.summary
    spoil(scene.store)

    assert said(scene.ask(*some(scene, "sum", 30))) == {(Code.OK, "1", ""): 30}
    first = {one.reply.request_id: one for one in scene.ask(*some(scene, "known", 3))}
    assert said(scene.ask(*some(scene, "leaning", 3))) == {(Code.OK, "1", ""): 3}

    # Out of memory: halves, and what fits is remembered.
    faults.write(memory_rows=8)
    rows = [scene.request("sum", {"x": np.ones((2, 3), np.float32)}) for _ in range(60)]
    answers = scene.ask(*rows)
    assert {key[:2] for key in said(answers)} == {(Code.OK, "1")}
    assert said(answers)[(Code.OK, "1", "half-batch")] >= 8
    scene.wait("the limit", lambda: 4 <= worker.metric("penstock_row_limit", model="sum") <= 8)
    assert level(worker, "sum") == 1
    assert worker.metric("penstock_degraded_rows_total", model="sum", level="half-batch") >= 16

    # A model that fails on its device and on the CPU: its fallback; one without: last answers, else UNAVAILABLE.
    wrong = ["leaning.onnx", "known.onnx"]
    faults.write(broken=wrong, broken_on_cpu=wrong)
    for _ in range(3):
        answers = scene.ask(*some(scene, "leaning", 5))
        assert said(answers) == {(Code.OK, "1-small", "fallback:leaning/1-small"): 5}
        assert [one.outputs["y"].item() for one in answers] == [6.0 * n for n in range(5)]
        answers = scene.ask(*some(scene, "known", 5))
        assert said(answers) == {(Code.OK, "1", "cached"): 3, (Code.UNAVAILABLE, "1", ""): 2}
        known = [one for one in answers if one.reply.degraded]
        assert [one.outputs["y"].item() for one in known] == [one.outputs["y"].item() for one in first.values()]
        assert [one.outputs["y"].item() for one in known] == [6.0 * n for n in range(3)]
    scene.wait("the levels", lambda: (level(worker, "leaning"), level(worker, "known")) == (3, 4))
    assert worker.metric("penstock_degraded_rows_total", model="known", level="cached") == 9
    # Nobody without a name has a last answer.
    (nobody,) = scene.ask(scene.request("known", {"x": np.ones((1, 3), np.float32)}, user_id=""))
    assert nobody.reply.code is Code.UNAVAILABLE
    assert "a test says so" in nobody.reply.message

    # A file is done by no other version: its batch is to be sent again, as a whole.
    x = to_tensor("x", np.arange(900, dtype=np.float32).reshape(300, 3))
    batch = scene.batch("leaning", 300, inputs=(x,))
    scene.send(batch)
    reply = scene.batch_answer(batch).reply
    assert (reply.code, reply.outputs, reply.row_errors) == (Code.UNAVAILABLE, (), ())

    # The whole device: the CPU, with no request failed.
    faults.write(lost=True)
    asked = some(scene, "sum", 200)
    assert said(scene.ask(*asked)) == {(Code.OK, "1", "cpu"): 200}
    assert scene.fate(asked[7]).score == 42.0
    batch = scene.batch("sum", 300, inputs=(x,))
    scene.send(batch)
    reply = scene.batch_answer(batch).reply
    assert (reply.code, reply.version, reply.degraded) == (Code.OK, "1", "cpu")
    scene.wait("the breaker", lambda: worker.metric("penstock_breaker_state", model="sum", device=DEVICE) > 0)

    # And back, as soon as a probe works.
    faults.write()
    for model in ("sum", "leaning", "known"):
        scene.wait(f"{model} to be well", lambda model=model: level(worker, model) in (0, 1))  # type: ignore[misc]
        found = said(scene.ask(*some(scene, model, 4)))
        assert found.keys() <= {(Code.OK, "1", ""), (Code.OK, "1", "half-batch")}, found
    scene.wait("the mended version", lambda: worker.metric("penstock_version_refused", **refused) == 0)
    assert said(scene.ask(*some(scene, "mended", 1))) == {(Code.OK, "2", ""): 1}
    scene.wait("the alert's end", lambda: {one.state for one in alerts(scene).values()} == {"resolved"})


def test_a_worker_whose_device_died_leaves_and_the_other_takes_over(empty_scene: Scene, faults: FaultFile) -> None:
    scene = empty_scene
    sick = scene.start_worker("sick", FAULTY, MODELS__DEVICE="cuda", WORKER__CPU_ON_FAILURE="false")
    well = scene.start_worker("well").await_ready()
    sick.await_ready()
    # Begun beside a spoilt version it serves the last good one.
    assert well.metric("penstock_version_refused", model="mended", version="2") == 1
    scene.wait(
        "both to have partitions",
        lambda: all(worker.metric("penstock_rebalances_total") >= 1 for worker in scene.workers),
    )
    asked = some(scene, "sum", 200)
    scene.spread(asked[:100])
    scene.answers_to_all(asked[:100])
    faults.write(lost=True)
    scene.spread(asked[100:])
    scene.answers_to_all(asked)
    assert sick.process.wait(20) == 1
    assert f"its device is dead: {DEVICE} failed" in sick.log.read_text()
    again = scene.start_worker("sick", FAULTY, MODELS__DEVICE="cuda")
    more = [*some(scene, "sum", 199, 200), *some(scene, "mended", 1)]
    scene.spread(more)
    scene.answers_to_all(more)
    everyone = [*asked, *more]
    assert Counter(len(scene.fates[one.request_id]) for one in everyone) == {1: 400}
    assert {(one.code, one.version) for each in everyone for one in scene.fates[each.request_id]} == {(Code.OK, "1")}
    assert {answer.reply.code for one in everyone for answer in scene.answers[one.request_id]} == {Code.OK}
    # Started again it joins no group while its device does not work.
    scene.wait("the reason", lambda: "takes no partitions" in again.get("/readyz")[1], 60)
    assert again.get("/readyz")[0] == 503
    assert again.metric("penstock_rebalances_total") == 0


def alerts(scene: Scene) -> dict[str, Alert]:
    """The last record of each alert."""
    own = {"bootstrap.servers": scene.broker.address, "group.id": "alerts-test", "enable.auto.commit": False}
    consumer = Consumer(own)
    found: dict[str, Alert] = {}
    try:
        place = TopicPartition(scene.topics.alerts, 0, OFFSET_BEGINNING)
        _, end = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([place])
        while end and (message := consumer.poll(5)) is not None:
            one = scene.codec.decode(Alert, message.value())
            found[one.alert_id] = one
            if (message.offset() or 0) >= end - 1:
                break
    finally:
        consumer.close()
    return found


def alert(scene: Scene) -> Alert:
    """The only one."""
    scene.wait("an alert", lambda: bool(alerts(scene)))
    (one,) = alerts(scene).values()
    assert json.loads(one.evidence)["worker"] == "w1"
    return one
