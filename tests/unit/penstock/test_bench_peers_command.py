"""`penstock bench peers` looks at its files before an hour of work, and says in one line what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.bench import campaign
from penstock.cli import build

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of each campaign that was begun; it fell behind."""
    found: list[Any] = []

    def run_campaign(*arguments: Any) -> Any:
        found.append(arguments)
        goal = {"work": "stream", "what": "a ratio", "measured": 0.7, "at_least": 0.7}
        return {"goals": [goal], "works": {}, "machine": {"date": "2026-01-01T00:00:00"}, "doubts": []}

    monkeypatch.setattr(campaign, "run_campaign", run_campaign)
    return found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("no JSON", "Expecting value"),
        ("[]", "it is no document of `penstock bench peers`"),
        ((RESULTS / "2026-11-29-bulk.json").read_text(), "it is no document of `penstock bench peers`"),
    ],
)
def test_a_file_to_compare_with_is_read_first(ran: list[Any], tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "before.json"
    if content is not None:
        file.write_text(content)
    result = CliRunner().invoke(build(), ["bench", "peers", "--against", str(file)])
    assert (result.exit_code, ran) == (2, [])
    assert result.stderr.startswith(f"penstock: --against: {file}: {said}")
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_told_first(ran: list[Any], tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    result = CliRunner().invoke(build(), ["bench", "peers", "--output", str(tmp_path / "results")])
    assert (result.exit_code, ran) == (2, [])
    assert result.stderr == f"penstock: --output: {tmp_path / 'results'}: File exists\n"


def test_a_folder_without_a_document_is_no_comparison(ran: list[Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(build(), ["bench", "peers", "--against", str(tmp_path), "--json"])
    assert (result.exit_code, len(ran)) == (0, 1)
    assert json.loads(result.stdout)["works"] == {}
