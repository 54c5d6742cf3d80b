"""The life of an experiment on the control topic: create, start, ramp, stop; each may break off and be run again.

An experiment is two entries there: the plan (kind `experiment-plan`: the definition and the times of its run) and the
assignment (kind `experiment`), which workers obey. No transaction spans the two, so the order of writing is chosen such
that what a crash leaves is safe, and is recognised by whoever comes next:

| command | writes | a crash between the two leaves | running it again |
|---|---|---|---|
| create | plan | nothing: it is one entry | writes it again |
| start | plan, assignment | `half started`: a run in which nobody takes part | ends that run and begins one |
| ramp | assignment, plan | users where they belong, the old shares in the plan | brings the plan up to date |
| stop | assignment, plan | `half stopped`: nobody is assigned, the run goes on | ends the run at that time |

So nobody is ever assigned without a run that counts them. Between two people who write at once the last one holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol

from analytics.definition_reader import plan_from_json
from analytics.definitions import PLAN_KIND, SCORED_VALUES, Definition, DefinitionError, Plan, Source
from models.errors import ModelError
from models.manifest import Manifest
from models.routing import BUCKETS, Experiment, ExperimentError, Router, Variant
from schemas.records import Control

KIND: Final = "experiment"
AUTHOR: Final = "penstock experiments"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Status = Literal["created", "half started", "running", "half stopped", "stopped", "unplanned", "unreadable"]


class Topic(Protocol):
    """What is needed of `producers.control.ControlTopic`."""

    def entries(self) -> Mapping[tuple[str, str], Control]:
        """The entries that hold now."""

    def put(self, kind: str, name: str, body: Any, *, author: str = "", at: int | None = None) -> Control:
        """Write an entry and wait until it is kept."""


class Store(Protocol):
    """What is needed of `models.registry.ModelStore`."""

    def versions(self, name: str) -> list[str]:
        """A model's versions."""

    def manifest(self, name: str, version: str) -> Manifest:
        """What a version says about itself."""


@dataclass(frozen=True, slots=True)
class State:
    """An experiment as its two entries tell it; `problem` says which of them cannot be read, and why.

    `revision` is the largest of its entries'. `assigned_at`: when the assignment was last written (None without one).
    """

    name: str
    plan: Plan | None = None
    assignment: Experiment | None = None
    assigned_at: datetime | None = None
    revision: int = 0
    problem: str = ""

    @property
    def status(self) -> Status:
        """Where it is in its life; `unplanned`: somebody has workers assign users without a run that counts them."""
        if self.problem:
            return "unreadable"
        assigning = self.assignment is not None and self.assignment.status == "running"
        started = self.plan.started_at if self.plan is not None else None
        if self.plan is None or started is None or self.plan.stopped_at is not None:
            if assigning:
                return "unplanned"
            return "created" if self.plan is not None and started is None else "stopped"
        if assigning:
            return "running"
        return "half stopped" if self.assigned_at is not None and self.assigned_at >= started else "half started"

    def arms(self) -> list[tuple[str, str, float]]:
        """Name, version and share (0 to 1) of each arm: as users meet them, before a start as they are planned."""
        if self.assignment is not None and self.status not in ("created", "half started"):
            return [(one.name, one.version, one.share) for one in self.assignment.variants]
        if self.plan is not None:
            return [(one.name, one.version, one.share) for one in self.plan.definition.variants]
        return []


@dataclass(frozen=True, slots=True)
class Change:
    """What a command did, in a line, and what its author should know besides."""

    done: str
    notes: tuple[str, ...] = ()


