"""Pools of real workers: each scores its own models, hands on what is another's, and keeps within its memory."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_models import node, write
from worker_process import Scene, command, worker_environment

from models.batching import BatchLimits
from models.folder import ModelStore
from penstock.brokers import LocalBroker
from producers.client import ScoringClient
from producers.moves import Moves
from producers.publisher import create_topics
from schemas.codec import Codec
from schemas.codes import Code
from schemas.partitioning import partition_for, record_key
from schemas.placement import Place, Placement, Pool
from schemas.records import ScoreRequest
from schemas.tensors import to_tensor
from schemas.topics import work_specs

pytestmark = pytest.mark.kafka
ONES = {"x": np.ones((1, 3), np.float32)}


def pools(**more: Any) -> dict[str, str]:
    """The environment of processes that know a pool `heavy` of the models named and lookup."""
    return {"POOLS": json.dumps({"heavy": {"models": ["named", "look*"], **more}})}


def heavy(scene: Scene, partitions: int = 4) -> Place:
    """The pool's topics, made."""
    place = Place.of_pool("heavy", scene.topics.prefix)
    create_topics(scene.broker.address, work_specs(place.requests, place.bulk, partitions))
    return place


def start(scene: Scene, *workers: tuple[str, str], **more: str) -> None:
    """Workers (name, pool), started side by side and ready."""
    started = [scene.start_worker(name, pool=pool, **more) for name, pool in workers]
    for one in started:
        one.await_ready()


