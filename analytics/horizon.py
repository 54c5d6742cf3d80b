"""When an experiment is planned to end: the information its primary metric needs, how far it is, and the days left.

The clock is the information of the primary metric (the first that is no guardrail), as a fraction of that with which
the plan's test has its power for the planned effect. A metric without `mde` is planned as if it had `ASSUMED`. Other
metrics follow by their units: with half of the units that it will have at the planned size, one is half way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from scipy import special

from analytics.always_valid import ConfidenceSequence
from analytics.definitions import Definition, Effect, Metric, Plan, Procedure
from analytics.effects import Effect as Found
from analytics.evidence import planned_effect
from analytics.experiment_store import DayUnits
from analytics.planning import design_bounds
from analytics.power import Requirement
from analytics.results import StatisticError
from analytics.sequential import inflation
from analytics.spending import Spending

ASSUMED: Final = Effect(0.05, relative=True)
DAY: Final = timedelta(days=1)


def primary(definition: Definition) -> Metric:
    """The metric that decides: the first that is no guardrail, or the first where all are."""
    guarded = {one.metric for one in definition.guardrails}
    return next((one for one in definition.metrics if one.name not in guarded), definition.metrics[0])


def spending(test: Procedure) -> Spending:
    """The plan's spending function."""
    return Spending(test.spending, test.spending_parameter)


@lru_cache(maxsize=256)
def design_inflation(test: Procedure) -> float:
    """By how much the test needs more information than one that looks once, for the same power; see `design_bounds`."""
    found = design_bounds(test)
    return 1.0 if found is None else max(1.0, inflation(found, test.power))


def always_valid_reach(alpha: float) -> float:
    """Half the width of a confidence sequence, in standard errors, at the information it is tuned for."""
    return ConfidenceSequence(1.0, alpha).half_width(1.0)


def maximum(found: Found, metric: Metric, test: Procedure) -> float:
    """The information (1 / variance of the difference) at which the experiment is planned to end.

    Raises `UndefinedError` for a relative effect on a value of 0, `StatisticError` for a power no more than alpha.
    """
    size = planned_effect(found, metric.mde or ASSUMED)
    reach, beyond = Requirement(size, test.alpha, test.power, inflation=design_inflation(test)).quantiles
    return design_inflation(test) * ((reach + beyond) / size) ** 2


def power_at(fraction: float, test: Procedure) -> float:
    """The power for the planned effect if the experiment ended with this fraction of the planned information."""
    reach, beyond = Requirement(1.0, test.alpha, test.power).quantiles
    drift = math.sqrt(fraction) * (reach + beyond)
    return float(special.ndtr(drift - reach) + special.ndtr(-drift - reach))


def chance_still(statistic: float, fraction: float, test: Procedure, last: float) -> tuple[float, float]:
    """How likely the planned effect passes a bound of ±`last`, upwards and downwards, at the planned end.

    Conditional power (Jennison and Turnbull 2000, 10.2): Z at the end is normal around Z·√t + drift·(1 - t) with
    variance 1 - t, t the fraction so far.
    """
    if fraction >= 1:
        return float(statistic >= last), float(statistic <= -last)
    reach, beyond = Requirement(1.0, test.alpha, test.power).quantiles
    drift = (reach + beyond) * math.sqrt(design_inflation(test))
    left = 1.0 - fraction
    so_far = statistic * math.sqrt(fraction)
    up = float(special.ndtr((so_far + drift * left - last) / math.sqrt(left)))
    down = float(special.ndtr((-so_far + drift * left - last) / math.sqrt(left)))
    return up, down


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is left of an experiment: units of all arms it needs, the power with those so far, days (None: unknown)."""

    needed: int | None = None
    power: float | None = None
    days: float | None = None


def ahead(
    plan: Plan, at: datetime, fractions: Sequence[float | None], units: int, exposures: Sequence[DayUnits]
) -> Ahead:
    """Where the experiment stands. `fractions`: of each variant; the slowest counts. `units` of the primary metric."""
    if plan.started_at is None:
        raise StatisticError(f"experiment {plan.definition.name!r} has not been started")
    known = [one for one in fractions if one is not None]
    if not known or len(known) < len(fractions) or min(known) <= 0:
        return Ahead()
    slowest = min(known)
    needed = math.ceil(units / slowest)
    power = power_at(slowest, plan.definition.test)
    if slowest >= 1:
        return Ahead(needed, power, max(0.0, _days_to_run(plan, at)))
    return Ahead(needed, power, _days(plan, at, needed, units, exposures))


def lag(plan: Plan, metric: Metric) -> timedelta:
    """From a unit's first exposure until it counts, at most."""
    return metric.window + plan.definition.maturity_delay + plan.definition.slot


def _days(plan: Plan, at: datetime, needed: int, units: int, exposures: Sequence[DayUnits]) -> float | None:
    """Days until enough units have come, at the rate of the last whole days, and have matured."""
    if plan.started_at is None or plan.stopped_at is not None:
        return None
    by_day: dict[object, int] = {}
    for one in exposures:
        if one.variant:
            by_day[one.day] = by_day.get(one.day, 0) + one.units
    exposed = sum(by_day.values())
    if not exposed or not units:
        return None
    # The first and the last day are parts of one.
    whole = [by_day[day] for day in sorted(by_day, key=str)][1:-1][-3:]
    rate = sum(whole) / len(whole) if whole else exposed / max((at - plan.started_at) / DAY, 1e-9)
    waiting = lag(plan, primary(plan.definition)) / DAY
    if rate <= 0:
        return None
    # Where only units with events count, as many of those to come as of those that have come.
    counting = units / exposed if primary(plan.definition).only_with_events else 1.0
    missing = max(0.0, needed / counting - exposed)
    return max(missing / rate + waiting, _days_to_run(plan, at))


def _days_to_run(plan: Plan, at: datetime) -> float:
    """Days of the minimum runtime that are left."""
    assert plan.started_at is not None  # noqa: S101 - checked by the callers
    return (plan.started_at + plan.definition.minimum_runtime - at) / DAY