class Experiments:
    """The experiments on a control topic. What cannot be done raises `DefinitionError` in one line; what the topic
    raises passes through."""

    def __init__(self, topic: Topic, store: Store, now: Callable[[], int]) -> None:
        """`now`: microseconds since the epoch."""
        self._topic = topic
        self._store = store
        self._now = now

    def states(self) -> dict[str, State]:
        """Every experiment there is, by name, in order of names."""
        return states_of(self._topic.entries())

    def state(self, name: str) -> State:
        """One of them; an unknown name is an error that tells those there are."""
        return _known(self.states(), name)

    def create(self, definition: Definition, what: str) -> Change:
        """Keep a definition; nobody is assigned yet. `what`, such as its file's name, begins the lines of errors."""
        states = self.states()
        name = definition.name
        state = states.get(name, State(name))
        _readable(state)
        if state.status in ("running", "half started", "half stopped"):
            since = state.plan.started_at.isoformat(timespec="seconds") if state.plan and state.plan.started_at else ""
            raise DefinitionError(
                f"{what}: name: experiment {name!r} has been running since {since}: end it first "
                f"(penstock experiments stop {name}), change its shares (penstock experiments ramp {name} …), "
                "or give the new one a name of its own"
            )
        if state.status == "unplanned":
            raise DefinitionError(f"{what}: name: {_by_hand(name)}")
        self._check(definition, what, states, state)
        self._topic.put(PLAN_KIND, name, Plan(definition).to_json(), author=AUTHOR, at=self._moment(state))
        notes = []
        if state.status == "created" and state.plan is not None and state.plan.definition != definition:
            notes.append("the definition there was, which had not been started, is replaced")
        elif state.plan is not None and state.plan.stopped_at is not None:
            notes.append("an earlier run of this name has ended; its results stay, and a start begins another run")
        return Change(f"experiment {name!r} is created; penstock experiments start {name} begins it", tuple(notes))

    def start(self, name: str) -> Change:
        """Begin a run: from now on workers assign users, and their exposures count."""
        states = self.states()
        state = _known(states, name)
        plan = state.plan
        if plan is None or state.status == "unplanned":
            raise DefinitionError(
                _by_hand(name)
                if state.status == "unplanned"
                else f"experiment {name!r} has no plan: create it from a file first (penstock experiments create FILE)"
            )
        if state.status == "half stopped":
            raise _broken_off(state)
        at = self._moment(state)
        notes = []
        if state.status == "half started":
            plan = plan.stop(_time(at))
            notes.append("an earlier start was broken off before anybody was assigned; that run is ended")
        running = plan.start(_time(at + 1))
        assignment = self._check(plan.definition, f"experiment {name!r}", states, state)
        if state.status == "half started":
            self._topic.put(PLAN_KIND, name, plan.to_json(), author=AUTHOR, at=at)
        # Both of one time, by which analysis finds the assignment that a run began with.
        self._topic.put(PLAN_KIND, name, running.to_json(), author=AUTHOR, at=at + 1)
        self._topic.put(KIND, name, assignment.to_json(), author=AUTHOR, at=at + 1)
        return Change(f"experiment {name!r} runs: workers assign users within a second", tuple(notes))

    def ramp(self, name: str, shares: Mapping[str, float]) -> Change:
        """Change shares within the run; arms that are not named keep theirs, and users stay where they are."""
        state = _known(self.states(), name)
        if state.status in ("half started", "half stopped"):
            raise _broken_off(state)
        if state.status != "running" or state.plan is None or state.assignment is None:
            raise DefinitionError(f"experiment {name!r} is {state.status}, only a running one can be ramped")
        plan = state.plan.ramp(shares)
        with _told_by(f"experiment {name!r}"):
            assignment = state.assignment.ramp(shares)
        at = self._moment(state)
        if assignment != state.assignment:
            self._topic.put(KIND, name, assignment.to_json(), author=AUTHOR, at=at)
        if plan != state.plan:
            self._topic.put(PLAN_KIND, name, plan.to_json(), author=AUTHOR, at=at)
        elif assignment == state.assignment:
            return Change(f"experiment {name!r} has these shares already")
        return Change(
            f"experiment {name!r} is ramped: {shown_shares(assignment)}", _cautions(state.assignment, assignment)
        )

    def stop(self, name: str) -> Change:
        """End the run: workers assign nobody, and later exposures do not count."""
        state = _known(self.states(), name)
        plan, assignment, status = state.plan, state.assignment, state.status
        at = self._moment(state)
        if status == "unplanned" and assignment is not None:
            self._topic.put(KIND, name, assignment.stop().to_json(), author=AUTHOR, at=at)
            return Change(f"experiment {name!r} assigns nobody any more; it had no run that counted its users")
        if plan is None:
            raise DefinitionError(f"experiment {name!r} is not running")
        ended = plan.stop(state.assigned_at if status == "half stopped" and state.assigned_at else _time(at))
        if status == "running" and assignment is not None:
            self._topic.put(KIND, name, assignment.stop().to_json(), author=AUTHOR, at=at)
        self._topic.put(PLAN_KIND, name, ended.to_json(), author=AUTHOR, at=at)
        return Change(f"experiment {name!r} has ended; workers assign nobody within a second")

    def _moment(self, state: State) -> int:
        """Now, and after whatever was written before: workers take an older entry for a late one and refuse it."""
        return max(self._now(), state.revision + 1)

    def _check(self, definition: Definition, what: str, states: Mapping[str, State], state: State) -> Experiment:
        """The assignment that a definition asks for, after all that could be wrong with it was looked at."""
        _check_models(definition, what, self._store)
        with _told_by(what):
            own = assignment_of(definition, state.assignment)
        for other in states.values():
            if other.assignment is None or other.name == own.name:
                continue
            try:
                Router([other.assignment, own])
            except ExperimentError as error:
                raise DefinitionError(
                    f"{what}: layer_ranges: overlap in layer {own.layer!r} with those of {other.name!r}, which is "
                    f"running, at bucket {str(error).rpartition(' ')[2]}: take others, or stop {other.name!r} first"
                ) from None
        return own


