"""When a running experiment is looked at: at times that its plan alone sets, never at ones that results suggest.

Up to the minimum runtime only harm and a broken split end anything: looks come at that runtime by the plan's number of
looks (every 1 h 43 min for 24 h and 14). From then on they come daily, or after each minimum runtime where that is less
than a day: who wants an answer within hours is told within hours. Never more often than a slot, or than a minute. A
stopped experiment has a last look when everything has matured.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from analytics.definitions import Plan
from analytics.horizon import DAY, lag

_MOST_OFTEN: Final = timedelta(minutes=1)


def due(plan: Plan, last: datetime | None, now: datetime) -> datetime | None:
    """The time of the latest look that is due at `now` and after the `last` one; None where there is none.

    What was missed in between is not made up for: tests count information, not looks.
    """
    if plan.started_at is None:
        return None
    end = closing(plan)
    at = _grid(plan, now) if end is None or now < end else end
    return at if at > plan.started_at and (last is None or at > last) else None


def next_due(plan: Plan, now: datetime) -> datetime | None:
    """When the first look after `now` is due; None where none will be."""
    if plan.started_at is None:
        return None
    end = closing(plan)
    if end is not None and end <= now:
        return None
    at = max(_grid(plan, now), plan.started_at)
    runtime = plan.started_at + plan.definition.minimum_runtime
    coming = at + _step(plan, early=at < runtime)
    if at < runtime:
        coming = min(coming, runtime)
    return coming if end is None else min(coming, end)


def closing(plan: Plan) -> datetime | None:
    """When everything of a stopped experiment has matured; None while it runs."""
    if plan.stopped_at is None:
        return None
    return plan.stopped_at + max(lag(plan, metric) for metric in plan.definition.metrics)


def _grid(plan: Plan, now: datetime) -> datetime:
    """The latest planned time that is not after `now`; the start where there is none."""
    assert plan.started_at is not None  # noqa: S101 - both callers have asked
    runtime = plan.started_at + plan.definition.minimum_runtime
    early = now < runtime
    base, step = (plan.started_at if early else runtime), _step(plan, early=early)
    return base + max((now - base) // step, 0) * step


def _step(plan: Plan, *, early: bool) -> timedelta:
    definition = plan.definition
    least = max(definition.slot, _MOST_OFTEN)
    if early:
        # In whole seconds, rounded up, or a look that is a microsecond early would stand beside the one at the runtime.
        part = math.ceil(definition.minimum_runtime.total_seconds() / definition.test.looks)
        return max(timedelta(seconds=part), least)
    return max(min(DAY, definition.minimum_runtime), least)
