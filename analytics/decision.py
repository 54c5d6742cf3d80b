"""What to do with an experiment at a look and why, in one sentence.

In this order; the first that holds decides:

1. `unhealthy`: the split is broken (sample ratio, or more than 1% of the users met two variants). It comes before a
   breach too, because the arms are then not alike and no difference means anything; the sentence names the breach, and
   nothing is lost by stopping.
2. `roll back`: a guardrail is breached. It does not wait for the minimum runtime, as it is harm that is proven at a
   level that holds at any look; what the runtime guards against is a hasty yes. (A sound variant that could be shipped
   goes before a breached one beside it: shipping ends both.)
3. `unhealthy`: too early, before the minimum runtime.
4. `ship`: a variant is better on the primary metric, worse on none, none is yet to be tested, and every guardrail is
   shown to hold.
5. `roll back`: every variant is worse on some metric.
6. `no difference`: the planned end has come, or passing a bound by then is unlikely even with the planned effect.
7. `keep going`.

A variant that is worse on any metric is not shipped, whatever else is better (Schultzberg, Ankargren, Frånberg 2024,
"Risk-aware product decisions in A/B tests with multiple metrics").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from analytics.definitions import Plan
from analytics.experiment_store import CROSSED_ALARM, Crossed
from analytics.horizon import ASSUMED, DAY, Ahead, always_valid_reach, chance_still, design_inflation, primary
from analytics.power import Requirement
from analytics.readings import ArmReading, Decision, SplitReading

FUTILE: Final = 0.1
_HALFWAY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """What is known at a look. `over`: no later look can say more; `closed`: the experiment was stopped for good.

    `awaited`: metrics and variants that are yet to be tested.
    """

    plan: Plan
    looked_at: datetime
    arms: tuple[ArmReading, ...]
    splits: tuple[SplitReading, ...]
    crossed: Crossed
    ahead: Ahead
    over: bool
    closed: bool
    awaited: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision, why, and the variant to ship or ''."""

    decision: Decision
    reason: str
    winner: str = ""


def ran(plan: Plan, at: datetime) -> timedelta:
    """How long it has run."""
    if plan.started_at is None:
        return timedelta()
    return (at if plan.stopped_at is None else min(at, plan.stopped_at)) - plan.started_at


def decide(case: Case) -> Decided:
    """The decision: see the module."""
    definition = case.plan.definition
    arms = [_Arm(name, case) for name in definition.shares() if name != definition.control]
    breached = [arm for arm in arms if arm.breaches]
    broken = _broken_split(case)
    if broken:
        also = f" {breached[0].breach()}, so stop it in any case." if breached else ""
        return Decided("unhealthy", broken + also)
    early = ran(case.plan, case.looked_at) < definition.minimum_runtime
    fit = [] if early else [arm for arm in arms if arm.fit]
    if breached and not fit:
        return Decided("roll back", f"{breached[0].breach()}: end it now.")
    if early:
        return Decided("unhealthy", _too_early(case))
    if fit:
        best = max(fit, key=lambda arm: arm.strength)
        return Decided("ship", best.ship(), best.name)
    worse = [arm for arm in arms if arm.worse]
    if len(worse) == len(arms):
        return Decided("roll back", f"{worse[0].is_worse()}.")
    left = [arm for arm in arms if not arm.worse]
    if case.over or case.closed:
        unproven = [arm for arm in left if arm.better]
        if unproven and case.closed:
            return Decided("roll back", f"{unproven[0].not_safe()}: it has ended without showing that.")
        if unproven:
            return Decided("keep going", f"{unproven[0].not_safe()}.")
        return Decided("no difference", _at_the_end(case, left))
    chances = [arm.chance_left() for arm in left]
    if chances and all(one is not None and one < FUTILE for one in chances):
        chance = max(one for one in chances if one is not None)
        return Decided(
            "no difference", f"{_none(case)}, and the chance to show one by the planned end is {chance:.0%}."
        )
    return Decided("keep going", _keep_going(case, left))


