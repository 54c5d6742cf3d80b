"""Guardrails that may be looked at every day: a breach says roll back at once, and must not come from looking often.

`statistics.non_inferior` looks once. Here the distance to the margin is followed by two one-sided confidence sequences:
that it is harmful, and that it is harmless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from analytics.always_valid import ConfidenceSequence
from analytics.effects import Effect, Statistic, effect
from analytics.results import Alternative, Result, Scale, StatisticError, UndefinedError, check_scale
from analytics.sequential_analysis import Look
from analytics.statistics import Guardrail, beyond_margin


def guardrail_look(
    control: Statistic,
    treatment: Statistic,
    margin: float,
    *,
    scale: Scale = "absolute",
    higher_is_better: bool = True,
) -> Look:
    """All data so far as the distance to the margin: positive is harmless where higher is better, negative otherwise.

    Raises `UndefinedError` where the arms have no variance yet (skip the look), `StatisticError` for a margin that is
    not positive.
    """
    return look_of(effect(control, treatment), margin, scale=scale, higher_is_better=higher_is_better)


def look_of(found: Effect, margin: float, *, scale: Scale = "absolute", higher_is_better: bool = True) -> Look:
    """As `guardrail_look`, of an effect that is known already."""
    check_scale(scale)
    if not (math.isfinite(margin) and margin > 0):
        raise StatisticError(f"a guardrail's margin must be positive, not {margin}")
    distance, variance = beyond_margin(found, margin, scale, higher_is_better=higher_is_better)
    if variance <= 0:
        raise UndefinedError("neither arm varies: there is no variance to test against")
    return Look(1.0 / variance, distance, found.n, (found.control, found.treatment))


def watch(
    looks: Sequence[Look],
    margin: float,
    tuned_for: float,
    *,
    alpha: float = 0.05,
    higher_is_better: bool = True,
) -> Guardrail:
    """Judge a guardrail at any look, whatever made one look.

    `looks` are of `guardrail_look`, `tuned_for` the information at the planned size. Each verdict is wrong with a
    probability of at most `alpha` over all looks. `result.estimate` and its interval are the distance to the margin in
    the metric's unit. Raises `StatisticError` without a look.
    """
    harmless: Alternative = "greater" if higher_is_better else "less"
    harmful: Alternative = "less" if higher_is_better else "greater"
    held = ConfidenceSequence(tuned_for, alpha, harmless).watch(looks)
    breached = ConfidenceSequence(tuned_for, alpha, harmful).watch(looks)
    return Guardrail(_named(held, margin), margin, breached.p_value)


def _named(result: Result, margin: float) -> Result:
    return replace(result, method=f"non-inferiority by {margin:g}, {result.method}")
