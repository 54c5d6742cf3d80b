"""File columns to wire tensors, and what is said of rows and columns that do not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.columns import FeatureColumn, Layout, TensorColumns, pack_texts, plan, to_wire
from producers.errors import BulkInputError
from schemas.tensors import Array, from_tensor, pack_bytes

PATH = Path("in.parquet")


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"))), st.integers(0, 3))
def test_texts_are_packed_as_the_protocol_says(texts: list[str], skip: int) -> None:
    array = pa.array(["before"] * skip + texts, pa.string()).slice(skip)
    assert pack_texts(array) == pack_bytes(texts)


def feature(column: Any, *, text: bool = False) -> tuple[Array, dict[int, str]]:
    wire = to_wire(Layout(features=(FeatureColumn("x", text),)), pa.table({"x": column}), len(column))
    return from_tensor(wire.columns[0]), wire.errors


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, None, 3.0]),
        pa.array([1.5, None, 3.0], pa.float32()),
        pa.array(["1.5", "", " 3.0 "]),
        pa.array(["1.5", None, "3e0"], pa.large_string()),
        pa.array(["1.5", None, "3"]).dictionary_encode(),
        pa.chunked_array([[1.5, None], [3.0]]),
    ],
)
def test_numbers_in_any_dress_are_numbers_and_nothing_is_nan(column: Any) -> None:
    values, errors = feature(column)
    assert values[[0, 2]].tolist() == [1.5, 3.0]
    assert math.isnan(values[1])
    assert errors == {}


def test_a_column_of_nothing_is_all_nan() -> None:
    values, errors = feature(pa.nulls(3))
    assert np.isnan(values).all()
    assert errors == {}


def test_single_precision_travels_as_it_is() -> None:
    assert feature(pa.array([1.5], pa.float32()))[0].dtype == np.float32
    assert feature(pa.array([True, False]))[0].tolist() == [1.0, 0.0]
    assert feature(pa.array([2**53 - 1]))[0].tolist() == [2**53 - 1]


def test_a_word_in_a_number_column_is_an_error_of_its_row() -> None:
    values, errors = feature(pa.array(["1", "two", "-.5", "0x10", "1_0", "nan", "+7"]))
    assert values[[0, 2, 6]].tolist() == [1.0, -0.5, 7.0]
    assert errors == {
        row: f"column 'x': expected a number, got {text!r}" for row, text in [(1, "two"), (3, "0x10"), (4, "1_0")]
    }


def test_missing_text_is_empty() -> None:
    values, errors = feature(pa.array(["a", None, "é"]), text=True)
    assert values.tolist() == ["a", "", "é"]
    assert errors == {}
    assert feature(pa.array(["a", None, "a"]).dictionary_encode(), text=True)[0].tolist() == ["a", "", "a"]
    assert feature(pa.array([1, 2]), text=True)[0].tolist() == ["1", "2"]


def test_an_optional_feature_without_a_column_travels_as_missing() -> None:
    layout = Layout(features=(FeatureColumn("x"), FeatureColumn("y", required=False), FeatureColumn("z", True, False)))
    plan(layout, {"x": pa.float64()}, PATH)
    wire = to_wire(layout, pa.table({"x": [1.0]}), 1)
    assert math.isnan(from_tensor(wire.columns[1])[0])
    assert from_tensor(wire.columns[2]).tolist() == [""]


def tensor(spec: TensorColumns, **columns: Any) -> tuple[Array, dict[int, str]]:
    table = pa.table(columns)
    wire = to_wire(Layout(tensors=(spec,)), table, table.num_rows)
    return from_tensor(wire.inputs[0]), wire.errors


def test_several_columns_side_by_side_are_one_input() -> None:
    values, errors = tensor(TensorColumns("in", "FP32", ("a", "b"), (2,)), a=[1, 2], b=[0.5, None])
    assert values.dtype == np.float32
    assert values.shape == (2, 2)
    assert values[0].tolist() == [1.0, 0.5]
    assert math.isnan(values[1, 1])
    assert errors == {}


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 3), pa.list_(pa.float32()), pa.large_list(pa.float64())])
def test_a_list_column_is_an_input_and_a_short_row_an_error(kind: Any) -> None:
    rows = [[1, 2, 3], None, [4, 5, 6]]
    values, errors = tensor(TensorColumns("in", "FP32", ("x",), (3,)), x=pa.array(rows, kind))
    assert values.tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6]]
    assert errors == {1: "column 'x': expected 3 values, got nothing"}


def test_rows_of_other_lengths_are_errors_and_the_rest_keeps_its_place() -> None:
    x = pa.array([[1, 2], [3], [4, 5], []], pa.list_(pa.int64()))
    values, errors = tensor(TensorColumns("in", "INT64", ("x",), (2,)), x=x)
    assert values.tolist() == [[1, 2], [0, 0], [4, 5], [0, 0]]
    assert sorted(errors) == [1, 3]


def test_a_list_column_fills_inner_axes() -> None:
    values, _ = tensor(TensorColumns("in", "FP32", ("x",), (2, 2)), x=pa.array([[1, 2, 3, 4]], pa.list_(pa.float32())))
    assert values.tolist() == [[[1, 2], [3, 4]]]


def test_text_lists_are_text_tensors() -> None:
    x = pa.array([["a", None], None, ["c", "d"]], pa.list_(pa.string()))
    values, errors = tensor(TensorColumns("in", "BYTES", ("x",), (2,)), x=x)
    assert values.tolist() == [["a", ""], ["", ""], ["c", "d"]]
    assert sorted(errors) == [1]


def test_whole_number_inputs_refuse_what_they_cannot_hold() -> None:
    values, errors = tensor(TensorColumns("in", "INT8", ("x",)), x=[1.0, 1.5, None, 200.0, -128.0])
    assert values.tolist() == [1, 0, 0, 0, -128]
    assert errors == {
        1: "column 'x': expected INT8, got 1.5",
        2: "column 'x': expected INT8, got nothing",
        3: "column 'x': expected INT8, got 200.0",
    }
    assert tensor(TensorColumns("in", "INT64", ("x",)), x=[2**62 + 1])[0].tolist() == [2**62 + 1]
    assert tensor(TensorColumns("in", "BOOL", ("x",)), x=[True, False])[0].tolist() == [True, False]


def test_where_nothing_must_not_be_the_row_says_nothing() -> None:
    layout = Layout(
        features=(FeatureColumn("x", nullable=False), FeatureColumn("t", text=True, nullable=False), FeatureColumn("y"))
    )
    table = pa.table({"x": ["1", "", "nan", None, "w"], "t": ["a", "b", None, "d", "e"], "y": pa.nulls(5)})
    wire = to_wire(layout, table, 5)
    assert wire.errors == {
        1: "column 'x': expected a number, got nothing",
        2: "column 't': expected text, got nothing",
        3: "column 'x': expected a number, got nothing",
        4: "column 'x': expected a number, got 'w'",
    }
    floats = pa.table({"x": [None, float("nan")], "t": ["a", "b"], "y": pa.nulls(2)})
    assert list(to_wire(layout, floats, 2).errors) == [0]  # NaN is something, for the worker to judge


def test_where_nothing_must_not_be_in_a_tensor_the_row_says_so_too() -> None:
    spec = TensorColumns("in", "FP32", ("a", "b"), (2,), nullable=False)
    assert tensor(spec, a=[1, 2], b=[0.5, None])[1] == {1: "column 'b': expected a number, got nothing"}
    x = pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float32()))
    listed = TensorColumns("in", "FP32", ("x",), (2,), nullable=False)
    assert tensor(listed, x=x)[1] == {1: "column 'x': expected a number, got nothing"}
    texts = TensorColumns("in", "BYTES", ("x",), (2,), nullable=False)
    words = pa.array([["a", "b"], None, ["c", None]], pa.list_(pa.string()))
    assert tensor(texts, x=words)[1] == {
        1: "column 'x': expected 2 values, got nothing",
        2: "column 'x': expected text, got nothing",
    }
    assert tensor(TensorColumns("in", "INT8", ("x",)), x=[1.0, float("nan")])[1] == {
        1: "column 'x': expected INT8, got NaN"
    }


def test_rows_are_what_is_said_where_no_column_tells() -> None:
    wire = to_wire(Layout(features=(FeatureColumn("x", required=False),)), pa.table({}), 3)
    assert wire.columns[0].shape == (3,)


def test_a_missing_column_is_named_with_those_there_are() -> None:
    layout = Layout(features=(FeatureColumn("a"), FeatureColumn("b")), ids=("id",))
    with pytest.raises(BulkInputError, match=r"in.parquet: no column 'b', 'id'; it has 'a', 'c'"):
        plan(layout, {"a": pa.int64(), "c": pa.int64()}, PATH)


def test_a_column_of_the_wrong_kind_is_refused_before_anything_is_sent() -> None:
    layout = Layout(features=(FeatureColumn("a"),))
    with pytest.raises(BulkInputError, match=r"column 'a' is timestamp\[us\]; the model wants numbers"):
        plan(layout, {"a": pa.timestamp("us")}, PATH)
    with pytest.raises(BulkInputError, match="wants 3 values a row"):
        tensor(TensorColumns("in", "FP32", ("a", "b"), (3,)), a=[1], b=[2])


def test_ids_are_the_columns_that_are_no_features() -> None:
    layout = Layout(features=(FeatureColumn("a"),))
    schema = {"id": pa.int64(), "a": pa.int64(), "name": pa.string()}
    assert plan(layout, schema, PATH).ids == ("id", "name")
    assert plan(Layout(features=(FeatureColumn("a"),), ids=("a",)), schema, PATH).ids == ("a",)
