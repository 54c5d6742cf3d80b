"""A poll decoded at once gives what record by record would: the same fields, the same errors, at the same places."""

from __future__ import annotations

import io
import json
import tracemalloc

import fastavro
from hypothesis import given, settings
from hypothesis import strategies as st
from polled_requests import CODEC, one_by_one, request, taken_apart, together

from schemas.batch_codec import MAX_TEMPLATES, decode_requests
from schemas.codec import parse, schema_fingerprint, schema_json
from schemas.framing import MARKER
from schemas.records import ScoreRequest, Tensor
from schemas.tensors import pack_bytes

_OLD = json.loads(schema_json("ScoreRequest"))
_OLD["fields"] = [one for one in _OLD["fields"] if one["name"] not in ("features", "experiment")]
_OLD["fields"].append({"name": "gone", "type": "long", "default": 0})
CODEC.learn(json.dumps(_OLD))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
words = st.sampled_from(["", "a", "b", "ü", "modèle"])
longs = st.integers(-(2**63), 2**63 - 1)


@st.composite
def shapes_of_tensors(draw: st.DrawFn) -> list[tuple[str, str, tuple[int, ...], int]]:
    """(name, datatype, shape, bytes) of a request's inputs; shape and bytes need not agree."""
    one = st.tuples(
        st.sampled_from(["x", "y", ""]),
        st.sampled_from(["FP32", "INT64", "BOOL", "BYTES", "nonsense"]),
        st.lists(st.integers(-1, 3), max_size=3).map(tuple),
        st.integers(0, 12),
    )
    return draw(st.lists(one, max_size=3))


@st.composite
def polls(draw: st.DrawFn) -> list[bytes | None]:
    """Values of a poll: mostly alike, with everything among them that a topic may hold."""
    forms = draw(st.lists(shapes_of_tensors(), min_size=1, max_size=3))
    values: list[bytes | None] = []
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["alike", "alike", "alike", "named", "both", "old", "broken", "raw", "none"]))
        if kind == "none":
            values.append(draw(st.none() | st.just(b"")))
            continue
        if kind == "raw":
            values.append(draw(st.binary(max_size=30).map(lambda raw: MARKER + raw)))
            continue
        features = st.dictionaries(words, st.none() | st.floats(allow_nan=False) | texts, min_size=1, max_size=2)
        record = ScoreRequest(
            request_id=draw(texts),
            model=draw(words),
            user_id=draw(texts),
            sent_at=draw(longs),
            version=draw(words),
            experiment="" if kind == "old" else draw(words),
            deadline=draw(longs),
            reply_topic=draw(words),
            reply_partition=draw(st.integers(-(2**31), 2**31 - 1)),
            inputs=()
            if kind == "named"
            else tuple(
                Tensor(name, datatype, shape, draw(st.binary(min_size=size, max_size=size)))
                for name, datatype, shape, size in draw(st.sampled_from(forms))
            ),
            features=draw(features) if kind in ("named", "both") else {},
        )
        value = old(record) if kind == "old" else CODEC.encode(record)
        if kind == "broken":
            at = draw(st.integers(0, len(value) - 1))
            damage = draw(st.sampled_from(["cut", "flip", "more", "varint"]))
            if damage == "cut":
                value = value[:at]
            elif damage == "flip":
                value = value[:at] + bytes([value[at] ^ (1 << draw(st.integers(0, 7)))]) + value[at + 1 :]
            elif damage == "more":
                value += draw(st.binary(min_size=1, max_size=3))
            else:
                value = value[:at] + b"\xff" * draw(st.integers(1, 11)) + value[at:]
        values.append(value)
    return values


def old(record: ScoreRequest) -> bytes:
    """The record as an earlier release, without features and experiment, would have written it."""
    out = io.BytesIO()
    out.write(MARKER + schema_fingerprint(_OLD))
    fields = {name: getattr(record, name) for name in record.__slots__}
    fields["inputs"] = [{name: getattr(one, name) for name in one.__slots__} for one in record.inputs]
    fastavro.schemaless_writer(out, parse(json.dumps(_OLD)), {**fields, "gone": 7})
    return out.getvalue()


@settings(max_examples=400, deadline=None)
@given(values=polls())
def test_a_poll_decoded_at_once_equals_its_records_decoded_one_by_one(values: list[bytes | None]) -> None:
    assert together(values) == one_by_one(values)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.binary(max_size=60).map(lambda body: CODEC.header(ScoreRequest) + body), max_size=8))
def test_any_bytes_behind_a_right_header_meet_the_same_end_either_way(values: list[bytes]) -> None:
    assert together(values) == one_by_one(values)


def test_requests_alike_but_for_ids_times_and_data_are_one_group() -> None:
    groups, errors = decode_requests(CODEC, [CODEC.encode(request(number)) for number in range(50)])
    assert not errors
    assert [len(group.index) for group in groups] == [50]


def test_requests_of_more_forms_than_are_compared_are_all_found() -> None:
    forms = 2 * MAX_TEMPLATES + 3
    ones = [request(n, inputs=(Tensor("x", "FP32", (1, n % forms), bytes(4 * (n % forms))),)) for n in range(60)]
    records, errors = together([CODEC.encode(one) for one in ones])
    assert not errors
    assert records == dict(enumerate(ones))


def test_bytes_tensors_are_never_joined_since_their_elements_have_lengths_of_their_own() -> None:
    ones = [request(n, inputs=(Tensor("t", "BYTES", (1, 1), pack_bytes([text])),)) for n, text in enumerate("abc")]
    groups, _ = decode_requests(CODEC, [CODEC.encode(one) for one in ones], fewest=2)
    assert [len(group.index) for group in groups] == [1, 1, 1]


def test_one_long_name_among_many_short_requests_costs_no_memory_for_each_of_them() -> None:
    values = [CODEC.encode(request(0, model="m" * 1_000_000))]
    values += [CODEC.encode(request(number)) for number in range(1, 2000)]
    tracemalloc.start()
    groups, errors = decode_requests(CODEC, values, fewest=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not errors
    assert sorted(len(group.index) for group in groups) == [1, 1999]
    assert peak < 40e6


def test_large_tensors_cost_a_few_times_their_bytes() -> None:
    ones = [request(n, inputs=(Tensor("x", "UINT8", (1, 200_000), bytes([n]) * 200_000),)) for n in range(50)]
    values = [CODEC.encode(one) for one in ones]
    tracemalloc.start()
    groups, _ = decode_requests(CODEC, values, fewest=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * sum(map(len, values))
    assert taken_apart(groups[0]) == dict(enumerate(ones))
