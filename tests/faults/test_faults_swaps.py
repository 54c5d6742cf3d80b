"""Versions are swapped, thrown back, spoilt and ramped up while workers die: no request fails, none is scored early."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from fault_fleet import Fleet
from fault_models import fill
from fault_run import Report, announce, conclude, running, surprises
from fault_swaps import SwapLoad, Swaps, unready, went_back

from benchmarks.swap_worker import witnessing
from penstock.brokers import ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.faults, pytest.mark.timeout(900)]


def test_swaps_rollbacks_spoilt_versions_kills_and_lost_devices_fail_no_request(
    apache_kafka: ApacheKafka, tmp_path: Path, rounds: int, rate: int, report: Report
) -> None:
    store, witness = fill(tmp_path / "store", tmp_path / "scratch"), tmp_path / "witness"
    with Fleet(apache_kafka, tmp_path, store) as fleet, witnessing(witness):
        announce(fleet)
        fleet.ingest()
        swaps = Swaps.begin(fleet, witness, tmp_path / "scratch")
        operator = swaps.operator
        with running(fleet, rate, kind=SwapLoad) as arena:
            names, spoilt = swaps.stock(2 * rounds, rounds)
            for number in range(rounds):
                operator.swap(names[2 * number])
                operator.roll_back()
                operator.promote_spoilt(*spoilt[number], seconds=0.2)
                operator.swap(names[2 * number + 1], "kill", swaps.kill_one)
                swaps.lose_a_device()
            ends = surprises(fleet)
            verdict = conclude(arena)
        # A worker whose device is gone ends by itself; nobody else does, and each loss ended one.
        assert {end for own in ends.values() for end in own} == {"ended with status 1"}, ends
        assert sum(map(len, ends.values())) == rounds, ends
        assert unready(Path(fleet.settings.clickhouse.path), operator.readiness()) == 0
        loads = [seconds for _, seconds in operator.readiness().loads]
        report(verdict, slowest_load=round(max(loads), 2), events=len(operator.events))


def test_a_ramp_moves_no_user_back_while_workers_are_killed(
    apache_kafka: ApacheKafka, tmp_path: Path, rounds: int, rate: int, report: Report
) -> None:
    store, witness = fill(tmp_path / "store", tmp_path / "scratch"), tmp_path / "witness"
    with Fleet(apache_kafka, tmp_path, store) as fleet, witnessing(witness):
        announce(fleet)
        fleet.ingest()
        fleet.monitor()
        swaps = Swaps.begin(fleet, witness, tmp_path / "scratch")
        with running(fleet, rate, kind=SwapLoad) as arena:
            names, _ = swaps.stock(rounds, 0)
            for name in names:
                swaps.operator.ramp(name, swaps.kill_one)
            assert not surprises(fleet)
            verdict = conclude(arena)
            assert not went_back(cast(SwapLoad, arena.load), swaps.operator.events)
        assert unready(Path(fleet.settings.clickhouse.path), swaps.operator.readiness()) == 0
        report(verdict, ramps=[one.about["steps"] for one in swaps.operator.events])
