"""A batch that is read as views is the batch that fastavro reads, whatever the bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.codec import Codec, DecodeError
from schemas.records import ScoreBatch, Tensor
from schemas.tensors import from_tensor, pack_bytes
from schemas.views import LONG, UnknownTypeError, reader_of
from tests.unit.schemas.arbitrary_records import of

CODEC = Codec()
LARGE = ScoreBatch("job", 1, "m", 2, "replies", 3, inputs=(Tensor("x", "FP32", (3, 400), bytes(range(240)) * 20),))


def read(decode: Any, data: bytes) -> Any:
    """What it read, or what it said."""
    try:
        return decode(data)
    except DecodeError as error:
        return error.reason, str(error)


@settings(max_examples=300, deadline=None)
@given(batch=of(ScoreBatch))
@example(batch=LARGE)
def test_any_batch_is_read_as_fastavro_reads_it(batch: ScoreBatch) -> None:
    data = CODEC.encode(batch)
    assert CODEC.decode_batch(data) == CODEC.decode(ScoreBatch, data) == batch


@settings(max_examples=1000, deadline=None)
@given(batch=of(ScoreBatch), where=st.integers(0), with_=st.binary(max_size=12), cut=st.integers(0, 12))
@example(batch=LARGE, where=12, with_=b"\xff" * 9 + b"\x01", cut=1)
@example(batch=LARGE, where=12, with_=b"\xff" * 10 + b"\x03", cut=1)
def test_spoilt_bytes_end_as_they_do_with_fastavro(batch: ScoreBatch, where: int, with_: bytes, cut: int) -> None:
    data = CODEC.encode(batch)
    at = where % (len(data) + 1)
    spoilt = data[:at] + with_ + data[at + cut :]
    assert read(CODEC.decode_batch, spoilt) == read(lambda one: CODEC.decode(ScoreBatch, one), spoilt)


def test_long_data_is_a_view_of_the_record_and_short_data_a_copy() -> None:
    short = replace(LARGE, inputs=(*LARGE.inputs, Tensor("y", "UINT8", (3,), b"abc")))
    data = CODEC.encode(short)
    long_, other = CODEC.decode_batch(data).inputs
    assert isinstance(long_.data, memoryview)
    assert len(long_.data) >= LONG
    assert long_.data.obj is data
    assert type(other.data) is bytes


def test_text_that_came_as_a_view_is_read_as_text_that_did_not() -> None:
    texts = ["äöü", "", "x" * LONG]
    batch = replace(LARGE, inputs=(Tensor("t", "BYTES", (3,), pack_bytes(texts)),))
    (tensor,) = CODEC.decode_batch(CODEC.encode(batch)).inputs
    assert isinstance(tensor.data, memoryview)
    assert from_tensor(tensor).tolist() == texts


def test_a_number_without_an_end_is_given_up_after_ten_bytes() -> None:
    with pytest.raises(ValueError, match="more than ten bytes"):
        reader_of("long")(b"\x80" * 11, 0)
    assert reader_of("long")(b"\xff" * 9 + b"\x01", 0) == (-(2**63), 10)


@pytest.mark.parametrize("schema", ["double", ["null", "string"], {"type": "map", "values": "long"}], ids=str)
def test_a_type_that_is_not_read_here_is_named(schema: Any) -> None:
    with pytest.raises(UnknownTypeError, match="no reader of"):
        reader_of({"type": "record", "name": "R", "fields": [{"name": "a", "type": schema}]})
