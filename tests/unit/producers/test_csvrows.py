"""CSV: the same rows whatever the blocks, however it is quoted; a broken row is an error of its own and of no other."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers import csvrows
from producers.csvrows import Csv
from producers.errors import BulkInputError
from producers.files import open_source

Row = dict[str, str | None]
CELLS = st.text(st.sampled_from('ab ,"\n\ré'), max_size=5)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(
    path: Path, *, block: int = 4096, skip: int = 0, wanted: Sequence[str] = ()
) -> tuple[list[Row], dict[int, str]]:
    """All rows from `skip` on and their errors, read in blocks of `block` bytes."""
    rows: list[Row] = []
    errors: dict[int, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csvrows, "BLOCK_BYTES", block)
        source = open_source(path)
        for piece in source.pieces(dict.fromkeys(wanted or source.schema), skip):
            assert piece.rows == piece.table.num_rows
            errors.update({len(rows) + row: text for row, text in piece.errors.items()})
            rows += piece.table.to_pylist()
    return rows, errors


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "in.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@relaxed
@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.integers(1, 40),
    st.integers(0, 13),
)
def test_what_another_writer_wrote_is_read_back_from_any_row(
    tmp_path: Path, rows: list[tuple[str, str]], end: str, quoted: bool, block: int, skip: int
) -> None:
    if not quoted:  # Python's writer puts no quotes around newlines other than its own
        rows = [(" ".join(a.split()), " ".join(b.split())) for a, b in rows]
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator=end, quoting=quoting).writerows([("a", "b"), *rows])
    found, errors = read(write(tmp_path, out.getvalue()), block=block, skip=skip)
    assert [(one["a"], one["b"]) for one in found] == rows[skip:]
    assert errors == {}


@relaxed
@given(
    st.lists(st.sampled_from([b"a", b",", b'"', b"\n", b"\r", b"\r\n", b" ", b"\xe9", "é".encode()])), st.integers(1, 9)
)
def test_where_blocks_end_does_not_show(tmp_path: Path, pieces: list[bytes], block: int) -> None:
    path = write(tmp_path, b"a,b\n" + b"".join(pieces))
    assert read(path, block=block) == read(path)


@relaxed
@given(st.lists(st.sampled_from([b"a", b"a,a", b'"', b",", b"\n", b"\r\n", b" "])))
def test_read_at_once_or_row_by_row_it_is_the_same(tmp_path: Path, pieces: list[bytes]) -> None:
    source = Csv(write(tmp_path, b"a,b\n" + b"".join(pieces)))
    for block in list(source._blocks())[1:]:
        by_row = source._read_by_row(block, ["a", "b"])
        at_once = source._read(block, ["a", "b"])
        assert (at_once.table.to_pylist(), at_once.errors) == (by_row.table.to_pylist(), by_row.errors)


def test_a_row_of_another_width_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'id,x\n1,"one\ntwo"\n\n2\n3,4,5\n6,7\n')
    for block in (5, 4096):
        rows, errors = read(path, block=block)
        assert [row["id"] for row in rows] == ["1", None, None, "6"]
        assert errors == {
            1: "line 5: expected 2 columns as in the header, got 1",
            2: "line 6: expected 2 columns as in the header, got 3",
        }
        assert read(path, block=block, skip=2) == (rows[2:], {0: errors[2]})


def test_text_that_is_no_utf8_is_an_error_where_it_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "id,x,comment\nr1,1,caf\xe9\nr\xe9,2,\nr3,3,\n".encode("latin-1"))
    rows, errors = read(path, wanted=("id", "x"))
    assert rows == [{"id": "r1", "x": "1"}, {"id": None, "x": "2"}, {"id": "r3", "x": "3"}]
    assert errors == {1: "line 3, column 'id': not UTF-8 (byte 0xe9)"}


@pytest.mark.parametrize("block", [3, 4096])
def test_a_quote_that_is_never_closed_costs_its_line_only(tmp_path: Path, block: int) -> None:
    rows, errors = read(write(tmp_path, 'id,x\n1,2\n3,"four\n5,6\n7,8'), block=block)
    assert [row["id"] for row in rows] == ["1", None, "5", "7"]
    assert errors == {1: "line 3: a quote is opened here and not closed"}


@pytest.mark.parametrize(
    ("start", "why"), [('9,"', "a quote is opened here and not closed"), ("9,", "longer than 64 bytes")]
)
def test_what_has_no_end_is_not_held_in_memory_to_look_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, why: str
) -> None:
    monkeypatch.setattr(csvrows, "LONGEST_ROW", 64)
    ending = "\n" if '"' in start else ""
    path = write(tmp_path, f"id,x\n1,2\n{start}{ending}{'z' * 400}\n3,4\n")
    rows, errors = read(path, block=10)
    assert rows[0] == {"id": "1", "x": "2"}
    assert rows[-1] == {"id": "3", "x": "4"}
    assert errors[1] == f"line 3: {why}"
    assert set(errors) == set(range(1, len(rows) - 1))


def test_columns_may_have_any_name_and_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, '\n\ufeffétage,"a,b",,名\n1,2,3,4\n'.lstrip("\n"))
    assert read(path) == ([{"étage": "1", "a,b": "2", "": "3", "名": "4"}], {})


def test_a_packed_file_is_unpacked_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "in.csv.gz"
    lines = [f"{n},{n * n}" for n in range(5000)]
    packed = gzip.compress("\n".join(["id,x", *lines]).encode())
    path.write_bytes(packed)
    rows, errors = read(path, skip=10)
    assert [f"{row['id']},{row['x']}" for row in rows] == lines[10:]
    assert errors == {}
    path.write_bytes(packed[:-2000])
    with pytest.raises(BulkInputError, match=r"in\.csv\.gz: Compressed file ended"):
        read(path)
    path.write_bytes(b"id,x\n1,2\n")
    with pytest.raises(BulkInputError, match=r"in\.csv\.gz: Not a gzipped file"):
        read(path)


def test_no_column_wanted_the_rows_are_counted_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n1,2\n3,4\n")
    assert [piece.rows for piece in open_source(path).pieces({})] == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in.csv: is empty"),
        (b"\n\n", "in.csv: is empty"),
        (b"a,\xe9\n1,2\n", r"in.csv line 1: not UTF-8 \(byte 0xe9\)"),
        ("a,b\n1,2\n".encode("utf-16"), r"in.csv line 1: not UTF-8"),
        (b'a,"b\n1,2\n', "in.csv line 1: a quote is opened here and not closed"),
        (b'a,b,"a"\n1,2,3\n', "in.csv: column 'a' is there twice"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BulkInputError, match=message) as caught:
        open_source(write(tmp_path, content))
    assert "\n" not in str(caught.value)
