"""Few units of a small arm have an event, or none: that is no knowledge, and decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from experiment_figures import counts, definition, looks, one_look, started, summed, values

from analytics.definitions import Plan

RARE: dict[str, Any] = {
    "name": "failed", "kind": "proportion", "outcome": "failed", "window": "2h", "direction": "decrease", "mde": "50%",
}  # fmt: skip
BOUGHT: dict[str, Any] = {"name": "bought", "kind": "proportion", "outcome": "bought", "window": "2h", "mde": "10%"}
SPENT: dict[str, Any] = {"name": "spent", "kind": "mean", "outcome": "spent", "window": "2h"}
KINDS = ["fixed", "group-sequential", "always-valid"]
DAYS = 7


def plan_of(kind: str, *metrics: dict[str, Any], **more: Any) -> Plan:
    shares = [{"name": "a", "version": "1", "share": 0.95}, {"name": "b", "version": "2", "share": 0.05}]
    return started(definition(*metrics, test={"kind": kind}, variants=shares, **more))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("control", "variant"), [((69_300, 277), (700, 0)), ((10_000, 40), (100, 0))])
def test_a_small_arm_without_an_event_is_no_better(
    kind: str, control: tuple[int, int], variant: tuple[int, int]
) -> None:
    one = one_look(plan_of(kind, RARE), DAYS, summed(counts("failed", a=control, b=variant))).of("failed", "b")
    assert one.verdict == "open"
    assert one.fraction is not None
    assert one.fraction < 0.5


@pytest.mark.parametrize("metric", [{"kind": "proportion"}, {"kind": "mean"}, {"covariate_window": "1d"}])
@pytest.mark.parametrize("kind", ["group-sequential", "always-valid"])
def test_alike_arms_of_which_one_is_small_are_not_told_apart_by_their_rare_events(
    kind: str, metric: dict[str, str]
) -> None:
    """A hundred experiments of 19 users in 20 in the control; in the variant an event every other day or so."""
    plan, rng = plan_of(kind, {**RARE, **metric}), np.random.default_rng(20_260_302)
    wrong = 0
    for _ in range(100):
        a, b = (np.cumsum(rng.binomial(n, 0.004, DAYS)) for n in (1900, 100))
        steps = [
            (day + 1.0, summed(counts("failed", a=(1900 * (day + 1), a[day]), b=(100 * (day + 1), b[day]))))
            for day in range(DAYS)
        ]
        wrong += any(one.of("failed", "b").verdict in ("better", "worse") for one in looks(plan, *steps))
    # It was 46 and 48 of 100 with each arm's own variance.
    assert wrong <= 8


@pytest.mark.parametrize("kind", ["proportion", "mean"])
@pytest.mark.parametrize(("n", "verdict"), [(80, "open"), (3000, "safe")])
def test_a_guardrail_of_rare_events_does_not_hold_because_a_few_had_none(n: int, verdict: str, kind: str) -> None:
    """With 3 in 100, two more than the margin allows, none of 80 has one in one case of twelve."""
    plan = plan_of("always-valid", BOUGHT, {**RARE, "kind": kind}, guardrails=[{"metric": "failed", "margin": 0.01}])
    for quiet in (1, n // 13):
        some = summed(
            counts("bought", a=(19 * n, 19 * n // 10), b=(n, n // 10)), counts("failed", a=(19 * n, quiet), b=(n, 0))
        )
        assert one_look(plan, DAYS, some).of("failed", "b").verdict == verdict, quiet


def test_an_arm_whose_units_are_all_alike_is_compared_by_how_all_vary() -> None:
    plan = plan_of("always-valid", SPENT)
    few = one_look(plan, DAYS, summed(values("spent", a=(5000, 0.1, 2.0), b=(60, 0.0, 0.0)))).of("spent", "b")
    assert few.verdict == "open"
    many = one_look(plan, DAYS, summed(values("spent", a=(95_000, 5.0, 20.0), b=(5000, 0.0, 0.0)))).of("spent", "b")
    assert many.verdict == "worse"
