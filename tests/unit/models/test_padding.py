"""Merge and split: what goes in together comes out apart, whatever the shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InferenceError
from models.padding import bucket_for, merge, padded_rows, split
from models.signature import AxisBuckets, Signature, TensorSpec
from schemas.tensors import BYTES, DATATYPES

FLAT = Signature((TensorSpec("x", "FP32", ("rows", 2)),), (TensorSpec("y", "FP32", ("rows", 2)),))
SEQUENCE = Signature(
    (
        TensorSpec("ids", "INT64", ("rows", "seq"), 9),
        TensorSpec("text", "BYTES", ("rows", "seq")),
        TensorSpec("n", "FP32", (-1,)),
    ),
    (TensorSpec("out", "INT64", ("rows", "seq")), TensorSpec("total", "FP32", ("rows",))),
    axes=(AxisBuckets("seq", (4, 8)),),
)


def sequence(rows: int, length: int) -> dict[str, np.ndarray]:
    return {
        "ids": np.full((rows, length), length, np.int64),
        "text": np.full((rows, length), "t", object),
        "n": np.full(rows, length, np.float32),
    }


def test_rows_are_padded_with_a_valid_row_and_cropped_again() -> None:
    parts = [{"x": np.full((count, 2), count, np.float32)} for count in (1, 2)]
    merged = merge(parts, FLAT, (4, 8))
    assert (merged.rows, merged.padded_rows, merged.counts) == (3, 4, (1, 2))
    assert merged.inputs["x"].tolist() == [[1, 1], [2, 2], [2, 2], [1, 1]]
    answers = split({"y": merged.inputs["x"] * 10}, merged, FLAT)
    assert [one["y"].tolist() for one in answers] == [[[10, 10]], [[20, 20], [20, 20]]]


def test_a_single_part_that_needs_no_padding_is_not_copied() -> None:
    part = {"x": np.zeros((4, 2), np.float32)}
    assert merge([part], FLAT, (4, 8)).inputs["x"] is part["x"]
    assert merge([part], FLAT).inputs["x"] is part["x"]


def test_buckets_round_up_and_leave_alone_what_exceeds_them() -> None:
    assert [bucket_for(rows, (1, 8, 64)) for rows in (1, 2, 8, 9, 64, 65)] == [1, 8, 8, 64, 64, 65]
    assert bucket_for(3, ()) == 3


def test_a_model_of_fixed_rows_gets_multiples_of_them() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (4, 2)),), (TensorSpec("y", "FP32", (4, 2)),))
    assert [padded_rows(rows, fixed, (7,)) for rows in (1, 4, 5, 9)] == [4, 4, 8, 12]


def test_sequences_are_padded_to_their_bucket_and_cropped_to_each_request() -> None:
    merged = merge([sequence(1, 2), sequence(2, 3)], SEQUENCE, (5,))
    assert merged.inputs["ids"].shape == (5, 4)
    assert merged.inputs["ids"][0].tolist() == [2, 2, 9, 9]
    assert merged.inputs["text"][1].tolist() == ["t", "t", "t", ""]
    assert merged.inputs["n"].tolist() == [2, 3, 3, 2, 2]
    answers = split({"out": merged.inputs["ids"], "total": merged.inputs["n"]}, merged, SEQUENCE)
    assert [one["out"].tolist() for one in answers] == [[[2, 2]], [[3, 3, 3], [3, 3, 3]]]
    assert [one["total"].tolist() for one in answers] == [[2], [3, 3]]


def test_sequences_beyond_the_last_bucket_are_padded_to_the_longest() -> None:
    assert merge([sequence(1, 2), sequence(1, 11)], SEQUENCE).inputs["ids"].shape == (2, 11)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.zeros((2, 2))}, "output 'y': expected 4 rows as in its input, got shape [2, 2]"),
        ({"y": np.float32(1).reshape(())}, "output 'y': expected 4 rows as in its input, got shape []"),
        ({}, "output 'y': expected 4 rows as in its input, got nothing"),
    ],
)
def test_an_output_without_a_row_for_each_row_is_refused(outputs: dict[str, Any], message: str) -> None:
    merged = merge([{"x": np.zeros((3, 2), np.float32)}], FLAT, (4,))
    with pytest.raises(InferenceError) as caught:
        split(outputs, merged, FLAT)
    assert str(caught.value) == message


def test_an_output_that_does_not_keep_its_input_axis_is_refused() -> None:
    merged = merge([sequence(1, 2)], SEQUENCE)
    with pytest.raises(InferenceError, match="output 'out': expected seq = 4 as in its input, got 3"):
        split({"out": np.zeros((1, 3)), "total": np.zeros(1)}, merged, SEQUENCE)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Signature, list[dict[str, np.ndarray]], tuple[int, ...]]:
    """A signature of several inputs with shared and own dynamic axes, parts that fit it, and row buckets."""
    extents = st.one_of(st.integers(1, 3), st.just(-1), st.sampled_from(["a", "b"]))
    kinds = st.sampled_from([*DATATYPES, BYTES])
    inner = draw(st.lists(st.tuples(kinds, st.lists(extents, max_size=3)), min_size=1, max_size=3))
    inputs = tuple(
        TensorSpec(f"x{at}", kind, ("rows", *shape), draw(st.integers(0, 1))) for at, (kind, shape) in enumerate(inner)
    )
    symbols = {one for spec in inputs for one in spec.shape[1:] if isinstance(one, str)}
    axes = tuple(AxisBuckets(one, (2, 5)) for one in sorted(symbols) if draw(st.booleans()))
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        rows = draw(st.integers(1, 4))
        size = {one: draw(st.integers(0, 6)) for one in sorted(symbols)}
        part = {}
        for spec in inputs:
            shape = (
                rows,
                *(
                    size[one] if isinstance(one, str) else draw(st.integers(0, 4)) if one == -1 else one
                    for one in spec.shape[1:]
                ),
            )
            noise = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, shape)
            part[spec.name] = noise.astype(str).astype(object) if spec.datatype == BYTES else noise.astype(spec.dtype)
        parts.append(part)
    buckets = draw(st.sampled_from([(), (1, 4, 16), (3,)]))
    return Signature(inputs, inputs, axes=axes), parts, buckets


@given(batches())
@settings(max_examples=400, deadline=None)
def test_split_undoes_merge(batch: tuple[Signature, list[dict[str, np.ndarray]], tuple[int, ...]]) -> None:
    signature, parts, buckets = batch
    merged = merge(parts, signature, buckets)
    assert merged.rows == sum(merged.counts)
    assert merged.padded_rows == bucket_for(merged.rows, buckets)
    assert all(len(array) == merged.padded_rows for array in merged.inputs.values())
    signature.check_arrays(merged.inputs)
    answers = split(merged.inputs, merged, signature)
    assert len(answers) == len(parts)
    for part, answer in zip(parts, answers, strict=True):
        for spec in signature.inputs:
            got = answer[spec.name]
            # An axis without a symbol has no name by which an output could follow it: it stays padded.
            own = part[spec.name].shape
            crop = tuple(slice(None, extent) for extent in own)
            cut = tuple(axis for axis, one in enumerate(spec.shape) if one != -1)
            assert all(got.shape[axis] == own[axis] for axis in cut)
            assert np.array_equal(got[crop], part[spec.name])
            assert got.dtype == part[spec.name].dtype
