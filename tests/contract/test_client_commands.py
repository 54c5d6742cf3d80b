"""`penstock request` and `penstock score`: a document or a line, and an exit status that says whose fault it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_broker import on_one_broker
from scorer import Scorer
from typer.testing import CliRunner, Result

from models.signature import FeatureSpec, Signature, TensorSpec
from penstock.brokers import LocalBroker
from penstock.cli import build
from penstock.commands.score import layout_of, outputs_of
from producers.columns import FeatureColumn, Layout, TensorColumns
from producers.results import OutputColumn
from schemas.codes import Code
from schemas.topics import Topics

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", ("rows", 2)),),
    outputs=(TensorSpec("score", "FP32", ("rows",)), TensorSpec("pair", "FP64", ("rows", 2))),
    features=(FeatureSpec("a", "x", 0), FeatureSpec("b", "x", 1)),
)


@pytest.fixture
def scorer(broker: LocalBroker, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scorer]:
    """A store with the model `m`, and somebody who answers for it."""
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", broker.address)
    monkeypatch.setenv("PENSTOCK_KAFKA__TOPIC_PREFIX", topics.prefix)
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(tmp_path / "store"))
    add_model(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    with Scorer(broker.address, topics) as running:
        yield running


def add_model(store: Path) -> None:
    ours = Path(__file__).parents[2] / "models" / "zoo" / "flight-delay" / "1" / "manifest.json"
    folder = store / "m" / "1"
    folder.mkdir(parents=True)
    manifest = json.loads(ours.read_text("utf-8"))
    manifest.update(name="m", version="1", signature=SIGNATURE.to_json(), profile={})
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def penstock(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments))


@pytest.mark.kafka
def test_a_request_prints_outputs_version_and_latency(scorer: Scorer) -> None:
    result = penstock(
        "request", "m", "-u", "ann", "-e", "exp", "--features", '{"a": 1, "b": 9}', "-f", "b=2.5", "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["outputs"] == {"score": [3.5], "pair": [[3.5, -3.5]]}
    assert (found["model"], found["version"], found["variant"]) == ("m", "1", "")
    assert found["degraded"] == ""
    assert found["latency_ms"] > 0
    assert [(one.user_id, one.experiment) for one in scorer.seen] == [("ann", "exp")]
    for_people = penstock("request", "m", "--input", "x=[[1,2],[3,4]]")
    assert for_people.exit_code == 0, for_people.output
    assert "[3.0, 7.0]" in for_people.stdout
    assert "latency" in for_people.stdout


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("code", "status"),
    [(Code.INVALID_ARGUMENT, 2), (Code.UNKNOWN_MODEL, 2), (Code.INFERENCE_FAILED, 1), (Code.UNAVAILABLE, 1)],
)
def test_a_refused_request_is_one_line(scorer: Scorer, code: Code, status: int) -> None:
    scorer.behaviour.code, scorer.behaviour.message = code, "why"
    result = penstock("request", "m", "-f", "a=1", "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", f"penstock: {code}: why\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", "a"), "--feature: expected name=value, got 'a'"),
        (("--features", "[1]"), "--features: expected a JSON object"),
        (("--features", "{"), "--features is not JSON"),
        (("--features", '{"a": [1]}'), "feature 'a': expected a number, text or nothing, got list"),
        (("-i", "x:FLOAT=1"), "unknown datatype 'FLOAT'"),
        (("-i", "x=[[1],[2,3]]"), "--input x"),
        (("-i", "x=[1]", "-f", "a=1"), "not both"),
    ],
)
@pytest.mark.kafka
@on_one_broker
def test_bad_arguments_of_a_request_are_one_line(scorer: Scorer, arguments: tuple[str, ...], message: str) -> None:
    result = penstock("request", "m", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert scorer.seen == []


@pytest.mark.kafka
def test_a_file_is_scored_and_a_second_run_does_not_overwrite_it(scorer: Scorer, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["u", "v"], "a": [1, 2], "b": [0.5, None], "c": [True, False]}), "in.parquet")
    result = penstock("score", "m", "in.parquet", "-o", "out.parquet", "--id", "id", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["rows"], found["errors"], found["version"], found["output"]) == (2, 1, "1", "out.parquet")
    assert pq.read_table("out.parquet").to_pylist() == [
        {"id": "u", "score": 1.5, "pair": [1.5, -1.5], "error": None},
        {
            "id": "v",
            "score": None,
            "pair": None,
            "error": "INVALID_ARGUMENT: column 'b': expected a number, got nothing",
        },
    ]
    again = penstock("score", "m", "in.parquet", "-o", "out.parquet")
    assert (again.exit_code, again.stderr) == (
        2, "penstock: out.parquet exists already; overwrite it with --force\n"
    )  # fmt: skip
    forced = penstock("score", "m", "in.parquet", "-o", "out.parquet", "--force", "--tensor", "x=b,a")
    assert forced.exit_code == 0, forced.output
    assert "2 rows by m 1" in forced.stderr


@pytest.mark.kafka
def test_a_file_without_rows_is_scored_by_the_version_that_would_have(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n")
    result = penstock("score", "m", "in.csv", "-o", "out.parquet")
    assert result.exit_code == 0, result.output
    assert "out.parquet: 0 rows by m 1, 0 with an error" in result.stderr


@pytest.mark.kafka
@on_one_broker
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m", "no.csv", "-o", "out.parquet"), "no.csv: no such file"),
        (("m", "in.csv", "-o", "out.parquet"), "no column 'b'; it has 'a', 'id'"),
        (("m", "in.csv", "-o", "out.parquet", "--id", "x"), "no column 'b', 'x'"),
        (("m", "in.csv", "-o", "none/out.parquet"), "there is no folder none"),
        (
            ("m", "in.csv", "-o", "out.parquet", "--tensor", "y=a"),
            "--tensor: expected INPUT=column,... with INPUT one of x",
        ),
        (("m", "in.csv", "-o", "out.parquet", "--tensor", "x=a"), "input 'x' wants 2 values a row"),
        (("m", ".", "-o", "out.parquet"), "is a folder, not a file"),
        (("m", "in.csv", "-o", "in.csv", "--force", "--tensor", "x=a,a"), "in.csv: is the input itself"),
        (
            ("m", "in.csv", "-o", "out.csv", "--tensor", "x=a,a"),
            "which CSV cannot hold; write a .parquet or .jsonl file",
        ),
        (("n", "in.csv", "-o", "out.parquet"), "there are: m"),
        (("m", "in.csv", "-o", "out.parquet", "--version", "9"), "there are: 1"),
    ],
)
def test_a_job_that_cannot_be_done_is_one_line_and_nothing_written(
    scorer: Scorer, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "in.csv").write_text("a,id\n1,u\n")
    before = sorted(tmp_path.rglob("*"))
    result = penstock("score", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert scorer.batches == []


def test_a_broker_that_is_not_there_is_one_line_and_exit_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    result = penstock("request", "m", "-f", "a=1", "--timeout", "0.5")
    assert result.exit_code == 1
    assert "no Kafka broker answers at 127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_signature_says_which_columns_a_file_needs() -> None:
    signature = Signature(
        inputs=(TensorSpec("x", "FP32", ("rows", 2)), TensorSpec("t", "BYTES", ("rows",))),
        outputs=(TensorSpec("one", "FP32", ("rows", 1)), TensorSpec("seq", "INT64", ("rows", "n", 3))),
        features=(
            FeatureSpec("a", "x", 0, required=False),
            FeatureSpec("kind", "x", 1, vocabulary=("u", "v"), unseen=0),
            FeatureSpec("words", "t"),
        ),
    )
    assert layout_of(signature, [], ("id",)) == Layout(
        features=(
            FeatureColumn("a", required=False),
            FeatureColumn("kind", text=True, nullable=False),
            FeatureColumn("words", text=True, nullable=False),
        ),
        ids=("id",),
    )
    assert layout_of(signature, ["x=p,q"], None) == Layout(
        tensors=(
            TensorColumns("x", "FP32", ("p", "q"), (2,)),
            TensorColumns("t", "BYTES", ("t",), nullable=False),
        )
    )
    assert outputs_of(signature) == (OutputColumn("one", "FP32", (1,)), OutputColumn("seq", "INT64", (-1, 3)))
