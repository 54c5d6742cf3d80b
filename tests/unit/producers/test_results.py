"""Answers beside their rows: every row of a batch comes out once, with outputs or with its error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producers.errors import BulkError, BulkInputError
from producers.results import OutputColumn, id_columns, id_types, output_schema, result_table
from schemas.codes import Code
from schemas.records import RowError, ScoreReply, Tensor
from schemas.tensors import to_tensor

OUTPUTS = (
    OutputColumn("p", "FP32"),
    OutputColumn("one", "FP64", (1,)),
    OutputColumn("pair", "FP16", (2,)),
    OutputColumn("steps", "INT64", (-1,)),
    OutputColumn("grid", "FP32", (2, -1)),
    OutputColumn("label", "BYTES"),
)


def ids(rows: int) -> dict[str, pa.Array]:
    return {"id": pa.array(range(rows), pa.int64())}


def tensors(rows: int) -> tuple[Tensor, ...]:
    n = np.arange(rows)
    return (
        to_tensor("p", n.astype(np.float32)),
        to_tensor("one", n[:, None] / 2),
        to_tensor("pair", np.stack([n, -n], 1).astype(np.float16)),
        to_tensor("steps", np.stack([n, n, n], 1)),
        to_tensor("grid", np.ones((rows, 2, 3), np.float32)),
        to_tensor("label", np.array([f"l{i}" for i in n], object)),
        to_tensor("more than promised", n),
    )


def test_every_output_becomes_a_column_and_a_bad_row_has_nulls_and_its_error(tmp_path: Path) -> None:
    reply = ScoreReply("j/0", Code.OK, outputs=tensors(3), row_errors=(RowError(1, Code.INVALID_ARGUMENT, "x: NaN"),))
    table = result_table(ids(3), 3, OUTPUTS, reply, {})
    pq.write_table(table, tmp_path / "out.parquet")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[0] == {
        "id": 0, "p": 0.0, "one": 0.0, "pair": [0, 0], "steps": [0, 0, 0], "grid": [[1] * 3] * 2, "label": "l0",
        "error": None,
    }  # fmt: skip
    assert rows[2]["pair"] == [2.0, -2.0]
    assert rows[2]["one"] == 1.0
    nothing = dict.fromkeys(one.name for one in OUTPUTS)
    assert rows[1] == {"id": 1, **nothing, "error": "INVALID_ARGUMENT: x: NaN"}


def test_what_was_wrong_before_sending_goes_before_what_the_worker_says() -> None:
    reply = ScoreReply("j/0", Code.OK, outputs=tensors(2), row_errors=(RowError(0, Code.INTERNAL, "worker"),))
    table = result_table(ids(2), 2, OUTPUTS, reply, {0: "column 'x': no number"})
    assert table["error"].to_pylist() == ["INVALID_ARGUMENT: column 'x': no number", None]


def test_a_batch_that_failed_is_rows_that_failed() -> None:
    reply = ScoreReply("j/0", Code.INFERENCE_FAILED, "the model raised")
    table = result_table(ids(2), 2, OUTPUTS, reply, {})
    assert table["error"].to_pylist() == ["INFERENCE_FAILED: the model raised"] * 2
    assert table["grid"].to_pylist() == [None, None]


def test_a_score_that_is_nan_stays_nan() -> None:
    reply = ScoreReply("j/0", Code.OK, outputs=(to_tensor("p", np.array([np.nan, 1], np.float32)),))
    table = result_table(ids(2), 2, OUTPUTS[:1], reply, {})
    assert table["p"].null_count == 0
    assert np.isnan(table["p"][0].as_py())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((), "answered without its output 'p'"),
        ((to_tensor("p", np.zeros(3, np.float32)),), r"output 'p': expected shape \[2\], got \[3\]"),
        ((Tensor("p", "FP32", (2,), b"123"),), "unreadable answer"),
    ],
)
def test_an_answer_that_breaks_the_promise_stops_the_job(outputs: tuple[Tensor, ...], message: str) -> None:
    reply = ScoreReply("j/0", Code.OK, outputs=outputs)
    with pytest.raises(BulkError, match=message):
        result_table(ids(2), 2, OUTPUTS[:1], reply, {})


def test_without_id_columns_the_rows_are_all_there() -> None:
    reply = ScoreReply("j/0", Code.OK, outputs=tensors(3), row_errors=(RowError(1, Code.INVALID_ARGUMENT, "x: NaN"),))
    table = result_table({}, 3, OUTPUTS[:1], reply, {2: "column 'x': no number"})
    assert table["p"].to_pylist() == [0, None, None]
    assert [error is None for error in table["error"].to_pylist()] == [True, False, False]
    failed = result_table({}, 2, OUTPUTS[:1], ScoreReply("j/0", Code.INTERNAL, "x"), {})
    assert failed["error"].to_pylist() == ["INTERNAL: x"] * 2


@pytest.mark.parametrize("name", ["p", "error"])
def test_an_id_column_must_not_be_named_like_an_output(name: str) -> None:
    with pytest.raises(BulkInputError, match="--id"):
        output_schema({name: pa.int64()}, OUTPUTS)


def test_dictionary_ids_are_spelled_out() -> None:
    assert id_types({"a": pa.dictionary(pa.int32(), pa.string()), "b": pa.int8()}) == {"a": pa.string(), "b": pa.int8()}
    kind = pa.dictionary(pa.int32(), pa.string())
    nested = pa.table({"c": pa.array([["u"]], pa.list_(kind)), "d": pa.array([{"e": "v"}], pa.struct([("e", kind)]))})
    columns = id_columns(nested, ["c", "d"])
    assert {name: str(one.type) for name, one in columns.items()} == {
        "c": "list<item: string>",
        "d": "struct<e: string>",
    }
    assert columns["d"].to_pylist() == [{"e": "v"}]
