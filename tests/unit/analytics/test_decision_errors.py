"""How often the whole decision, over all of an experiment's looks, is wrong and how often it finds what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from experiment_figures import BOUGHT, at, counts, definition, started, summed
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics import reading
from analytics.definitions import Plan
from analytics.effects import effect
from analytics.horizon import design_inflation, maximum, power_at
from analytics.look_records import PastArm, Record, record
from analytics.power import Requirement, proportion_power, proportion_size
from analytics.reading import read
from analytics.readings import PastLook, Reading
from analytics.sufficient import Proportion
from benchmarks.figures import Figure

LOOKS = 14
TESTS: dict[str, Mapping[str, Any]] = {
    "group-sequential": {"kind": "group-sequential", "looks": LOOKS},
    "pocock": {"kind": "group-sequential", "looks": LOOKS, "spending": "pocock"},
    "always-valid": {"kind": "always-valid"},
    "fixed": {"kind": "fixed"},
}


@pytest.fixture(autouse=True)
def without_bayes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Bayesian chance stands beside the test, decides nothing, and costs more than all the rest."""
    monkeypatch.setattr(reading, "chance_to_win", lambda _data, _found: None)


def plan_of(test: Mapping[str, Any]) -> Plan:
    """Stopped after two weeks: the last look is the last one, whether a little short of the planned size or beyond."""
    return started(definition(BOUGHT, test=test, minimum_runtime="1h")).stop(at(LOOKS - 0.5))


@dataclass(frozen=True)
class Runs:
    """Units an arm a look and the sums of both arms, (runs, looks)."""

    units: int
    control: Any
    variant: Any

    def last(self, plan: Plan, run: int, looks: int = LOOKS) -> Reading:
        """The reading of the last of so many looks, with the earlier ones as the job would have written them.

        What they hold for the next (difference, fraction, what the sequence is tuned for) does not hang on the test's
        answers, so they need not be judged one after the other.
        """
        past: list[Record] = []
        arms: list[PastArm] = []
        for look in range(looks - 1):
            n = self.units * (look + 1)
            found = effect(Proportion(n, int(self.control[run, look])), Proportion(n, int(self.variant[run, look])))
            fraction = found.information / maximum(found, plan.definition.metrics[0], plan.definition.test)
            tuned = arms[0].tuned_for if arms else found.information / fraction
            shown = PastLook(look + 1, at(look + 1), "bought", "b", *[None] * 8)
            arms.append(PastArm(found, fraction, tuned, shown))
            past.append(Record(look + 1, at(look + 1), "keep going", "", {("bought", "b"): arms[-1]}, {}))
        n, end = self.units * looks, looks - 1
        some = summed(counts("bought", a=(n, self.control[run, end]), b=(n, self.variant[run, end])))
        return read(plan, looks, at(looks), some, past)


