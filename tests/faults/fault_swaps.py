"""A model whose versions come and go, users who ask for whichever serves, and workers on a device that can be lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fault_evidence import read
from fault_fleet import Fleet, Member
from fault_load import Answer, Asked, Load, dot
from fault_models import weights_of
from fault_run import RECOVERY_SECONDS, comes_back, strike
from onnx_models import linear
from waiting import until

from benchmarks.swap_figures import SECOND, Event, Readiness, Scored, moved_back, scored_unready
from benchmarks.swap_operator import Operator
from benchmarks.swap_versions import SPOILT, Versions, described
from benchmarks.swap_worker import READY, WORKER
from models.batching import BatchLimits
from models.manifest import Manifest
from models.registry import Registry
from penstock.brokers import free_port
from schemas.codes import Code

LIVE = "live"
# What else is asked for.
USUAL = {("sum", "1"), ("sum", "2"), ("named", "1"), ("lookup", "1")}
SCORED = """
    SELECT worker, version, toUnixTimestamp64Micro(scored_at), count() FROM predictions
    WHERE model = 'live' AND code = 'OK' GROUP BY 1, 2, 3
"""


class SwapLoad(Load):
    """Beside the usual requests, as many again for whichever version of "live" serves. Its answer shows which did."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._values: dict[str, list[list[float]]] = {}

    def _mix(self) -> list[Callable[[], tuple[bytes, bytes, Asked]]]:
        usual = super()._mix()
        return [*usual, *[self._live] * len(usual)]

    def _live(self) -> tuple[bytes, bytes, Asked]:
        inputs, values = self._x(1)
        asked = self._asked(Code.OK)
        self._values[asked.request_id] = values
        return self._request(Code.OK, LIVE, inputs=inputs, experiment="", asked=asked)

    def _wanted(self, asked: Asked, got: Answer) -> Answer:
        values = self._values.get(asked.request_id)
        if values is None or not got.version.isdigit():
            return super()._wanted(asked, got)
        # The first answer is the one that whoever asked has seen.
        asked.version = asked.version or got.version
        return Answer(Code.OK, dot(values, got.version), got.version, "")

    def met(self) -> list[tuple[int, str, str]]:
        """When each request for "live" was sent (microseconds since the epoch), by whom, what answered; in order."""
        # `sent` is by a clock that began somewhere.
        ahead = time.time() - time.monotonic()
        with self.book.lock:
            asked = [self.book.asked[name] for name in self._values]
            return [
                (round((one.sent + ahead) * SECOND), one.request_id.rpartition("/")[2], one.version) for one in asked
            ]


def maker(scratch: Path) -> Callable[[str], tuple[Manifest, bytes]]:
    """Versions of "live": the weights are those of the version."""

    def make(version: str) -> tuple[Manifest, bytes]:
        data = linear(scratch / f"live{version}.onnx", weights_of(version)).read_bytes()
        return replace(described(LIVE, data), version=version, batching=BatchLimits(max_rows=64)), data

    return make


@dataclass(frozen=True, slots=True)
class Swaps:
    """An operator of "live", its versions, and the workers that serve it."""

    operator: Operator
    versions: Versions
    workers: list[Member]
    rng: Random

    @classmethod
    def begin(cls, fleet: Fleet, witness: Path, scratch: Path) -> Swaps:
        """Two workers that serve the first version. Their environment must name the witness."""
        store = Registry(str(fleet.settings.models.store), scratch / "cache")
        versions, workers = Versions(store, maker(scratch)), list[Member]()

        def pids() -> set[int]:
            return {pid for one in workers if (pid := one.program.pid) is not None}

        operator = Operator(fleet.settings, store, LIVE, witness, pids)
        operator.first(versions.add())
        # What they take for a GPU is a CPU that can be lost.
        models = fleet.settings.models.model_copy(update={"device": "cuda"})
        settings = fleet.settings.model_copy(update={"models": models})
        for name in ("w1", "w2"):
            port = free_port()
            url = f"http://127.0.0.1:{port}/readyz"
            arguments = ("worker", "--name", name, f"--port={port}")
            workers.append(fleet.start(fleet.command(name, url, settings, *arguments, module=WORKER)))
        return cls(operator, versions, workers, Random())

    def stock(self, good: int, spoilt: int) -> tuple[list[str], list[tuple[str, str]]]:
        """So many versions of each kind, and of the spoilt ones what was done to them, once workers have seen them."""
        names = [self.versions.add() for _ in range(good)]
        hows = [SPOILT[at % len(SPOILT)] for at in range(spoilt)]
        wrong = [(self.versions.add_spoilt(how), how) for how in hows]
        self.operator.rest(2.5)
        return names, wrong

    def noted(self, pid: int, what: str) -> list[dict[str, Any]]:
        """What a process noted of this kind."""
        return [one for one in self.operator.witnessed() if (one["pid"], one["what"]) == (pid, what)]

    def kill_one(self) -> dict[str, float]:
        """kill -9 of a worker within half a second; it is back when this returns."""
        delay = self.rng.uniform(0.0, 0.5)
        self.operator.rest(delay)
        victim = self.rng.choice(self.workers)
        _, pid = strike(victim)
        comes_back(victim, pid)
        return {"killed_after_seconds": round(delay, 3)}

    def lose_a_device(self) -> None:
        """A worker's device is lost; the worker has ended and is back when this returns.

        Not before it has loaded all that is asked for: a version that is loaded when it is lost is another matter.
        """
        victim = self.rng.choice(self.workers)
        pid = victim.program.pid
        assert pid is not None
        wanted = {*USUAL, (LIVE, self.operator.serves)}
        until(
            lambda: wanted <= {(one["model"], one["version"]) for one in self.noted(pid, READY)},
            RECOVERY_SECONDS,
            lambda: f"{victim.name} has not loaded {wanted}: {self.noted(pid, READY)}",
        )
        os.kill(pid, signal.SIGUSR1)
        comes_back(victim, pid)


def unready(folder: Path, readiness: Readiness) -> int:
    """Requests for "live" in ClickHouse that a version scored which was not ready in that worker."""
    (rows,) = read(folder, SCORED)
    assert rows, "nothing was scored"
    log = [Scored(worker, version, int(at), np.zeros(int(count))) for worker, version, at, count in rows]
    return scored_unready(log, readiness)


def went_back(load: SwapLoad, events: list[Event]) -> set[str]:
    """Users who met an event's new version and then the one before it again, until the next event."""
    met, found = load.met(), set[str]()
    users = {name: at for at, name in enumerate(sorted({user for _, user, _ in met}))}
    names = sorted(users)
    for number, event in enumerate(events):
        end = events[number + 1].at if number + 1 < len(events) else float("inf")
        places = {event.before: 0, event.after: 1}
        mine = [(users[user], places.get(version, -1)) for at, user, version in met if event.at <= at < end]
        if mine:
            who, where = (np.array(column) for column in zip(*mine, strict=True))
            found |= {names[one] for one in moved_back(who, where)}
    return found
