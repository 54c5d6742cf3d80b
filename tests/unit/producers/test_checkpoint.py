"""The checkpoint folder: whole files only, one job at a time, an output that does not show where the parts were cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producers import checkpoint as module
from producers.checkpoint import Checkpoint, State
from producers.errors import BulkError, BulkInputError

SCHEMA = pa.schema([("id", pa.int64()), ("error", pa.string())])
BINDING = {"input": "in.csv", "size": 5, "ids": ("id",)}


def rows(start: int, count: int) -> pa.Table:
    numbers = range(start, start + count)
    return pa.table({"id": list(numbers), "error": [f"e{n}" if n % 10 == 0 else None for n in numbers]}, schema=SCHEMA)


def begun(output: Path, cuts: list[int], *, finished: bool = False) -> Checkpoint:
    one = Checkpoint(output)
    one.begin(State(BINDING, "job", 10, "2", finished, *((cuts[-1] * 10, cuts[-1]) if finished else ())))
    at = 0
    for cut in cuts:
        one.append(at, cut - 1, rows(at * 10, (cut - at) * 10))
        at = cut
    return one


def test_the_output_is_the_same_wherever_the_parts_were_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 64)
    digests = set()
    for number, cuts in enumerate(([30], [1, 2, 30], [7, 13, 29, 30])):
        output = tmp_path / f"{number}.parquet"
        assert begun(output, cuts).finish(SCHEMA) == (300, 30)
        digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
        assert pq.read_table(output)["id"].to_pylist() == list(range(300))
        assert pq.ParquetFile(output).metadata.row_group(0).num_rows == 64
        assert not output.with_name(output.name + ".partial").exists()
    assert len(digests) == 1


def test_a_job_is_taken_up_where_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    begun(output, [2, 5]).close()
    (tmp_path / "out.parquet.partial" / "part-000000005-000000006.arrow.tmp").write_bytes(b"half")
    again = Checkpoint(output)
    state = again.resume(BINDING, force=False)
    assert state is not None
    assert (state.job, state.version, state.batch_rows) == ("job", "2", 10)
    assert (again.done(), again.rows()) == (5, 50)
    assert not list(again.folder.glob("*.tmp"))
    again.close()


def test_another_job_is_refused_with_what_differs_and_discarded_by_force(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    begun(output, [2]).close()
    with pytest.raises(BulkInputError, match=r"\(size: 5 then, 6 now\); start over with --force"):
        Checkpoint(output).resume({**BINDING, "size": 6}, force=False)
    assert Checkpoint(output).folder.is_dir()
    assert Checkpoint(output).resume({**BINDING, "size": 6}, force=True) is None
    assert not Checkpoint(output).folder.exists()


def test_force_goes_on_with_the_same_job(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    begun(output, [2]).close()
    again = Checkpoint(output)
    assert again.resume(BINDING, force=True) is not None
    assert again.done() == 2
    again.close()


def test_two_runs_cannot_write_one_output(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    held = begun(output, [2])
    with pytest.raises(BulkInputError, match="in use"):
        Checkpoint(output).resume(BINDING, force=True)
    held.close()


def test_a_lost_part_is_noticed(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    one = begun(output, [2, 5, 7])
    (one.folder / "part-000000002-000000004.arrow").unlink()
    with pytest.raises(BulkError, match="has lost the part before part-000000005"):
        one.done()
    one.close()


def test_killed_before_it_was_anything_is_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    folder = Checkpoint(output).folder
    folder.mkdir()
    (folder / "state.json.tmp").write_text("{")
    assert Checkpoint(output).resume(BINDING, force=False) is None
    assert not folder.exists()


def test_results_without_a_readable_state_are_not_thrown_away_unasked(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    one = begun(output, [2])
    one.close()
    (one.folder / "state.json").write_text("{")
    with pytest.raises(BulkInputError, match="cannot be read"):
        Checkpoint(output).resume(BINDING, force=False)
    assert Checkpoint(output).resume(BINDING, force=True) is None


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_killed_after_the_output_was_put_in_its_place_only_tidying_is_left(tmp_path: Path, removed: int) -> None:
    output = tmp_path / "out.parquet"
    one = begun(output, [2, 5])
    one.finish(SCHEMA)
    whole = output.read_bytes()
    left = begun(output, [2, 5], finished=True)
    left.close()
    for part in sorted(left.folder.glob("part-*"))[:removed]:
        part.unlink()
    again = Checkpoint(output)
    state = again.resume(BINDING, force=False)
    assert state is not None
    assert state.finished
    assert again.finish(SCHEMA) == (50, 5)
    assert output.read_bytes() == whole
    assert not again.folder.exists()


def test_killed_before_the_output_was_put_in_its_place_it_is_put_there(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    begun(output, [2]).finish(SCHEMA)
    left = begun(output, [2], finished=True)
    output.rename(left.folder / "output.parquet")
    output.write_bytes(b"an older file")
    assert left.finish(SCHEMA) == (20, 2)
    assert pq.read_table(output).num_rows == 20


def test_a_file_without_rows_has_an_output_without_rows(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    assert begun(output, []).finish(SCHEMA) == (0, 0)
    assert pq.read_table(output).schema.names == ["id", "error"]


def test_a_column_that_became_text_on_the_way_is_text_throughout(tmp_path: Path) -> None:
    text = pa.schema([("id", pa.string()), ("error", pa.string())])
    for number, cut in enumerate((10, 30)):
        output = tmp_path / f"{number}.parquet"
        one = begun(output, [cut // 10])
        later = pa.table({"id": [f"{n}" for n in range(cut, 40)] + ["two"], "error": [None] * (41 - cut)}, text)
        one.append(cut // 10, 4, later)
        assert one.rows() == 41
        assert one.finish(SCHEMA) == (41, cut // 10)
        found = pq.read_table(output)
        assert found.schema == text
        assert found["id"].to_pylist() == [*(f"{n}" for n in range(40)), "two"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_text_formats_end_with_the_same_file_too(tmp_path: Path, suffix: str) -> None:
    contents = set()
    for number, cuts in enumerate(([30], [7, 30])):
        output = tmp_path / f"{number}{suffix}"
        assert begun(output, cuts).finish(SCHEMA) == (300, 30)
        contents.add(output.read_bytes())
    assert len(contents) == 1
    assert len(contents.pop().splitlines()) == 300 + (suffix == ".csv")
