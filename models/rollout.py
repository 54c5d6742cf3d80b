"""A rollout: which users meet a new version of a model while it is tried, and when it goes on, goes back or is done.

Pure; the clock is passed in. A rollout is the entry `rollout/MODEL` of the control topic. Its users are those in the
buckets below its share, under a salt of its own, so that a larger share only moves users in:

    loading ── step 0 ── step 1 ── … ── last step (everybody) ── done: the candidate is live
       └──────────┴─────────┴──────────────┴── rolled back (a guardrail, a worker) or aborted (an operator)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, cast

from models.errors import ManifestError
from models.fields import Fields
from models.routing import BUCKETS, bucket, bucket_many

KIND: Final = "rollout"
# The step before the first: workers load the candidate, and nobody meets it.
LOADING: Final = -1
MICRO: Final = 1_000_000
Mode = Literal["canary", "shadow"]
State = Literal["running", "paused", "done", "rolled back", "aborted"]
ENDED: Final = frozenset({"done", "rolled back", "aborted"})
_MODES: Final = ("canary", "shadow")
_STATES: Final = ("running", "paused", "done", "rolled back", "aborted")


class RolloutError(ValueError):
    """A rollout that cannot be used: one line naming the key and what is expected there."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What the candidate may not exceed; None: no such limit.

    `error_rate`: share of rows. `p99_ms`: latency of 99% of rows. `p99_ratio`: the same as a multiple of the current
    version's. `score_psi`: shift of scores from the current version's. `min_rows`: rows before any of them is judged.
    """

    error_rate: float | None = 0.02
    p99_ms: float | None = 1000.0
    p99_ratio: float | None = 3.0
    score_psi: float | None = 0.25
    min_rows: int = 100

    def __post_init__(self) -> None:
        for name in ("error_rate", "p99_ms", "p99_ratio", "score_psi"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RolloutError(f"guard.{name}: expected a number above 0, or null for no limit, got {value}")
        if self.min_rows < 1:
            raise RolloutError(f"guard.min_rows: expected 1 or more, got {self.min_rows}")

    @classmethod
    def read(cls, value: Fields) -> Guard:
        """From a JSON object, of which every key may be missing. Raises `ManifestError`, `RolloutError`."""
        given = {
            one.name: None if value.raw(one.name, one.default) is None else value.number(one.name, one.default)
            for one in fields(cls)
            if one.name != "min_rows"
        }
        found = cls(min_rows=value.integer("min_rows", 100), **given)
        value.done()
        return found


@dataclass(frozen=True, slots=True)
class Passed:
    """A step that is over: its share of users (0 to 1), when it ended (microseconds), what was seen in it."""

    share: float
    at: int
    requests: int
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of one model, as control keeps it. Raises `RolloutError`.

    `current`: the version that was live when it began; the good one to go back to. `steps`: buckets of users, of
    10,000, growing to all of them; empty in a shadow, whose only step answers nobody. `step`: the one that is on, or
    `LOADING`. `since`: when it began; `started`: when the rollout did (microseconds since the epoch). A step lasts
    `hold_seconds` and `min_requests` of the candidate at least. `reason`: why it is as it is. `baseline`: figures of
    the current version in the step before, for the one in which nobody meets it.
    """

    model: str
    candidate: str
    current: str
    salt: str
    started: int
    since: int
    mode: Mode = "canary"
    steps: tuple[int, ...] = (BUCKETS,)
    step: int = LOADING
    state: State = "running"
    hold_seconds: float = 300.0
    min_requests: int = 1000
    guard: Guard = field(default_factory=Guard)
    reason: str = ""
    passed: tuple[Passed, ...] = ()
    baseline: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("model", "candidate", "current", "salt"):
            if not getattr(self, key):
                raise RolloutError(f"{key}: must not be empty")
        if self.candidate == self.current:
            raise RolloutError(f"candidate: {self.candidate!r} is the current version already")
        if self.mode not in _MODES:
            raise RolloutError(f"mode: expected {' or '.join(_MODES)}, got {self.mode!r}")
        if self.state not in _STATES:
            raise RolloutError(f"state: expected one of {', '.join(_STATES)}, got {self.state!r}")
        self._check_steps()
        if not self.hold_seconds >= 0:
            raise RolloutError(f"hold_seconds: expected 0 or more, got {self.hold_seconds}")
        if self.min_requests < self.guard.min_rows:
            # A step that ends before its guardrails can be judged would be none.
            raise RolloutError(
                f"min_requests: expected at least guard.min_rows ({self.guard.min_rows}), got {self.min_requests}"
            )

    def _check_steps(self) -> None:
        if self.mode == "shadow" and self.steps:
            raise RolloutError("steps: a shadow has none, since it answers nobody")
        if self.mode == "canary":
            if not self.steps or self.steps[-1] != BUCKETS:
                raise RolloutError(f"steps: the last one must be {BUCKETS}, everybody")
            for at, buckets in enumerate(self.steps):
                least = self.steps[at - 1] + 1 if at else 1
                if not least <= buckets <= BUCKETS:
                    raise RolloutError(f"steps[{at}]: expected {least} to {BUCKETS} buckets, got {buckets}")
        if not LOADING <= self.step <= self.last:
            raise RolloutError(f"step: expected {LOADING} to {self.last}, got {self.step}")

    # -- what it says

    @property
    def last(self) -> int:
        """The last step."""
        return max(len(self.steps) - 1, 0)

    @property
    def is_on(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDED

    @property
    def is_shadowing(self) -> bool:
        """Whether requests are to be scored by the candidate as well, which answers none."""
        return self.is_on and self.mode == "shadow" and self.step != LOADING

    @property
    def buckets(self) -> int:
        """How many buckets of users meet the candidate now."""
        return self.steps[self.step] if self.is_on and self.mode == "canary" and self.step != LOADING else 0

    @property
    def share(self) -> float:
        """The part of users that meet the candidate now, 0 to 1."""
        return self.buckets / BUCKETS

    def meets(self, user_id: str) -> bool:
        """Whether a user meets the candidate. Without an id: not before everybody does."""
        if self.buckets == BUCKETS:
            return True
        return bool(user_id) and bucket(self.salt, user_id) < self.buckets

    def meets_many(self, user_ids: Sequence[str]) -> list[bool]:
        """`meets` of each, in order."""
        limit = self.buckets
        if limit in (0, BUCKETS):
            return [limit == BUCKETS] * len(user_ids)
        pairs = zip(user_ids, bucket_many(self.salt, user_ids), strict=True)
        return [bool(user) and at < limit for user, at in pairs]

    # -- how it changes

    def stepped(
        self, now: int, requests: int = 0, seen: str = "", baseline: Mapping[str, Any] | None = None
    ) -> Rollout:
        """With the next step begun; `requests` and `seen` are of the one that ends, `baseline` of the live one."""
        return replace(
            self,
            step=self.step + 1,
            since=now,
            reason="",
            passed=self._passed(now, requests, seen),
            baseline=dict(baseline) if baseline else self.baseline,
        )

    def ended(self, state: State, reason: str, now: int, requests: int = 0, seen: str = "") -> Rollout:
        """Done, rolled back or aborted, and why."""
        return replace(
            self, state=state, since=now, reason=reason, passed=self._passed(now, requests, seen), baseline={}
        )  # fmt: skip

    def paused(self, reason: str) -> Rollout:
        """Going no further until it is resumed. Its guardrails hold all the same."""
        return replace(self, state="paused", reason=reason)

    def resumed(self) -> Rollout:
        """Going on."""
        return replace(self, state="running", reason="")

    def _passed(self, now: int, requests: int, seen: str) -> tuple[Passed, ...]:
        return self.passed if self.step == LOADING else (*self.passed, Passed(self.share, now, requests, seen))

    # -- as control keeps it

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Rollout:
        """From an entry's body. Raises `RolloutError` naming the key.

        A key that this release does not know is refused: it could change who meets the candidate.
        """
        try:
            body = json.loads(text)
        except ValueError as error:
            raise RolloutError(f"rollout: no JSON: {error}") from None
        try:
            return cls._read(Fields(body, "rollout"))
        except ManifestError as error:
            raise RolloutError(str(error)) from None
        except RolloutError as error:
            raise RolloutError(f"rollout.{error}") from None

    @classmethod
    def _read(cls, body: Fields) -> Rollout:
        found = cls(
            model=body.text("model"),
            candidate=body.text("candidate"),
            current=body.text("current"),
            salt=body.text("salt"),
            started=body.integer("started"),
            since=body.integer("since"),
            mode=cast(Mode, body.text("mode", "canary")),
            steps=body.integers("steps"),
            step=body.integer("step"),
            state=cast(State, body.text("state")),
            hold_seconds=body.number("hold_seconds"),
            min_requests=body.integer("min_requests"),
            guard=Guard.read(Fields(body.mapping("guard", {}), body.path("guard"))),
            reason=body.text("reason", ""),
            passed=tuple(
                Passed(one.number("share"), one.integer("at"), one.integer("requests"), one.text("seen", ""))
                for one in body.children("passed", ())
            ),
            baseline=body.mapping("baseline", {}),
        )
        body.done()
        return found


def steps_of(shares: Iterable[float]) -> tuple[int, ...]:
    """Steps from shares of users (0 to 1), with everybody as the last one. Raises `RolloutError`."""
    found: list[int] = []
    for share in shares:
        # 0.29 * 10000 is 2899.9999999999995.
        buckets = int(share * BUCKETS + 1e-6)
        if not 1 <= buckets <= BUCKETS:
            raise RolloutError(f"steps: expected shares between 0.01% and 100%, got {share:.4%}")
        if found and buckets <= found[-1]:
            raise RolloutError(f"steps: each must be larger than the one before, got {share:.2%} after others")
        found.append(buckets)
    return tuple(found) if found and found[-1] == BUCKETS else (*found, BUCKETS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a rollout's step. Nothing in it is known: nothing was seen.

    `live`: the version that control names, where it names one. `requests`: of the candidate since the step began.
    `breach`: a limit that it exceeded, by its own fault; `trouble`: one that was exceeded by what befalls everybody.
    Workers that live: how many are `ready`, which are still `waiting` for the candidate, why it `failed` in others.
    """

    live: str = ""
    requests: int = 0
    breach: str = ""
    trouble: str = ""
    ready: int = 0
    waiting: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a rollout, and why in a line."""

    what: Literal["hold", "step", "roll back", "done"]
    reason: str


def decide(rollout: Rollout, evidence: Evidence, now: int) -> Decision:
    """What a rollout's evidence asks for at `now` (microseconds since the epoch).

    Going back comes first, whatever else holds. Going on needs time, requests, a clean record, and every live worker
    ready: one that is not would have to answer a user of the next step with the version that others moved him off.
    """
    if not rollout.is_on:
        return Decision("hold", f"it is over: {rollout.state}")
    if evidence.live == rollout.candidate:
        return Decision("done", f"version {rollout.candidate} was made live by somebody else")
    if evidence.live not in ("", rollout.current):
        return Decision("roll back", f"version {evidence.live} was made live meanwhile, in place of {rollout.current}")
    if rollout.step != LOADING and evidence.breach:
        return Decision("roll back", evidence.breach)
    if evidence.failed:
        name, why = min(evidence.failed.items())
        return Decision("roll back", f"worker {name} cannot load version {rollout.candidate}: {why}")
    if rollout.state == "paused":
        return Decision("hold", "paused")
    missing = _missing(rollout, evidence, now)
    if missing:
        return Decision("hold", missing)
    if rollout.step == LOADING:
        return Decision("step", f"{evidence.ready} workers have version {rollout.candidate} ready")
    seen = f"{evidence.requests:,} requests within the limits"
    return Decision("step" if rollout.step < rollout.last else "done", seen)


def _missing(rollout: Rollout, evidence: Evidence, now: int) -> str:
    """What the step still lacks; empty where it lacks nothing."""
    if rollout.step != LOADING:
        left = rollout.hold_seconds - (now - rollout.since) / MICRO
        if left > 0:
            return f"{left:.0f} s are left of this step"
        if evidence.requests < rollout.min_requests:
            return f"{evidence.requests:,} of {rollout.min_requests:,} requests"
        if evidence.trouble:
            return evidence.trouble
    if evidence.waiting:
        return f"not ready yet in {', '.join(sorted(evidence.waiting))}"
    return "" if evidence.ready else "no worker says that it lives"
