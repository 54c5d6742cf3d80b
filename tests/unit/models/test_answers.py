"""A last answer is the user's own, of the same version and variant, not too old; what is kept has a bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.answers import AnswerCache

SCOPE = ("late", "2", "", "")
SCORES = np.arange(1000.0)


def outputs(*values: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"y": np.array(values, np.float32)}


def test_each_user_gets_the_own_last_answer() -> None:
    cache = AnswerCache(1 << 20)
    cache.put(0.0, 60, SCOPE, [b"ann", b"bob"], 1, outputs(1, 2), SCORES)
    cache.put(1.0, 60, SCOPE, [b"bob"], 1, outputs(3), SCORES)
    found = [cache.get(2.0, SCOPE, user, 1) for user in (b"ann", b"bob", b"eve")]
    assert [None if one is None else one.outputs["y"].tolist() for one in found] == [[1.0], [3.0], None]


def test_an_answer_that_is_too_old_or_of_another_shape_version_or_variant_is_none() -> None:
    cache = AnswerCache(1 << 20)
    cache.put(0.0, 60, SCOPE, [b"ann"], 2, outputs(1, 2), SCORES)
    assert cache.get(60.0, SCOPE, b"ann", 2) is not None
    assert cache.get(60.0, SCOPE, b"ann", 1) is None
    for scope in (("late", "1", "", ""), ("late", "2", "exp", "B"), ("soon", "2", "", "")):
        assert cache.get(60.0, scope, b"ann", 2) is None
    assert cache.get(60.1, SCOPE, b"ann", 2) is None
    assert (len(cache), cache.size) == (0, 0)


def test_nobody_has_no_last_answer() -> None:
    cache = AnswerCache(1 << 20)
    cache.put(0.0, 60, SCOPE, [b""], 1, outputs(1), SCORES)
    assert cache.get(0.0, SCOPE, b"", 1) is None


def test_an_answer_does_not_keep_its_batch_and_a_retired_version_s_are_gone() -> None:
    cache = AnswerCache(1 << 20)
    batch = outputs(*range(1000))
    cache.put(0.0, 60, SCOPE, [f"u{n}".encode() for n in range(1000)], 1, batch, SCORES)
    batch["y"][:] = -1
    found = cache.get(0.0, SCOPE, b"u7", 1)
    assert found is not None
    assert found.outputs["y"].tolist() == [7.0]
    assert found.scores.tolist() == [7.0]
    assert found.outputs["y"].base is None
    cache.forget("late", "1")
    assert len(cache) == 1000
    cache.forget("late", "2")
    assert (len(cache), cache.size) == (0, 0)


@settings(max_examples=100)
@given(
    most=st.integers(0, 5000),
    puts=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(0, 50)), max_size=30),
)
def test_it_never_takes_more_than_it_may_and_keeps_the_newest(most: int, puts: list[tuple[int, int, int]]) -> None:
    cache = AnswerCache(most)
    for user, rows, width in puts:
        name = f"user {user}".encode()
        cache.put(0.0, 60, SCOPE, [name], rows, {"y": np.full((rows, width), user, np.float64)}, SCORES)
        assert cache.size <= most
        found = cache.get(0.0, SCOPE, name, rows)
        assert found is None or found.outputs["y"].shape == (rows, width)
        assert found is not None or most < 1000 + rows * width * 8
    assert cache.size == 0 or len(cache) > 0
