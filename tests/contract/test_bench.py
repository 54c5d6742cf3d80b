"""`penstock bench` runs to its end at a tiny size, checks what it measures, and says all that a reader needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from penstock.bench.cpu import Processor
from penstock.bench.warming import compiled
from penstock.brokers import ApacheKafka, EmbeddedBroker, LocalBroker
from penstock.cli import build
from producers.publisher import create_topics

pytestmark = pytest.mark.kafka
ABOUT = {"benchmark", "broker", "model", "partitions", "machine", "delivery", "workers", "features", "doubts", "rounds"}


def bench(*arguments: str, folder: Path, status: int = 0, broker: LocalBroker | None = None) -> Any:
    """The JSON document of the command, or its last line on standard error where it is to fail."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
    if broker is not None:
        arguments = (*arguments, "--broker", broker.address, "--json")
        environment["PENSTOCK_KAFKA__GROUP_PROTOCOL"] = broker.group_protocol
        if broker.session_timeout_ms is not None:
            environment["PENSTOCK_KAFKA__SESSION_TIMEOUT_MS"] = str(broker.session_timeout_ms)
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "bench", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if status == 0 else done.stderr.strip().splitlines()[-1]


def topics_left(broker: LocalBroker) -> list[str]:
    known = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=10).topics
    return [name for name in known if name.startswith("bench-")]


@pytest.mark.apache
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a thread's processor time")
def test_the_compiler_of_a_real_broker_is_seen(apache_kafka: ApacheKafka) -> None:
    assert apache_kafka.pid is not None
    assert compiled(Processor({}, 0.0), Processor.now({"broker": apache_kafka.pid})) > 0.1


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_stream_is_measured_beside_the_raw_limit(broker: LocalBroker, delivery: str, tmp_path: Path) -> None:
    found = bench(
        "stream", "--records", "3000", "--rounds", "2", "--delivery", delivery, folder=tmp_path, broker=broker
    )
    assert found.keys() >= {*ABOUT, "raw_records_per_second", "records_per_second", "ratio", "records"}
    assert found["machine"].keys() >= {"cores", "python", "versions", "date", "processor"}
    assert (found["model"], found["features"], found["delivery"]) == ("mlp 32-64-32-1", 32, delivery)
    assert len(found["rounds"]) == 2
    for one in found["rounds"]:
        assert one["ratio"] == pytest.approx(one["records_per_second"] / one["raw_records_per_second"], abs=0.002)
        assert one["profile"]["cpu_us_per_row"] > 0
        assert one["check"]["requests"] == 3000
        assert one["check"]["compared"] > 0
        assert one["check"]["missing"] == one["check"]["wrong"] == one["check"]["log_missing"] == 0
    assert any("2 round(s)" in line for line in found["doubts"])
    assert topics_left(broker) == []


def test_bulk_is_measured_beside_onnx_runtime_and_through_a_file(broker: LocalBroker, tmp_path: Path) -> None:
    found = bench(
        "bulk", "--rows", "5000", "--rows-each", "500", "--rounds", "1", folder=tmp_path, broker=broker
    )  # fmt: skip
    assert found.keys() >= {*ABOUT, "onnxruntime_alone_rows_per_second", "rows_per_second", "file_rows_per_second"}
    assert (found["rows"], found["rows_per_record"]) == (5000, 500)
    assert found["rows_per_second"]["median"] > 0
    assert found["file_rows_per_second"]["median"] > 0


def test_replies_are_timed_beside_a_raw_echo(broker: LocalBroker, tmp_path: Path) -> None:
    found = bench("reply", "--rate", "50", "--seconds", "2", "--rounds", "1", folder=tmp_path, broker=broker)
    assert found.keys() >= {*ABOUT, "added_p50_ms", "added_p99_ms", "errors", "reply_p99_ms", "echo_p99_ms"}
    (one,) = found["rounds"]
    assert one["reply"]["count"] == one["echo"]["count"] == 100
    assert found["errors"] == {}
    assert 0 < one["reply"]["p50_ms"] <= one["reply"]["p99_ms"] <= one["reply"]["max_ms"]


def test_a_soak_of_the_flight_model_tells_the_workers_memory(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    found = bench("soak", "--minutes", "0.05", "--rate", "100", folder=tmp_path, broker=embedded_broker)
    assert found["model"].startswith("flight-delay ")
    assert found["requests"] > 100
    assert 20 < found["rss_mib"]["start"] <= found["rss_mib"]["max"]
    assert len(found["samples"]) >= 2


def test_two_workers_share_the_stream(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    found = bench(
        "stream", "--records", "2000", "--rounds", "1", "--workers", "2", folder=tmp_path, broker=embedded_broker
    )  # fmt: skip
    assert found["workers"] == 2
    assert found["rounds"][0]["check"]["missing"] == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("stream", "--model", "no-such-model"), "no-such-model"),
        (("stream", "--delivery", "twice"), "twice"),
        (("bulk", "--broker", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: tuple[str, ...], names: str, tmp_path: Path) -> None:
    line = bench(*arguments, folder=tmp_path, status=2)
    assert line.startswith("penstock: ")
    assert names in line


def test_a_broker_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("penstock.stack.create_topics", partial(create_topics, timeout=1.0))
    result = CliRunner().invoke(build(), ["bench", "stream", "--broker", "127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "127.0.0.1:1" in result.stderr.splitlines()[-1]
