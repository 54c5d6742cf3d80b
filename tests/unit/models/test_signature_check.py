"""The gate of tensors: each kind of wrong input, and the exact line its sender gets."""

from __future__ import annotations

import pickle
import timeit

import numpy as np
import pytest

from models.errors import InferenceError, InvalidInputError, ManifestError, SignatureError
from models.signature import AxisBuckets, FeatureSpec, Score, Signature, TensorSpec
from schemas.records import Tensor
from schemas.tensors import DATATYPES, to_tensor

X = TensorSpec("x", "FP32", ("rows", 3))
Y = TensorSpec("y", "FP32", ("rows", 1))
ONE = Signature((X,), (Y,))
PAIR = Signature(
    (TensorSpec("ids", "INT64", ("rows", "seq")), TensorSpec("mask", "BOOL", ("rows", "seq"))),
    (TensorSpec("y", "FP32", ("rows", "seq")),),
)


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def with_value(value: float, at: tuple[int, int], rows: int = 2) -> np.ndarray:
    array = floats(rows, 3)
    array[at] = value
    return array


def pair(ids: tuple[int, ...], mask: tuple[int, ...]) -> list[Tensor]:
    return [to_tensor("ids", np.zeros(ids, np.int64)), to_tensor("mask", np.ones(mask, bool))]


