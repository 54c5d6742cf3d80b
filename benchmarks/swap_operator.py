"""What an operator does to the versions of a model, each step waited for: what a campaign of swaps is made of.

Whether a worker has obeyed is known from its witness (`benchmarks.swap_worker`), not from the worker.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.swap_figures import SECOND, Event, Readiness
from benchmarks.swap_worker import READY, REFUSED
from models.errors import ModelError
from models.live import Live
from models.registry import Registry
from models.rollout import KIND as ROLLOUT
from models.rollout import Guard, Rollout, steps_of
from penstock.bench.bed import BenchError
from penstock.live_models import LiveModels
from penstock.live_rollouts import LiveRollouts, Terms
from penstock.settings import Settings
from producers.control import ControlTopic

Say = Callable[[str], None]
# Workers look into the store every two seconds; a version is promoted when all of them have seen it.
LISTED_SECONDS: Final = 2.5
# After a version's readiness the next poll takes it.
SETTLED_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 60.0
# Shares of users in a ramp, before everybody, and how long each step is held at least.
RAMP: Final = (0.05, 0.25, 0.5)
RAMP_SECONDS: Final = 1.5
_AUTHOR: Final = "benchmarks.swaps"


class Operator:
    """Changes one model's live version. `events`: what was done; `serves`: what control names."""

    def __init__(
        self,
        settings: Settings,
        store: Registry,
        model: str,
        witness: Path,
        pids: Callable[[], set[int]],
        say: Say = lambda _line: None,
    ) -> None:
        """`witness`: the folder of the workers' notes; `pids`: the processes of the workers that run."""
        self.model = model
        self.serves = ""
        self.events: list[Event] = []
        self.topic = ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)
        self._store = store
        self._live = LiveModels(self.topic, store)
        self._witness = witness
        self._pids = pids
        self._say = say
        self._pause = threading.Event()

    # -- what is done

    def first(self, version: str) -> None:
        """Let control name the version that serves from the start."""
        self._live.promote(self.model, version)
        self.serves = version

    def swap(self, version: str, kind: str = "swap", meanwhile: Callable[[], Mapping[str, Any]] = dict) -> Event:
        """Promote a version and wait until every worker has it; `meanwhile` is done right after control names it."""
        at = now_us()
        change = self._live.promote(self.model, version)
        return self._done(kind, at, version, {"written_at": change.revision, **meanwhile()})

    def roll_back(self) -> Event:
        """Go back to the last good version, likewise."""
        at = now_us()
        change = self._live.rollback(self.model)
        return self._done("rollback", at, change.version, {"written_at": change.revision})

    def ramp(self, version: str, meanwhile: Callable[[], Mapping[str, Any]] = dict) -> Event:
        """Roll a version out to more and more users until it is live; `meanwhile` is done once it has begun."""
        at = now_us()
        guard = Guard(error_rate=0.02, p99_ms=None, p99_ratio=None, score_psi=None, min_rows=50)
        LiveRollouts(self.topic, self._store).begin(
            self.model, version, Terms(steps_of(RAMP), RAMP_SECONDS, guard.min_rows, guard)
        )
        about = dict(meanwhile())
        self.until(lambda: not self._rollout().is_on, WAIT_SECONDS, f"the rollout of version {version} is not over")
        rollout = self._rollout()
        if rollout.state != "done":
            raise BenchError(f"the rollout of version {version} is {rollout.state}: {rollout.reason}")
        return self._done("ramp", at, version, {**about, "steps": [one.share for one in rollout.passed]})

    def promote_spoilt(self, version: str, how: str, seconds: float = 1.0) -> Event:
        """Promote a version that cannot serve: as an operator does, and, where he is refused, past his checks.

        Every worker must refuse it and go on with what served, for `seconds`; then control goes back to that.
        """
        at, refused = now_us(), ""
        try:
            self._live.promote(self.model, version)
        except ModelError as error:
            # Where the folder of this run lay is nobody's business.
            refused = str(error).replace(self._store.root, "the store")
            entry = self.topic.entries()[("model", self.model)]
            body = Live.from_json(entry.body).promoted(version).to_json()
            self.topic.swap("model", self.model, body, expected=entry.revision, author=_AUTHOR)
        self.await_noted(REFUSED, version)
        self.rest(seconds)
        back = self._live.rollback(self.model).version
        if back != self.serves:
            raise BenchError(f"from the spoilt version {version} it went back to {back}, not to {self.serves}")
        return self.keep("corrupt", at, {"version": version, "how": how, "refused_at_promote": refused})

    def keep(self, kind: str, at: int, about: Mapping[str, Any]) -> Event:
        """Note that something happened that changes no version."""
        return self._kept(Event(kind, at, now_us(), self.serves, self.serves, about))

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        self._pause.wait(seconds)

    # -- what is waited for, and known

    def await_noted(self, what: str, version: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until every worker that runs has noted this of a version. Raises `BenchError`."""

        def noted() -> bool:
            pids = self._pids()
            return bool(pids) and pids <= {
                one["pid"] for one in self.witnessed() if (one["what"], one["version"]) == (what, version)
            }

        self.until(noted, seconds, f"version {version} is not {what} in every worker")

    def until(self, true: Callable[[], bool], seconds: float, complaint: str) -> None:
        """Wait for what has no event to wait on. Raises `BenchError`."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise BenchError(f"{complaint} after {seconds:.0f} s")
            self._pause.wait(0.1)

    def witnessed(self) -> list[dict[str, Any]]:
        """All that workers noted. A process that was killed may have left half a line."""
        return [
            json.loads(line)
            for path in sorted(self._witness.glob("*.jsonl"))
            for line in path.read_text("utf-8").splitlines(keepends=True)
            if line.endswith("\n")
        ]

    def readiness(self) -> Readiness:
        """By their notes."""
        return Readiness(self.witnessed(), self.model)

    def _rollout(self) -> Rollout:
        return Rollout.from_json(self.topic.entries()[(ROLLOUT, self.model)].body)

    def _done(self, kind: str, at: int, version: str, about: Mapping[str, Any]) -> Event:
        self.await_noted(READY, version)
        self.rest(SETTLED_SECONDS)
        event = Event(kind, at, now_us(), self.serves, version, about)
        self.serves = version
        return self._kept(event)

    def _kept(self, event: Event) -> Event:
        self.events.append(event)
        took = (event.until - event.at) / SECOND
        self._say(f"{event.kind} {event.before} -> {event.after}: {took:.1f} s")
        return event


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000