def penstock(scene: Scene, *arguments: str, **more: str) -> Any:
    """What a command says in JSON."""
    done = subprocess.run(
        command(*arguments, "--json"),
        env=worker_environment(scene.broker.address, scene.topics, scene.store, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Traffic:
    """Requests at a steady pace from a thread, each made anew, until the block ends; none may come to an error."""

    def __init__(self, scene: Scene, make: Callable[[int], ScoreRequest], topic: str, pause: float = 0.01) -> None:
        self.sent: list[ScoreRequest] = []
        self._scene = scene
        self._make = make
        self._topic = topic
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            request = self._make(len(self.sent))
            self._scene.spread([request], self._topic)
            self.sent.append(request)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def all_answered(self) -> None:
        """Every request has an answer, and exactly one fate in the log of predictions."""
        self._scene.answers_to_all(self.sent)
        codes = Counter(self._scene.answers[one.request_id][0].reply.code for one in self.sent)
        assert codes == {Code.OK: len(self.sent)}
        assert Counter(len(self._scene.fates[one.request_id]) for one in self.sent) == {1: len(self.sent)}


def test_each_pool_scores_its_own_and_hands_on_what_is_anothers_also_while_a_model_moves(empty_scene: Scene) -> None:
    scene, place = empty_scene, heavy(empty_scene)
    start(scene, ("w1", ""), ("h1", "heavy"), **pools())
    default, own = scene.workers
    reasons = json.loads(own.get("/readyz")[1])["reasons"]
    assert reasons["pool"] == "heavy"
    assert "spoilt" not in reasons["models"], "it is not this pool's"
    assert own.metric("penstock_models_loaded") == 2
    assert own.metric("penstock_pool_info", pool="heavy") == default.metric("penstock_pool_info", pool="default") == 1

    def request(model: str, number: int) -> ScoreRequest:
        return scene.request(model, ONES, user_id=f"user {number}", **({"version": "1"} if model == "sum" else {}))

    # Each at its own topic, and each at the other's: the answers are the same.
    straight = {"named": place.requests, "sum": scene.topics.requests}
    crossed = {"sum": place.requests, "named": scene.topics.requests}
    asked = []
    for way in (straight, crossed):
        for model, topic in way.items():
            some = [request(model, number) for number in range(20)]
            scene.spread(some, topic)
            asked += some
    for answer in scene.answers_to(asked):
        assert answer.reply.code is Code.OK
    (spring,) = scene.ask(
        scene.request("named", ONES, reply_topic=""),
        headers=[
            ("kafka_replyTopic", scene.topics.replies.encode()),
            ("kafka_correlationId", b"c1"),
            ("kafka_replyPartition", (2).to_bytes(4, "big")),
        ],
    )
    assert (spring.partition, spring.headers["kafka_correlationId"]) == (2, b"c1")
    batch = scene.batch("named", 1, inputs=(to_tensor("x", ONES["x"]),))
    scene.send(batch)
    assert scene.batch_answer(batch).reply.code is Code.OK
    assert default.metric("penstock_handed_on_total", topic=place.requests) == 21
    assert default.metric("penstock_handed_on_total", topic=place.bulk) == 1
    assert own.metric("penstock_handed_on_total", topic=scene.topics.requests) == 20
    assert own.metric("penstock_requests_total", model="named", code="OK") == 42
    assert default.metric("penstock_requests_total", model="sum", code="OK") == 40
    # The law of partitions holds on either way.
    for one in asked:
        key = record_key(one.user_id, "")
        assert {fate.partition for fate in scene.fates[one.request_id]} == {partition_for(key, 4)}

    placement = Placement.create(scene.topics, [Pool(place, ("named", "look*"))])
    kafka = {"bootstrap.servers": scene.broker.address}
    with (
        Moves(kafka, Codec(), scene.topics.control, placement) as moves,
        ScoringClient(kafka, Codec(), scene.topics, timeout=30, place=moves.of) as client,
        Traffic(scene, lambda number: request("sum", number), scene.topics.requests) as traffic,
    ):
        moved = penstock(scene, "pools", "move", "sum", "heavy", **pools())
        assert (moved["pool"], moved["topic"]) == ("heavy", place.requests)
        scene.wait("heavy to score it", lambda: own.metric("penstock_requests_total", model="sum", code="OK") > 20)
        assert moves.of("sum") == place
        handed = default.metric("penstock_handed_on_total", topic=place.requests)
        assert handed > 21
        before = len(traffic.sent)
        # Who follows the control topic asks the right pool at once, others are handed on.
        for number in range(5):
            client.score_sync("sum", user_id=str(number), inputs=ONES, version="1")
        assert penstock(scene, "pools", "return", "sum", **pools())["pool"] == "default"
        scored = default.metric("penstock_requests_total", model="sum", code="OK")
        scene.wait(
            "default to score it again",
            lambda: default.metric("penstock_requests_total", model="sum", code="OK") > scored + 20,
        )
    traffic.all_answered()
    assert default.metric("penstock_handed_on_total", topic=place.requests) - handed <= len(traffic.sent) - before + 50
    listed = {one["model"]: (one["pool"], one["by"]) for one in penstock(scene, "pools", "list", **pools())}
    assert listed["named"] == listed["lookup"] == ("heavy", "settings")
    assert listed["sum"] == ("default", "settings")


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Models a, b and c of 17 MB each."""
    folder = tmp_path_factory.mktemp("large")
    store = ModelStore(folder / "store")
    for seed, name in enumerate("abc"):
        one = np.random.default_rng(seed).standard_normal((1024, 1024), np.float32) / 32
        steps = ["x", "h1", "h2", "h3", "y"]
        path = write(
            folder / "m.onnx",
            [node("MatMul", [steps[i], f"w{i}"], [steps[i + 1]]) for i in range(4)],
            [("x", "FP32", ("rows", 1024))],
            [("y", "FP32", ("rows", 1024))],
            # Of equal weights ONNX Runtime keeps one.
            {f"w{i}": np.roll(one, i) for i in range(4)},
        )
        store.add_onnx(name, "1", path, batching=BatchLimits(max_rows=16))
    return store


def test_within_its_memory_a_worker_serves_more_models_than_fit_and_what_is_pinned_stays(
    broker: LocalBroker, empty_scene: Scene, large_store: ModelStore
) -> None:
    scene = empty_scene
    scene.store = large_store.root
    x = {"x": np.ones((1, 1024), np.float32)}
    lazy = {"MODELS__MEMORY": "40MB", "MODELS__PRELOAD": "false", "MODELS__PINNED": '["b"]'}
    start(scene, ("w1", ""), **lazy)
    worker = scene.worker
    assert worker.metric("penstock_models_loaded") == 1
    assert worker.metric("penstock_models_budget_bytes") == 40_000_000
    held: list[float] = []
    with Traffic(scene, lambda n: scene.request("abcb"[n // 10 % 4], x), scene.topics.requests, 0.02) as traffic:
        scene.wait(
            "evictions under traffic",
            lambda: (
                (held.append(worker.metric("penstock_models_bytes")) or True)  # type: ignore[func-returns-value]
                and worker.metric("penstock_model_evictions_total") >= 4
            ),
        )
    traffic.all_answered()
    assert 0 < max(held) <= 40_000_000
    assert worker.metric("penstock_model_evictions_total", model="b") == 0
    assert worker.metric("penstock_model_load_seconds_count", model="b") == 1
    assert worker.metric("penstock_model_load_seconds_count") == worker.metric("penstock_model_evictions_total") + 2


# The embedded broker does not roll a killed worker's transaction back, so that what it had polled may be passed over.
@pytest.mark.parametrize("broker", [pytest.param("apache", marks=pytest.mark.apache)], indirect=True)
def test_a_spare_takes_over_where_an_active_worker_dies(empty_scene: Scene) -> None:
    scene, place = empty_scene, heavy(empty_scene, partitions=1)
    start(scene, ("h1", "heavy"), ("h2", "heavy"), **pools())
    active, spare = scene.workers
    scene.wait(
        "one of them to have the partition",
        lambda: sum(one.metric("penstock_rebalances_total") > 0 for one in (active, spare)) > 0,
    )
    first = [scene.request("named", ONES) for _ in range(10)]
    scene.spread(first, place.requests)
    scene.answers_to_all(first)
    if not active.metric("penstock_requests_total", code="OK"):
        active, spare = spare, active
    assert spare.metric("penstock_requests_total", code="OK") == 0
    assert spare.metric("penstock_models_loaded") == 2
    with Traffic(scene, lambda _: scene.request("named", ONES), place.requests) as traffic:
        scene.wait("traffic", lambda: len(traffic.sent) > 20)
        active.process.kill()
        scene.wait("the spare to score", lambda: spare.metric("penstock_requests_total", code="OK") > 0, seconds=60)
    traffic.all_answered()
    assert spare.metric("penstock_model_load_seconds_count") == 2, "nothing had to be loaded for it"
