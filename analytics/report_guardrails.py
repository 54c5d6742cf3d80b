"""Guardrails in units of what they allow, so that those of different metrics can be shown on one axis. Pure."""

from __future__ import annotations

from analytics import report_numbers as numbers
from analytics.definitions import Effect, Guardrail
from analytics.readings import ArmReading
from analytics.report_axes import Reach


def worst(one: ArmReading, guardrail: Guardrail | None) -> float | None:
    """The lift at which a guardrail is breached: its margin, to the harmful side. None where nothing is relative to the
    control's value."""
    margin = margin_of(one, guardrail)
    if margin is None:
        return None
    size = margin.size
    if not margin.relative:
        values = one.absolute.values
        if not values or not values[0]:
            return None
        size /= abs(values[0])
    return -size if one.metric.direction == "increase" else size


def harm(one: ArmReading, guardrail: Guardrail | None) -> Reach:
    """The change for the worse in units of the margin: the guardrail is breached at 1."""
    margin = margin_of(one, guardrail)
    if margin is None:
        return Reach(None, None, None)
    result = one.relative if margin.relative else one.absolute
    unit = margin.size if one.metric.direction == "decrease" else -margin.size
    estimate = None if result.estimate is None else result.estimate / unit
    if result.interval is None:
        return Reach(None, None, estimate)
    low, high = sorted((result.interval.low / unit, result.interval.high / unit))
    return Reach(low, high, estimate)


def margin_of(one: ArmReading, guardrail: Guardrail | None) -> Effect | None:
    """The margin and its scale: as defined, or as the reading has it."""
    if guardrail is not None:
        return guardrail.margin
    return None if one.margin is None else Effect(one.margin, relative=True)


def allowed(one: ArmReading, guardrail: Guardrail | None) -> str:
    """The margin in words: less than 5% rise."""
    margin = margin_of(one, guardrail)
    if margin is None:
        return numbers.NONE
    side = "drop" if one.metric.direction == "increase" else "rise"
    if margin.relative:
        return f"less than {100 * margin.size:g}% {side}"
    unit = f"{100 * margin.size:g} pp" if numbers.is_share(one.metric) else f"{margin.size:g}"
    return f"less than {unit} {side}"
