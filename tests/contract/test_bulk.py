"""Bulk scoring over a real broker: the file's order, each row once, whatever is killed, repeated or lost on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from scorer import Behaviour, Scorer
from waiting import until

from penstock.brokers import ApacheKafka, LocalBroker, free_port
from producers import bulk_run, jsonlines
from producers.bulk import Result, score_file
from producers.bulk_run import Job, Limits, Progress
from producers.columns import FeatureColumn, Layout, TensorColumns
from producers.errors import BrokerUnavailableError, BulkError, BulkInputError
from producers.publisher import create_topics
from producers.results import OutputColumn
from schemas.codec import Codec
from schemas.codes import Code
from schemas.topics import Topics

pytestmark = pytest.mark.kafka
ROWS = 5000
OUTPUTS = (OutputColumn("score", "FP32"), OutputColumn("pair", "FP64", (2,)))
FEATURES = Layout(features=(FeatureColumn("a"), FeatureColumn("b"), FeatureColumn("name", text=True)))


@pytest.fixture
def scorer(broker: LocalBroker, topics: Topics) -> Iterator[Scorer]:
    with Scorer(broker.address, topics) as running:
        yield running


def table(rows: int = ROWS) -> pa.Table:
    numbers = np.arange(rows)
    return pa.table({"id": numbers, "a": numbers / 4, "b": numbers % 10, "name": ["x" * (n % 5) for n in numbers]})


def expected(rows: int = ROWS) -> list[float]:
    return [n / 4 + n % 10 + n % 5 for n in range(rows)]


def write(folder: Path, kind: str = "parquet", rows: int = ROWS, *, ids: bool = True) -> Path:
    path = folder / f"in.{kind}"
    content = table(rows) if ids else table(rows).drop(["id"])
    if kind == "parquet":
        pq.write_table(content, path, row_group_size=1500)
    elif kind == "csv":
        pa_csv.write_csv(content, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content.to_pylist()))
    return path


def run(scorer: Scorer, job: Job, limits: Limits | None = None, *, watch: list[Progress] | None = None) -> Result:
    return score_file(
        job,
        {"bootstrap.servers": scorer.address},
        Codec(),
        scorer.topics,
        limits=limits,
        on_progress=watch.append if watch is not None else None,
    )


def job_of(source: Path, **changes: object) -> Job:
    wanted = {"layout": FEATURES, "outputs": OUTPUTS, "batch_rows": 100, "model": "m", **changes}
    return Job(source, source.with_name("out.parquet"), **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_row_comes_out_once_in_order_with_its_ids(tmp_path: Path, scorer: Scorer, kind: str) -> None:
    watched: list[Progress] = []
    # Fewer at once than there are: the window closes and opens again.
    result = run(scorer, job_of(write(tmp_path, kind)), Limits(window=8), watch=watched)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["id", "score", "pair", "error"]
    assert [int(one) for one in out["id"].to_pylist()] == list(range(ROWS))
    assert out["score"].to_pylist() == expected()
    assert out["pair"].to_pylist() == [[one, -one] for one in expected()]
    assert out["error"].null_count == ROWS
    assert out.schema.metadata == {b"penstock.model": b"m", b"penstock.version": b"1"}
    assert (result.rows, result.errors, result.resumed, result.version) == (ROWS, 0, 0, "1")
    assert not (tmp_path / "out.parquet.partial").exists()
    assert [one.rows for one in watched] == sorted(one.rows for one in watched)
    assert watched[-1].rows == ROWS
    assert watched[-1].share == 1.0
    assert watched[-1].total == (ROWS if kind == "parquet" else None)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_file_without_id_columns_loses_no_row(tmp_path: Path, scorer: Scorer, kind: str) -> None:
    scorer.behaviour.code_of = lambda name: Code.INFERENCE_FAILED if name.endswith("/3") else Code.OK
    result = run(scorer, job_of(write(tmp_path, kind, ids=False)))
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["score", "pair", "error"]
    assert out["score"].to_pylist() == [*expected()[:300], *[None] * 100, *expected()[400:]]
    assert (result.rows, result.errors) == (ROWS, 100)


def test_bad_rows_of_a_file_without_id_columns_are_rows_too(tmp_path: Path, scorer: Scorer) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a":1,"b":2,"name":"x"}\n{"a":\n{"a":"3","b":4,"name":"caf\xe9"}\n{"a":"5","b":6,"name":""}\n')
    result = run(scorer, job_of(path))
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["score"] for row in rows] == [4.0, None, None, 11.0]
    assert rows[1]["error"].startswith("INVALID_ARGUMENT: line 2: not JSON")
    assert rows[2]["error"] == "INVALID_ARGUMENT: line 3: not UTF-8 (byte 0xe9)"
    assert (result.rows, result.errors) == (4, 2)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_output_is_of_the_format_that_its_name_says(tmp_path: Path, scorer: Scorer, kind: str) -> None:
    source = write(tmp_path)
    job = Job(source, tmp_path / f"out.{kind}", "m", FEATURES, OUTPUTS[:1], batch_rows=100)
    assert run(scorer, job).rows == ROWS
    if kind == "csv":
        rows = pa_csv.read_csv(tmp_path / "out.csv").to_pylist()
    else:
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["score"]) for row in rows] == list(enumerate(expected()))


def test_ids_of_mixed_type_are_text_in_all_rows(
    tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonlines, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(bulk_run, "PART_ROWS", 300)
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": n if n < 900 else f"n{n}", "a": n, "b": 0, "name": ""}) for n in range(1000)]
    path.write_text("\n".join(lines))
    assert run(scorer, job_of(path)).errors == 0
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [
        f"{n}" if n < 900 else f"n{n}" for n in range(1000)
    ]


def test_a_tensor_model_reads_a_list_column_or_columns_side_by_side(tmp_path: Path, scorer: Scorer) -> None:
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    path = tmp_path / "in.parquet"
    columns = {name: x[:, at] for at, name in enumerate("abcd")}
    pq.write_table(pa.table({"x": list(x), "id": range(6), **columns}), path)
    for number, spec in enumerate((("x",), ("a", "b", "c", "d"))):
        layout = Layout(tensors=(TensorColumns("x", "FP32", spec, (4,)),), ids=("id",))
        output = tmp_path / f"{number}.parquet"
        run(scorer, Job(path, output, "m", layout, OUTPUTS, "3"))
        assert pq.read_table(output)["score"].to_pylist() == x.sum(axis=1).tolist()
        assert pq.read_table(output).column_names == ["id", "score", "pair", "error"]


def test_rows_that_cannot_be_scored_say_why_and_stop_nobody(tmp_path: Path, scorer: Scorer) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,a,b,name\nr0,1,2,\nr1,one,2,x\nr2,,2,x\nr3,4,5,xyz\n")
    result = run(scorer, job_of(path, batch_rows=3))
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3"]
    assert [row["score"] for row in rows] == [3.0, None, None, 12.0]
    assert [row["pair"] for row in rows] == [[3, -3], None, None, [12, -12]]
    assert rows[1]["error"] == "INVALID_ARGUMENT: column 'a': expected a number, got 'one'"
    assert rows[2]["error"] == "INVALID_ARGUMENT: features: expected a number, got NaN"
    assert [rows[0]["error"], rows[3]["error"]] == [None, None]
    assert (result.rows, result.errors) == (4, 2)


def test_a_batch_that_failed_as_a_whole_is_rows_with_errors(tmp_path: Path, scorer: Scorer) -> None:
    scorer.behaviour.message = "the model raised"
    scorer.behaviour.code_of = lambda name: Code.INFERENCE_FAILED if name.endswith("/3") else Code.OK
    result = run(scorer, job_of(write(tmp_path)))
    errors = pq.read_table(tmp_path / "out.parquet")["error"].to_pylist()
    assert errors == [None] * 300 + ["INFERENCE_FAILED: the model raised"] * 100 + [None] * (ROWS - 400)
    assert result.errors == 100


def test_duplicates_are_dropped_and_lost_batches_asked_for_again(tmp_path: Path, scorer: Scorer) -> None:
    scorer.behaviour.copies = 2
    scorer.behaviour.drop = lambda name, attempt: attempt == 1 and int(name.rpartition("/")[2]) % 7 == 2
    result = run(scorer, job_of(write(tmp_path)), Limits(window=8, resend_after=0.3))
    assert pq.read_table(tmp_path / "out.parquet")["score"].to_pylist() == expected()
    assert result.resent >= 7
    assert result.duplicates > 0
    asked_again = [name for name, count in scorer.attempts.items() if count > 1]
    assert {int(name.rpartition("/")[2]) for name in asked_again} >= set(range(2, 50, 7))


def test_a_worker_that_is_not_ready_is_asked_again(
    tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_run, "RETRY_SECONDS", 0.1)
    scorer.behaviour.code_of = lambda name: Code.UNAVAILABLE if scorer.attempts[name] < 2 else Code.OK
    scorer.behaviour.message = "warming up"
    result = run(scorer, job_of(write(tmp_path, rows=300)))
    assert pq.read_table(tmp_path / "out.parquet")["score"].to_pylist() == expected(300)
    assert result.errors == 0


def test_a_job_that_workers_cannot_score_ends_with_what_they_say(
    tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_run, "RETRY_SECONDS", 0.1)
    scorer.behaviour.code, scorer.behaviour.message = Code.UNAVAILABLE, "its device failed"
    with pytest.raises(BulkError, match=r"the last answer from behind .* is UNAVAILABLE: its device failed; mend that"):
        run(scorer, job_of(write(tmp_path, rows=300)), Limits(give_up=1.0))


@pytest.mark.parametrize("window", [1, 4])
def test_no_more_than_the_window_is_ever_under_way(tmp_path: Path, scorer: Scorer, window: int) -> None:
    scorer.behaviour.delay = 0.01
    result = run(scorer, job_of(write(tmp_path, rows=2000)), Limits(window=window))
    assert scorer.most_unanswered <= window
    assert result.most_in_flight == window
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 2000


def test_one_version_scores_the_whole_file(tmp_path: Path, scorer: Scorer) -> None:
    source = write(tmp_path)
    count = 0

    def change(_name: str) -> Code:
        nonlocal count
        count += 1
        scorer.behaviour.version = str(count)  # another version would answer each batch that pins none
        return Code.OK

    scorer.behaviour.code_of = change
    result = run(scorer, job_of(source))
    assert result.version == "1"
    versions = [version for _, version, _ in sorted(scorer.batches)]
    assert versions == [""] + ["1"] * (ROWS // 100 - 1)


def test_a_file_without_rows_gives_an_output_without_rows(tmp_path: Path, scorer: Scorer) -> None:
    result = run(scorer, job_of(write(tmp_path, "csv", 0), described="2"))
    assert result.version == "2"
    out = pq.read_table(tmp_path / "out.parquet")
    assert (out.num_rows, out.column_names) == (0, ["id", "score", "pair", "error"])
    assert result.rows == 0
    assert scorer.batches == []


@pytest.mark.parametrize("code", [Code.UNKNOWN_MODEL, Code.INVALID_ARGUMENT])
def test_a_job_that_no_worker_can_do_is_refused_with_nothing_written(
    tmp_path: Path, scorer: Scorer, code: Code
) -> None:
    scorer.behaviour.code, scorer.behaviour.message = code, "there is no model 'm'; there are: n"
    source = write(tmp_path)
    with pytest.raises(BulkInputError, match="m: there is no model 'm'; there are: n"):
        run(scorer, job_of(source))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.parquet"]


def test_a_later_batch_that_the_model_refuses_is_rows_with_errors(tmp_path: Path, scorer: Scorer) -> None:
    scorer.behaviour.message = "inputs fit no run"
    scorer.behaviour.code_of = lambda name: Code.INVALID_ARGUMENT if name.endswith("/30") else Code.OK
    result = run(scorer, job_of(write(tmp_path)))
    errors = pq.read_table(tmp_path / "out.parquet")["error"].to_pylist()
    assert errors == [None] * 3000 + ["INVALID_ARGUMENT: inputs fit no run"] * 100 + [None] * (ROWS - 3100)
    assert result.errors == 100


def test_where_a_job_stops_half_way_it_says_what_is_kept_and_what_to_do(tmp_path: Path, scorer: Scorer) -> None:
    scorer.behaviour.message = "there is no model 'm'"
    scorer.behaviour.code_of = lambda name: Code.UNKNOWN_MODEL if name.endswith("/30") else Code.OK
    source = write(tmp_path)
    with pytest.raises(BulkInputError, match=r"no model 'm'; .*out.parquet.partial keeps the 3,000 rows") as caught:
        run(scorer, job_of(source), Limits(window=1))
    assert "the same command goes on there" in str(caught.value)
    assert "\n" not in str(caught.value)
    scorer.behaviour.code_of = None
    assert run(scorer, job_of(source)).resumed == 3000


def test_bad_jobs_are_refused_before_anything_is_sent_or_written(tmp_path: Path, scorer: Scorer) -> None:
    source = write(tmp_path)
    (tmp_path / "there.parquet").write_bytes(b"precious")
    (tmp_path / "taken.parquet.partial").write_bytes(b"a file")
    bad = {
        "no column 'zzz'": job_of(source, layout=Layout(features=(FeatureColumn("zzz"),))),
        "no such file": job_of(tmp_path / "nothing.csv"),
        "exists already; overwrite it with --force": Job(source, tmp_path / "there.parquet", "m", FEATURES, OUTPUTS),
        "there is no folder": Job(source, tmp_path / "no" / "out.parquet", "m", FEATURES, OUTPUTS),
        "is the input itself": Job(source, source, "m", FEATURES, OUTPUTS, force=True),
        "is a folder": job_of(tmp_path),
        "taken.parquet.partial: is in the way": Job(source, tmp_path / "taken.parquet", "m", FEATURES, OUTPUTS),
        "cannot tell from its name which format": Job(source, tmp_path / "out.xlsx", "m", FEATURES, OUTPUTS),
        "'pair' is .*, which CSV cannot hold": Job(source, tmp_path / "out.csv", "m", FEATURES, OUTPUTS),
        "name of an output column": job_of(source, outputs=(OutputColumn("id", "FP32"),)),
    }
    before = sorted(one.name for one in tmp_path.iterdir())
    for message, job in bad.items():
        with pytest.raises(BulkInputError, match=message) as caught:
            run(scorer, job)
        assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == before
    assert (tmp_path / "there.parquet").read_bytes() == b"precious"
    assert scorer.batches == []
    run(scorer, Job(source, tmp_path / "there.parquet", "m", FEATURES, OUTPUTS, force=True))
    assert pq.read_table(tmp_path / "there.parquet").num_rows == ROWS


def test_wide_rows_go_in_smaller_batches(tmp_path: Path, scorer: Scorer) -> None:
    x = np.random.default_rng(1).random((60, 20_000)).astype(np.float32)
    pq.write_table(pa.table({"id": range(60), "x": list(x)}), tmp_path / "in.parquet")
    layout = Layout(tensors=(TensorColumns("x", "FP32", ("x",)),))
    run(scorer, job_of(tmp_path / "in.parquet", layout=layout, batch_rows=4096))
    assert max(rows for _, _, rows in scorer.batches) <= 2 * 1024 * 1024 // 80_000
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == list(range(60))


def test_silence_ends_the_job_and_it_goes_on_later(tmp_path: Path, scorer: Scorer) -> None:
    source = write(tmp_path)
    scorer.behaviour.drop = lambda name, _attempt: int(name.rpartition("/")[2]) >= 30
    with pytest.raises(BulkError, match=r"no worker behind .* has answered"):
        run(scorer, job_of(source), Limits(window=4, give_up=1.0))
    assert not (tmp_path / "out.parquet").exists()
    scorer.behaviour.drop = lambda _name, _attempt: False
    with pytest.raises(BulkInputError, match="batch_rows: 100 then, 50 now"):
        run(scorer, job_of(source, batch_rows=50))
    result = run(scorer, job_of(source))
    assert result.resumed == 3000
    assert pq.read_table(tmp_path / "out.parquet")["score"].to_pylist() == expected()


def test_a_changed_input_is_not_mixed_with_what_was_done(tmp_path: Path, scorer: Scorer) -> None:
    source = write(tmp_path)
    scorer.behaviour.drop = lambda name, _attempt: int(name.rpartition("/")[2]) >= 30
    with pytest.raises(BulkError):
        run(scorer, job_of(source), Limits(window=4, give_up=1.0))
    scorer.behaviour.drop = lambda _name, _attempt: False
    write(tmp_path, rows=700)
    with pytest.raises(BulkInputError, match="start over with --force"):
        run(scorer, job_of(source))
    run(scorer, job_of(source, force=True))
    assert pq.read_table(tmp_path / "out.parquet")["score"].to_pylist() == expected(700)


_CHILD = """
import sys
from pathlib import Path
from producers import bulk_run
from producers.bulk import score_file
from producers.columns import FeatureColumn, Layout
from producers.results import OutputColumn
from schemas.codec import Codec
from schemas.topics import Topics
address, prefix, source, output = sys.argv[1:]
bulk_run.PART_ROWS = 300
job = bulk_run.Job(
    Path(source), Path(output), "m",
    Layout(features=(FeatureColumn("a"), FeatureColumn("b"), FeatureColumn("name", text=True))),
    (OutputColumn("score", "FP32"), OutputColumn("pair", "FP64", (2,))), batch_rows=100,
)
score_file(job, {"bootstrap.servers": address}, Codec(), Topics(prefix), limits=bulk_run.Limits(window=4))
"""


@pytest.mark.parametrize(("kind", "ids"), [("parquet", True), ("csv", True), ("jsonl", True), ("parquet", False)])
def test_killed_again_and_again_the_file_is_the_same(tmp_path: Path, scorer: Scorer, kind: str, ids: bool) -> None:
    source = write(tmp_path, kind, ids=ids)
    run(scorer, Job(source, tmp_path / "whole.parquet", "m", FEATURES, OUTPUTS, batch_rows=100))
    scorer.behaviour.delay = 0.05
    output, rng = tmp_path / "out.parquet", Random(kind)
    state = tmp_path / "out.parquet.partial" / "state.json"
    command = [sys.executable, "-c", _CHILD, scorer.address, scorer.topics.prefix, str(source), str(output)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    kills = 0
    parts = 0
    done = False
    while not done:
        with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as child:
            # Let it get a little further than the run before, then kill it at any point of its work.
            progress = parts + rng.randrange(1, 4)
            until(lambda: count_parts(output) >= progress or child.poll() is not None, 60, "no part", every=0.01)  # noqa: B023
            threading.Event().wait(rng.random() * 0.05)
            if child.poll() is None and kills < 6:
                child.send_signal(signal.SIGKILL)
                kills += 1
            _, errors = child.communicate(timeout=60)
            assert child.returncode in (0, -signal.SIGKILL), errors
            # Killed on its way out, a finished run leaves nothing to go on with.
            done = child.returncode == 0 or (output.exists() and not state.exists())
        parts = count_parts(output)
    assert kills >= 3
    assert pq.read_table(output)["score"].to_pylist() == expected()
    assert digest(output) == digest(tmp_path / "whole.parquet")
    assert not state.exists()


@pytest.mark.apache
def test_a_job_outlives_a_restart_of_the_broker(tmp_path: Path, own_kafka: ApacheKafka) -> None:
    topics = Topics()
    create_topics(own_kafka.address, topics, 2)
    source = write(tmp_path)
    with Scorer(own_kafka.address, topics, Behaviour(delay=0.1)) as scorer:
        restarted = threading.Event()

        def restart() -> None:
            until(lambda: len(scorer.batches) > 10, 60, "too few batches", every=0.01)
            own_kafka.kill()
            own_kafka.restart()
            restarted.set()

        thread = threading.Thread(target=restart)
        thread.start()
        result = run(scorer, job_of(source), Limits(window=2, resend_after=2, give_up=120))
        thread.join()
        assert restarted.is_set()
        assert len(scorer.batches) >= 50
    assert pq.read_table(tmp_path / "out.parquet")["score"].to_pylist() == expected()
    assert (result.rows, result.errors) == (ROWS, 0)


def test_a_broker_that_is_not_there_is_named_and_nothing_written(tmp_path: Path) -> None:
    source = write(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnavailableError, match=address):
        score_file(job_of(source), {"bootstrap.servers": address}, Codec(), Topics(), limits=Limits(connect=1))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.parquet"]


def count_parts(output: Path) -> int:
    try:
        return sum(name.endswith(".arrow") for name in os.listdir(f"{output}.partial"))
    except FileNotFoundError:
        return 0


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
