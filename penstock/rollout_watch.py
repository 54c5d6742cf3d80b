"""Runs the driver of rollouts in the monitor's process, in a thread of its own.

It belongs there: both follow control and the summaries and need no warehouse, and a process of its own would cost as
much memory as a small worker. The monitor itself is not needed for it, nor it for the monitor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from penstock.pools import pool_topics
from producers.control import ControlTopic
from stream_workers.rollout import RolloutDriver
from stream_workers.rollout_metrics import RolloutMetrics
from stream_workers.rollout_sources import RolloutSources

if TYPE_CHECKING:
    from penstock.settings import Settings
    from schemas.codec import Codec
    from stream_workers.alert_topic import AlertTopic
    from stream_workers.control import ControlState
    from stream_workers.ops_health import Health

# A change waits for a transaction of whoever changed the entry before, and for a broker that comes back.
SILENT_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0


@contextmanager
def rollout_watch(
    settings: Settings,
    codec: Codec,
    state: ControlState,
    alerts: AlertTopic,
    registry: CollectorRegistry,
    health: Health,
    stop: threading.Event,
) -> Iterator[None]:
    """Drive rollouts within it, and until `stop`. `state` follows control. What the driver cannot go on with sets
    `stop`, and is raised at the end."""
    if not settings.rollout.drive:
        yield
        return
    kafka, failures = settings.kafka, []
    bulk = frozenset(pool_topics(settings, pool).bulk for pool in ("", *settings.pools))
    driver = RolloutDriver(
        state,
        ControlTopic(kafka.client(), codec, kafka.topics.control),
        alerts,
        partial(RolloutSources, kafka.client(), codec, kafka.topics, bulk),
        RolloutMetrics(registry),
        wall=lambda: time.time_ns() // 1000,
        beat=partial(health.beat, "rollouts", SILENT_SECONDS),
    )

    def run() -> None:
        try:
            driver.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            failures.append(error)
            stop.set()

    thread = threading.Thread(target=run, name="rollouts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(STOP_SECONDS)
    if failures:
        raise failures[0]
