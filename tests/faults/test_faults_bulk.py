"""Bulk scoring whose workers and client are killed ends with the file that an undisturbed run writes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_evidence import pending
from fault_fleet import Fleet
from fault_models import Floats, fill_slow, slowly
from fault_run import RECOVERY_SECONDS, Report, comes_back, strike, surprises
from waiting import until

from penstock.brokers import ApacheKafka
from penstock.supervisor import Program

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.faults, pytest.mark.timeout(900)]
# More than a part of the result holds, so that no job ends before its last round.
ROWS_A_ROUND = 100_000


def write(path: Path, rows: int) -> Floats:
    """A file of rows with an id and three features, a NaN in every 1000th of them, which cannot be scored."""
    x: Floats = (np.random.default_rng(5).integers(-20, 20, (rows, 3)) / 2).astype(np.float32)
    x[::1000, 1] = np.nan
    columns = {name: x[:, at] for at, name in enumerate("abc")}
    pq.write_table(pa.table({"id": np.arange(rows), **columns}), path, row_group_size=20_000)
    return x


def scoring(fleet: Fleet, name: str, source: Path, output: Path) -> Program:
    """`penstock score`, not started; the same arguments each time."""
    wanted = ("--tensor", "x=a,b,c", "--id", "id", "--batch-rows", "1000", "--window", "16", "--json")
    return fleet.command(name, "", fleet.settings, "score", "slow", str(source), "-o", str(output), *wanted)


def parts(output: Path) -> set[str]:
    """The parts of the result that are on disk."""
    return {one.name for one in output.with_name(output.name + ".partial").glob("part-*.arrow")}


def test_bulk_scoring_under_kills_writes_the_file_of_an_undisturbed_run(
    apache_kafka: ApacheKafka, tmp_path: Path, rounds: int, report: Report
) -> None:
    store = fill_slow(tmp_path / "store", tmp_path / "scratch")
    source, calm, shaken = (tmp_path / f"{name}.parquet" for name in ("in", "calm", "shaken"))
    x = write(source, ROWS_A_ROUND * rounds)
    rng = Random()
    with Fleet(apache_kafka, tmp_path, store) as fleet:
        workers = [fleet.worker("w1"), fleet.worker("w2")]
        client = scoring(fleet, "calm", source, calm)
        client.start()
        assert client.wait() == 0, client.log.read_text()[-2000:]

        client = scoring(fleet, "shaken", source, shaken)
        client.start()
        for _ in range(rounds):
            worker = rng.choice(workers)
            _, pid = strike(worker)
            before = parts(shaken)
            until(
                lambda before=before: client.pid is None or parts(shaken) - before,  # type: ignore[misc]
                RECOVERY_SECONDS,
                "bulk scoring does not go on after a worker was killed",
            )
            assert client.pid is not None, client.log.read_text()[-2000:]
            os.kill(client.pid, signal.SIGKILL)
            client.wait()
            client.start()
            comes_back(worker, pid)
        assert client.wait() == 0, client.log.read_text()[-2000:]
        assert not surprises(fleet)
        group = f"{fleet.settings.worker.group}-bulk"
        until(lambda: not pending(fleet, group, fleet.topics.bulk), RECOVERY_SECONDS, "bulk batches stay uncommitted")
        assert set(fleet.stop().values()) == {0}

    assert shaken.read_bytes() == calm.read_bytes()
    result = pq.read_table(shaken)
    assert result["id"].to_numpy().tolist() == list(range(len(x)))
    bad = np.isnan(x).any(axis=1)
    assert (~result["error"].is_null().to_numpy() == bad).all()
    assert np.array_equal(np.array(result["y"].filter(pa.array(~bad)).to_pylist()).ravel(), slowly(x[~bad]).ravel())
    said = client.log.read_text()
    report(**json.loads(said[said.rindex("{") :]))
