"""The monitor is killed while breaches begin, and shares partitions: each breach is raised once, at its true count."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from fault_run import Report
from monitor_process import Log, MonitorProcess, batch
from waiting import until

from penstock.brokers import ApacheKafka
from producers.publisher import create_topics
from schemas.topics import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.faults, pytest.mark.timeout(600)]
# A breach needs both halves of its rows: only a monitor that still has the first one sees it.
HALF, ENOUGH = 60, 120
SETTINGS = {
    "MONITOR__MIN_ROWS": str(ENOUGH),
    "MONITOR__WINDOW_SECONDS": "300",
    "KAFKA__SESSION_TIMEOUT_MS": "3000",
    "MONITOR__RECOVERY_SECONDS": "300",
}


def fired(log: Log) -> dict[str, list[int]]:
    """The rows of each firing alert, by model."""
    found: dict[str, list[int]] = {}
    for alert in log.alerts():
        assert (alert.rule, alert.state) == ("error_rate", "firing"), alert
        found.setdefault(alert.labels["model"], []).append(alert.n)
    return found


def test_a_monitor_killed_while_a_breach_is_on_raises_it_once_and_keeps_its_windows(
    apache_kafka: ApacheKafka, tmp_path: Path, rounds: int, report: Report
) -> None:
    topics = Topics(prefix=f"k{time.time_ns():x}.")
    create_topics(apache_kafka.address, topics, 2)
    log, rng, delays = Log(apache_kafka, topics), Random(), []
    monitor = MonitorProcess(apache_kafka, topics, tmp_path, tmp_path, **SETTINGS)
    try:
        monitor.await_ready()
        for number in range(rounds):
            model = f"m{number}"
            log.send([batch(model, HALF, failed=30)])
            # Counted and acknowledged, counted only, or neither.
            time.sleep(rng.uniform(0.0, 1.5))
            log.send([batch(model, HALF, failed=30)])
            delay = rng.uniform(0.2, 1.0)
            time.sleep(delay)
            told = model in fired(log)
            monitor.kill()
            monitor = MonitorProcess(apache_kafka, topics, tmp_path, tmp_path, **SETTINGS)
            until(lambda model=model: model in fired(log), 60, monitor.log.read_text)  # type: ignore[misc]
            delays.append((round(delay, 2), "told before" if told else "told after"))
        log.send([batch("quiet")])
        until(lambda: monitor.metric("penstock_monitor_rows_per_second", model="quiet") > 0, 60, monitor.log.read_text)
        assert fired(log) == {f"m{number}": [ENOUGH] for number in range(rounds)}
        report(killed_after=delays)
    finally:
        log.close()
        assert monitor.stop() == 0, monitor.log.read_text()


def test_monitors_that_come_leave_and_die_hand_their_windows_on(
    apache_kafka: ApacheKafka, tmp_path: Path, report: Report
) -> None:
    topics = Topics(prefix=f"h{time.time_ns():x}.")
    create_topics(apache_kafka.address, topics, 4)
    log = Log(apache_kafka, topics)
    monitors = [MonitorProcess(apache_kafka, topics, tmp_path, tmp_path, **SETTINGS).await_ready()]

    def partitions() -> list[float]:
        return sorted(one.metric("penstock_monitor_partitions") for one in monitors)

    def halves(name: str) -> None:
        log.send([batch(f"{name}{number}", HALF, failed=30) for number in range(8)])

    def seen(name: str, **labels: str) -> float:
        return monitors[0].metric(f"penstock_monitor_{name}", **labels)

    try:
        # What a worker rolled back is scored again, and must not count before.
        log.send([batch("join0", 10 * ENOUGH, failed=10 * ENOUGH)], commit=False)
        slow = (0,) * 17 + (ENOUGH,)
        log.send([batch("filed", ENOUGH, failed=3, topic=topics.bulk, latency_histogram=slow)])
        halves("join")
        until(lambda: seen("records_total") == 9, 30, monitors[0].log.read_text)
        until(
            lambda: seen("reading", rule="error_rate", model="filed", lane="bulk") == 3 / ENOUGH, 10, lambda: "hidden"
        )
        assert seen("reading", rule="latency_p99", model="filed") == 0, "nobody waits for bulk"
        # Of the other partition, which is looked at in a turn of its own.
        until(
            lambda: seen("reading", rule="error_rate", model="join0") == 0.5,
            10,
            lambda: f"the error rate is {seen('reading', rule='error_rate', model='join0')}",
        )
        monitors.append(MonitorProcess(apache_kafka, topics, tmp_path, tmp_path, **SETTINGS).await_ready())
        joined = until(lambda: partitions() == [2, 2], 60, lambda: str(partitions()))
        halves("join")
        halves("die")
        until(lambda: len(fired(log)) == 8, 30, lambda: str(fired(log)))
        monitors.pop().kill()
        died = until(lambda: partitions() == [4], 60, lambda: str(partitions()))
        halves("die")
        until(lambda: len(fired(log)) == 16, 30, lambda: f"{fired(log)} {monitors[0].log.read_text()}")
        assert Counter(map(tuple, fired(log).values())) == {(ENOUGH,): 16}
        report(shared_after=round(joined, 1), taken_over_after=round(died, 1))
    finally:
        log.close()
        for one in monitors:
            assert one.stop() == 0, one.log.read_text()
