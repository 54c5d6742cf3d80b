"""Rollouts as operators begin and change them: the entry `rollout/MODEL` of control, whose driver does the rest.

Each change names the entry it was decided on, so that an operator and a driver who change one at once do not undo each
other: one succeeds, the other looks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from models.live import Live
from models.rollout import KIND, Guard, Mode, Rollout, RolloutError
from penstock.live_models import AUTHOR, LiveModels, RefusedError, Store, Topic
from penstock.live_models import KIND as MODEL
from producers.control import Swap

Act = Literal["abort", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a rollout goes on: see `models.rollout.Rollout`. `guard.p99_ms` None: what the manifest names, or 1000."""

    steps: Sequence[int]
    hold_seconds: float
    min_requests: int
    guard: Guard = field(default_factory=Guard)


class LiveRollouts:
    """The operations of `penstock models` on rollouts."""

    def __init__(self, topic: Topic, store: Store, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._topic = topic
        self._store = store
        self._now_us = now_us
        self._live = LiveModels(topic, store, now_us)

    def begin(
        self,
        name: str,
        version: str,
        terms: Terms,
        *,
        mode: Mode = "canary",
        new_signature: bool = False,
        expect: str | None = None,
    ) -> Rollout:
        """Begin to roll a version out, after its files were found right; where control names no live version, it
        names the one that serves from now on.

        Raises `RefusedError`, `ArtifactError`, `ControlConflictError`, `BrokerUnavailableError`.
        """
        before, held = self._live.rollout(name)
        if before is not None and before.is_on:
            raise RefusedError(
                f"version {before.candidate} of model {name!r} is being rolled out already, to {before.share:.2%} of "
                f"users; wait for it, or end it (penstock models rollout {name} --abort)"
            )
        live, revision = self._live.checked(name, version, new_signature=new_signature, expect=expect)
        if version == live.version:
            raise RefusedError(
                f"version {version} of model {name!r} serves already, as the newest released one; add a version with "
                "--candidate to roll it out"
            )
        now = self._now_us()
        try:
            rollout = Rollout(
                model=name,
                candidate=version,
                current=live.version,
                # Its own: who is first this time was not first the last time.
                salt=f"rollout:{name}:{version}:{now}",
                started=now,
                since=now,
                mode=mode,
                steps=() if mode == "shadow" else tuple(terms.steps),
                hold_seconds=terms.hold_seconds,
                min_requests=terms.min_requests,
                guard=terms.guard,
                reason="workers load it",
            )
        except RolloutError as error:
            raise RefusedError(str(error)) from None
        pinned = None if revision is not None else Live(live.version).to_json()
        swaps = [Swap(MODEL, name, pinned, revision), Swap(KIND, name, rollout.to_json(), held)]
        self._topic.swap_all(swaps, author=AUTHOR)
        return rollout

    def change(self, name: str, act: Act, reason: str = "by an operator") -> Rollout:
        """Abort, pause or resume the rollout that is on. Raises as `begin` does."""
        before, held = self._live.rollout(name)
        if before is None or not before.is_on:
            raise RefusedError(f"no version of model {name!r} is being rolled out")
        if act == "resume" and before.state != "paused":
            raise RefusedError(f"the rollout of version {before.candidate} of model {name!r} is not paused")
        if act == "abort":
            after = before.ended("aborted", reason, self._now_us())
        else:
            after = before.paused(reason) if act == "pause" else before.resumed()
        self._topic.swap(KIND, name, after.to_json(), expected=held, author=AUTHOR)
        return after
