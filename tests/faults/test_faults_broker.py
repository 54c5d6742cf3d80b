"""The broker is restarted and killed under load; whatever it had acknowledged meets its one fate."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fault_fleet import Fleet
from fault_run import Report, announce, conclude, running, surprises

from penstock.brokers import ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.faults, pytest.mark.timeout(900)]


def test_a_broker_that_goes_and_comes_back_loses_nothing(
    own_kafka: ApacheKafka, tmp_path: Path, store: Path, rounds: int, rate: int, report: Report
) -> None:
    with Fleet(own_kafka, tmp_path, store) as fleet:
        announce(fleet)
        fleet.ingest()
        fleet.worker("w1")
        fleet.worker("w2")
        with running(fleet, rate) as arena:
            stalls, downs = [], []
            for number in range(rounds):
                arena.a_moment()
                began = time.monotonic()
                if number % 2:
                    own_kafka.stop()
                else:
                    own_kafka.kill()
                own_kafka.start()
                up = time.monotonic()
                downs.append(round(up - began, 1))
                arena.served(up)
                stalls.append(round(time.monotonic() - up, 1))
            unexpected = surprises(fleet)
            report(conclude(arena), down=downs, served_after_start=stalls, restarted=unexpected)
            # A process may find its transaction gone and begin anew; it must not do so at every turn.
            assert sum(map(len, unexpected.values())) <= rounds, unexpected
