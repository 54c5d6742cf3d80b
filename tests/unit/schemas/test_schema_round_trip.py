"""Records to bytes and back, and what any other bytes come to."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from arbitrary_records import blobs, of, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Codec, DecodeError, EncodeError, schema_json
from schemas.framing import MARKER
from schemas.make_vectors import samples
from schemas.records import RECORDS, Record, ScoreRequest

CODEC = Codec()
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
SAMPLES = {type(sample): CODEC.encode(sample) for sample in samples()}


@every_record
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_record_comes_back_equal(record: type[Record], data: st.DataObject) -> None:
    one = data.draw(of(record))
    assert CODEC.decode(record, CODEC.encode(one)) == one


@every_record
def test_the_python_record_has_the_schema_s_fields_and_defaults(record: type[Record]) -> None:
    schema = json.loads(schema_json(record.__name__))
    avro = {one["name"]: one.get("default", MISSING) for one in schema["fields"]}
    python: dict[str, Any] = {}
    for one in fields(record):
        python[one.name] = one.default if one.default_factory is MISSING else one.default_factory()
    assert {name: [] if value == () else value for name, value in python.items()} == avro


@every_record
def test_every_schema_and_every_field_has_a_doc(record: type[Record]) -> None:
    def check(schema: Any, where: str) -> None:
        if isinstance(schema, list):
            for one in schema:
                check(one, where)
        elif isinstance(schema, dict):
            assert schema["type"] not in ("record", "enum") or schema.get("doc"), where
            for one in schema.get("fields", ()):
                assert one.get("doc"), f"{where}.{one['name']}"
                check(one["type"], f"{where}.{one['name']}")
            for key in ("items", "values"):
                check(schema.get(key), where)

    check(json.loads(schema_json(record.__name__)), record.__name__)


def outcome(record: type[Record], data: bytes | None) -> str:
    caught = None
    try:
        CODEC.decode(record, data)
    except DecodeError as error:
        caught = error
    if caught is None:
        return "decoded"
    assert caught.reason in ("NOT_AVRO", "UNKNOWN_FINGERPRINT", "TRUNCATED", "WRONG_TYPE")
    assert "\n" not in str(caught)
    return caught.reason


@every_record
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_arbitrary_bytes_raise_only_decode_error(record: type[Record], data: st.DataObject) -> None:
    raw = data.draw(st.binary(max_size=200))
    outcome(record, raw)
    outcome(record, MARKER + raw)
    outcome(record, CODEC.header(record) + raw)


@every_record
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_corrupt_records_raise_only_decode_error(record: type[Record], data: st.DataObject) -> None:
    whole = bytearray(CODEC.encode(data.draw(of(record))))
    # 0xff and 0x7f make the longest lengths and counts.
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(10, len(whole) - 1), st.integers(0, 255) | st.just(255)), min_size=1, max_size=4)
    ):
        whole[at : at + 1] = bytes([value]) * data.draw(st.integers(0, 12))
        whole += bytes(max(0, 12 - len(whole)))
    outcome(record, bytes(whole))


@every_record
def test_a_record_cut_anywhere_is_refused(record: type[Record]) -> None:
    whole = SAMPLES[record]
    for end in range(len(whole)):
        assert outcome(record, whole[:end]) == ("NOT_AVRO" if end < 10 else "TRUNCATED"), end


@every_record
@settings(deadline=None)
@given(blobs.filter(bool))
def test_bytes_left_over_are_refused(record: type[Record], more: bytes) -> None:
    assert outcome(record, SAMPLES[record] + more) == "NOT_AVRO"


def test_each_reason_is_told_apart() -> None:
    whole = SAMPLES[ScoreRequest]
    assert outcome(ScoreRequest, None) == outcome(ScoreRequest, b"") == "NOT_AVRO"
    assert outcome(ScoreRequest, b"{}") == "NOT_AVRO"
    assert outcome(ScoreRequest, whole[:2] + bytes(8) + whole[10:]) == "UNKNOWN_FINGERPRINT"
    assert outcome(RECORDS[1], whole) == "WRONG_TYPE"
    assert outcome(ScoreRequest, whole[:-1]) == "TRUNCATED"


@pytest.mark.parametrize("length", [2**20, 2**31, 2**62])
def test_a_length_that_the_bytes_cannot_hold_is_refused_at_once(length: int) -> None:
    zigzag, varint = length << 1, bytearray()
    while zigzag > 127:
        varint.append(zigzag & 127 | 128)
        zigzag >>= 7
    whole = CODEC.encode(ScoreRequest("", "", "", 0))
    # The body starts with request_id's length; the last two bytes are the counts of inputs and features.
    assert outcome(ScoreRequest, whole[:10] + bytes(varint) + bytes([zigzag]) + whole[11:]) == "TRUNCATED"
    assert outcome(ScoreRequest, whole[:-2] + bytes(varint) + bytes([zigzag]) + bytes(8)) in ("TRUNCATED", "NOT_AVRO")


def sized(**values: object) -> ScoreRequest:
    return replace(ScoreRequest("r", "m", "u", 0), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reply_partition": 2**31}, "reply_partition does not fit 32 bits: 2147483648"),
        ({"sent_at": 2**63}, "too large"),
        ({"user_id": None}, "user_id"),
        ({"user_id": "\ud800"}, "surrogates not allowed"),
        ({"features": {"x": object()}}, "object"),
    ],
)
def test_a_record_that_does_not_fit_its_schema_is_refused_by_name(values: dict[str, object], said: str) -> None:
    with pytest.raises(EncodeError, match=r"^ScoreRequest cannot be encoded: ") as caught:
        CODEC.encode(sized(**values))
    assert said in str(caught.value)


@settings(deadline=None)
@given(st.dictionaries(texts, st.booleans() | st.integers(-(2**53), 2**53)))
def test_a_feature_that_is_a_whole_number_or_a_yes_or_no_arrives_as_a_number(features: dict[str, int]) -> None:
    back = CODEC.decode(ScoreRequest, CODEC.encode(sized(features=features)))
    assert back.features == features
    assert all(type(value) is float for value in back.features.values())


def test_nan_and_infinities_survive() -> None:
    values = {"a": float("nan"), "b": float("inf"), "c": float("-inf")}
    back = CODEC.decode(ScoreRequest, CODEC.encode(sized(features=values)))
    assert str(back.features) == str(values)
