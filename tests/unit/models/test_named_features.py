"""Named features to inputs: the order of columns, each wrong value's message, and vectors that agree with scalars."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidInputError, SignatureError
from models.features import FeatureColumn
from models.signature import FeatureSpec, Signature, TensorSpec
from schemas.tensors import DATATYPES

Y = TensorSpec("y", "FP32", ("rows", 1))
FLIGHT = Signature(
    (
        TensorSpec("numbers", "FP32", ("rows", 3)),
        TensorSpec("carrier", "INT64", ("rows",)),
        TensorSpec("places", "INT32", ("rows", 2)),
        TensorSpec("tail", "BYTES", ("rows",)),
    ),
    (Y,),
    (
        FeatureSpec("distance", "numbers", 1),
        FeatureSpec("hour", "numbers", 0),
        FeatureSpec("wind", "numbers", 2, required=False),
        FeatureSpec("carrier", "carrier", vocabulary=("AA", "UA")),
        FeatureSpec("origin", "places", 0, ("EWR", "JFK"), unseen=2),
        FeatureSpec("dest", "places", 1, ("BOS", "SFO"), unseen=7, required=False),
        FeatureSpec("tail", "tail"),
    ),
)
GOOD = {"hour": 5, "distance": 1400.5, "wind": 3, "carrier": "UA", "origin": "EWR", "dest": "SFO", "tail": "N1"}


def test_features_land_in_their_columns_whatever_their_order() -> None:
    made = FLIGHT.assemble([GOOD, dict(reversed(GOOD.items()), hour=True, origin="XXX", wind=None)])
    assert made.errors == {}
    assert made.good.tolist() == [0, 1]
    np.testing.assert_array_equal(made.inputs["numbers"], np.array([[5, 1400.5, 3], [1, 1400.5, np.nan]], np.float32))
    assert made.inputs["carrier"].tolist() == [1, 1]
    assert made.inputs["places"].tolist() == [[0, 1], [2, 1]]
    assert made.inputs["tail"].tolist() == ["N1", "N1"]
    FLIGHT.check_arrays(made.inputs)
    assert not FLIGHT.nan_rows(made.inputs).any()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"hour": ...}, "feature 'hour': expected a finite FP32 number, got nothing"),
    "null": ({"hour": None}, "feature 'hour': expected a finite FP32 number, got nothing"),
    "text for a number": ({"hour": "5"}, "feature 'hour': expected a finite FP32 number, got '5'"),
    "nan": ({"hour": math.nan}, "feature 'hour': expected a finite FP32 number, got NaN"),
    "infinity": ({"wind": -math.inf}, "feature 'wind': expected a finite FP32 number, got infinity"),
    "beyond float32": ({"hour": 1e300}, "feature 'hour': expected a finite FP32 number, got 1e+300"),
    "beyond a double": (
        {"hour": 10**400},
        f"feature 'hour': expected a finite FP32 number, got {'1' + '0' * 58}…",
    ),
    "unknown category": ({"carrier": "ZZ"}, "feature 'carrier': expected one of 'AA', 'UA', got 'ZZ'"),
    "number for a category": ({"origin": 3}, "feature 'origin': expected a string, got 3"),
    "category missing": ({"origin": None}, "feature 'origin': expected a string, got nothing"),
    "number for text": ({"tail": 7}, "feature 'tail': expected a string, got 7"),
    "text missing": ({"tail": ...}, "feature 'tail': expected a string, got nothing"),
    "extra": (
        {"colour": "red"},
        "feature 'colour': expected only features of the model (carrier, dest, distance, hour, origin, tail, wind), "
        "got an extra one",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_costs_its_row_alone(case: str) -> None:
    change, message = WRONG[case]
    wrong = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    made = FLIGHT.assemble([GOOD, wrong, GOOD])
    assert made.errors == {1: message}
    assert made.good.tolist() == [0, 2]
    np.testing.assert_array_equal(made.inputs["numbers"], np.array([[5, 1400.5, 3]] * 2, np.float32))


def test_optional_features_take_their_fill_when_missing() -> None:
    row = {name: value for name, value in GOOD.items() if name not in ("wind", "dest")}
    made = FLIGHT.assemble([row])
    assert made.errors == {}
    assert np.isnan(made.inputs["numbers"][0, 2])
    assert made.inputs["places"].tolist() == [[0, 7]]


def test_the_first_fault_of_a_row_is_the_one_reported() -> None:
    made = FLIGHT.assemble([{**GOOD, "distance": None, "hour": "x", "carrier": "ZZ"}])
    assert made.errors == {0: "feature 'distance': expected a finite FP32 number, got nothing"}
    assert len(made.good) == 0
    assert made.inputs["numbers"].shape == (0, 3)


def test_no_rows_make_no_rows() -> None:
    made = FLIGHT.assemble([])
    assert made.good.tolist() == []
    assert made.errors == {}
    assert made.inputs["places"].shape == (0, 2)


def columns(rows: int, **change: Any) -> dict[str, np.ndarray]:
    base = {name: np.array([value] * rows, object if isinstance(value, str) else None) for name, value in GOOD.items()}
    return {**base, **change}


def test_columns_make_what_rows_make() -> None:
    given = columns(
        3,
        hour=np.array([1, 2, 3], np.int8),
        wind=np.array([1.0, np.nan, 3.0]),
        dest=np.array(["BOS", None, "??"], object),
        carrier=np.array(["AA", "UA", "AA"]),
    )
    by_column = FLIGHT.assemble_columns(given, 3)
    rows = [{name: column.tolist()[at] for name, column in given.items()} for at in range(3)]
    by_row = FLIGHT.assemble(rows)
    assert by_column.errors == by_row.errors == {}
    for name, array in by_column.inputs.items():
        np.testing.assert_array_equal(array, by_row.inputs[name])
        assert array.dtype == by_row.inputs[name].dtype


def test_bad_cells_of_columns_cost_their_rows_alone() -> None:
    made = FLIGHT.assemble_columns(
        columns(
            4,
            hour=np.array([1.0, np.nan, 3.0, 4.0]),
            carrier=np.array(["AA", "AA", "ZZ", "UA"], object),
            tail=np.array(["N1", "N1", "N1", None], object),
        ),
        4,
    )
    assert made.errors == {
        1: "feature 'hour': expected a finite FP32 number, got NaN",
        2: "feature 'carrier': expected one of 'AA', 'UA', got 'ZZ'",
        3: "feature 'tail': expected a string, got nothing",
    }
    assert made.good.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hour": ...}, "feature 'hour': expected a column of it, got nothing"),
        ({"zzz": np.zeros(2)}, "feature 'zzz': expected only features of the model"),
        ({"hour": np.zeros(3)}, "feature 'hour': expected shape [2], got [3]"),
        ({"hour": np.zeros((2, 1))}, "feature 'hour': expected shape [2], got [2, 1]"),
        (
            {"hour": np.zeros(2, "M8[s]")},
            "feature 'hour': expected a finite FP32 number, got a column of datetime64[s]",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused_as_a_whole(change: dict[str, Any], message: str) -> None:
    given = {name: value for name, value in {**columns(2), **change}.items() if value is not ...}
    with pytest.raises(InvalidInputError) as caught:
        FLIGHT.assemble_columns(given, 2)
    assert str(caught.value).startswith(message)


def test_a_missing_optional_column_is_filled() -> None:
    given = columns(2)
    del given["wind"], given["dest"]
    made = FLIGHT.assemble_columns(given, 2)
    assert made.errors == {}
    assert np.isnan(made.inputs["numbers"][:, 2]).all()
    assert made.inputs["places"][:, 1].tolist() == [7, 7]


def test_a_model_without_features_says_to_send_tensors() -> None:
    signature = Signature((TensorSpec("x", "FP32", ("rows", 2)),), (Y,))
    with pytest.raises(InvalidInputError) as caught:
        signature.assemble([{"a": 1.0}])
    assert str(caught.value) == (
        "features: expected tensors (x FP32 [rows, 2]): the model names no features, got named features"
    )


def spec(datatype: str, **more: Any) -> tuple[FeatureSpec, TensorSpec]:
    return FeatureSpec("f", "x", **more), TensorSpec("x", datatype, ("rows",))


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        ("INT8", 127, 127),
        ("INT8", -128.0, -128),
        ("INT8", 128, "a whole number from -128 to 127, got 128"),
        ("INT32", 2.5, "a whole number from -2147483648 to 2147483647, got 2.5"),
        ("INT64", 2**63 - 1, 2**63 - 1),
        ("INT64", float(2**63), "got 9.223372036854776e+18"),
        ("INT64", 2**63, "got 9223372036854775808"),
        ("UINT64", 2**64 - 1, 2**64 - 1),
        ("UINT64", -1, "a whole number from 0 to 18446744073709551615, got -1"),
        ("BOOL", True, True),
        ("BOOL", 0.0, False),
        ("BOOL", 2, "true or false, got 2"),
        ("FP16", 65504, 65504),
        ("FP16", 70000.0, "a finite FP16 number, got 70000.0"),
        ("FP64", 1e300, 1e300),
        ("INT64", math.nan, "got NaN"),
    ],
)
def test_numbers_must_fit_the_datatype_they_go_to(datatype: str, value: Any, expected: Any) -> None:
    feature, tensor = spec(datatype)
    signature = Signature((tensor,), (Y,), (feature,))
    for made in (
        signature.assemble([{"f": value}]),
        signature.assemble_columns({"f": np.array([value], object)}, 1),
        signature.assemble_columns({"f": np.array([value])}, 1),
    ):
        if isinstance(expected, str):
            assert expected in made.errors[0]
        else:
            assert made.errors == {}
            assert made.inputs["x"].tolist() == [expected]
            assert made.inputs["x"].dtype == tensor.dtype


numbers = st.one_of(st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.integers(-3, 300))
anything = st.one_of(st.none(), numbers, st.text(max_size=3), st.sampled_from(["a", "b"]))
features = st.one_of(
    st.tuples(st.sampled_from(list(DATATYPES)), st.fixed_dictionaries({"allow_nan": st.booleans()})),
    st.tuples(st.sampled_from(list(DATATYPES)), st.just({"required": False, "unseen": 1})),
    st.tuples(st.sampled_from(["FP16", "FP32", "FP64", "BYTES"]), st.just({"required": False})),
    st.tuples(st.just("BYTES"), st.just({})),
    st.tuples(st.sampled_from(["INT8", "FP32"]), st.just({"vocabulary": ("a", "b")})),
    st.tuples(st.just("INT64"), st.just({"vocabulary": ("a", "b"), "unseen": 9})),
)


@given(features, st.one_of(st.lists(anything, max_size=6), st.lists(numbers, max_size=6)), st.booleans())
@settings(max_examples=500, deadline=None)
def test_whole_columns_agree_with_the_scalar_rule(
    kind: tuple[str, dict[str, Any]], values: list[Any], free: bool
) -> None:
    feature, tensor = spec(kind[0], **kind[1])
    column = FeatureColumn(feature, tensor, free)
    wanted = np.zeros(len(values), tensor.dtype)
    messages = {}
    for at, value in enumerate(values):
        try:
            wanted[at] = column.one(value)
        except InvalidInputError as error:
            messages[at] = str(error)
    good = [at for at in range(len(values)) if at not in messages]
    objects = np.empty(len(values), object)
    objects[:] = values
    for given_values in (values, objects):
        errors: dict[int, str] = {}
        got = column.convert(given_values, errors)
        assert errors == messages
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got[good], wanted[good])


@given(
    features,
    st.one_of(
        st.lists(st.floats(), min_size=1, max_size=6).map(np.array),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6).map(lambda one: np.array(one, np.int64)),
        st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6).map(lambda one: np.array(one, np.uint64)),
        st.lists(st.booleans(), min_size=1, max_size=6).map(np.array),
        st.lists(st.integers(-128, 127), min_size=1, max_size=6).map(lambda one: np.array(one, np.int8)),
        st.lists(st.floats(width=16), min_size=1, max_size=6).map(lambda one: np.array(one, np.float16)),
    ),
    st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_numpy_columns_agree_with_the_scalar_rule(
    kind: tuple[str, dict[str, Any]], values: np.ndarray, free: bool
) -> None:
    feature, tensor = spec(kind[0], **kind[1])
    column = FeatureColumn(feature, tensor, free)
    errors: dict[int, str] = {}
    messages: dict[int, str] = {}
    got = column.convert(values, errors)
    for at, value in enumerate(values):
        try:
            wanted = np.array([column.one(value)]).astype(tensor.dtype)[0]
        except InvalidInputError as error:
            messages[at] = str(error)
        else:
            np.testing.assert_array_equal(got[at], wanted)
    assert errors == messages


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeatureSpec("a", "x", vocabulary=("p", "p")), "holds a value twice"),
        (lambda: Signature((TensorSpec("x", "FP32", (-1, 2)),), (Y,), (FeatureSpec("a", "x", 0),)), "columns [0]"),
        (lambda: Signature((TensorSpec("x", "FP32", (-1,)),), (Y,), (FeatureSpec("a", "x", 0),)), "columns [0]"),
        (lambda: Signature((TensorSpec("x", "FP32", (-1, 1)),), (Y,), (FeatureSpec("a", "x"),)), "columns [None]"),
        (lambda: Signature((TensorSpec("x", "FP32", (-1, "n")),), (Y,), (FeatureSpec("a", "x", 0),)), "[rows, n]"),
        (lambda: Signature((TensorSpec("x", "FP32", (-1,)),), (Y,), (FeatureSpec("a", "z"),)), "there is no input 'z'"),
        (lambda: Signature((spec("INT8")[1],), (Y,), (spec("INT8", required=False)[0],)), "give it `unseen`"),
        (lambda: Signature((spec("INT8")[1],), (Y,), (spec("INT8", unseen=200)[0],)), "unseen 200 does not fit INT8"),
        (lambda: Signature((spec("BYTES")[1],), (Y,), (spec("BYTES", vocabulary=("a",))[0],)), "is text"),
        (
            lambda: Signature((spec("BOOL")[1],), (Y,), (spec("BOOL", vocabulary=tuple("abc"))[0],)),
            "3 values do not fit",
        ),
    ],
)
def test_features_that_do_not_fill_their_inputs_are_refused(build: Any, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        build()
    assert message in str(caught.value)
