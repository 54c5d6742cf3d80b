"""Workers are killed, leave and join under load, and every request still meets exactly one fate."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fault_fleet import Fleet
from fault_run import Report, announce, comes_back, conclude, running, strike, surprises

from penstock.brokers import ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    apache_kafka: ApacheKafka, tmp_path: Path, store: Path, rounds: int, rate: int, report: Report, protocol: str
) -> None:
    with Fleet(apache_kafka, tmp_path, store, protocol=protocol) as fleet:
        announce(fleet)
        fleet.ingest()
        workers = [fleet.worker("w1"), fleet.worker("w2")]
        with running(fleet, rate) as arena:
            stalls, waits = [], []
            for _ in range(rounds):
                arena.a_moment()
                victim = arena.rng.choice(workers)
                moment, pid = strike(victim)
                stalls.append(round(arena.served(moment), 1))
                comes_back(victim, pid)
                waits.append(round(arena.load.longest_wait(moment), 1))
            assert not surprises(fleet)
            report(conclude(arena), served_again_after=stalls, longest_wait=waits)


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_workers_come_and_go_and_nobody_notices(
    apache_kafka: ApacheKafka, tmp_path: Path, store: Path, rounds: int, rate: int, report: Report, protocol: str
) -> None:
    with Fleet(apache_kafka, tmp_path, store, protocol=protocol) as fleet:
        announce(fleet)
        fleet.ingest()
        fleet.worker("w0")
        with running(fleet, rate) as arena:
            joins, leaves = [], []
            for number in range(1, rounds + 1):
                moment = time.monotonic()
                fleet.worker(f"w{number}")
                arena.served(time.monotonic())
                joins.append(round(arena.load.longest_wait(moment), 2))
                arena.a_moment()
                oldest = fleet.members[1]
                moment = time.monotonic()
                assert oldest.stop() == 0
                fleet.members.remove(oldest)
                arena.served(moment)
                leaves.append(round(arena.load.longest_wait(moment), 2))
            assert not surprises(fleet)
            verdict = conclude(arena)
            # Nobody died, so nothing had to be done again.
            assert verdict.duplicate_replies == 0
            report(verdict, longest_wait_at_join=joins, at_leave=leaves)
