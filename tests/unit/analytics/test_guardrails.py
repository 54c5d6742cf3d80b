"""Guardrails watched every day are breached when they should be, and by looking alone hardly ever."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.guardrails import guardrail_look, watch
from analytics.results import StatisticError, UndefinedError
from analytics.sequential_analysis import Look
from analytics.statistics import Guardrail, non_inferior
from analytics.sufficient import Mean, Proportion

DAYS = 14
PLANNED = guardrail_look(Proportion(28_000, 2800), Proportion(28_000, 2800), 0.05, scale="relative").information


def followed(rng: np.random.Generator, rate: float, *, higher_is_better: bool = True) -> Guardrail:
    control, treatment = (np.cumsum(rng.binomial(2000, one, DAYS)) for one in (0.1, rate))
    looks = [
        guardrail_look(
            Proportion(2000 * (day + 1), int(control[day])),
            Proportion(2000 * (day + 1), int(treatment[day])),
            0.05,
            scale="relative",
            higher_is_better=higher_is_better,
        )
        for day in range(DAYS)
    ]
    return watch(looks, 0.05, PLANNED, higher_is_better=higher_is_better)


def test_a_treatment_at_the_margin_is_seldom_called_either_way() -> None:
    rng = np.random.default_rng(8)
    verdicts = [followed(rng, 0.095).verdict for _ in range(1500)]
    assert verdicts.count("holds") / 1500 <= 0.05
    assert verdicts.count("breached") / 1500 <= 0.05


def test_harm_is_found_and_harmlessness_too() -> None:
    rng = np.random.default_rng(9)
    assert {followed(rng, 0.08).verdict for _ in range(20)} == {"breached"}
    assert {followed(rng, 0.108).verdict for _ in range(20)} == {"holds"}
    # Of errors fewer are better.
    assert {followed(rng, 0.125, higher_is_better=False).verdict for _ in range(20)} == {"breached"}
    assert {followed(rng, 0.09, higher_is_better=False).verdict for _ in range(20)} == {"holds"}


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_look_is_at_the_statistic_of_the_single_test(scale: str, higher_is_better: bool) -> None:
    control, treatment = Mean(1000, 5000.0, 26000.0), Mean(1000, 4950.0, 25500.0)
    look = guardrail_look(control, treatment, 0.03, scale=scale, higher_is_better=higher_is_better)  # type: ignore[arg-type] # parametrised
    once = non_inferior(control, treatment, 0.03, scale=scale, higher_is_better=higher_is_better)  # type: ignore[arg-type] # parametrised
    assert look.statistic == pytest.approx(once.result.statistic)


def test_arms_without_variance_and_wrong_margins_say_so() -> None:
    with pytest.raises(UndefinedError, match="neither arm varies"):
        guardrail_look(Proportion(10, 0), Proportion(10, 0), 0.1)
    with pytest.raises(StatisticError, match="margin must be positive"):
        guardrail_look(Proportion(10, 1), Proportion(10, 1), -0.1)
    with pytest.raises(StatisticError, match="at least one look"):
        watch([], 0.1, 1.0)
    assert watch([Look(1.0, 0.0)], 0.1, 1.0).verdict == "undecided"
