"""One run: processes, load, whatever the test does to them, and then the verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fault_evidence import Verdict, judge, settle
from fault_fleet import PARTITIONS, Fleet, Member
from fault_load import Load
from fault_models import experiment
from waiting import until

from producers.control import ControlTopic

Report = Callable[..., None]
# How long after a fault everything must work again. Measured: a session timeout (6 s here) and a process start (4 s).
RECOVERY_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Arena:
    """What a test works with. `rng` chooses the moments; they differ from run to run, and the load does not."""

    fleet: Fleet
    load: Load
    rng: Random

    def a_moment(self, least: float = 0.3, most: float = 1.5) -> None:
        """Let the load run for a time that nobody knows before: some of it must have been answered meanwhile."""
        answered = self.load.answered()
        threading.Event().wait(self.rng.uniform(least, most))
        until(lambda: self.load.answered() > answered, RECOVERY_SECONDS, "nothing is answered any more")

    def served(self, moment: float) -> float:
        """Wait until every partition has answered a request sent after `moment`; seconds since then."""
        until(
            lambda: len(self.load.served_since(moment)) == PARTITIONS,
            RECOVERY_SECONDS,
            lambda: f"partitions {sorted(self.load.served_since(moment))} alone are served",
        )
        return max(self.load.served_since(moment).values())


@contextmanager
def running(fleet: Fleet, rate: int, seed: int = 1, kind: type[Load] = Load) -> Iterator[Arena]:
    """The load, on a fleet whose processes the test starts. It has answers before the test goes on."""
    kafka = fleet.settings.kafka
    load = kind(fleet.broker.address, fleet.topics, experiment(), rate, seed)
    with load:
        until(lambda: load.answered() > rate // 2, 60, f"no answers: {kafka.topic_prefix}")
        yield Arena(fleet, load, Random())


def announce(fleet: Fleet) -> None:
    """Put the experiment on the control topic, before anybody reads it."""
    kafka = fleet.settings.kafka
    one = experiment()
    ControlTopic(kafka.client(), fleet.settings.codec(), fleet.topics.control).put(
        "experiment", one.name, one.to_json()
    )


def conclude(arena: Arena, folder: Path | None = None, before_reading: Callable[[], Any] = lambda: None) -> Verdict:
    """Let everything come to rest, stop it, and judge what it left."""
    fleet = arena.fleet
    book = settle(fleet, arena.load)
    statuses = fleet.stop()
    before_reading()
    assert set(statuses.values()) == {0}, f"exit statuses {statuses}"
    return judge(fleet, book, folder or Path(fleet.settings.clickhouse.path))


def surprises(fleet: Fleet) -> dict[str, list[str]]:
    """Processes that ended otherwise than by kill -9."""
    return {member.name: member.surprises for member in fleet.members if member.surprises}


def strike(member: Member) -> tuple[float, int]:
    """kill -9 now; the moment and the pid that was."""
    moment = time.monotonic()
    return moment, member.kill()


def comes_back(member: Member, pid: int) -> None:
    """Wait until the killed process runs again and is ready."""
    until(lambda: member.back(pid), RECOVERY_SECONDS, lambda: f"{member.name} is not back: {member.ends}")
