"""Makes a look's reading from what ClickHouse has summed up and what earlier looks found; pure.

An earlier look is taken as it was written down, not computed again: late outcomes change what is known now, never what
was tested then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from analytics.arm_tests import Seen, Tested, always_valid, fixed, group_sequential, guarded, unknown, untested
from analytics.decision import Case, decide, ran
from analytics.definitions import Guardrail, Metric, Plan
from analytics.effects import Effect
from analytics.evidence import ArmData, chance_to_win, nothing_differs, pairs
from analytics.experiment_store import BinnedUnits, Crossed, DayUnits, SliceCounts, UnitSums
from analytics.horizon import ahead, lag, maximum, primary
from analytics.look_records import Pair, PastArm, Record, record
from analytics.multiplicity import holm
from analytics.readings import ArmReading, Reading, Verdict
from analytics.results import Result, UndefinedError
from analytics.splits import Slice, read_splits
from analytics.statistics import compare

# What a guardrail's sequence is tuned for while nobody knows the planned size: so many times what there is.
_GROWTH: Final = 10.0
# An experiment that was stopped with so much of the planned information is at its planned end: days and users never
# agree exactly. One stopped with less may have been stopped for what it showed, and gets no alpha for that.
NEARLY: Final = 0.9


@dataclass(frozen=True, slots=True)
class Summed:
    """What `ExperimentStore` answers about a run at one look. `bins`: of quantile metrics."""

    sums: Sequence[UnitSums]
    bins: Sequence[BinnedUnits]
    counts: Sequence[SliceCounts]
    crossed: Crossed
    exposures: Sequence[DayUnits]


def read(plan: Plan, number: int, looked_at: datetime, summed: Summed, past: Sequence[Record] = ()) -> Reading:
    """The reading of look `number` (from 1) at `looked_at`, after the looks in `past`, oldest first.

    Raises `StatisticError` for sums that cannot be. What the data do not say is None in the results, with a reason.
    """
    before = [one for one in past if one.number < number]
    return _Look(plan, number, looked_at, summed, before).read()


@dataclass(frozen=True, slots=True)
class _Known:
    """A metric and variant now: its difference, or why there is none."""

    data: ArmData
    effect: Effect | None
    reason: str | None
    fraction: float | None = None
    tuned_for: float | None = None


class _Look:
    def __init__(self, plan: Plan, number: int, at: datetime, summed: Summed, past: Sequence[Record]) -> None:
        self._plan = plan
        self._definition = plan.definition
        self._test = plan.definition.test
        self._number = number
        self._at = at
        self._summed = summed
        self._past = past
        self._main = primary(plan.definition)
        self._variants = [one for one in plan.definition.shares() if one != plan.definition.control]
        self._guardrails = {one.metric: one for one in plan.definition.guardrails}
        self._known = self._clocked(self._differences())

    def read(self) -> Reading:
        closed = self._closed(self._at)
        end = self._end()
        family = [
            (metric, variant)
            for metric in self._definition.metrics
            if metric.name not in self._guardrails
            for variant in self._variants
        ]
        tested = {
            (metric.name, variant): self._tested(metric, variant, self._end_of(metric, end), alone=len(family) == 1)
            for metric, variant in family
        }
        awaited = {pair for pair, one in tested.items() if one.p_value is None and self._is_awaited(*pair, end)}
        # Those that will be tested count among the others from the first look on.
        asked = {
            pair: 1.0 if one.p_value is None else one.p_value
            for pair, one in tested.items()
            if one.p_value is not None or pair in awaited
        }
        adjusted = dict(zip(asked, holm(list(asked.values())), strict=True))
        arms = []
        for metric in self._definition.metrics:
            guardrail = self._guardrails.get(metric.name)
            for variant in self._variants:
                pair = (metric.name, variant)
                if guardrail is not None:
                    arms.append(self._guarded(metric, variant, guardrail))
                else:
                    p_adjusted = None if pair in awaited else adjusted.get(pair)
                    arms.append(self._arm(metric, variant, tested[pair], p_adjusted))
        evidence: dict[Slice, float] = {}
        for one in self._past:
            for where, size in one.evidence.items():
                evidence[where] = max(size, evidence.get(where, 0.0))
        splits = read_splits(self._summed.counts, self._definition, evidence)
        left = ahead(self._plan, self._at, self._fractions(), self._units(), self._summed.exposures)
        over = end is not None or self._reached(self._fractions())
        case = Case(
            self._plan, self._at, tuple(arms), splits, self._summed.crossed, left, over, closed, frozenset(awaited)
        )
        decided = decide(case)
        reading = Reading(
            plan=self._plan,
            number=self._number,
            looked_at=self._at,
            arms=tuple(arms),
            splits=splits,
            crossed=self._summed.crossed,
            exposures=tuple(self._summed.exposures),
            history=tuple(arm.shown for one in self._past for arm in one.arms.values()),
            decision=decided.decision,
            reason=decided.reason,
            winner=decided.winner,
            power=left.power,
            days_left=left.days,
            needed=left.needed,
        )
        return replace(reading, history=reading.history + tuple(one.shown for one in record(reading).arms.values()))

    # What is known now.

    def _differences(self) -> dict[Pair, _Known]:
        found: dict[Pair, _Known] = {}
        for metric in self._definition.metrics:
            for data in pairs(metric, self._definition.control, self._variants, self._summed.sums, self._summed.bins):
                try:
                    known = _Known(data, data.effect(), None)
                except UndefinedError as error:
                    known = _Known(data, None, str(error))
                found[metric.name, data.variant.variant] = known
        return found

    def _clocked(self, found: dict[Pair, _Known]) -> dict[Pair, _Known]:
        """With each one's fraction of the planned information, and what its confidence sequence is tuned for."""
        clocked: dict[Pair, _Known] = {}
        for (name, variant), known in found.items():
            now = known.effect
            if now is None:
                clocked[name, variant] = known
                continue
            main = found[self._main.name, variant]
            fraction = None
            if main.effect is not None:
                try:
                    planned = maximum(main.effect, self._main, self._test)
                    fraction = main.effect.information / planned * sum(known.data.n) / sum(main.data.n)
                except UndefinedError as error:
                    known = replace(known, reason=str(error))
            information = now.information
            tuned = next((arm.tuned_for for arm in self._earlier(name, variant) if arm.tuned_for), None)
            if tuned is None:
                tuned = information / fraction if fraction else information * _GROWTH
            clocked[name, variant] = replace(known, fraction=fraction, tuned_for=tuned)
        return clocked

    def _earlier(self, metric: str, variant: str) -> list[PastArm]:
        return [one.arms[metric, variant] for one in self._past if (metric, variant) in one.arms]

    def _seen(self, metric: str, variant: str) -> list[Seen]:
        """All looks that had a difference, this one the last."""
        seen = [
            Seen(arm.shown.look, arm.shown.looked_at, arm.effect, arm.fraction, arm.tuned_for)
            for arm in self._earlier(metric, variant)
            if arm.effect is not None
        ]
        now = self._known[metric, variant]
        if now.effect is not None:
            seen.append(Seen(self._number, self._at, now.effect, now.fraction, now.tuned_for))
        return seen

    def _fractions(self) -> list[float | None]:
        return [self._known[self._main.name, one].fraction for one in self._variants]

    def _units(self) -> int:
        return sum(one.n for one in self._summed.sums if one.metric == self._main.name)

    # When it ends.

    def _counts(self, at: datetime) -> bool:
        """Whether a look then is one that may decide."""
        return ran(self._plan, at) >= self._definition.minimum_runtime

    @staticmethod
    def _reached(fractions: Sequence[float | None], needed: float = 1.0) -> bool:
        return all(one is not None and one >= needed for one in fractions)

    def _looks(self) -> list[tuple[int, datetime, list[float | None]]]:
        """Number, time and the variants' fractions of all looks, this one the last."""

        def fractions(one: Record) -> list[float | None]:
            arms = [one.arms.get((self._main.name, variant)) for variant in self._variants]
            return [arm.fraction if arm else None for arm in arms]

        before = [(one.number, one.looked_at, fractions(one)) for one in self._past]
        return [*before, (self._number, self._at, self._fractions())]

    def _end(self) -> int | None:
        """The look that ended a test with a planned end: none after it changes what was found."""
        if self._test.kind == "always-valid":
            return None
        for number, at, fractions in self._looks():
            needed = NEARLY if self._closed(at) else 1.0
            if self._counts(at) and self._reached(fractions, needed):
                return number
        return None

    def _end_of(self, metric: Metric, end: int | None) -> int | None:
        """The look that ends the test of one metric: when those who counted for the primary one have counted for it."""
        if end is None or metric == self._main:
            return end
        looks = [(number, at) for number, at, _ in self._looks() if number >= end]
        ripe = looks[0][1] + max(lag(self._plan, metric) - lag(self._plan, self._main), timedelta())
        return next((number for number, at in looks if at >= ripe or self._closed(at)), None)

    def _is_awaited(self, name: str, variant: str, end: int | None) -> bool:
        """Whether a metric that has not been tested will be: nobody can have counted yet, or its end is to come."""
        metric = next(one for one in self._definition.metrics if one.name == name)
        started = self._plan.started_at
        if self._closed(self._at) or started is None:
            return False
        if self._known[name, variant].effect is None:
            return self._at < started + lag(self._plan, metric)
        return end is not None and self._end_of(metric, end) is None

    def _closed(self, at: datetime) -> bool:
        """Whether it was stopped and everything had matured then."""
        stopped = self._plan.stopped_at
        return stopped is not None and at >= stopped + max(
            lag(self._plan, metric) for metric in self._definition.metrics
        )

    def _final(self, end: int | None) -> bool:
        """Whether a test may be declared at its end short of the planned size: not because of what a look has shown."""
        return end is not None and not any(one.decision in ("ship", "roll back") for one in self._past)

    # The tests.

    def _tested(self, metric: Metric, variant: str, end: int | None, *, alone: bool) -> Tested:
        now = self._known[metric.name, variant]
        seen = self._seen(metric.name, variant)
        if self._test.kind == "always-valid":
            if not seen:
                return self._nothing(now)
            return self._try(lambda: always_valid(seen, self._test), now)
        counted = [one for one in seen if self._counts(one.looked_at) and (end is None or one.look <= end)]
        if not self._counts(self._at):
            return self._nothing(now, "nothing is tested before the minimum runtime")
        if self._test.kind == "fixed":
            if end is None:
                part = "" if now.fraction is None else f", of which {min(now.fraction, 1):.0%} is there"
                return self._nothing(now, f"a fixed test is read once, at its planned size{part}")
            at_end = [one for one in counted if one.look == end]
            return self._try(lambda: fixed(at_end, self._test), now) if at_end else self._nothing(now)
        counted = [one for one in counted if one.fraction]
        if not counted:
            return self._nothing(now, "the part of the planned information is not known yet")
        final = self._final(end)
        return self._try(lambda: group_sequential(counted, self._test, final=final, alone=alone), now)

    def _try(self, test: Callable[[], Tested], now: _Known) -> Tested:
        try:
            return test()
        except UndefinedError as error:
            return self._nothing(now, str(error))

    def _nothing(self, now: _Known, reason: str = "") -> Tested:
        """Estimates as far as there are any, and why there is no test."""
        if now.effect is not None:
            return unknown(now.effect, self._test.alpha, reason or now.reason or "there is no test")
        why = now.reason or reason
        try:
            control, treatment = now.data.statistics()
            absolute = compare(control, treatment, alpha=self._test.alpha)
            return untested(absolute, compare(control, treatment, alpha=self._test.alpha, scale="relative"), why)
        except UndefinedError:
            absolute = Result(method="no test", n=now.data.n, alpha=self._test.alpha, reason=why)
            return Tested(absolute, replace(absolute, scale="relative"))

    def _arm(self, metric: Metric, variant: str, tested: Tested, p_adjusted: float | None) -> ArmReading:
        return self._reading(
            metric, variant, tested, tested.verdict(metric, p_adjusted, self._test.alpha), p_adjusted=p_adjusted
        )

    def _guarded(self, metric: Metric, variant: str, guardrail: Guardrail) -> ArmReading:
        now = self._known[metric.name, variant]
        seen = self._seen(metric.name, variant)
        verdict: Verdict = "open"
        if seen:
            try:
                tested, verdict = guarded(seen, metric, guardrail, self._test)
            except UndefinedError as error:
                tested = self._nothing(now, str(error))
        else:
            tested = self._nothing(now)
            why = nothing_differs(now.data, guardrail.margin.size, self._test.alpha)
            if why is not None:
                verdict = "safe"
                tested = untested(tested.absolute, tested.relative, why)
        return self._reading(metric, variant, tested, verdict, margin=guardrail.margin.size)

    def _reading(
        self,
        metric: Metric,
        variant: str,
        tested: Tested,
        verdict: Verdict,
        *,
        p_adjusted: float | None = None,
        margin: float | None = None,
    ) -> ArmReading:
        now = self._known[metric.name, variant]
        statistic = tested.statistic
        if statistic is None and now.effect is not None:
            statistic = now.effect.estimate / math.sqrt(now.effect.variance)
        return ArmReading(
            metric=metric,
            role="metric" if margin is None else "guardrail",
            control=self._definition.control,
            variant=variant,
            absolute=tested.absolute,
            relative=tested.relative,
            verdict=verdict,
            p_adjusted=p_adjusted,
            margin=margin,
            statistic=statistic,
            lower=tested.lower,
            upper=tested.upper,
            fraction=now.fraction,
            alpha_spent=tested.alpha_spent,
            chance_to_win=None if now.effect is None else chance_to_win(now.data, now.effect),
            effect=now.effect,
            tuned_for=now.tuned_for,
        )