def simulated(plan: Plan, runs: int, lift: float, seed: int) -> Runs:
    """Experiments of the planned size in equal looks: 5% in the control."""
    need = Requirement(0.005, inflation=design_inflation(plan.definition.test))
    units = -(-proportion_size(0.05, need).control // LOOKS)
    rng = np.random.default_rng(seed)
    control, variant = (
        np.cumsum(rng.binomial(units, share, (runs, LOOKS)), axis=1) for share in (0.05, 0.05 * (1 + lift))
    )
    return Runs(units, control, variant)


@pytest.mark.parametrize("name", TESTS)
def test_two_arms_that_are_alike_are_told_apart_at_most_as_often_as_alpha_over_fourteen_looks(name: str) -> None:
    plan, runs = plan_of(TESTS[name]), 300
    some = simulated(plan, runs, 0.0, 20_260_302)
    wrong = sum(some.last(plan, run).decision in ("ship", "roll back") for run in range(runs))
    assert Figure(name, wrong / runs, runs, "at most", 0.05).holds, wrong / runs
    # The same experiments, looked at without a plan.
    z = (some.variant - some.control) / np.sqrt(some.variant + some.control)
    peeked = float((np.abs(z) > 1.96).any(axis=1).mean())
    assert not Figure("naive", peeked, runs, "at most", 0.05).holds


@pytest.mark.parametrize("name", ["group-sequential", "fixed"])
def test_who_stops_for_what_is_shown_gains_nothing_by_it(name: str) -> None:
    """Stopped on the day after |z| has come to 2.1: 36 of 300 were wrong where a stop was the planned end."""
    plan, runs = started(definition(BOUGHT, test=TESTS[name], minimum_runtime="1h")), 300
    some = simulated(plan, runs, 0.0, 20_260_302)
    z = (some.variant - some.control) / np.sqrt(some.variant + some.control)
    wrong = 0
    for run in range(runs):
        shown = np.flatnonzero(np.abs(z[run, 1:-1]) >= 2.1)
        # The look that showed it, half a day after the stop, is the last.
        looks = int(shown[0]) + 2 if len(shown) else LOOKS
        wrong += some.last(plan.stop(at(looks - 0.5)), run, looks).decision in ("ship", "roll back")
    assert Figure(name, wrong / runs, runs, "at most", 0.05).holds, wrong / runs


@pytest.mark.parametrize("name", TESTS)
def test_an_effect_of_the_planned_size_is_shipped_with_the_planned_power(name: str) -> None:
    plan, runs = plan_of(TESTS[name]), 200
    some = simulated(plan, runs, 0.1, 7)
    shipped = sum(some.last(plan, run).decision == "ship" for run in range(runs))
    assert Figure(name, shipped / runs, runs, "at least", 0.8).holds, shipped / runs


@pytest.mark.parametrize("name", ["group-sequential", "always-valid"])
def test_looking_one_after_the_other_finds_what_the_last_look_finds(name: str) -> None:
    """The short cut of these simulations against the way that the job goes."""
    plan = plan_of(TESTS[name])
    some = simulated(plan, 4, 0.1, 3)
    for run in range(4):
        past: list[Record] = []
        for look in range(LOOKS):
            n = some.units * (look + 1)
            sums = summed(counts("bought", a=(n, some.control[run, look]), b=(n, some.variant[run, look])))
            made = read(plan, look + 1, at(look + 1), sums, past)
            past.append(record(made))
        short = some.last(plan, run)
        assert made.decision == short.decision
        assert made.arms[0].absolute.p_value == pytest.approx(short.arms[0].absolute.p_value, rel=1e-9)


@given(
    skipped=st.sets(st.integers(0, LOOKS - 2)),
    ends=st.lists(st.integers(0, 150), min_size=LOOKS, max_size=LOOKS),
)
@settings(max_examples=8, deadline=None)
def test_a_look_that_found_nothing_may_as_well_not_have_been_made_by_an_always_valid_test(
    skipped: set[int], ends: list[int]
) -> None:
    """Fewer looks never make it surer: its p-value at the last look is the smallest of all that were made."""
    plan = plan_of(TESTS["always-valid"])
    rng = np.random.default_rng(ends)
    n = 2500 * np.arange(1, LOOKS + 1)
    a, b = (np.cumsum(rng.binomial(2500, share, LOOKS)) for share in (0.05, 0.053))

    def last(which: list[int]) -> float:
        past: list[Record] = []
        for number, look in enumerate(which, 1):
            some = summed(counts("bought", a=(int(n[look]), a[look]), b=(int(n[look]), b[look])))
            made = read(plan, number, at(look + 1), some, past)
            past.append(record(made))
        p_value = made.arms[0].absolute.p_value
        assert p_value is not None
        return p_value

    everything = list(range(LOOKS))
    some_only = [look for look in everything if look not in skipped]
    # What the sequence is tuned for is fixed at the first look that there is, so that one has to be the same.
    assert last(everything) <= last([0, *[look for look in some_only if look]]) * (1 + 1e-9)


def test_the_clock_is_one_at_the_planned_size() -> None:
    for name, test in TESTS.items():
        plan = plan_of(test)
        need = Requirement(0.005, inflation=design_inflation(plan.definition.test))
        n = proportion_size(0.05, need).control
        some = summed(counts("bought", a=(n, round(0.05 * n)), b=(n, round(0.055 * n))))
        made = read(plan, 1, at(1), some)
        assert made.arms[0].fraction == pytest.approx(1.0, rel=0.001), name
    assert design_inflation(plan_of(TESTS["fixed"]).definition.test) == 1.0
    assert design_inflation(plan_of(TESTS["group-sequential"]).definition.test) == pytest.approx(1.042, abs=1e-3)


def test_power_so_far_is_that_of_the_planner() -> None:
    plan = plan_of(TESTS["fixed"])
    n = 12_000
    some = summed(counts("bought", a=(n, 600), b=(n, 660)))
    made = read(plan, 1, at(1), some)
    assert made.power == pytest.approx(proportion_power(0.05, (n, n), Requirement(0.005)), abs=0.01)
    assert power_at(1.0, plan.definition.test) == pytest.approx(0.8, abs=1e-5)
