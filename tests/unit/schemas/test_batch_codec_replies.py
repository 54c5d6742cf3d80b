"""Replies of a batch encoded at once are byte for byte what the plain codec writes for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import ScoreReply
from schemas.reply_codec import ReplyEncoder, varint
from schemas.tensors import DATATYPES, to_tensor

CODEC = Codec()
ENCODER = ReplyEncoder(CODEC)
# Few replies are joined one by one, more of them are rows of a matrix.
BOTH = {"one by one": ReplyEncoder(CODEC, fewest=1000), "as a matrix": ReplyEncoder(CODEC, fewest=0)}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
longs = st.integers(-(2**63), 2**63 - 1)
ids = st.lists(texts | st.just("ü" * 200), max_size=5)
about = st.fixed_dictionaries({"model": texts, "version": texts, "variant": texts, "replied_at": longs})
# Times of one poll are equal, those of a batch of several polls near each other, a wrong clock's anywhere.
near = st.integers(2**40, 2**40 + 1000)


def times_of(count: int) -> st.SearchStrategy[list[int]]:
    """When each of `count` requests was received."""
    return st.one_of(
        longs.map(lambda at: [at] * count), *(st.lists(one, min_size=count, max_size=count) for one in (near, longs))
    )


@st.composite
def outputs_of(draw: st.DrawFn, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs of `rows` rows in any datatype and shape, empty inner axes among them."""
    found = {}
    for name in draw(st.lists(texts, max_size=3, unique=True)):
        shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=2)))
        kind = draw(st.sampled_from([*DATATYPES, "BYTES"]))
        if kind == "BYTES":
            array = draw(arrays.arrays(object, shape, elements=texts, fill=st.nothing()))
        else:
            array = draw(arrays.arrays(DATATYPES[kind], shape))
        # Outputs are often views of a larger batch, with other strides.
        found[name] = array[::-1] if draw(st.booleans()) else array
    return found


@settings(max_examples=300, deadline=None)
@given(data=st.data(), names=ids, rows=st.integers(1, 3), fields=about, degraded=st.just("") | texts)
def test_ok_replies_equal_those_of_the_plain_codec(
    data: st.DataObject, names: list[str], rows: int, fields: dict[str, Any], degraded: str
) -> None:
    fields = {**fields, "degraded": degraded}
    outputs = data.draw(outputs_of(len(names) * rows))
    times = data.draw(times_of(len(names)))
    plain = [
        CODEC.encode(
            ScoreReply(
                name,
                Code.OK,
                received_at=times[i],
                **fields,
                outputs=tuple(to_tensor(key, array[i * rows : (i + 1) * rows]) for key, array in outputs.items()),
            )
        )
        for i, name in enumerate(names)
    ]
    for way, encoder in BOTH.items():
        encoded = encoder.encode_ok(
            [name.encode() for name in names], rows, outputs, received_at=np.array(times, np.int64), **fields
        )
        assert [*encoded] == plain, way


@settings(max_examples=150, deadline=None)
@given(data=st.data(), names=ids, code=st.sampled_from(Code), fields=about)
def test_error_replies_equal_those_of_the_plain_codec(
    data: st.DataObject, names: list[str], code: Code, fields: dict[str, Any]
) -> None:
    times = data.draw(times_of(len(names)))
    messages = data.draw(st.lists(texts, min_size=len(names), max_size=len(names)))
    plain = [
        CODEC.encode(ScoreReply(name, code, message, received_at=at, **fields))
        for name, message, at in zip(names, messages, times, strict=True)
    ]
    assert [
        *ENCODER.encode_error(
            [name.encode() for name in names], code, messages, received_at=np.array(times, np.int64), **fields
        )
    ] == plain


@pytest.mark.parametrize(
    ("value", "raw"),
    [(0, "00"), (-1, "01"), (1, "02"), (-64, "7f"), (64, "8001"), (2**63 - 1, "feffffffffffffffff01")],
)
def test_varints_are_those_of_the_avro_specification(value: int, raw: str) -> None:
    assert varint(value).hex() == raw