class _Arm:
    """One variant's readings, and what is said of them."""

    def __init__(self, name: str, case: Case) -> None:
        self.name = name
        self._case = case
        self._control = case.plan.definition.control
        mine = [one for one in case.arms if one.variant == name]
        self.metrics = [one for one in mine if one.role == "metric"]
        self.guardrails = [one for one in mine if one.role == "guardrail"]
        main = primary(case.plan.definition).name
        self.main = next((one for one in mine if one.metric.name == main), None)

    @property
    def breaches(self) -> list[ArmReading]:
        return [one for one in self.guardrails if one.verdict == "breached"]

    @property
    def worse(self) -> list[ArmReading]:
        return [one for one in self.metrics if one.verdict == "worse"]

    @property
    def better(self) -> bool:
        return self.main is not None and self.main.verdict == "better"

    @property
    def fit(self) -> bool:
        held = all(one.verdict == "safe" for one in self.guardrails)
        return self.better and not self.worse and held and not self.awaited

    @property
    def awaited(self) -> list[str]:
        """Metrics that are yet to be tested."""
        return [one.metric.name for one in self.metrics if (one.metric.name, self.name) in self._case.awaited]

    @property
    def strength(self) -> float:
        """How much better it is on the primary metric, for choosing among several."""
        if self.main is None or self.main.absolute.estimate is None:
            return 0.0
        estimate = self.main.absolute.estimate
        return estimate if self.main.metric.direction == "increase" else -estimate

    def ship(self) -> str:
        assert self.main is not None  # noqa: S101 - it is better
        held = ", and every guardrail holds" if self.guardrails else ""
        return f"{self.name} is better than {self._control} on {self.main.metric.name}: {_change(self.main)}{held}."

    def is_worse(self) -> str:
        one = self.worse[0]
        return f"{self.name} is worse than {self._control} on {one.metric.name}: {_change(one)}"

    def breach(self) -> str:
        one = self.breaches[0]
        margin = next(each.margin for each in self._case.plan.definition.guardrails if each.metric == one.metric.name)
        allowed = f"{margin.size:.3g}" if not margin.relative else f"{margin.size:.3%}".rstrip("0%").rstrip(".") + "%"
        return f"{self.name} harms {one.metric.name} by more than the {allowed} its guardrail allows: {_change(one)}"

    def not_safe(self) -> str:
        assert self.main is not None  # noqa: S101 - it is better
        if self.awaited:
            return f"{self.name} is better on {self.main.metric.name}, but not yet tested on {', '.join(self.awaited)}"
        open_ones = ", ".join(one.metric.name for one in self.guardrails if one.verdict != "safe")
        why = next(
            (one.absolute.reason for one in self.guardrails if one.verdict != "safe" and one.absolute.reason), ""
        )
        return f"{self.name} is better on {self.main.metric.name}, but not yet shown to be harmless to {open_ones}" + (
            f" ({why})" if why else ""
        )

    def chance_left(self) -> float | None:
        """To show it better or worse by the planned end; None where that is not to be asked yet."""
        one, test = self.main, self._case.plan.definition.test
        if one is None or one.effect is None or one.fraction is None or one.fraction < _HALFWAY or self.better:
            return None
        if one.effect.variance <= 0:
            return None
        reach, _ = Requirement(1.0, test.alpha, test.power).quantiles
        # About the last bound of a group sequential test; what its alpha was spent on makes it wider.
        last = always_valid_reach(test.alpha) if test.kind == "always-valid" else reach * design_inflation(test) ** 0.5
        return max(chance_still(one.effect.estimate / one.effect.standard_error, one.fraction, test, last))


def _broken_split(case: Case) -> str:
    control = case.plan.definition.control
    for one in case.splits:
        if one.mismatch:
            where = "" if one.kind == "all" else f" on {one.kind} {one.value}"
            total = sum(one.units.values())
            met = ", ".join(f"{units:,} met {arm}" for arm, units in one.units.items())
            wanted = ", ".join(f"{one.shares[arm] * total:,.0f}" for arm in one.units)
            return (
                f"The split is broken{where}: {met}, where {wanted} were expected, "
                f"so no comparison with {control} can be trusted."
            )
    if case.crossed.alarm:
        return (
            f"{case.crossed.share:.1%} of the users met two variants, more than {CROSSED_ALARM:.0%}, "
            f"so no comparison with {control} can be trusted."
        )
    return ""


def _too_early(case: Case) -> str:
    needed = _time(case.plan.definition.minimum_runtime)
    time = _time(ran(case.plan, case.looked_at))
    if case.plan.stopped_at is not None:
        return f"It was stopped after {time}, before the minimum runtime of {needed}, so nothing can be concluded."
    return f"It has run for {time}, and nothing is concluded before the minimum runtime of {needed}."


def _none(case: Case) -> str:
    return f"No difference is shown on {primary(case.plan.definition).name}"


def _at_the_end(case: Case, left: Sequence[_Arm]) -> str:
    main = next((arm.main for arm in left if arm.main is not None), None)
    if main is None or main.effect is None:
        why = main.absolute.reason if main is not None else None
        return f"It has ended without anything to test{f': {why}' if why else ''}."
    size = main.metric.mde or ASSUMED
    wanted = _percent(size.size).lstrip("+") if size.relative else f"{size.size:.3g}"
    if main.fraction is not None and main.fraction < 1 and case.closed:
        return f"{_none(case)} ({_change(main)}), with {main.fraction:.0%} of the evidence that finding {wanted} takes."
    return f"{_none(case)} ({_change(main)}), although it had the size to find one of {wanted}."


def _keep_going(case: Case, left: Sequence[_Arm]) -> str:
    better = [arm for arm in left if arm.better]
    if better:
        return f"{better[0].not_safe()}."
    main = next((arm.main for arm in left if arm.main is not None), None)
    if main is None or main.effect is None:
        why = main.absolute.reason if main is not None else None
        return f"There is nothing to test yet{f': {why}' if why else ''}."
    ahead = case.ahead
    if ahead.days is not None and ahead.needed is not None:
        return f"{_none(case)} yet; about {_time(ahead.days * DAY)} are left until {ahead.needed:,} users have counted."
    return f"{_none(case)} yet."


def _change(one: ArmReading) -> str:
    """The lift with its interval in words."""
    result = one.relative
    if result.estimate is None:
        result = one.absolute
        if result.estimate is None:
            return "no estimate"
        if result.interval is None:
            return f"{result.estimate:+.3g}"
        return f"{result.estimate:+.3g}, between {result.interval.low:+.3g} and {result.interval.high:+.3g}"
    if result.interval is None or result.interval.width == float("inf"):
        return _percent(result.estimate)
    return f"{_percent(result.estimate)}, between {_percent(result.interval.low)} and {_percent(result.interval.high)}"


def _percent(share: float) -> str:
    part = 100 * share
    return f"{part:+,.0f}%" if abs(part) >= 10 else f"{part:+.2g}%"


def _time(span: timedelta) -> str:
    for unit, name in ((DAY, "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        count = span / unit
        if count >= 1.95 or (count >= 1 and unit != DAY):
            shown = f"{count:.1f}".rstrip("0").rstrip(".") if count < 10 else f"{count:.0f}"
            return f"{shown} {name}{'' if shown == '1' else 's'}"
    return f"{max(span.total_seconds(), 0):.0f} seconds"
