"""A column of byte strings is the list of them, however it was cut, taken, sliced and joined."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.byte_columns import BytesColumn, as_column

strings = st.lists(st.binary(max_size=6), max_size=12)
alike = st.integers(0, 5).flatmap(lambda width: st.lists(st.binary(min_size=width, max_size=width), max_size=12))
texts = st.lists(st.text(max_size=4), max_size=8)


@given(strings | alike)
def test_it_is_the_sequence_it_was_made_of(plain: list[bytes]) -> None:
    column = BytesColumn.of(plain)
    assert [*column] == column.tolist() == [column[i] for i in range(len(column))] == plain
    assert [column[-1 - i] for i in range(len(column))] == plain[::-1]
    assert column.lengths().tolist() == [*map(len, plain)]
    assert column.content() == b"".join(plain)
    assert as_column(column) is column


@given(strings | alike, st.data())
def test_slices_and_picks_are_those_of_the_list(plain: list[bytes], data: st.DataObject) -> None:
    column = BytesColumn.of(plain)
    ends = st.none() | st.integers(-15, 15)
    begin, end, step = data.draw(ends), data.draw(ends), data.draw(st.none() | st.integers(-3, 3).filter(bool))
    cut = column[begin:end:step]
    assert cut.tolist() == plain[begin:end:step]
    where = data.draw(st.lists(st.integers(0, len(cut) - 1), max_size=20)) if len(cut) else []
    taken = cut.take(np.array(where, np.int64))
    assert taken.tolist() == [plain[begin:end:step][i] for i in where]
    assert BytesColumn.joined([cut, taken, column]).tolist() == cut.tolist() + taken.tolist() + plain


@given(st.binary(max_size=40), st.data())
def test_a_cut_holds_the_spans_of_the_buffer(buffer: bytes, data: st.DataObject) -> None:
    place = st.integers(0, len(buffer))
    spans = data.draw(st.lists(st.tuples(place, place).map(lambda two: (min(two), max(two))), max_size=10))
    starts, ends = (np.array([span[i] for span in spans], np.int64) for i in (0, 1))
    assert BytesColumn.cut(buffer, starts, ends).tolist() == [buffer[a:b] for a, b in spans]


@given(strings | alike)
def test_it_is_a_matrix_where_all_are_of_one_width(plain: list[bytes]) -> None:
    matrix = BytesColumn.of([b"before", *plain])[1:].matrix()
    if plain and len(set(map(len, plain))) == 1:
        assert matrix is not None
        assert [bytes(row) for row in matrix] == plain
    else:
        assert matrix is None


@given(texts, st.integers(0, 30), st.integers(0, 4))
def test_text_is_text_string_by_string_not_on_the_whole(given_texts: list[str], at: int, back: int) -> None:
    raw = [text.encode() for text in given_texts]
    assert BytesColumn.of([b"\xff", *raw])[1:].is_text()
    joined = b"".join(raw)
    # Two parts of what is text as a whole: text themselves unless the cut goes through a character.
    cut = min(at, len(joined))
    parts = [joined[:cut], joined[cut:]]

    def decodes(part: bytes) -> bool:
        return part.decode(errors="replace").encode() == part

    assert BytesColumn.of(parts).is_text() == all(map(decodes, parts))
    assert not BytesColumn.of([*raw, bytes([0x80 + back])]).is_text()