def states_of(entries: Mapping[tuple[str, str], Control]) -> dict[str, State]:
    """Every experiment that the control topic's entries tell of, by name, in order of names."""
    names = sorted({name for kind, name in entries if kind in (KIND, PLAN_KIND)})
    return {name: _state(name, entries.get((PLAN_KIND, name)), entries.get((KIND, name))) for name in names}


def assignment_of(definition: Definition, previous: Experiment | None = None) -> Experiment:
    """The running assignment a definition asks for. Raises `ExperimentError`.

    Where an earlier one of the same salt is known, arms of the same name keep their users: the same user meets the same
    variant in the next run too. Another salt deals anew.
    """
    salt = definition.salt or definition.name
    kept = {one.name: one.ranges for one in previous.variants} if previous and previous.salt == salt else {}
    empty = Experiment(
        name=definition.name,
        model=definition.model,
        salt=salt,
        variants=tuple(Variant(arm.name, arm.version, kept.get(arm.name, ())) for arm in definition.variants),
        layer=definition.layer,
        layer_ranges=definition.layer_ranges,
    )
    return empty.ramp(definition.shares())


def micros(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def shown_shares(experiment: Experiment) -> str:
    """For people: `control 25%, treatment 25%`."""
    return ", ".join(f"{one.name} {one.share * 100:g}%" for one in experiment.variants)


def _state(name: str, plan: Control | None, assignment: Control | None) -> State:
    revision = max((one.revision for one in (plan, assignment) if one is not None), default=0)
    assigned_at = None if assignment is None else _time(assignment.changed_at)
    found, own, problem = None, None, ""
    try:
        # A worker obeys an assignment whatever its plan is like, so it is read first.
        own = None if assignment is None else Experiment.from_json(assignment.body)
        found = None if plan is None else plan_from_json(plan.body, f"control entry {PLAN_KIND}/{name}")
    except DefinitionError as error:
        problem = str(error)
    except ExperimentError as error:
        problem = f"control entry {KIND}/{name}: {error}"
    for kind, inside in ((PLAN_KIND, found and found.definition.name), (KIND, own and own.name)):
        if inside not in (None, name):
            problem = f"control entry {kind}/{name} is of experiment {inside!r}"
    return State(name, found, own, assigned_at, revision, problem)


def _known(states: Mapping[str, State], name: str) -> State:
    if name not in states:
        there = ", ".join(states) or "none"
        raise DefinitionError(
            f"there is no experiment {name!r}; there are: {there}. One under another name is another experiment: "
            "penstock experiments create FILE"
        )
    _readable(states[name])
    return states[name]


def _readable(state: State) -> None:
    if state.problem:
        kind = PLAN_KIND if f"{PLAN_KIND}/" in state.problem else KIND
        raise DefinitionError(f"{state.problem}; remove it (penstock control remove {kind} {state.name})")


def _check_models(definition: Definition, what: str, store: Store) -> None:
    """Every version is there, and gives a score where a metric asks for one."""
    try:
        there = store.versions(definition.model)
    except ModelError as error:
        raise DefinitionError(f"{what}: model: {error}") from None
    scored = [
        f"metrics[{at}]"
        for at, metric in enumerate(definition.metrics)
        if any(_needs_score(one) for one in (metric.source, metric.denominator))
    ]
    for at, arm in enumerate(definition.variants):
        key = f"variants[{at}].version"
        if arm.version not in there:
            raise DefinitionError(
                f"{what}: {key}: model {definition.model!r} has no version {arm.version!r}; "
                f"there are: {', '.join(there)}"
            )
        try:
            gives = store.manifest(definition.model, arm.version).signature.score is not None
        except ModelError as error:
            raise DefinitionError(f"{what}: {key}: {error}") from None
        if scored and not gives:
            raise DefinitionError(
                f"{what}: {scored[0]}: it judges scores, and version {arm.version!r} of model {definition.model!r} "
                "gives none: its manifest names no score"
            )


def _needs_score(source: Source | None) -> bool:
    return source is not None and (source.prediction == "score" or source.value in SCORED_VALUES)


def _cautions(before: Experiment, after: Experiment) -> tuple[str, ...]:
    """What a ramp does to the analysis."""
    was = {at: one.name for one in before.variants for lo, hi in one.ranges for at in range(lo, hi)}
    now = {at: one.name for one in after.variants for lo, hi in one.ranges for at in range(lo, hi)}
    moved = sum(1 for at, name in was.items() if at in now and now[at] != name)
    notes = []
    if moved:
        notes.append(
            f"{moved / BUCKETS:.2%} of users go from one arm to another; those who met both count for neither, and "
            "above 1% of units that is an alarm: rather stop it, create it with the new shares and start it again"
        )
    shares = [[one.share for one in each.variants] for each in (before, after)]
    parts = [[one / math.fsum(each) for one in each] if math.fsum(each) else each for each in shares]
    if any(abs(one - other) > 2 / BUCKETS for one, other in zip(*parts, strict=True)):
        notes.append(
            "the arms' shares of each other change within the run, so that arms hold different mixtures of days; "
            "ramp all arms alike, or stop it, create it with the new shares and start it again"
        )
    return tuple(notes)


def _broken_off(state: State) -> DefinitionError:
    command = "start" if state.status == "half started" else "stop"
    return DefinitionError(
        f"the {command} of experiment {state.name!r} was broken off: penstock experiments {command} {state.name} "
        "finishes it"
    )


def _by_hand(name: str) -> str:
    return (
        f"experiment {name!r} is assigned to users by hand, without a run that counts them: end that first "
        f"(penstock experiments stop {name})"
    )


@contextmanager
def _told_by(what: str) -> Iterator[None]:
    """Turn an `ExperimentError` into a `DefinitionError` that says where the definition came from."""
    try:
        yield
    except ExperimentError as error:
        key = str(error).partition(": ")[2] or str(error)
        raise DefinitionError(f"{what}: {key}") from None


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
