"""Output formats: a file is what its name says, and what a format cannot hold is refused before the work."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from producers.errors import BulkInputError
from producers.writers import check_output, open_writer

TABLE = pa.table(
    {
        "id": ["a,b", 'say "x"', None],
        "at": pa.array([datetime.datetime(2013, 1, 2)] * 3, pa.timestamp("ns")),  # noqa: DTZ001
        "price": [decimal.Decimal("1.50")] * 3,
        "p": pa.array([0.1, float("nan"), None], pa.float32()),
        "error": [None, None, "line 3: not UTF-8"],
    }
)


def write(path: Path, table: Any) -> Path:
    check_output(path, table.schema)
    with path.open("wb") as file, open_writer(path, file, table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table)
    return path


def test_parquet_keeps_everything(tmp_path: Path) -> None:
    found = pq.read_table(write(tmp_path / "o.pq", TABLE))
    assert found.schema == TABLE.schema
    assert found.drop(["p"]) == pa.concat_tables([TABLE, TABLE]).drop(["p"])
    assert [str(one) for one in found["p"].to_pylist()[:3]] == [str(one) for one in TABLE["p"].to_pylist()]


def test_csv_is_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "o.csv", TABLE)
    assert path.read_text().splitlines()[0] == '"id","at","price","p","error"'
    found = pa_csv.read_csv(path).slice(3).to_pylist()
    assert [row["id"] for row in found] == ["a,b", 'say "x"', ""]
    assert [row["error"] for row in found] == ["", "", "line 3: not UTF-8"]
    assert [row["price"] for row in found] == [1.5] * 3


def test_json_lines_are_json_without_nan(tmp_path: Path) -> None:
    table = TABLE.append_column("pair", pa.array([[1.0, float("inf")], None, [3.0, 4.0]]))
    lines = write(tmp_path / "o.jsonl", table).read_text().splitlines()
    assert len(lines) == 6
    first, second, third = map(json.loads, lines[:3])
    assert first == {
        "id": "a,b", "at": "2013-01-02 00:00:00.000000000", "price": "1.50", "p": pytest.approx(0.1), "error": None,
        "pair": [1.0, None],
    }  # fmt: skip
    assert (second["p"], third["p"], third["pair"]) == (None, None, [3.0, 4.0])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("o", pa.int64(), "cannot tell from its name which format to write; use one of .parquet"),
        ("o.csv.gz", pa.int64(), "cannot tell"),
        ("o.csv", pa.list_(pa.float32(), 2), "which CSV cannot hold; write a .parquet or .jsonl file"),
        ("o.csv", pa.binary(), "which CSV cannot hold; write a .parquet file"),
        ("o.jsonl", pa.binary(), "which JSON cannot hold; write a .parquet file"),
        ("o.jsonl", pa.list_(pa.timestamp("ns")), "which JSON cannot hold"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(name: str, kind: Any, message: str) -> None:
    with pytest.raises(BulkInputError, match=message):
        check_output(Path(name), pa.schema([("c", kind)]))
    check_output(Path("o.parquet"), pa.schema([("c", kind)]))
