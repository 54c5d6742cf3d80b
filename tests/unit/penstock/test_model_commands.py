"""`penstock models` and `penstock control` as a program calls them: one JSON document each, and what was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx_models import linear
from typer.testing import CliRunner, Result

from penstock.cli import build


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def penstock(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments))


def test_an_added_version_is_told_shown_and_verified_as_json(store: Path, tmp_path: Path) -> None:
    added = penstock("models", "add", "late", "1", str(linear(tmp_path / "late.onnx")), "--json")
    assert added.exit_code == 0, added.output
    manifest = json.loads(added.stdout)
    assert (manifest["name"], manifest["version"]) == ("late", "1")
    assert json.loads(penstock("models", "show", "late", "--json").stdout) == manifest
    verified = penstock("models", "verify", "late", "--json")
    assert verified.exit_code == 0, verified.output
    (about,) = json.loads(verified.stdout)
    assert (about["model"], about["version"], about["problem"]) == ("late", "1", "")
    assert about["warm_up"][0].keys() == {"rows", "ms"}
    with (store / "late" / "1" / "late.onnx").open("ab") as file:
        file.write(b"more")
    spoilt = penstock("models", "verify", "late", "--json")
    assert spoilt.exit_code == 1
    assert "should have" in json.loads(spoilt.stdout)[0]["problem"]
    assert len(spoilt.stderr.splitlines()) == 1


def test_a_model_nobody_added_is_one_line(store: Path) -> None:
    for what in ("show", "verify"):
        result = penstock("models", what, "none")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"penstock: there is no model 'none' in the store {store}; there are: none\n"
