"""Replies go where the sender wants them, in the sender's own protocol, with all that the model said."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx_models import EVERY_TYPE
from worker_process import Scene

from models.routing import Experiment, bucket
from schemas.codes import Code
from schemas.tensors import DATATYPES, Array

pytestmark = pytest.mark.kafka
ONES = {"x": np.ones((1, 3), np.float32)}
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_reply_goes_to_the_partition_asked_for_with_times_and_version(scene: Scene) -> None:
    request = scene.request("sum", ONES, version="2", reply_partition=3)
    (answer,) = scene.ask(request)
    assert answer.partition == 3
    assert (answer.reply.model, answer.reply.version, answer.reply.variant) == ("sum", "2", "")
    assert request.sent_at <= answer.reply.received_at <= answer.reply.replied_at
    assert answer.outputs["y"].tolist() == [[6.0]]


def test_what_springs_template_sends_is_answered_where_its_headers_say(scene: Scene) -> None:
    request = replace(scene.request("sum", ONES, version="1"), reply_topic="", reply_partition=-1)
    correlation = bytes(range(16))
    headers = [
        ("kafka_replyTopic", scene.topics.replies.encode()),
        ("kafka_correlationId", correlation),
        ("kafka_replyPartition", struct.pack(">i", 2)),
    ]
    (answer,) = scene.ask(request, headers=headers)
    assert answer.partition == 2
    assert answer.headers == {"kafka_correlationId": correlation}
    assert answer.outputs["y"].tolist() == [[3.0]]


def test_springs_headers_win_over_the_record_and_carry_errors_too(scene: Scene) -> None:
    request = replace(scene.request("none", ONES), reply_topic="no-such-topic", reply_partition=77)
    headers = [("kafka_replyTopic", scene.topics.replies.encode()), ("kafka_correlationId", b"id")]
    (answer,) = scene.ask(request, headers=headers)
    assert answer.reply.code is Code.UNKNOWN_MODEL
    assert answer.headers == {"kafka_correlationId": b"id"}


def test_a_trace_goes_on_in_the_reply(scene: Scene) -> None:
    headers = [("traceparent", TRACE), ("tracestate", b"a=b"), ("baggage", b"k=v")]
    (answer,) = scene.ask(scene.request("sum", ONES, version="1", reply_partition=1), headers=headers)
    assert answer.headers == dict(headers)
    assert answer.partition == 1


def test_requests_with_and_without_headers_in_one_poll_get_their_own(scene: Scene) -> None:
    plain = [scene.request("sum", ONES, version="1") for _ in range(3)]
    traced = [scene.request("sum", ONES, version="1") for _ in range(3)]
    for one, other in zip(plain, traced, strict=True):
        scene.send(one)
        scene.send(other, headers=[("traceparent", TRACE)])
    assert all(answer.headers == {} for answer in scene.answers_to(plain))
    assert all(answer.headers == {"traceparent": TRACE} for answer in scene.answers_to(traced))


def test_every_datatype_comes_back_as_it_went_in(scene: Scene) -> None:
    def value(kind: str, n: int) -> Array:
        if kind == "BYTES":
            return np.array([[f"ü{n}", ""], ["", "z" * n]], object)
        return np.array([[n, 0], [1, n % 2]]).astype(DATATYPES[kind])

    sent = [{f"in_{kind}": value(kind, n) for kind in EVERY_TYPE} for n in range(4)]
    for given, answer in zip(sent, scene.ask(*(scene.request("echo", one) for one in sent)), strict=True):
        assert answer.reply.code is Code.OK, answer.reply.message
        for kind in EVERY_TYPE:
            assert answer.outputs[f"out_{kind}"].tolist() == given[f"in_{kind}"].tolist()
            assert answer.outputs[f"out_{kind}"].dtype == given[f"in_{kind}"].dtype


def test_sequences_of_any_length_and_row_count_share_a_batch_and_come_back_in_their_own_shape(scene: Scene) -> None:
    shapes = [(1, 3), (2, 7), (1, 1), (4, 3), (1, 20), (3, 2)]
    requests = [
        scene.request(
            "sequences",
            {"values": np.full(shape, n + 1, np.float32), "mask": np.arange(shape[1])[None].repeat(shape[0], 0) > 0},
        )
        for n, shape in enumerate(shapes)
    ]
    for n, (shape, answer) in enumerate(zip(shapes, scene.ask(*requests), strict=True)):
        assert answer.outputs["masked"].shape == shape
        assert answer.outputs["total"].tolist() == [(n + 1.0) * (shape[1] - 1)] * shape[0]
        rows = scene.fates[requests[n].request_id]
        assert sorted(fate.row for fate in rows) == list(range(shape[0]))


def test_models_and_pinned_versions_in_one_poll_are_each_scored_by_their_own(scene: Scene) -> None:
    wanted: list[tuple[Any, float]] = []
    for n in range(60):
        x = {"x": np.full((1, 3), n, np.float32)}
        version = "123"[n % 3]
        wanted.append((scene.request("sum", x, version=version), 3.0 * n * int(version)))
        wanted.append((scene.request("named", features={"a": float(n), "b": 0.0, "c": 1.0}), n + 3.0))
        wanted.append((scene.request("lookup", {"x": np.array([n % 2])}), [10.0, 20.0][n % 2]))
    answers = scene.ask(*(request for request, _ in wanted))
    assert [float(answer.outputs["y"].ravel()[0]) for answer in answers] == [value for _, value in wanted]
    assert [scene.fate(request).score for request, _ in wanted] == [value for _, value in wanted]


def test_a_log_row_of_named_features_carries_them_and_the_score(scene: Scene) -> None:
    request = scene.request("named", features={"a": 1.5, "b": 0.0, "c": -1.0})
    scene.ask(request)
    assert scene.fate(request).features == {"a": 1.5, "b": 0.0, "c": -1.0}
    assert scene.fate(request).score == -1.5


def experiment(shares: dict[str, float], model: str = "sum", status: str = "running") -> str:
    versions = {"low": "1", "high": "3"}
    made = Experiment.create("test", model, {"low": 0.0, "high": 0.0}, versions, salt="pepper").ramp(shares)
    return replace(made, status=status).to_json()  # type: ignore[arg-type]


def test_an_experiment_assigns_live_ramps_without_moving_anybody_out_and_ends(empty_scene: Scene) -> None:
    scene = empty_scene
    scene.start_worker().await_ready()
    users = [f"user {n}" for n in range(60)]

    def variants() -> dict[str, str]:
        requests = [scene.request("sum", ONES, user_id=user, experiment="test") for user in users]
        found = {}
        for request, answer in zip(requests, scene.ask(*requests), strict=True):
            assert scene.fate(request).variant == answer.reply.variant
            assert scene.fate(request).experiment == "test"
            assert answer.reply.version == {"low": "1", "high": "3", "": "3"}[answer.reply.variant]
            found[request.user_id] = answer.reply.variant
        return found

    def until(what: str, good: Any) -> dict[str, str]:
        seen: list[dict[str, str]] = []

        def there() -> bool:
            seen[:] = [variants()]
            return bool(good(set(seen[0].values())))

        scene.wait(what, there)
        # The change may have come in the middle of those.
        return variants()

    assert set(variants().values()) == {""}
    scene.control("experiment", "test", experiment({"low": 0.3}), 1)
    first = until("a small variant", lambda found: found == {"low", ""})
    assert {user for user, name in first.items() if name == "low"} == {
        user for user in users if bucket("pepper", user) < 3_000
    }
    scene.control("experiment", "test", experiment({"low": 0.6, "high": 0.4}), 2)
    second = until("everybody in", lambda found: found == {"low", "high"})
    assert {user for user, name in first.items() if name == "low"} <= {
        user for user, name in second.items() if name == "low"
    }
    scene.control("experiment", "test", "nonsense", 3)
    pinned = scene.request("sum", ONES, user_id=users[0], experiment="test", version="2")
    assert scene.ask(pinned)[0].reply.version == "2"
    assert scene.fate(pinned).variant == ""
    nobody = scene.request("sum", ONES, user_id="", experiment="test")
    assert scene.ask(nobody)[0].reply.variant == ""
    assert variants() == second
    # Another worker, and one that comes later, agree.
    scene.start_worker("w2").await_ready()
    assert variants() == second
    scene.control("experiment", "test", None)
    until("nobody in", lambda found: found == {""})


def test_the_default_version_follows_control_and_without_it_is_the_newest(empty_scene: Scene) -> None:
    scene = empty_scene
    scene.control("model", "sum", '{"version": "2"}')
    scene.start_worker().await_ready()

    def ask() -> str:
        return scene.ask(scene.request("sum", ONES))[0].reply.version

    assert ask() == "2"
    scene.control("model", "sum", '{"version": "1"}', 2)
    scene.wait("version 1", lambda: ask() == "1")
    scene.control("model", "sum", '{"version": 7}', 3)
    scene.control("model", "sum", None)
    scene.wait("the newest", lambda: ask() == "3")
