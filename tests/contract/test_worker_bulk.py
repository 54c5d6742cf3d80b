"""Bulk batches: one result each, rows in their places, errors by row, once for a read_committed reader."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from worker_process import Scene

from penstock.brokers import ApacheKafka
from schemas.codes import Code
from schemas.records import ScoreBatch, ScoreReply, Tensor
from schemas.tensors import Array, to_tensor

pytestmark = pytest.mark.kafka


def tensors(arrays: dict[str, Array]) -> tuple[Tensor, ...]:
    return tuple(to_tensor(name, array) for name, array in arrays.items())


def columns(**given: Any) -> tuple[Tensor, ...]:
    return tensors({name: np.asarray(values, np.float64) for name, values in given.items()})


def test_rows_come_back_in_their_places_over_many_micro_batches(scene: Scene) -> None:
    x = np.arange(900, dtype=np.float32).reshape(300, 3)
    batches = [scene.batch("sum", 300, version=version, inputs=tensors({"x": x})) for version in "12"]
    scene.send(*batches)
    for batch, factor in zip(batches, (1, 2), strict=True):
        answer = scene.batch_answer(batch)
        assert (answer.reply.code, answer.reply.version) == (Code.OK, batch.version)
        assert answer.outputs["y"].tolist() == (x.sum(axis=1, keepdims=True) * factor).tolist()
        assert answer.reply.row_errors == ()


def test_a_wrong_row_gets_its_own_error_and_the_others_their_score(scene: Scene) -> None:
    batch = scene.batch("named", 5, columns=columns(a=[0, 1, np.nan, 3, 4], b=[0] * 5, c=[0, 0, 0, np.inf, 0]))
    scene.send(batch)
    answer = scene.batch_answer(batch)
    assert answer.reply.code is Code.OK
    assert [(one.row, one.code) for one in answer.reply.row_errors] == [
        (2, "INVALID_ARGUMENT"),
        (3, "INVALID_ARGUMENT"),
    ]
    assert "'a'" in answer.reply.row_errors[0].message
    assert answer.outputs["y"][[0, 1, 4], 0].tolist() == [0.0, 1.0, 4.0]


def test_rows_of_tensors_that_carry_nan_are_told_apart(scene: Scene) -> None:
    x = np.ones((4, 3), np.float32)
    x[1, 2] = np.nan
    batch = scene.batch("sum", 4, version="1", inputs=tensors({"x": x}))
    scene.send(batch)
    answer = scene.batch_answer(batch)
    assert [one.row for one in answer.reply.row_errors] == [1]
    assert answer.outputs["y"][[0, 2, 3], 0].tolist() == [3.0, 3.0, 3.0]


def test_rows_that_make_the_model_raise_are_found_among_thousands(scene: Scene) -> None:
    x = np.tile(np.array([0, 1]), 1_500)
    x[[7, 1_111, 2_999]] = 5
    batch = scene.batch("lookup", 3_000, inputs=tensors({"x": x}))
    scene.send(batch)
    answer = scene.batch_answer(batch)
    assert [(one.row, one.code) for one in answer.reply.row_errors] == [
        (row, "INFERENCE_FAILED") for row in (7, 1_111, 2_999)
    ]
    fine = x < 2
    assert answer.outputs["y"][fine].tolist() == np.array([10.0, 20.0])[x[fine]].tolist()


def test_where_no_row_is_right_every_row_says_why(scene: Scene) -> None:
    batch = scene.batch("named", 3, columns=columns(a=[np.nan] * 3, b=[0] * 3, c=[0] * 3))
    scene.send(batch)
    answer = scene.batch_answer(batch)
    assert answer.reply.code is Code.OK
    assert [one.row for one in answer.reply.row_errors] == [0, 1, 2]
    assert answer.reply.outputs == ()


ONE = columns(a=[1], b=[2], c=[3])


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"model": "none"}, Code.UNKNOWN_MODEL, "'none'"),
        ({"version": "9"}, Code.UNKNOWN_MODEL, "'9'"),
        ({"model": "spoilt"}, Code.UNAVAILABLE, "should have SHA-256"),
        ({"rows": 0}, Code.INVALID_ARGUMENT, "at least one row, got 0"),
        ({"rows": -1}, Code.INVALID_ARGUMENT, "at least one row, got -1"),
        ({"rows": 2}, Code.INVALID_ARGUMENT, "every column has 2 rows"),
        ({"rows": 2**31 - 1, "columns": (), "inputs": ()}, Code.INVALID_ARGUMENT, "rows without data"),
        ({"columns": ONE[:2]}, Code.INVALID_ARGUMENT, "feature 'c'"),
        ({"columns": (*ONE, *columns(d=[1]))}, Code.INVALID_ARGUMENT, "feature 'd'"),
        ({"columns": (), "inputs": ()}, Code.INVALID_ARGUMENT, "input 'x'"),
        ({"inputs": columns(x=[[1, 2, 3]])}, Code.INVALID_ARGUMENT, "inputs or columns, not both"),
        ({"columns": (Tensor("a", "FP64", (1,), b"123"), *ONE[1:])}, Code.INVALID_ARGUMENT, "'a'"),
        ({"columns": (Tensor("a", "FP64", (), bytes(8)), *ONE[1:])}, Code.INVALID_ARGUMENT, "'a'"),
        ({"deadline": 1}, Code.DEADLINE_EXCEEDED, "the deadline passed"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:24],
)
def test_what_no_row_of_a_batch_can_survive_is_one_error_for_all(
    scene: Scene, fields: dict[str, Any], code: Code, said: str
) -> None:
    batch = replace(scene.batch("named", 1, columns=ONE), **fields)
    fine = scene.batch("named", 1, columns=ONE)
    scene.send(batch, fine)
    answer = scene.batch_answer(batch)
    assert answer.reply.code is code
    assert said in answer.reply.message
    assert scene.batch_answer(fine).outputs["y"].tolist() == [[14.0]]


def test_results_too_large_for_kafka_are_told_so_and_block_nothing(scene: Scene) -> None:
    large = scene.batch("wide", 1, inputs=tensors({"x": np.ones((1, 1), np.float32)}))
    fine = scene.batch("named", 1, columns=ONE)
    scene.send(large, fine)
    answer = scene.batch_answer(large)
    assert answer.reply.code is Code.TOO_LARGE
    assert "fewer rows" in answer.reply.message
    assert scene.batch_answer(fine).reply.code is Code.OK


def test_batches_that_nobody_can_be_answered_block_nothing(scene: Scene) -> None:
    worker = scene.worker
    reasons = ("UNKNOWN_TOPIC", "UNKNOWN_PARTITION")
    before = [worker.metric("penstock_replies_undeliverable_total", reason=reason) for reason in reasons]
    lost: list[ScoreBatch] = [
        scene.batch("named", 1, columns=ONE, reply_topic="nowhere"),
        scene.batch("named", 1, columns=ONE, reply_topic="no name\0"),
        scene.batch("named", 1, columns=ONE, reply_partition=99),
    ]
    odd = scene.batch("named", 1, columns=ONE, reply_partition=-5, sent_at=-(2**63))
    scene.send(*lost, odd)
    assert scene.batch_answer(odd).reply.code is Code.OK
    after = [worker.metric("penstock_replies_undeliverable_total", reason=reason) for reason in reasons]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1]


def test_results_that_their_sender_s_topic_does_not_take_block_nothing(scene: Scene) -> None:
    if not isinstance(scene.broker, ApacheKafka):
        pytest.skip("the embedded broker takes a record of any size")
    topic = f"{scene.topics.prefix}narrow"
    narrow = NewTopic(topic, 2, 1, config={"max.message.bytes": "3000"})
    admin = AdminClient({"bootstrap.servers": scene.broker.address})
    admin.create_topics([narrow])[topic].result(30)
    before = scene.worker.metric("penstock_replies_undeliverable_total", reason="MSG_SIZE_TOO_LARGE")
    noise = np.random.default_rng(1).standard_normal((1_000, 3)).astype(np.float32)
    wide = scene.batch("sum", 1_000, version="1", inputs=tensors({"x": noise}), reply_topic=topic)
    lost = [replace(wide, sequence=number, reply_partition=number % 2) for number in range(5)]
    # Each of these fits, all together do not, and they are made at once.
    half = scene.batch("sum", 500, version="1", inputs=tensors({"x": noise[:500]}), reply_topic=topic)
    kept = [replace(half, sequence=100 + number, reply_partition=0) for number in range(4)]
    # More of them than a commit is tried, and each has a neighbour.
    fine = [scene.batch("named", 1, columns=ONE) for _ in lost]
    scene.send(*(one for pair in zip(lost, fine, strict=True) for one in pair), *kept)
    for one in fine:
        assert scene.batch_answer(one).reply.code is Code.OK
    scene.wait(
        "all to be given up",
        lambda: scene.worker.metric("penstock_replies_undeliverable_total", reason="MSG_SIZE_TOO_LARGE") == before + 5,
    )
    own = {"group.id": topic, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    reader = Consumer({"bootstrap.servers": scene.broker.address, **own})
    try:
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(2)])
        found: list[str] = []
        end = time.monotonic() + 30
        while len(found) < len(kept) and time.monotonic() < end:
            read = [one for one in reader.consume(10, 0.5) if one.error() is None]
            found += [scene.codec.decode(ScoreReply, one.value()).request_id for one in read]
    finally:
        reader.close()
    assert sorted(found) == [f"{half.job}/{one.sequence}" for one in kept]


def test_an_unreadable_batch_is_a_dead_letter_of_the_bulk_topic(scene: Scene) -> None:
    batch = scene.batch("named", 1, columns=ONE)
    value = scene.codec.encode(batch)[:-20] + b"?" * 7
    scene.send_bulk(value)
    letter = scene.letter(value)
    assert letter.topic == scene.topics.bulk
    assert letter.reason in ("TRUNCATED", "NOT_AVRO")


def test_sequences_of_a_batch_come_back_whole(scene: Scene) -> None:
    values, mask = np.ones((130, 5), np.float32), np.ones((130, 5), bool)
    batch = scene.batch("sequences", 130, inputs=tensors({"values": values, "mask": mask}))
    scene.send(batch)
    outputs = scene.batch_answer(batch).outputs
    assert outputs["masked"].shape == (130, 5)
    assert outputs["total"].tolist() == [5.0] * 130


def test_results_come_once_and_bulk_lets_requests_by(scene: Scene) -> None:
    x = np.ones((20_000, 3), np.float32)
    batches = [scene.batch("sum", 20_000, version="1", inputs=tensors({"x": x})) for _ in range(12)]
    scene.send(*batches)
    began = time.monotonic()
    request = scene.request("sum", {"x": np.ones((1, 3), np.float32)}, version="1")
    scene.ask(request)
    waited = time.monotonic() - began
    for batch in batches:
        assert scene.batch_answer(batch).outputs["y"].sum() == 60_000
    assert waited < 10
    assert all(len(scene.answers[f"{batch.job}/{batch.sequence}"]) == 1 for batch in batches)
