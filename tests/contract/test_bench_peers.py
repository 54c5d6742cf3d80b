"""The comparison runs to its end at a tiny size: real loops, answers compared, every request answered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.bench import in_flight
from penstock.bench.bed import Bed
from penstock.bench.campaign import Sizes, run_campaign, write
from penstock.bench.candidates import BY_NAME, chosen
from penstock.bench.peers import run_peers
from penstock.brokers import EmbeddedBroker, LocalBroker
from penstock.settings import Settings

pytestmark = pytest.mark.kafka
RECORDS = 2000


def settings_for(broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Settings:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PENSTOCK_KAFKA__GROUP_PROTOCOL", broker.group_protocol)
    if broker.session_timeout_ms is not None:
        monkeypatch.setenv("PENSTOCK_KAFKA__SESSION_TIMEOUT_MS", str(broker.session_timeout_ms))
    return Settings()


def own_python(_name: str) -> Path:
    """Penstock's own environment has what the hand-written loops need, so that no other is made for a test."""
    return Path(sys.executable)


def test_penstock_and_straight_loops_are_timed_on_the_same_records(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # aiokafka comes with faust-streaming, and does not get on with the embedded broker.
    loops = ["confluent"] if isinstance(broker, EmbeddedBroker) else ["confluent", "aiokafka"]
    candidates = chosen(["penstock", *loops, "raw"])
    document = run_campaign(
        settings_for(broker, monkeypatch, tmp_path),
        broker.address,
        ["stream"],
        candidates,
        Sizes(rounds=1, records=RECORDS),
        own_python,
        lambda _line: None,
    )
    found = document["works"]["stream"]
    assert found["failed"] == {}
    (one,) = found["rounds"]
    for name in ("penstock", *loops):
        assert one[name]["records"] == RECORDS
        assert one[name]["check"]["missing"] == one[name]["check"]["wrong"] == 0
        assert one[name]["check"]["compared"] > 0
        assert one[name]["seconds"] >= one[name]["seconds_to_last_reply"]
        assert one[name]["seconds"] >= one[name]["seconds_to_last_offset"]
    ratio = one["penstock"]["records_per_second"] / one["confluent"]["records_per_second"]
    assert found["ratios"]["confluent"]["median"] == pytest.approx(ratio, rel=0.01)
    assert {goal["what"] for goal in document["goals"]} >= {
        "Penstock, one worker, exactly once against straight confluent-kafka loop",
        "Penstock, one worker, exactly once against raw consume-to-produce (limit)",
    }
    written = write(document, tmp_path / "results", candidates)
    assert {path.suffix for path in written} == {".json", ".md", ".svg"}


@pytest.mark.parametrize("sizes", [(5_000, 10_000, 20_000), (5_000,)], ids=["three sizes", "one size"])
def test_rows_in_flight_are_compared_with_those_beside_them(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    reference = min(10_000, max(sizes))
    monkeypatch.setattr(in_flight, "_MOST_TIMES", 2)
    monkeypatch.setattr(in_flight, "_IDLE_SECONDS", 0.5)
    monkeypatch.setattr(in_flight, "REFERENCE", 10_000)
    said: list[str] = []
    settings = settings_for(broker, monkeypatch, tmp_path)
    with Bed(settings, broker.address, "mlp") as bed:
        found = in_flight.run_in_flight(bed, sizes, 1, said.append)
    assert found["reference"] == reference
    assert found["ratios"][str(reference)] == [1.0]
    ratios = [found["ratios"][str(size)][0] for size in sizes]
    (goal,) = found["goals"]
    assert goal["measured"] == pytest.approx(max(ratios) / min(ratios) - 1, abs=0.002)
    assert all(one > 0 for each in found["cpu_us_per_record"].values() for one in each)
    assert all({"poll", "device"} <= found["processor_us_per_row"][str(size)].keys() for size in sizes)
    assert len(said) == len(sizes)


def test_a_peer_that_answers_differently_is_not_timed(
    embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The peer is given another model: its answers come, complete, and are wrong."""
    from penstock.bench import turn
    from penstock.bench.onnx_file import mlp

    other = tmp_path / "other.onnx"
    other.write_bytes(mlp((32, 64, 32, 1), seed=7))
    plain = turn.Peer

    def misled(name: str, python: Path, settings: dict[str, Any], folder: Path) -> turn.Peer:
        return plain(name, python, {**settings, "model_file": str(other)}, folder)

    monkeypatch.setattr(turn, "Peer", misled)
    settings = settings_for(embedded_broker, monkeypatch, tmp_path)
    with Bed(settings, embedded_broker.address, "mlp") as bed:
        found = run_peers(bed, [BY_NAME["confluent"]], RECORDS, 1, own_python, lambda _line: None)
    assert "answers are not Penstock's" in found["failed"]["confluent"]
    assert found["records_per_second"] == {}