WRONG = {
    "rank": (ONE, [to_tensor("x", floats(3))], "input 'x': expected shape [rows, 3], got [3]"),
    "extent": (ONE, [to_tensor("x", floats(2, 4))], "input 'x': expected shape [rows, 3], got [2, 4]"),
    "scalar": (ONE, [to_tensor("x", np.float32(1).reshape(()))], "input 'x': expected shape [rows, 3], got []"),
    "dtype": (ONE, [to_tensor("x", np.zeros((2, 3)))], "input 'x': expected FP32, got FP64"),
    "unknown dtype": (ONE, [Tensor("x", "BF16", (1, 3), b"")], "input 'x': expected FP32, got BF16"),
    "missing": (ONE, [], "input 'x': expected FP32 [rows, 3], got nothing"),
    "extra": (
        ONE,
        [to_tensor("x", floats(1, 3)), to_tensor("z", floats(1, 3))],
        "input 'z': expected the inputs x, got an extra one",
    ),
    "twice": (ONE, [to_tensor("x", floats(1, 3))] * 2, "input 'x': expected the inputs x, got it twice"),
    "nan": (ONE, [to_tensor("x", with_value(np.nan, (1, 2)))], "input 'x': expected finite numbers, got NaN at [1, 2]"),
    "infinity": (
        ONE,
        [to_tensor("x", with_value(-np.inf, (1999, 0), 2000))],
        "input 'x': expected finite numbers, got infinity at [1999, 0]",
    ),
    "zero rows": (ONE, [to_tensor("x", floats(0, 3))], "input 'x': expected 1 row or more, got 0 rows"),
    "short data": (
        ONE,
        [Tensor("x", "FP32", (2, 3), b"\0" * 20)],
        "input 'x': expected data that fills FP32 [2, 3], got 20 bytes: "
        "tensor 'x': FP32 of shape [2, 3] takes 24 bytes, got 20",
    ),
    "negative extent": (
        ONE,
        [Tensor("x", "FP32", (-1, 3), b"")],
        "input 'x': expected data that fills FP32 [-1, 3], got 0 bytes: tensor 'x': negative extent in shape [-1, 3]",
    ),
    "two negative extents": (
        PAIR,
        [Tensor("ids", "INT64", (-1, -1), b"\0" * 8)],
        "input 'ids': expected shape [rows, seq], got [-1, -1]",
    ),
    "rows differ": (PAIR, pair((2, 4), (3, 4)), "input 'mask': expected 2 rows as in 'ids', got 3 rows"),
    "symbol differs": (PAIR, pair((2, 4), (2, 5)), "input 'mask': expected seq = 4 as in 'ids', got 5"),
    "bool bytes": (
        PAIR,
        [to_tensor("ids", np.zeros((1, 2), np.int64)), Tensor("mask", "BOOL", (1, 2), b"\x01\x07")],
        "input 'mask': expected bytes 0 or 1 for BOOL, got 7",
    ),
    "a name of several lines": (
        ONE,
        [to_tensor("a\nb", floats(1, 3))],
        "input 'a\\nb': expected the inputs x, got an extra one",
    ),
    "a name without end": (
        ONE,
        [to_tensor("a" * 999, floats(1, 3))],
        f"input '{'a' * 58}…: expected the inputs x, got an extra one",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tensors_are_answered_with_field_expected_and_got(case: str) -> None:
    signature, tensors, message = WRONG[case]
    with pytest.raises(InvalidInputError) as caught:
        signature.check(tensors)
    assert str(caught.value) == message
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own error
    assert (str(again), again.field, again.got) == (message, caught.value.field, caught.value.got)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_passes_unchanged(datatype: str) -> None:
    array = np.array([[0, 1], [1, 0]], DATATYPES[datatype])
    signature = Signature((TensorSpec("x", datatype, (-1, 2)),), (Y,))
    checked = signature.check([to_tensor("x", array)])["x"]
    assert checked.dtype == array.dtype
    assert np.array_equal(checked, array)
    signature.check_arrays({"x": checked})


def test_strings_pass_as_objects() -> None:
    texts = np.array([["a", ""], ["é\0", "b\n"]], object)
    signature = Signature((TensorSpec("x", "BYTES", ("rows", 2)),), (Y,))
    checked = signature.check([to_tensor("x", texts)])["x"]
    assert checked.dtype == object
    assert checked.tolist() == texts.tolist()
    with pytest.raises(InvalidInputError, match="element 0 is not UTF-8"):
        signature.check([Tensor("x", "BYTES", (1, 2), b"\x01\0\0\0\xff\0\0\0\0")])


def test_a_signature_that_allows_nan_lets_it_through() -> None:
    signature = Signature((X,), (Y,), allow_nan=True)
    given = with_value(np.nan, (0, 1))
    assert np.array_equal(signature.check([to_tensor("x", given)])["x"], given, equal_nan=True)
    assert not signature.nan_rows({"x": given}).any()


def test_nan_passes_in_the_columns_of_features_that_may_carry_it() -> None:
    features = (
        FeatureSpec("a", "x", 0),
        FeatureSpec("b", "x", 1, allow_nan=True),
        FeatureSpec("c", "x", 2, required=False),
    )
    signature = Signature((X,), (Y,), features)
    for column in (1, 2):
        signature.check([to_tensor("x", with_value(np.nan, (0, column)))])
    with pytest.raises(InvalidInputError, match=r"got infinity at \[0, 1\]"):
        signature.check([to_tensor("x", with_value(np.inf, (0, 1)))])
    both = np.concatenate([with_value(np.nan, (0, column)) for column in range(3)])
    assert signature.nan_rows({"x": both}).tolist() == [True, False, False, False, False, False]


def test_nan_rows_are_found_in_every_input_of_any_rank() -> None:
    deep = TensorSpec("deep", "FP16", ("rows", 2, 2))
    flat = TensorSpec("flat", "FP64", ("rows",))
    ids = TensorSpec("ids", "INT64", ("rows",))
    signature = Signature((deep, flat, ids), (Y,))
    arrays = {"deep": np.zeros((4, 2, 2), np.float16), "flat": np.zeros(4), "ids": np.zeros(4, np.int64)}
    arrays["deep"][1, 1, 0] = np.inf
    arrays["flat"][3] = np.nan
    assert signature.nan_rows(arrays).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": floats(2, 4)}, "input 'x': expected shape [rows, 3], got [2, 4]"),
        ({"x": floats(2, 3).astype(float)}, "input 'x': expected FP32, got FP64"),
        ({"x": np.zeros((2, 3), complex)}, "input 'x': expected FP32, got complex128"),
        ({"x": floats(0, 3)}, "input 'x': expected 1 row or more, got 0 rows"),
        ({}, "input 'x': expected FP32 [rows, 3], got nothing"),
        ({"x": floats(1, 3), "q": floats(1, 3)}, "input 'q': expected the inputs x, got an extra one"),
    ],
)
def test_stacked_arrays_meet_the_same_checks(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ONE.check_arrays(arrays)
    assert str(caught.value) == message
    ONE.check_arrays({"x": with_value(np.nan, (0, 0))})


def test_stacked_strings_must_be_strings() -> None:
    signature = Signature((TensorSpec("t", "BYTES", ("rows",)),), (Y,))
    signature.check_arrays({"t": np.array(["a", "b"], object)})
    signature.check_arrays({"t": np.array(["a", "b"])})
    with pytest.raises(InvalidInputError, match="input 't': expected strings, got None"):
        signature.check_arrays({"t": np.array(["a", None], object)})
    with pytest.raises(InvalidInputError, match="input 't': expected BYTES, got int64"):
        signature.check_arrays({"t": np.array([1, 2])})


def test_stacked_axes_of_one_symbol_must_agree() -> None:
    with pytest.raises(InvalidInputError, match="input 'mask': expected seq = 4 as in 'ids', got 5"):
        PAIR.check_arrays({"ids": np.zeros((2, 4), np.int64), "mask": np.zeros((2, 5), bool)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Signature((), (Y,)), "a model needs an input"),
        (lambda: Signature((X, X), (Y,)), "two inputs have the same name"),
        (lambda: TensorSpec("x", "FP31", (1,)), "unknown datatype 'FP31'"),
        (lambda: TensorSpec("x", "FP32", ()), "needs a first axis, the rows"),
        (lambda: TensorSpec("x", "FP32", ("rows", 0)), "extent 0 is neither"),
        (lambda: TensorSpec("x", "UINT8", ("rows",), 256), "pad_value 256 is no UINT8"),
        (lambda: Signature((X, TensorSpec("k", "FP32", (1,))), (Y,)), "inputs fix different numbers of rows"),
        (lambda: Signature((TensorSpec("x", "FP32", ("n", "n")),), (Y,)), "no batching"),
        (lambda: Signature((X,), (Y,), axes=(AxisBuckets("seq", (8,)),)), "no input has it as an inner axis"),
        (lambda: AxisBuckets("seq", (8, 8)), "must be positive and ascending"),
        (lambda: Signature((X,), (Y,), score=Score("z")), "'z' is not an output of numbers"),
        (lambda: Signature((X,), (X,), score=Score("x")), "needs an index: 3 a row"),
        (lambda: Signature((X,), (X,), score=Score("x", 3)), "has no element 3 a row"),
        (lambda: Signature((X,), (TensorSpec("t", "BYTES", (-1,)),), score=Score("t")), "not an output of numbers"),
    ],
)
def test_a_signature_that_contradicts_itself_is_refused(build: object, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        build()
    assert message in str(caught.value)


def test_the_score_is_one_scalar_of_each_row() -> None:
    outputs = {"x": floats(2, 3), "y": np.array([[0.5], [0.25]], np.float16)}
    scored = Signature((X,), (X, Y), score=Score("x", 1)).scores(outputs, 2)
    assert scored.dtype == np.float64
    assert scored.tolist() == [1.0, 4.0]
    assert Signature((X,), (Y,), score=Score("y")).scores(outputs, 2).tolist() == [0.5, 0.25]
    assert np.isnan(Signature((X,), (Y,)).scores(outputs, 2)).all()
    anything = Signature((X,), (TensorSpec("y", "FP32", ("rows", -1)),), score=Score("y"))
    with pytest.raises(InferenceError, match="3 elements a row"):
        anything.scores({"y": floats(2, 3)}, 2)


def test_a_signature_survives_json() -> None:
    signature = Signature(
        (
            TensorSpec("x", "FP32", ("rows", 2), 1.5),
            TensorSpec("ids", "INT64", ("rows",)),
            TensorSpec("t", "BYTES", (-1,)),
        ),
        (Y, TensorSpec("z", "FP32", ("rows", 4))),
        (
            FeatureSpec("a", "x", 0, allow_nan=True),
            FeatureSpec("b", "x", 1, required=False),
            FeatureSpec("c", "ids", None, ("p", "q"), 2),
            FeatureSpec("d", "t"),
        ),
        Score("z", 3),
        True,
    )
    assert Signature.from_json(signature.to_json()) == signature
    assert Signature.from_json(signature.to_json()).to_json() == signature.to_json()
    ragged = Signature(PAIR.inputs, PAIR.outputs, axes=(AxisBuckets("seq", (8, 16)),))
    assert Signature.from_json(ragged.to_json()) == ragged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": 3}, "signature.inputs: expected a list, got 3"),
        ({"inputs": [3]}, "signature.inputs[0]: expected an object, got 3"),
        ({"inputs": [{"name": "x"}]}, "signature.inputs[0].shape: it is missing"),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1.5]}]},
            "signature.inputs[0].shape: expected a list of whole numbers and names, got [1.5]",
        ),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1], "pad": 1}]},
            "signature.inputs[0].pad: no such key; there are datatype, name, pad_value, shape",
        ),
        ({"inputs": []}, "signature: a model needs an input"),
        ({"score": {"index": 1}}, "signature.score.output: it is missing"),
        ({"score": {"output": "q"}}, "signature: score: 'q' is not an output of numbers"),
        ({"allow_nan": 1}, "signature.allow_nan: expected true or false, got 1"),
        (
            {"features": [{"name": "a", "input": "x", "index": "0"}]},
            "signature.features[0].index: expected a whole number, got '0'",
        ),
        (
            {"alow_nan": True},
            "signature.alow_nan: no such key; there are allow_nan, axes, features, inputs, outputs, score",
        ),
    ],
)
def test_wrong_json_is_answered_with_its_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Signature.from_json({**ONE.to_json(), **change})
    assert str(caught.value) == message


def test_a_request_of_32_floats_is_checked_in_microseconds() -> None:
    signature = Signature((TensorSpec("x", "FP32", ("rows", 32)),), (Y,))
    tensors = (to_tensor("x", floats(1, 32)),)
    best = min(timeit.repeat(lambda: signature.check(tensors), number=1000, repeat=7)) / 1000
    # It takes 2 µs; the bound is wide because the machine may be shared.
    assert best < 30e-6, f"{best * 1e6:.1f} µs"
