"""The simulation that plans a fleet, held to a real worker on a real broker: mean and batch size within 15%."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.bench.batching import WORKER
from penstock.bench.bed import Bed
from penstock.bench.planning import WITHIN, measure
from penstock.brokers import ApacheKafka
from penstock.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.alone]


def test_a_worker_does_as_it_was_simulated(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Not the embedded broker: it hands requests on in lumps, about as far apart as batches are long, so that they all
    # wait for a whole batch or for none, as it happens.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_KAFKA__GROUP_PROTOCOL", apache_kafka.group_protocol)
    # No p99, which a handful of requests decide in so few seconds: benchmarks/planning.py looks at that.
    with Bed(Settings(), apache_kafka.address, "mlp", worker_module=WORKER) as bed:
        found = measure(bed, rate=100.0, seconds=10.0, rounds=5, workers=1, say=lambda _line: None)
    assert found["lost"] == 0
    mean, rows = found["as_read"]
    assert (mean["figure"], rows["figure"]) == ("mean, ms", "rows a batch")
    assert abs(mean["off"]) <= WITHIN, found
    assert abs(rows["off"]) <= WITHIN, found
