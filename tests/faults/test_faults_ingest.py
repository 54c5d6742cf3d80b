"""Ingest is killed, alone and with a worker, or finds no ClickHouse: every row is in ClickHouse once all the same."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_fleet import FRONT, ROOT, Fleet, Member
from fault_run import RECOVERY_SECONDS, Arena, Report, announce, comes_back, conclude, running, strike, surprises
from waiting import until

from penstock.brokers import ApacheKafka, free_port
from penstock.supervisor import Program

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.faults, pytest.mark.timeout(900)]
LONG_OUTAGE = 20.0
SHORT_OUTAGE = 3.0
COUNT = "SELECT count() FROM predictions"


def grows(arena: Arena) -> None:
    """Wait until rows of requests that are asked from now on arrive in ClickHouse."""
    before: list[int] = []

    def more() -> bool:
        now = arena.fleet.sql(COUNT)
        if now is not None and not before:
            before.append(now)
        return bool(before) and now is not None and now > before[0]

    until(more, RECOVERY_SECONDS, "no row arrives in ClickHouse any more")


def test_a_killed_ingest_loses_nothing_and_doubles_nothing(
    apache_kafka: ApacheKafka, tmp_path: Path, store: Path, rounds: int, rate: int, report: Report
) -> None:
    with Fleet(apache_kafka, tmp_path, store) as fleet:
        announce(fleet)
        ingest = fleet.ingest()
        fleet.worker("w1")
        with running(fleet, rate) as arena:
            grows(arena)
            backs = []
            for _ in range(rounds):
                # A block each 0.2 s and partition: a moment within a second hits any step of it.
                arena.a_moment(0.05, 1.0)
                _, pid = strike(ingest)
                comes_back(ingest, pid)
                backs.append(round(until(lambda: fleet.sql(COUNT) is not None, RECOVERY_SECONDS, "no SQL"), 1))
                grows(arena)
            assert not surprises(fleet)
            report(conclude(arena))


def test_a_worker_and_ingest_killed_at_once_lose_nothing(
    apache_kafka: ApacheKafka, tmp_path: Path, store: Path, rounds: int, rate: int, report: Report
) -> None:
    with Fleet(apache_kafka, tmp_path, store) as fleet:
        announce(fleet)
        ingest, worker = fleet.ingest(), fleet.worker("w1")
        with running(fleet, rate) as arena:
            grows(arena)
            stalls = []
            for _ in range(rounds):
                arena.a_moment()
                moment, pid = strike(worker)
                _, other = strike(ingest)
                comes_back(worker, pid)
                comes_back(ingest, other)
                stalls.append(round(arena.served(moment), 1))
                grows(arena)
            assert not surprises(fleet)
            report(conclude(arena), served_again_after=stalls)


class Outage:
    """The ways in which a ClickHouse server goes away and comes back."""

    def __init__(self, server: Member) -> None:
        self._server = server

    def killed(self, away: Callable[[], None]) -> None:
        """It dies: connections are refused until somebody starts it."""
        self._server.stop()
        away()
        self._server = Member(self._server.program).start()

    def frozen(self, away: Callable[[], None]) -> None:
        """It accepts connections and says nothing."""
        pid = self._server.program.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            away()
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """For good."""
        self._server.stop()


def test_clickhouse_out_of_reach_costs_nothing_but_time(
    apache_kafka: ApacheKafka, tmp_path: Path, store: Path, rounds: int, rate: int, report: Report
) -> None:
    port, folder = free_port(), tmp_path / "server"
    url = f"http://127.0.0.1:{port}"
    front = [sys.executable, str(FRONT), str(folder), str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = Program("clickhouse", front, tmp_path / "clickhouse.log", env=environment, ready_url=f"{url}/ping")
    outage = Outage(Member(program).start())
    try:
        with Fleet(apache_kafka, tmp_path, store, url=url) as fleet:
            announce(fleet)
            ingest = fleet.ingest()
            fleet.worker("w1")
            with running(fleet, rate) as arena:
                grows(arena)

                def away(seconds: float) -> None:
                    answered = arena.load.answered()
                    threading.Event().wait(seconds)
                    # Whoever asks for scores does not notice, and ingest says what is wrong and stays alive.
                    assert arena.load.answered() > answered + rate * seconds / 4
                    assert ingest.program.pid is not None

                outage.killed(lambda: away(LONG_OUTAGE))
                grows(arena)
                for number in range(1, rounds):
                    arena.a_moment(0.1, 0.6)
                    (outage.frozen if number % 2 else outage.killed)(lambda: away(SHORT_OUTAGE))
                    grows(arena)
                assert not surprises(fleet)
                report(conclude(arena, folder, outage.stop))
    finally:
        outage.stop()
