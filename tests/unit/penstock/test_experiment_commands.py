"""`penstock experiments`: what it says to people and machines, and the one line of everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from memory_topic import MemoryTopic
from onnx_models import linear, sequences
from typer.testing import CliRunner, Result

from analytics.definition_reader import from_toml
from models.registry import ModelStore
from penstock.cli import build

FILE = """
name = "doubled"
hypothesis = "Twice the sum sells more."
model = "sum"
control = "plain"

[[variants]]
name = "plain"
version = "1"
share = "10%"

[[variants]]
name = "double"
version = "2"
share = "10%"

[[metrics]]
name = "bought"
kind = "proportion"
outcome = "purchase"
mde = "10%"
"""


def penstock(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments))


def answer(*arguments: str) -> Any:
    result = penstock("experiments", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refusal(*arguments: str, status: int = 2) -> str:
    result = penstock("experiments", *arguments)
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.removeprefix("penstock: ").strip()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a definition; the control topic is in memory and no warehouse answers."""
    topic = MemoryTopic()
    monkeypatch.setattr("producers.control.ControlTopic", lambda *_: topic)
    monkeypatch.setattr("producers.control.now_us", topic.now)
    store = ModelStore(tmp_path / "store")
    for version in "123":
        store.add_onnx("sum", version, linear(tmp_path / f"sum{version}.onnx", [float(version)] * 3))
        store.add_onnx("unscored", version, sequences(tmp_path / f"unscored{version}.onnx"))
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(store.root))
    monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doubled.toml").write_text(FILE, "utf-8")
    return tmp_path


def test_list_and_show_tell_what_there_is_without_a_warehouse(place: Path) -> None:
    assert answer("list") == []
    answer("create", "doubled.toml")
    answer("start", "doubled")
    (one,) = answer("list")
    assert one["arms"] == [
        {"name": "plain", "version": "1", "share": 0.1},
        {"name": "double", "version": "2", "share": 0.1},
    ]
    assert (one["status"], one["model"], one["layer"], one["last_decision"]) == ("running", "sum", None, None)
    assert one["started_at"] is not None
    for_people = penstock("experiments", "list")
    assert for_people.exit_code == 0
    assert "plain 10% of version 1, double 10% of version 2" in for_people.stdout
    assert "last decisions are not shown: no warehouse answers" in for_people.stderr
    shown = answer("show", "doubled")
    assert shown["definition"]["metrics"][0]["name"] == "bought"
    assert shown["assignment"]["salt"] == "doubled"
    table = penstock("experiments", "show", "doubled").stdout
    assert "Twice the sum sells more." in table
    assert "metric bought" in table


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"10%"', "0.7", "variants: shares add up to 140.00%, more than 100%"),
        ('outcome = "purchase"', 'prediction = "scroe"', "metrics[0].prediction: expected a column of predictions"),
        ('version = "2"', 'version = "7"', "variants[1].version: model 'sum' has no version '7'; there are: 1, 2, 3"),
        ('model = "sum"', 'model = "sums"', "model: there is no model 'sums' in the store"),
        ('control = "plain"', "control = 'plain'\nlayer_ranges = [[0, 5]]", "layer_ranges: mean nothing without"),
        (
            'control = "plain"',
            "control = 'plain'\nlayer = 'home'\nlayer_ranges = [[0, 6000]]",
            "layer_ranges: overlap in layer 'home' with those of 'other', which is running, at bucket 5000",
        ),
        ('name = "doubled"', 'name = "other"', "name: experiment 'other' has been running since"),
    ],
)
def test_a_bad_definition_is_one_line_with_file_and_key(place: Path, old: str, new: str, said: str) -> None:
    assert old in FILE
    other = FILE.replace('name = "doubled"', 'name = "other"\nlayer = "home"\nlayer_ranges = [[5000, 10000]]')
    (place / "other.toml").write_text(other, "utf-8")
    answer("create", "other.toml")
    answer("start", "other")
    before = answer("list")
    (place / "bad.toml").write_text(FILE.replace(old, new), "utf-8")
    assert refusal("create", "bad.toml").startswith(f"bad.toml: {said}")
    assert answer("list") == before


def test_what_cannot_be_done_to_an_experiment_is_one_line(place: Path) -> None:
    assert refusal("create", "none.toml") == "none.toml cannot be read: No such file or directory"
    assert refusal("start", "renamed").startswith("there is no experiment 'renamed'; there are: none.")
    answer("create", "doubled.toml")
    assert refusal("stop", "doubled") == "experiment 'doubled' is not running"
    assert refusal("ramp", "doubled", "plain=0.2").startswith("experiment 'doubled' is created, only a running one")
    answer("start", "doubled")
    assert refusal("start", "doubled").startswith("experiment 'doubled' has been running since")
    assert refusal("ramp", "doubled", "plain").startswith("ARM=SHARE: expected an arm once and its share")
    assert refusal("ramp", "doubled", "plain=0.1", "plain=0.2").startswith("ARM=SHARE: expected an arm once")
    assert refusal("ramp", "doubled", "plain=half").startswith("plain: expected a")
    assert refusal("ramp", "doubled", "plain=nan").startswith("plain: expected a number")
    assert refusal("ramp", "doubled", "plain=120%").startswith("plain: expected a share such as 0.5 or '50%'")
    assert "shares add up to 105.00%" in refusal("ramp", "doubled", "plain=95%")
    assert refusal("show", "twofold").startswith("there is no experiment 'twofold'; there are: doubled")
    raised = penstock("experiments", "ramp", "doubled", "plain=20%")
    assert "note: the arms' shares of each other change within the run" in raised.stderr


def test_a_plan_by_hand_is_checked_before_it_is_written(place: Path) -> None:
    body = json.dumps({"definition": json.loads(from_toml("doubled.toml").to_json())})
    wrong = penstock("control", "put", "experiment-plan", "doubled", body.replace('"sum"', "7"))
    assert (wrong.exit_code, wrong.stderr) == (
        2, "penstock: BODY: model: expected a text that is not empty, got 7\n"
    )  # fmt: skip
    other = penstock("control", "put", "experiment-plan", "other", body)
    assert other.stderr == "penstock: the experiment's own name is 'doubled', not 'other'\n"
    assert penstock("control", "put", "experiment-plan", "doubled", body).exit_code == 0
    assert answer("list")[0]["status"] == "created"
    entries = json.loads(penstock("control", "list", "--json").stdout)
    assert [(one["kind"], one["name"]) for one in entries] == [("experiment-plan", "doubled")]
    assert penstock("control", "remove", "experiment-plan", "doubled").exit_code == 0
    assert answer("list") == []


def test_a_metric_of_scores_needs_a_model_that_gives_some(place: Path) -> None:
    bad = FILE.replace('model = "sum"', 'model = "unscored"')
    (place / "bad.toml").write_text(bad, "utf-8")
    answer("create", "bad.toml")
    judged = bad.replace('outcome = "purchase"', 'source = { outcome = "purchase", value = "correct" }')
    for metric in (judged, bad.replace('outcome = "purchase"', 'prediction = "score"')):
        (place / "bad.toml").write_text(metric, "utf-8")
        assert refusal("create", "bad.toml") == (
            "bad.toml: metrics[0]: it judges scores, and version '1' of model 'unscored' gives none: "
            "its manifest names no score"
        )
