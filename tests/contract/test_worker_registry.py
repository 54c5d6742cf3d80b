"""With a schema registry everything a worker reads and writes has Confluent's framing."""

from __future__ import annotations

import numpy as np
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from registry_server import running_registry
from worker_process import Scene

from schemas.codec import Codec
from schemas.codes import Code
from schemas.framing import ConfluentFraming

pytestmark = pytest.mark.kafka


def test_requests_bulk_and_control_in_confluent_s_framing_are_answered_in_it(empty_scene: Scene) -> None:
    scene = empty_scene
    with running_registry() as registry:
        scene.codec = Codec(ConfluentFraming(SchemaRegistryClient({"url": registry.url})))
        scene.control("model", "sum", '{"version": "2"}')
        scene.start_worker(KAFKA__SCHEMA_REGISTRY_URL=registry.url).await_ready()
        # More than are read one by one, and an error among them.
        fine = [scene.request("sum", {"x": np.full((1, 3), i, np.float32)}) for i in range(50)]
        wrong = scene.request("nobody", {"x": np.ones((1, 3), np.float32)})
        *answers, refused = scene.ask(*fine, wrong)
        assert [float(one.outputs["y"][0, 0]) for one in answers] == [6.0 * i for i in range(50)]
        assert {one.reply.version for one in answers} == {"2"}
        assert refused.reply.code is Code.UNKNOWN_MODEL
        batch = scene.batch("sum", 3, inputs=scene.request("sum", {"x": np.ones((3, 3), np.float32)}).inputs)
        scene.send(batch)
        assert scene.batch_answer(batch).outputs["y"].ravel().tolist() == [6.0] * 3
        written = {name.rpartition(".")[2] for name in registry.subjects}
        assert {"ScoreReply", "PredictionBatch", "BatchSummary"} <= written


def test_without_the_registry_a_worker_does_not_take_records_for_garbage(empty_scene: Scene) -> None:
    scene = empty_scene
    with running_registry() as registry:
        scene.codec = Codec(ConfluentFraming(SchemaRegistryClient({"url": registry.url})))
        worker = scene.start_worker(KAFKA__SCHEMA_REGISTRY_URL=registry.url).await_ready()
        scene.ask(scene.request("sum", {"x": np.ones((1, 3), np.float32)}, version="1"))
        assert worker.stop() == 0
        late = scene.request("sum", {"x": np.ones((1, 3), np.float32)}, version="1")
        registry.refuse = 503
        scene.send(late)
        blind = scene.start_worker("w2", KAFKA__SCHEMA_REGISTRY_URL=registry.url)
        scene.wait("the worker's complaint", lambda: "registry" in blind.log.read_text(), 60)
        registry.refuse = 0
        scene.start_worker("w3", KAFKA__SCHEMA_REGISTRY_URL=registry.url)
        scene.wait("an answer", lambda: late.request_id in scene.answers, 90)
        assert scene.answers[late.request_id][0].reply.code is Code.OK
        assert scene.letters == []
