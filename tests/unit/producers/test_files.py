"""Input files: same rows in the same order whatever the format and wherever the reading begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers import csvrows, jsonlines
from producers.columns import Layout, TensorColumns, plan
from producers.errors import BulkInputError
from producers.files import open_source
from producers.pieces import Piece, rechunk

ROWS = 1000


def write(folder: Path, kind: str) -> Path:
    table = pa.table(
        {"id": list(range(ROWS)), "x": [i / 2 for i in range(ROWS)], "name": [f"n {i}" for i in range(ROWS)]}
    )
    path = folder / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=130)
    elif kind == "csv":
        pa_csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvrows, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(jsonlines, "BLOCK_BYTES", 2000)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("skip", [0, 1, 130, 517, 999, 1000, 5000])
def test_reading_from_any_row_gives_the_rest(tmp_path: Path, kind: str, skip: int) -> None:
    source = open_source(write(tmp_path, kind))
    wanted = {"name": pa.string(), "x": pa.float64(), "id": None}
    pieces = list(source.pieces(wanted, skip))
    found = [row for piece in pieces for row in piece.table.to_pylist()]
    assert [row["name"] for row in found] == [f"n {i}" for i in range(skip, ROWS)]
    assert [float(row["x"]) for row in found] == [i / 2 for i in range(skip, ROWS)]
    if pieces:
        assert pieces[0].table.column_names == ["name", "x", "id"]
        assert pieces[-1].position == source.size
        assert {name: piece.table.schema.field(name).type for piece in pieces for name in wanted} == source.types(
            wanted
        )
    if kind != "parquet":
        assert source.rows is None
        assert kind == "csv" or skip >= 900 or len(pieces) > 5  # blocks, not the whole file
    else:
        assert source.rows == ROWS


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 25))
def test_rechunking_keeps_rows_order_and_errors(sizes: list[int], rows: int) -> None:
    def pieces() -> Iterator[Piece]:
        start = 0
        for size in sizes:
            numbers = range(start, start + size)
            errors = {at: f"e{number}" for at, number in enumerate(numbers) if number % 7 == 0}
            yield Piece(pa.table({"n": pa.array(numbers, pa.int64())}), size, start, errors)
            start += size

    out = list(rechunk(pieces(), rows))
    assert [one for piece in out for one in piece.table["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(piece.table.num_rows == rows for piece in out[:-1])
    for number, piece in enumerate(out):
        start = number * rows
        assert piece.errors == {at: f"e{start + at}" for at in range(piece.table.num_rows) if (start + at) % 7 == 0}


def read_lines(path: Path, wanted: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    rows: list[dict[str, Any]] = []
    errors: dict[int, str] = {}
    for piece in open_source(path).pieces(wanted):
        errors.update({len(rows) + row: text for row, text in piece.errors.items()})
        rows += piece.table.to_pylist()
    return rows, errors


def test_a_line_that_is_no_json_object_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":1,"x":1}\n\n{"id":2,"x":\n[3]\n"text"\n{"id":5,"x":"five"}\n{"id":6,"x":true}\n{"id":7}\n')
    rows, errors = read_lines(path, {"id": None, "x": pa.float64()})
    assert [row["id"] for row in rows] == [1, None, None, None, 5, 6, 7]
    assert [row["x"] for row in rows] == [1.0, None, None, None, None, 1.0, None]
    assert sorted(errors) == [1, 2, 3, 4]
    assert errors[1].startswith("line 3: not JSON")
    assert errors[2] == "line 4: not a JSON object"
    assert errors[3] == "line 5: not a JSON object"
    assert errors[4] == "column 'x': expected a number, got \"five\""


def test_times_in_json_stay_the_text_they_are(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"at":"2013-01-01 00:00:00"}\n{"at":"soon"}\n')
    rows, errors = read_lines(path, {"at": None})
    assert [row["at"] for row in rows] == ["2013-01-01 00:00:00", "soon"]
    assert errors == {}


def test_ids_of_mixed_type_are_text_from_the_block_where_they_mix(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":1}\n' * 300 + '{"id":"two"}\n{"id":2.5}\n{"id":18446744073709551615}\n{}\n{"id":[1,"x"]}\n')
    rows, errors = read_lines(path, {"id": None})
    assert rows[0]["id"] == 1
    assert [row["id"] for row in rows[300:]] == ["two", "2.5", "18446744073709551615", None, '[1, "x"]']
    assert errors == {}
    whole = next(rechunk(open_source(path).pieces({"id": None}), 1000))
    assert whole.table["id"].to_pylist()[:301] == ["1"] * 300 + ["two"]


def test_a_whole_number_of_more_than_64_bits_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":18446744073709551615,"x":1.5}\n{"id":7,"x":2}\n')
    rows, _ = read_lines(path, {"id": None, "x": None})
    assert rows == [{"id": "18446744073709551615", "x": 1.5}, {"id": "7", "x": 2.0}]


def test_objects_as_ids_are_their_json(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":{"a":1}}\n{"id":{"b":[2]}}\n{"id":null}\n')
    assert read_lines(path, {"id": None})[0] == [{"id": '{"a": 1}'}, {"id": '{"b": [2]}'}, {"id": None}]


def test_text_that_is_a_number_counts_as_it_and_a_number_is_text_where_text_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"x":"17","t":17}\n{"x":" 1e3 ","t":"a"}\n{"x":"","t":true}\n{"x":"1_0","t":[1]}\n{"x":4,"t":2.5}\n'
    )
    rows, errors = read_lines(path, {"x": pa.float64(), "t": pa.string()})
    assert [row["x"] for row in rows] == [17.0, 1000.0, None, None, 4.0]
    assert [row["t"] for row in rows] == ["17", "a", "true", None, "2.5"]
    assert errors == {3: "column 'x': expected a number, got \"1_0\""}


def test_a_line_that_is_no_utf8_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id":"a"}\n' * 300 + b'{"id":"caf\xe9"}\n{"id":"z"}\n')
    rows, errors = read_lines(path, {"id": None})
    assert [row["id"] for row in rows] == ["a"] * 300 + [None, "z"]
    assert errors == {300: "line 301: not UTF-8 (byte 0xe9)"}


def test_a_line_that_is_too_long_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonlines, "LONGEST_ROW", 4000)
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":1}\n{"id":2,"z":"' + "z" * 30_000 + '"}\n{"id":3}\n')
    rows, errors = read_lines(path, {"id": None})
    assert [row["id"] for row in rows] == [1, None, 3]
    assert errors == {1: "line 2: longer than 4000 bytes"}


def test_a_list_that_does_not_fit_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"x":[1,2]}\n{"x":[1.5,2]}\n{"x":"oops"}\nbroken\n{"x":[3,4]}\n')
    source = open_source(path)
    chosen = plan(Layout(tensors=(TensorColumns("in", "FP32", ("x",), (2,)),)), source.schema, path)
    rows, errors = read_lines(path, dict(chosen.wanted))
    assert [row["x"] for row in rows] == [[1, 2], [1.5, 2], None, None, [3, 4]]
    assert sorted(errors) == [2, 3]


def test_text_in_parquet_that_is_no_utf8_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    raw = pa.array([b"a", b"caf\xe9", b"z"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"id": text, "kind": text.dictionary_encode(), "x": [1, 2, 3]}), path)
    rows, errors = read_lines(path, {"id": None, "kind": None, "x": None})
    assert [row["id"] for row in rows] == ["a", None, "z"]
    assert [row["kind"] for row in rows] == ["a", None, "z"]
    assert list(errors) == [1]
    assert errors[1].startswith("column 'id': cannot be read: Invalid UTF8")


def test_a_damaged_page_is_noticed_where_the_file_has_checksums(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    noise = np.random.default_rng(3).random(20_000)
    pq.write_table(pa.table({"x": noise}), path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[80_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BulkInputError, match=r"in\.parquet: .*CRC"):
        read_lines(path, {"x": None})


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_rows_are_counted_where_no_column_is_wanted(tmp_path: Path, kind: str) -> None:
    pieces = list(rechunk(open_source(write(tmp_path, kind)).pieces({}, 30), 100))
    assert [piece.rows for piece in pieces] == [100] * 9 + [70]


@pytest.mark.parametrize(("name", "message"), [("folder.parquet", "is a folder"), ("pipe.csv", "is no regular file")])
def test_what_is_no_file_is_said_to_be_none(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    path.mkdir() if "folder" in name else os.mkfifo(path)
    with pytest.raises(BulkInputError, match=message):
        open_source(path)


def test_csv_text_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,x\n007,1\n"a\nb",\n,2\n')
    rows = [row for piece in open_source(path).pieces({"id": None, "x": None}) for row in piece.table.to_pylist()]
    assert rows == [{"id": "007", "x": "1"}, {"id": "a\nb", "x": ""}, {"id": "", "x": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.parquet", None, "no such file"),
        ("in.xlsx", b"", "cannot tell its format"),
        ("in.parquet", b"not parquet", "Parquet"),
        ("in.csv", b"", "is empty"),
        ("in.parquet", b"", "0 bytes"),
        ("in.jsonl", b"", "is empty"),
        ("in.csv", b"a,b,a\n1,2,3\n", "column 'a' is there twice"),
        ("in.jsonl", b"\n\n", "is empty"),
        ("in.jsonl", b"nothing\nhere\n", "no line of it is a JSON object"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BulkInputError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
