"""Records of one layout are read at once, and give what fastavro makes of each; whatever differs is left to others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polled_requests import CODEC, one_by_one, request, taken_apart, together

from schemas.batch_codec import decode_requests
from schemas.records import ScoreRequest, Tensor
from schemas.request_layout import PAD, Layout, RequestGroup

HEADER = CODEC.header(ScoreRequest)
BYTES_OF = {"FP32": 4, "INT64": 8, "BOOL": 1, "FP16": 2}


def read(values: list[bytes]) -> RequestGroup | None:
    """What the first one's layout makes of all."""
    layout = Layout.of(HEADER, values[0])
    if layout is None:
        return None
    ends = np.cumsum([len(value) for value in values])
    return layout.read(b"".join([*values, PAD]), ends - [len(value) for value in values], ends)


@st.composite
def alike(draw: st.DrawFn) -> list[ScoreRequest]:
    """Requests that differ in nothing but what those of a poll differ in."""
    word = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    id_bytes = draw(st.integers(0, 40))
    forms = draw(st.lists(st.tuples(word, st.sampled_from([*BYTES_OF]), st.integers(0, 3)), min_size=1, max_size=3))
    # As many bytes as another: times of one century, a partition of one size.
    times = draw(st.sampled_from([(0, 63), (-64, -1), (64, 8191), (1 << 50, 1 << 51), (-(1 << 47), -(1 << 46))]))
    deadlines = draw(st.sampled_from([(0, 0), (1 << 50, 1 << 51)]))
    partitions = draw(st.sampled_from([(-1, 0), (0, 63), (64, 8191)]))
    plain = {
        "model": draw(word), "version": draw(word), "experiment": draw(word), "reply_topic": draw(word),
    }  # fmt: skip
    return [
        ScoreRequest(
            request_id=draw(st.text("0123456789abcdef", min_size=id_bytes, max_size=id_bytes)),
            user_id=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=15)),
            sent_at=draw(st.integers(*times)),
            deadline=draw(st.integers(*deadlines)),
            reply_partition=draw(st.integers(*partitions)),
            inputs=tuple(
                Tensor(name, kind, (1, width), draw(st.binary(min_size=count, max_size=count)))
                for name, kind, width, count in ((*form, form[2] * BYTES_OF[form[1]]) for form in forms)
            ),
            **plain,
        )
        for _ in range(draw(st.integers(1, 6)))
    ]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(ones=alike())
def test_requests_of_one_layout_are_read_by_it(ones: list[ScoreRequest]) -> None:
    group = read([CODEC.encode(one) for one in ones])
    assert group is not None
    assert taken_apart(group) == dict(enumerate(ones))


@settings(max_examples=300, deadline=None)
@given(ones=alike(), data=st.data())
def test_one_damaged_record_among_them_meets_the_same_end_as_alone(
    ones: list[ScoreRequest], data: st.DataObject
) -> None:
    values: list[bytes | None] = [CODEC.encode(one) for one in ones]
    place = data.draw(st.integers(0, len(values) - 1))
    value = values[place] or b""
    at = data.draw(st.integers(0, len(value) - 1))
    values[place] = data.draw(
        st.sampled_from(
            [value[:at], value + b"\0", value[:at] + b"\xff" + value[at + 1 :], value[:at] + b"\x80" + value[at:]]
        )
    )
    assert together(values) == one_by_one(values)


def test_every_bit_of_a_record_may_be_wrong() -> None:
    right = [CODEC.encode(request(number, sent_at=1 << 50)) for number in range(3)]
    for at in range(8 * len(right[1])):
        octets = bytearray(right[1])
        octets[at // 8] ^= 1 << at % 8
        values: list[bytes | None] = [right[0], bytes(octets), right[2]]
        assert together(values) == one_by_one(values), f"bit {at}"


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"version": "2"},
        {"experiment": "e"},
        {"reply_topic": "r"},
        {"sent_at": 1},
        {"deadline": 1 << 50},
        {"reply_partition": 64},
        {"user_id": "u" * 64},
        {"inputs": (Tensor("y", "FP32", (1, 4), bytes(16)),)},
        {"inputs": (Tensor("x", "INT32", (1, 4), bytes(16)),)},
        {"inputs": (Tensor("x", "FP32", (2, 2), bytes(16)),)},
        {"inputs": (), "features": {"x": 1.0}},
    ],
)
def test_what_is_not_of_the_layout_is_not_read_by_it(other: dict[str, object]) -> None:
    plain = request(0, sent_at=1 << 50)
    assert read([CODEC.encode(plain), CODEC.encode(plain)]) is not None
    assert read([CODEC.encode(plain), CODEC.encode(request(0, **{"sent_at": 1 << 50, **other}))]) is None


@pytest.mark.parametrize("users", [("\u00fc", "ab"), ("a", "u" * 63)])
def test_users_of_any_length_that_a_byte_tells_are_read(users: tuple[str, str]) -> None:
    ones = [request(0, user_id=user) for user in users]
    group = read([CODEC.encode(one) for one in ones])
    assert group is not None
    assert taken_apart(group) == dict(enumerate(ones))


def test_a_poll_of_one_layout_is_one_group_in_its_order() -> None:
    ones = [request(100 + number, sent_at=(1 << 50) + number) for number in range(50)]
    (group,), errors = decode_requests(CODEC, [CODEC.encode(one) for one in ones])
    assert not errors
    assert taken_apart(group) == dict(enumerate(ones))
