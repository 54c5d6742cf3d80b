"""`penstock flights export` writes a file that is whole or none at all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from penstock.commands.flights import register
from penstock.flights.features import FEATURES


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


def _run(app: typer.Typer, *arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["flights", "export", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_day_is_written_with_every_feature(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "day.parquet"
    code, stdout, _ = _run(app, out, "--from", "2013-04-01", "--days", 1, "--json")
    assert code == 0
    table = pq.read_table(out)
    assert table.column_names == ["request_id", "tail_number", "scheduled_departure", *FEATURES]
    assert json.loads(stdout)["rows"] == table.num_rows == 970
    assert [one.name for one in tmp_path.iterdir()] == ["day.parquet"]


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "day.parquet"
    out.write_text("mine")
    code, _, stderr = _run(app, out, "--days", 1)
    assert (code, out.read_text()) == (2, "mine")
    assert stderr.count("\n") == 1
    assert "--force" in stderr
    assert _run(app, out, "--days", 1, "--force", "--outcomes")[0] == 0
    assert "late" in pq.read_table(out).column_names


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("day.csv", "2013-04-01", ".parquet"),
        ("no/day.parquet", "2013-04-01", "no folder"),
        ("day.parquet", "2014-04-01", "2013-12-31"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(
    app: typer.Typer, tmp_path: Path, name: str, start: str, said: str
) -> None:
    code, stdout, stderr = _run(app, tmp_path / name, "--from", start)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert said in stderr
    assert list(tmp_path.iterdir()) == []
