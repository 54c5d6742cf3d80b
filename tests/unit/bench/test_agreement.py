"""A candidate's answers are compared one by one; whatever differs is found and said."""

from __future__ import annotations

import numpy as np

from penstock.bench.agreement import TOLERANCE, Answer, Outputs, compare, difference

ONE = {"y": np.array([[0.25]], np.float32)}
TWO = {"y": np.array([[0.5]], np.float32)}
WANTED: dict[str, Outputs] = {"r-1": ONE, "r-2": TWO}


def test_the_same_answers_in_any_order_agree() -> None:
    found = compare(WANTED, [Answer("r-2", TWO), Answer("r-1", ONE)])
    assert found.faults == 0
    assert found.largest_difference == 0.0


def test_rounding_agrees_and_its_size_is_told() -> None:
    near = {"y": ONE["y"] + np.float32(TOLERANCE / 2)}
    found = compare(WANTED, [Answer("r-1", near), Answer("r-2", TWO)])
    assert found.faults == 0
    assert 0 < found.largest_difference <= TOLERANCE


def test_a_missing_a_wrong_and_an_unasked_answer_are_faults() -> None:
    found = compare(WANTED, [Answer("r-1", TWO), Answer("r-9", ONE)])
    assert (found.missing, found.wrong, found.strays) == (1, 1, 1)
    assert found.faults == 3


def test_an_answer_given_twice_is_told_and_is_no_fault() -> None:
    found = compare(WANTED, [Answer("r-1", ONE), Answer("r-1", ONE), Answer("r-2", TWO)])
    assert (found.twice, found.faults) == (1, 0)


def test_an_error_another_output_another_shape_and_no_number_are_wrong() -> None:
    infinite = float("inf")
    assert difference(ONE, None) == infinite
    assert difference(ONE, {"z": ONE["y"]}) == infinite
    assert difference(ONE, {"y": np.array([0.25], np.float32)}) == infinite
    assert difference(ONE, {"y": np.array([[np.nan]], np.float32)}) == infinite
    # Answers of two requests exchanged: the same set of outputs, each at the wrong id.
    assert compare(WANTED, [Answer("r-1", TWO), Answer("r-2", ONE)]).wrong == 2
