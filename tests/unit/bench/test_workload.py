"""Requests cut from a template are the requests that the codec would have written; wrong answers are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock.bench.check import count_log, count_replies
from penstock.bench.workload import POOL, RequestMaker, Workload, bulk_batch, is_right, make_workload
from schemas.codec import Codec
from schemas.codes import INDEX, Code
from schemas.partitioning import record_key
from schemas.records import PredictionBatch, ScoreReply, ScoreRequest
from schemas.tensors import from_tensor, pack_strings, to_tensor

RUN = "r" * 32


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return make_workload("mlp", tmp_path_factory.mktemp("mlp"), "unused")


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    store = Path(__file__).parents[3] / "models" / "zoo"
    return make_workload("flight-delay", tmp_path_factory.mktemp("flights"), store)


def test_requests_cut_from_a_template_are_those_that_the_codec_writes(mlp: Workload) -> None:
    codec = Codec()
    maker = RequestMaker(codec, mlp, RUN, "answers", 3)
    values, keys = maker.many(POOL - 5, 11)
    for at, (value, key) in enumerate(zip(values, keys, strict=True)):
        found = codec.decode(ScoreRequest, value)
        want = maker.one(POOL - 5 + at)
        assert replace(found, sent_at=0) == replace(want, sent_at=0)
        assert key == record_key(found.user_id)


def test_a_model_with_features_is_asked_by_name(flights: Workload) -> None:
    codec = Codec()
    values, _ = RequestMaker(codec, flights, RUN, "answers", 8).many(0, 3)
    found = codec.decode(ScoreRequest, values[2])
    assert set(found.features) == {one.name for one in flights.signature.features}
    assert not found.inputs
    assert flights.width == len(found.features)


def test_a_bulk_batch_holds_the_rows_from_its_sequence_on(mlp: Workload) -> None:
    batch = bulk_batch(mlp, "job", POOL - 1, 3, "results", 0)
    array = from_tensor(batch.inputs[0])
    np.testing.assert_array_equal(array, mlp.inputs["x"][[POOL - 1, 0, 1]])


def test_a_bulk_batch_of_features_has_a_column_each(flights: Workload) -> None:
    batch = bulk_batch(flights, "job", 7, 5, "results", 0)
    columns = {one.name: from_tensor(one) for one in batch.columns}
    assembled = flights.signature.assemble_columns(columns, 5)
    assert not assembled.errors
    for name, array in assembled.inputs.items():
        np.testing.assert_array_equal(array, flights.inputs[name][7:12])


def test_answers_are_right_within_rounding_and_wrong_beyond(mlp: Workload) -> None:
    where = np.array([4, 9])
    right = mlp.expected["y"][where]
    assert is_right(mlp, [to_tensor("y", right * np.float32(1.0001))], where)
    assert not is_right(mlp, [to_tensor("y", right + np.float32(0.01))], where)
    assert not is_right(mlp, [to_tensor("y", right[::-1].copy())], where)
    assert not is_right(mlp, [to_tensor("z", right)], where)
    assert not is_right(mlp, [], where)


def replies(workload: Workload, numbers: list[int], code: Code = Code.OK, run: str = RUN) -> Iterator[bytes]:
    for number in numbers:
        at = number % POOL
        outputs = (to_tensor("y", workload.expected["y"][at : at + 1]),)
        yield Codec().encode(ScoreReply(f"{run}-{number:08d}", code, model="mlp", outputs=outputs))


def test_replies_are_counted_by_request_and_those_of_other_runs_left_out(mlp: Workload) -> None:
    values = [*replies(mlp, [0, 1, 1, 3]), *replies(mlp, [2], run="o" * 32)]
    seen, wrong, compared = count_replies(Codec(), mlp, RUN, 4, values)
    assert seen.tolist() == [1, 2, 0, 1]
    assert (wrong, compared) == (0, 1)


def test_errors_unknown_requests_and_false_answers_are_wrong(mlp: Workload) -> None:
    assert count_replies(Codec(), mlp, RUN, 4, [*replies(mlp, [0], Code.INTERNAL)])[1] == 1
    assert count_replies(Codec(), mlp, RUN, 4, [*replies(mlp, [4])])[1] == 1
    false = ScoreReply(f"{RUN}-{0:08d}", Code.OK, outputs=(to_tensor("y", np.zeros((1, 1), np.float32)),))
    assert count_replies(Codec(), mlp, RUN, 4, [Codec().encode(false)])[1] == 1


def test_the_log_is_counted_by_request_and_its_errors_are_wrong() -> None:
    ids = [f"{RUN}-{number:08d}" for number in (0, 0, 2, 1)] + [f"{'o' * 32}-00000001"]
    codes = bytes([INDEX[Code.OK]] * 3 + [INDEX[Code.INTERNAL], INDEX[Code.OK]])
    empty = pack_strings([""] * 5)
    batch = PredictionBatch(
        batch_id="b", worker="w", device="cpu", model="m", version="1", experiment="", variant="", topic="t",
        scored_at=0, rows=5, request_ids=pack_strings(ids), user_ids=empty, partitions=bytes(20), offsets=bytes(40),
        row_numbers=bytes(20), sent_at=bytes(40), received_at=bytes(40), codes=codes, messages=empty,
        scores=bytes(40),
    )  # fmt: skip
    seen, wrong = count_log(Codec(), RUN, 3, [Codec().encode(batch)])
    assert seen.tolist() == [2, 0, 1]
    assert wrong == 1
