"""Bad input, and what it gets: each row of the table in the issue, beside neighbours that must not notice."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from worker_process import Scene

from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import Control, ScoreRequest, Tensor
from schemas.tensors import Array, to_tensor
from schemas.topics import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.kafka
CODEC = Codec()
GOOD = {"x": np.array([[1, 2, 3]], np.float32)}


def good(scene: Scene) -> ScoreRequest:
    return scene.request("sum", GOOD, version="1")


def assert_unharmed(scene: Scene, neighbours: list[ScoreRequest]) -> None:
    for answer in scene.answers_to(neighbours):
        assert answer.reply.code is Code.OK
        assert answer.outputs["y"].tolist() == [[6.0]]


def assert_refused(scene: Scene, bad: ScoreRequest, code: Code, *said: str) -> None:
    """The bad one gets code and text, those before and behind it are scored, and the log has it all."""
    neighbours = [good(scene) for _ in range(3)]
    scene.send(neighbours[0], bad, *neighbours[1:])
    (answer,) = scene.answers_to([bad])
    assert answer.reply.code is code, answer.reply.message
    for text in said:
        assert text in answer.reply.message
    assert answer.reply.outputs == ()
    assert scene.fate(bad).user == bad.user_id
    assert_unharmed(scene, neighbours)


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        (b"no avro at all", "NOT_AVRO", "it starts with 6e 6f"),
        (b"", "NOT_AVRO", "empty value"),
        (None, "NOT_AVRO", "empty value"),
        (b"\xc3\x01\xff\xff\xff\xff\xff\xff\xff\xffwhatever", "UNKNOWN_FINGERPRINT", "ffffffffffffffff"),
        (CODEC.encode(Control("model", "m", 1, "{}", 0)), "WRONG_TYPE", "penstock.v1.Control"),
        (CODEC.encode(ScoreRequest("r", "m", "u", 0))[:-3], "TRUNCATED", "ends before its last field"),
        (CODEC.encode(ScoreRequest("r", "m", "u", 0)) + b"!", "NOT_AVRO", "1 bytes left over"),
    ],
    ids=["junk", "empty", "tombstone", "fingerprint", "other record", "truncated", "too long"],
)
def test_unreadable_records_become_dead_letters_and_the_stream_goes_on(
    scene: Scene, value: bytes | None, reason: str, said: str
) -> None:
    neighbours = [good(scene) for _ in range(2)]
    before = len(scene.letters)
    scene.send(neighbours[0])
    scene.send(value, headers=[("origin", b"\x00\xff")], key=b"together")
    scene.send(neighbours[1])
    scene.wait("a dead letter", lambda: len(scene.letters) > before)
    assert_unharmed(scene, neighbours)
    letter = scene.letters[before]
    assert (letter.value, letter.key, letter.reason) == (value, b"together", reason)
    assert said in letter.detail
    # A producer sets these between one neighbour and the next.
    fates = [scene.fate(one) for one in neighbours]
    assert letter.topic == scene.topics.requests
    assert letter.partition == fates[0].partition
    assert fates[0].offset < letter.offset < fates[1].offset
    assert letter.headers == {"origin": b"\x00\xff"}
    assert letter.worker == "w1"


def test_the_sender_of_an_unreadable_record_is_told_where_its_headers_say_where(scene: Scene) -> None:
    scene.send(b"junk", headers=[("kafka_replyTopic", scene.topics.replies.encode()), ("kafka_correlationId", b"c1")])
    scene.wait("a reply", lambda: bool(scene.answers.get("")))
    answer = scene.answers.pop("")[0]
    assert answer.reply.code is Code.MALFORMED
    assert "it starts with 6a 75" in answer.reply.message
    assert answer.headers["kafka_correlationId"] == b"c1"


def test_an_unknown_model_is_told_those_there_are(scene: Scene) -> None:
    assert_refused(scene, scene.request("none", GOOD), Code.UNKNOWN_MODEL, "'none'", "lookup", "named", "sum")


def test_an_unknown_version_is_told_those_there_are(scene: Scene) -> None:
    bad = scene.request("sum", GOOD, version="9")
    assert_refused(scene, bad, Code.UNKNOWN_MODEL, "'sum'", "'9'", "1, 2, 3")
    assert scene.fate(bad).version == ""


def test_made_up_models_and_versions_make_no_series_without_end(scene: Scene) -> None:
    scene.ask(*(scene.request("sum", GOOD, version=f"made-up-{n}") for n in range(5)))
    scene.ask(*(scene.request("n" * 5_000 + str(n), GOOD) for n in range(150)))
    text = scene.worker.get("/metrics")[1]
    assert "made-up" not in text
    assert text.count('penstock_requests_total{code="UNKNOWN_MODEL"') <= 110


X = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": X[:, :2]}, ["input 'x'", "expected shape [rows, 3]", "got [1, 2]"]),
        ({"x": X[0]}, ["input 'x'", "expected shape [rows, 3]", "got [3]"]),
        ({"x": X.astype(np.float64)}, ["input 'x'", "expected FP32", "got FP64"]),
        ({"x": np.array([["a", "b", "c"]], object)}, ["input 'x'", "expected FP32", "got BYTES"]),
        ({"y": X}, ["input 'y'", "expected the inputs x", "an extra one"]),
        ({"x": X, "more": X}, ["input 'more'", "an extra one"]),
        ({"x": X[:0]}, ["input 'x'", "expected 1 row or more", "got 0 rows"]),
        ({"x": np.array([[1, np.nan, 3]], np.float32)}, ["input 'x'", "finite numbers", "NaN at [0, 1]"]),
        ({"x": np.array([[1, 2, 3], [1, 2, np.inf]], np.float32)}, ["input 'x'", "infinity at [1, 2]"]),
        ({}, ["input 'x'", "expected FP32 [rows, 3]", "got nothing"]),
    ],
    ids=["width", "rank", "dtype", "text", "missing", "extra", "zero rows", "NaN", "infinity", "nothing"],
)
def test_inputs_that_do_not_fit_are_told_field_expected_and_got(
    scene: Scene, inputs: dict[str, Array], said: list[str]
) -> None:
    assert_refused(scene, scene.request("sum", inputs, version="1"), Code.INVALID_ARGUMENT, *said)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (Tensor("x", "FP32", (1, 3), bytes(11)), ["'x'", "12 bytes", "got 11"]),
        (Tensor("x", "FP32", (1, -3), bytes(12)), ["'x'", "[1, -3]"]),
        (Tensor("x", "FP33", (1, 3), bytes(12)), ["'x'", "FP33"]),
        (Tensor("x", "FP32", (), bytes(4)), ["'x'"]),
        (Tensor("x", "FP32", (1,) * 65, bytes(4)), ["'x'", "[rows, 3]"]),
        (Tensor("x", "FP32", (0, 2**62), b""), ["'x'", "[rows, 3]"]),
        (Tensor("x", "FP32", (1, 2**62, 0), b""), ["'x'"]),
        (Tensor("x", "FP32", (2**40, 0), b""), ["'x'", "[rows, 3]"]),
        (Tensor("x", "BYTES", (1, 3), b"\xff\xff\xff\xff"), ["'x'"]),
    ],
    ids=["short", "negative", "unknown dtype", "scalar", "65 axes", "huge and empty", "huge", "endless rows", "bytes"],
)
def test_tensors_that_contradict_themselves_are_told_so(scene: Scene, tensor: Tensor, said: list[str]) -> None:
    bad = replace(scene.request("sum", version="1"), inputs=(tensor,))
    assert_refused(scene, bad, Code.INVALID_ARGUMENT, *said)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((0, 2**62), "zero rows"), ((2**40, 0), "rows without data"), ((1, 2**62, 0), "'values'")],
    ids=["no rows", "endless rows", "one axis too many"],
)
def test_shapes_without_data_cost_their_sender_an_error_also_where_an_axis_is_free(
    scene: Scene, shape: tuple[int, ...], said: str
) -> None:
    inputs = Tensor("values", "FP32", shape, b""), Tensor("mask", "BOOL", shape, b"")
    bad = replace(scene.request("sequences"), inputs=inputs)
    assert_refused(scene, bad, Code.INVALID_ARGUMENT, said)


def test_an_input_given_twice_and_inputs_beside_features_are_refused(scene: Scene) -> None:
    twice = replace(scene.request("sum", version="1"), inputs=(to_tensor("x", X), to_tensor("x", X)))
    assert_refused(scene, twice, Code.INVALID_ARGUMENT, "'x'", "twice")
    both = scene.request("named", {"x": X}, features={"a": 1.0})
    assert_refused(scene, both, Code.INVALID_ARGUMENT, "inputs or features, not both")


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"a": 1.0, "b": 2.0}, ["feature 'c'", "got nothing"]),
        ({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, ["feature 'd'", "a, b, c", "an extra one"]),
        ({"a": 1.0, "b": "two", "c": 3.0}, ["feature 'b'", "got 'two'"]),
        ({"a": None, "b": 2.0, "c": 3.0}, ["feature 'a'"]),
        ({"a": float("nan"), "b": 2.0, "c": 3.0}, ["feature 'a'", "nan"]),
        ({"a": 1e300, "b": 2.0, "c": 3.0}, ["feature 'a'", "1e+300"]),
    ],
    ids=["missing", "extra", "text", "null", "NaN", "too large"],
)
def test_features_that_do_not_fit_are_told_field_expected_and_got(
    scene: Scene, features: dict[str, Any], said: list[str]
) -> None:
    fine = [scene.request("named", features={"a": 1.0, "b": 0.0, "c": n}) for n in range(3)]
    bad = scene.request("named", features=features)
    scene.send(fine[0], bad, *fine[1:])
    (answer,) = scene.answers_to([bad])
    assert answer.reply.code is Code.INVALID_ARGUMENT
    for text in said:
        assert text.lower() in answer.reply.message.lower()
    assert [one.outputs["y"].tolist() for one in scene.answers_to(fine)] == [[[1.0]], [[4.0]], [[7.0]]]
    assert scene.fate(fine[2]).score == 7.0
    assert scene.fate(fine[2]).features == {"a": 1.0, "b": 0.0, "c": 2.0} | (
        {"d": pytest.approx(np.nan, nan_ok=True)} if scene.fate(fine[2]).features.keys() > {"a", "b", "c"} else {}
    )


def test_features_for_a_model_that_names_none_are_refused(scene: Scene) -> None:
    bad = scene.request("sum", version="1", features={"a": 1.0})
    assert_refused(scene, bad, Code.INVALID_ARGUMENT, "features", "x FP32 [rows, 3]")


def test_a_late_request_is_answered_without_inference(scene: Scene) -> None:
    # The model would raise for this index: that it is not said to have is that it did not run.
    late = scene.request("lookup", {"x": np.array([7])}, deadline=time.time_ns() // 1000 - 1_000_000)
    assert_refused(scene, late, Code.DEADLINE_EXCEEDED, "the deadline passed", "ms before scoring began")


def test_a_request_in_time_is_scored(scene: Scene) -> None:
    early = scene.request("lookup", {"x": np.array([1])}, deadline=time.time_ns() // 1000 + 60_000_000)
    assert scene.ask(early)[0].outputs["y"].tolist() == [20.0]


def test_who_makes_the_model_raise_is_found_and_the_rest_are_scored(scene: Scene) -> None:
    wrong = {5, 17, 18, 40}
    requests = [scene.request("lookup", {"x": np.array([9 if n in wrong else n % 2])}) for n in range(48)]
    for n, answer in enumerate(scene.ask(*requests)):
        if n in wrong:
            assert answer.reply.code is Code.INFERENCE_FAILED
            assert "the model raised" in answer.reply.message
        else:
            assert answer.reply.code is Code.OK
            assert answer.outputs["y"].tolist() == [[10.0, 20.0][n % 2]]


def test_an_answer_without_the_score_its_model_promises_fails_alone(scene: Scene) -> None:
    def row(width: int) -> dict[str, Array]:
        return {"values": np.ones((1, width), np.float32), "mask": np.ones((1, width), bool)}

    bad, fine = scene.request("seconds", row(0)), scene.request("seconds", row(2))
    answers = scene.ask(bad, fine)
    assert answers[0].reply.code is Code.INFERENCE_FAILED
    assert "'masked'" in answers[0].reply.message
    assert answers[1].outputs["total"].tolist() == [2.0]
    assert scene.fate(fine).score == 1.0


def test_a_request_over_the_limit_is_told_its_size_and_the_limit(scene: Scene) -> None:
    bad = scene.request("sum", {"x": np.ones((100_000, 3), np.float32)}, version="1")
    assert_refused(scene, bad, Code.TOO_LARGE, "1200", "at most 1048576")


def test_a_record_that_is_all_id_is_refused_and_harms_nobody(scene: Scene) -> None:
    bad = replace(scene.request("sum", GOOD, version="1"), request_id="i" * (MAX_MESSAGE_BYTES - 1_000))
    neighbours = [good(scene) for _ in range(2)]
    scene.send(neighbours[0], bad, neighbours[1])
    assert_unharmed(scene, neighbours)
    scene.wait("a clipped row", lambda: any(len(name) == 16 * 1024 for name in scene.fates))
    (fate,) = next(fates for name, fates in scene.fates.items() if len(name) == 16 * 1024)
    assert fate.code is Code.TOO_LARGE


def test_a_record_that_is_all_model_name_is_refused_and_harms_nobody(scene: Scene) -> None:
    bad = replace(scene.request("sum", GOOD, version="1"), model="m" * 4_300_000, experiment="e" * 1_000_000)
    neighbours = [good(scene) for _ in range(2)]
    scene.send(neighbours[0], bad, neighbours[1])
    assert_unharmed(scene, neighbours)
    assert scene.fate(bad).code is Code.TOO_LARGE


def test_a_dead_letter_keeps_all_of_a_large_record_that_fits(scene: Scene) -> None:
    junk = b"junk" + bytes(1_500_000)
    scene.send(junk)
    assert scene.letter(junk).reason == "NOT_AVRO"


def test_a_reply_that_kafka_would_not_take_is_told_its_size(scene: Scene) -> None:
    bad = scene.request("wide", {"x": np.ones((1, 1), np.float32)})
    assert_refused(scene, bad, Code.TOO_LARGE, "the reply has 10", "can be sent")


def test_a_request_of_very_many_rows_is_logged_row_by_row_in_several_records(scene: Scene) -> None:
    rows = 80_000
    big = scene.request("sum", {"x": np.ones((rows, 3), np.float32)}, version="1", user_id="u" * 60)
    (answer,) = scene.ask(big)
    assert answer.outputs["y"].shape == (rows, 1)
    scene.wait("all rows", lambda: len(scene.fates[big.request_id]) == rows)
    assert sorted(fate.row for fate in scene.fates[big.request_id]) == list(range(rows))


@pytest.mark.parametrize("user", ["", "ü", "用户 🛫", "a|b", "\0", "u" * 10_000], ids=ascii)
def test_any_user_id_is_scored_and_logged_as_it_is(scene: Scene, user: str) -> None:
    request = scene.request("sum", GOOD, version="1", user_id=user)
    assert scene.ask(request)[0].outputs["y"].tolist() == [[6.0]]
    assert scene.fate(request).user == user


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reply_topic": "no-such-topic"}, "UNKNOWN_TOPIC"),
        ({"reply_topic": "no such topic/\0"}, "UNKNOWN_TOPIC"),
        ({"reply_partition": 4}, "UNKNOWN_PARTITION"),
    ],
    ids=["no topic", "no name", "no partition"],
)
def test_replies_that_nobody_can_get_are_counted_said_once_and_stop_nothing(
    scene: Scene, fields: dict[str, Any], reason: str
) -> None:
    worker = scene.worker
    before = worker.metric("penstock_replies_undeliverable_total", reason=reason)
    lost = [replace(good(scene), **fields) for _ in range(3)]
    neighbours = [good(scene) for _ in range(2)]
    scene.send(neighbours[0], *lost, neighbours[1])
    assert_unharmed(scene, neighbours)
    assert [scene.fate(one).code for one in lost] == [Code.OK] * 3
    assert worker.metric("penstock_replies_undeliverable_total", reason=reason) == before + 3
    # The worker is shared with tests of bulk results, whose complaints are others.
    said = [one for one in worker.lines() if reason in one["message"] and one["logger"] == "stream_workers.replies"]
    assert len(said) == 1
    assert said[0]["level"] == "WARNING"


def test_a_request_that_wants_no_reply_is_scored_and_logged(scene: Scene) -> None:
    quiet = replace(good(scene), reply_topic="")
    scene.send(quiet)
    assert scene.fate(quiet).code is Code.OK
    assert not scene.answers.get(quiet.request_id)


def test_a_reply_without_a_partition_follows_the_key_however_it_is_said(scene: Scene) -> None:
    ones = [replace(good(scene), reply_partition=partition) for partition in (-1, -7)]
    assert len({answer.partition for answer in scene.ask(*ones)}) == 1


def test_a_version_whose_bytes_changed_is_unavailable_and_says_why_while_others_serve(scene: Scene) -> None:
    assert_refused(scene, scene.request("spoilt", GOOD), Code.UNAVAILABLE, "'spoilt'", "should have SHA-256")
