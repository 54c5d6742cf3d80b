"""`penstock models` as a program calls it: one JSON document each, one line for what is refused, and an exit status."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from memory_topic import MemoryTopic
from onnx_models import linear, lookup
from typer.testing import CliRunner, Result

from penstock.brokers import free_port
from penstock.cli import build


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PENSTOCK_MODELS__CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    return tmp_path / "store"


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> MemoryTopic:
    made = MemoryTopic()
    monkeypatch.setattr("producers.control.ControlTopic", lambda *_, **__: made)
    return made


def penstock(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build(), [str(one) for one in arguments])


def answer(*arguments: str | Path) -> Any:
    result = penstock("models", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(*arguments: str | Path, code: int = 2) -> str:
    result = penstock("models", *arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.removeprefix("penstock: ").rstrip("\n")


def weights(folder: Path, *values: float) -> Path:
    return linear(folder / "late.onnx", values)


def spoil(store: Path) -> None:
    for blob in (store / ".blobs").rglob("*"):
        if blob.is_file():
            with blob.open("ab") as file:
                file.write(b"more")


def test_an_added_version_is_told_shown_and_verified_as_json(store: Path, tmp_path: Path) -> None:
    manifest = answer("add", "late", "1", weights(tmp_path, 1, 2, 3))
    assert (manifest["name"], manifest["version"]) == ("late", "1")
    assert answer("show", "late") == manifest
    (about,) = answer("verify", "late")
    assert (about["model"], about["version"], about["problem"]) == ("late", "1", "")
    assert about["warm_up"][0].keys() == {"rows", "ms"}
    spoil(store)
    spoilt = penstock("models", "verify", "late", "--json")
    assert spoilt.exit_code == 1
    assert "should have" in json.loads(spoilt.stdout)[0]["problem"]
    assert len(spoilt.stderr.splitlines()) == 1


def test_a_model_nobody_added_is_one_line(store: Path) -> None:
    for what in ("show", "verify"):
        assert refusal(what, "none") == f"there is no model 'none' in the store {store}; there are: none"


def test_what_is_known_of_a_version_comes_with_it(store: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"auc": 0.7}')
    (tmp_path / "signature.json").write_text(
        json.dumps(
            {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": ["rows", 3]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": ["rows", 1]}],
                "features": [{"name": one, "input": "x", "index": at} for at, one in enumerate("abc")],
                "score": {"output": "y", "index": None},
            }
        )
    )
    path = weights(tmp_path, 1, 2, 3)
    more = ("--metrics", tmp_path / "metrics.json", "--signature", tmp_path / "signature.json", "--candidate")
    manifest = answer("add", "late", "1", path, *more)
    assert (manifest["metrics"], manifest["stage"]) == ({"auc": 0.7}, "candidate")
    assert [one["name"] for one in manifest["signature"]["features"]] == ["a", "b", "c"]
    (tmp_path / "list.json").write_text("[]")
    said = refusal("add", "late", "2", path, "--metrics", tmp_path / "list.json")
    assert said == f"--metrics: {tmp_path}/list.json: expected an object"
    assert "--lineage: none.json cannot be read" in refusal("add", "late", "2", path, "--lineage", "none.json")
    (tmp_path / "signature.json").write_text("{}")
    said = refusal("add", "late", "2", path, "--signature", tmp_path / "signature.json")
    assert said == "signature.inputs: it is missing"


def test_what_cannot_be_added_is_one_line_and_leaves_nothing(store: Path, tmp_path: Path) -> None:
    answer("add", "late", "1", weights(tmp_path, 1, 2, 3))
    assert answer("add", "late", "1", weights(tmp_path, 1, 2, 3))["version"] == "1"
    assert "has a version '1' already, with other files" in refusal("add", "late", "1", weights(tmp_path, 3, 3, 3))
    wide = weights(tmp_path, 1, 2, 3, 4)
    assert "--new-signature takes it all the same" in refusal("add", "late", "2", wide)
    assert answer("add", "late", "2", wide, "--new-signature")["version"] == "2"
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    assert "ONNX Runtime cannot load it" in refusal("add", "late", "3", tmp_path / "junk.onnx")
    archive = shutil.make_archive(str(tmp_path / "m"), "zip", tmp_path, "late.onnx")
    assert answer("add", "late", "3", archive)["version"] == "3"


def test_a_store_that_cannot_be_written_or_reached_is_exit_status_1(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_text("no folder")
    said = refusal("add", "late", "1", weights(tmp_path, 1, 2, 3), code=1)
    assert said == f"the store {store} cannot be written: Not a directory"
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", "nothing://there")
    for command in (("list",), ("show", "late"), ("promote", "late", "1"), ("remove", "late", "1")):
        assert refusal(*command, code=1).startswith("nothing://there: it is no address of a store: ")


def test_without_a_broker_models_are_listed_and_nothing_is_promoted_or_removed(store: Path, tmp_path: Path) -> None:
    answer("add", "late", "1", weights(tmp_path, 1, 2, 3))
    answer("add", "late", "2", weights(tmp_path, 2, 2, 3), "--candidate")
    assert [(one["version"], one["stage"]) for one in answer("list")] == [("1", "released"), ("2", "candidate")]
    table = penstock("models", "list")
    assert "which versions are live is not shown: no Kafka broker answers" in table.stderr


def test_promote_rollback_and_remove_tell_what_was_done(store: Path, tmp_path: Path, topic: MemoryTopic) -> None:
    for version in (1, 2, 3):
        answer("add", "late", str(version), weights(tmp_path, 1, 2, version))
    done = answer("promote", "late", "2", "--force")
    assert (done["version"], done["before"]) == ("2", "3")
    assert done["revision"] == topic.entries()[("model", "late")].revision
    assert {one["version"]: one["stage"] for one in answer("list")} == {
        "1": "released",
        "2": "live",
        "3": "previous",
    }
    assert answer("rollback", "late")["version"] == "3"
    assert topic.worker.live == {"late": "3"}
    assert "is in use: it is live" in refusal("remove", "late", "3", "--force")
    assert refusal("promote", "late", "1", "--force", "--expect", "2") == (
        "version 3 of model 'late' is live, not 2; nothing was changed"
    )
    gone = answer("remove", "late", "1")
    assert (gone["done"], gone["used_by"]) == ("removed", [])
    assert [one["version"] for one in answer("list")] == ["2", "3"]
    # Its files are younger than a day: a writer may rely on them.
    assert gone["freed_bytes"] == 0
    assert answer("collect", "--older-than-hours", "0") == {"files": 1, "bytes": 111}
    answer("verify", "late")


def test_replicas_get_what_they_miss_and_say_how_far_they_are_behind(store: Path, tmp_path: Path) -> None:
    answer("add", "late", "1", weights(tmp_path, 1, 2, 3))
    replica, other = tmp_path / "eu", tmp_path / "us"
    (first, second) = answer("replicate", replica, other, "--verify")
    assert (first["versions"], first["missing"], first["lag"], first["problems"]) == (["late 1"], 0, 0.0, [])
    assert second["bytes"] == 111
    (again,) = answer("replicate", replica, "--verify")
    assert (again["versions"], again["bytes"]) == ([], 0)
    spoil(replica)
    failed = penstock("models", "replicate", str(replica), "--verify", "--json")
    assert failed.exit_code == 1
    assert "late 1: model late 1: late.onnx should have" in json.loads(failed.stdout)[0]["problems"][0]
    assert len(failed.stderr.splitlines()) == 1
    assert refusal("replicate", replica, "--model", "none").startswith("there is no model 'none'")


def test_a_watched_replica_tells_its_lag_and_catches_up(store: Path, tmp_path: Path) -> None:
    answer("add", "late", "1", weights(tmp_path, 1, 2, 3))
    replica, port = tmp_path / "eu", free_port()
    replica.write_text("no folder yet")
    watch = ["replicate", str(replica), "--watch", "--interval", "0.1", "--port", str(port), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "models", *watch],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        (behind,) = json.loads(process.stdout.readline())
        assert behind["missing"] == 1
        assert behind["lag"] > 0
        text = metrics(port)
        lag = re.search(r'penstock_replica_lag_seconds\{replica="(.*)"\} (\S+)', text)
        assert lag is not None
        assert lag[1] == str(replica)
        assert float(lag[2]) > 0
        assert f'penstock_replica_missing_versions{{replica="{replica}"}} 1.0' in text
        replica.unlink()
        for line in process.stdout:
            (now,) = json.loads(line)
            if not now["missing"]:
                break
        assert (now["versions"], now["lag"]) == (["late 1"], 0.0)
        process.stdout.readline()  # the round after it: the one before has been published
        assert f'penstock_replica_lag_seconds{{replica="{replica}"}} 0.0' in metrics(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as found:
        text: str = found.read().decode()
    return text


def test_a_quantized_version_is_a_candidate_with_its_figures(store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    answer("add", "late", "1", weights(tmp_path, *rng.normal(size=64)))
    rows = rng.normal(size=(300, 64)).astype(np.float32)
    table = pa.table({"x": rows.tolist(), "late": (rows.sum(axis=1) > 0).tolist()})
    pq.write_table(table, tmp_path / "sample.parquet")
    found = answer("quantize", "late", "--int8", "--data", tmp_path / "sample.parquet", "--label", "late")
    assert (found["version"], found["from"], found["method"], found["rows"]) == ("1-int8", "1", "int8-dynamic", 300)
    assert 0.99 < found["agreement"] <= 1
    assert abs(found["auc_before"] - found["auc_after"]) < 0.02
    assert answer("show", "late")["version"] == "1"
    manifest = answer("show", "late", "1-int8")
    assert manifest["stage"] == "candidate"
    assert manifest["metrics"]["quantization"]["agreement"] == found["agreement"]
    assert manifest["lineage"]["quantized"]["sample"]["file"] == "sample.parquet"
    said = refusal("quantize", "late", "--int8", "--data", tmp_path / "sample.parquet", "--agreement", "1", "--as", "x")
    assert "less than 1; nothing was registered (--agreement allows less)" in said
    assert [one["version"] for one in answer("list")] == ["1", "1-int8"]
    for options, line in (
        ((), "give --int8 or --fp16"),
        (("--int8", "--fp16"), "give --int8 or --fp16"),
        (("--fp16", "--static"), "--static goes with --int8"),
    ):
        assert refusal("quantize", "late", "--data", "x.parquet", *options) == line
    answer("add", "pairs", "1", lookup(tmp_path / "pairs.onnx"))
    said = refusal("quantize", "pairs", "--int8", "--data", tmp_path / "sample.parquet")
    assert said.startswith(f"{tmp_path}/sample.parquet: column 'x' is no INT64 [rows]: ")
