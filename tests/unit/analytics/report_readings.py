"""Readings that a report must cope with: undefined results, nothing seen yet, hostile names, many arms and looks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from analytics.definitions import Arm, Plan
from analytics.experiment_store import Crossed, DayUnits
from analytics.readings import ArmReading, PastLook, Reading
from analytics.results import Interval, Result
from benchmarks.simulated_reading import STARTED, definition, simulated_reading

HOSTILE = "<script>alert(\"1\")</script> & 'two'\x00\ud800"
REASON = "an arm has no units"


def undefined() -> Reading:
    """The second metric has no data: no values, no lift, a reason; nor had it at any look."""
    reading = simulated_reading(3)
    nothing = Result(method="Welch t", n=(0, 0), alpha=0.05, reason=REASON)
    arms = tuple(
        replace(one, absolute=nothing, relative=replace(nothing, scale="relative"), p_adjusted=None, chance_to_win=None)
        if one.metric.name == "revenue"
        else one
        for one in reading.arms
    )
    empty = {"lift": None, "low": None, "high": None, "statistic": None, "lower": None, "upper": None}
    history = tuple(replace(one, **empty) if one.metric == "revenue" else one for one in reading.history)
    return replace(reading, arms=arms, history=history)


def not_started() -> Reading:
    """A plan that has been created and nothing else."""
    return _nothing(Plan(definition()))


def nobody_counts(after: timedelta) -> Reading:
    """A run that began so long ago and has counted nobody."""
    return replace(_nothing(Plan(definition()).start(STARTED)), looked_at=STARTED + after)


def hostile() -> Reading:
    """Markup in everything that a user may write or that comes from outside."""
    reading = simulated_reading(3)
    named = replace(
        reading.plan.definition,
        hypothesis=HOSTILE,
        model=HOSTILE,
        layer=HOSTILE,
        control=HOSTILE,
        variants=(Arm(HOSTILE, HOSTILE, 0.5),) * 2,
    )
    arms = tuple(
        replace(one, variant=HOSTILE, absolute=replace(one.absolute, method=HOSTILE, reason=HOSTILE))
        for one in reading.arms
    )
    return replace(
        reading,
        plan=replace(
            reading.plan, definition=replace(named, control=HOSTILE, variants=(Arm(HOSTILE, HOSTILE, 0.5),) * 2)
        ),
        arms=arms,
        splits=tuple(replace(one, kind=HOSTILE, value=HOSTILE, units={HOSTILE: 5}) for one in reading.splits),
        history=tuple(replace(one, variant=HOSTILE) for one in reading.history),
        exposures=tuple(replace(one, variant=HOSTILE) for one in reading.exposures),
        reason=HOSTILE,
        decision="ship",
        winner=HOSTILE,
    )


def three_arms() -> Reading:
    """Two variants against the control, one of them without an upper bound, units that met two variants."""
    reading = simulated_reading(3)
    variants = (*reading.plan.definition.variants, Arm("ranker-8", "8", 0.2))
    open_ended = Interval(-0.02, float("inf"))
    more: list[ArmReading] = []
    for one in reading.arms:
        other = replace(one, variant="ranker-8", relative=replace(one.relative, interval=open_ended))
        more += [one, other]
    history = [*reading.history, *(replace(one, variant="ranker-8", high=float("inf")) for one in reading.history)]
    day = reading.exposures[0].day
    return replace(
        reading,
        plan=replace(reading.plan, definition=replace(reading.plan.definition, variants=variants)),
        arms=tuple(more),
        history=tuple(history),
        exposures=(*reading.exposures, DayUnits(day, "ranker-8", 900), DayUnits(day, "", 12)),
    )


def many_looks(looks: int) -> Reading:
    """A look an hour, and as many days of exposures."""
    reading = simulated_reading(2)
    first = next(one for one in reading.history if one.metric == "bought")
    history: list[PastLook] = [
        replace(
            first,
            look=at + 1,
            looked_at=STARTED + timedelta(hours=at),
            fraction=(at + 1) / looks,
            lift=0.01 + 0.1 / (at + 1),
        )
        for at in range(looks)
    ]
    exposures = tuple(
        DayUnits((STARTED + timedelta(days=at)).date(), arm, 1000 + at)
        for at in range(looks)
        for arm in ("ranker-6", "ranker-7")
    )
    return replace(reading, history=tuple(history), exposures=exposures)


def _nothing(plan: Plan) -> Reading:
    return Reading(
        plan=plan, number=0, looked_at=STARTED, arms=(), splits=(), crossed=Crossed(0, 0), exposures=(), history=(),
        decision="unhealthy", reason="There is nothing to look at yet.",
    )  # fmt: skip
