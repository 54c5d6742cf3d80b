"""Looks at experiments with nothing, too little or nonsense in them: a defined answer with a reason, or an error."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from experiment_figures import (
    BOUGHT,
    ERRORS,
    GUARDED,
    SLOW,
    SPENT,
    at,
    counts,
    definition,
    looks,
    one_look,
    started,
    summed,
    values,
)

from analytics.definitions import DefinitionError, Plan
from analytics.evidence import LEAST_UNITS, value_at
from analytics.experiment_store import BinnedUnits, SliceCounts, UnitSums
from analytics.look_records import _READ, record, records, rows
from analytics.readings import Reading
from analytics.results import StatisticError
from analytics.statistics import compare
from analytics.sufficient import Covaried, Mean, Proportion, Ratio

KINDS = ("fixed", "group-sequential", "always-valid")


def plan(*metrics: dict[str, Any], kind: str = "group-sequential", **more: Any) -> Plan:
    return started(definition(*metrics, test={"kind": kind}, **more))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ((0, 0), (0, 0), "the control has no units, a test needs 50"),
        ((0, 0), (9000, 90), "the control has no units, a test needs 50"),
        ((9000, 90), (0, 0), "the variant has no units, a test needs 50"),
        ((9000, 90), (1, 1), "the variant has one unit, a test needs 50"),
        ((9000, 90), (LEAST_UNITS - 1, 1), "the variant has 49 units, a test needs 50"),
        ((9000, 0), (9000, 0), "every unit has the same value: there is no variance to test against"),
        ((9000, 9000), (9000, 9000), "every unit has the same value: there is no variance to test against"),
    ],
)
def test_too_little_to_test_keeps_going_and_says_why(
    kind: str, a: tuple[int, int], b: tuple[int, int], why: str
) -> None:
    reading = one_look(plan(kind=kind), 2, summed(counts("bought", a=a, b=b), units={"a": 9000, "b": 9000}))
    [one] = reading.arms
    assert (one.verdict, one.absolute.p_value, one.absolute.interval, one.fraction) == ("open", None, None, None)
    assert one.absolute.reason == one.relative.reason == why
    assert reading.decision == "keep going"
    assert reading.reason == f"There is nothing to test yet: {why}."
    assert (reading.power, reading.days_left, reading.needed) == (None, None, None)


def test_a_stopped_experiment_without_anything_to_test_says_so() -> None:
    ended = plan().stop(at(3))
    reading = one_look(ended, 5, summed(counts("bought", a=(0, 0), b=(0, 0)), units={"a": 0, "b": 0}))
    assert reading.decision == "no difference"
    assert reading.reason == "It has ended without anything to test: the control has no units, a test needs 50."
    assert reading.splits[0].p_value is None
    assert not reading.splits[0].mismatch


def test_a_metric_without_data_leaves_the_others_alone() -> None:
    n = 120_000
    some = summed(counts("bought", a=(n, 6000), b=(n, 6900)))  # nothing of spent, not even zeros
    reading = one_look(plan(BOUGHT, SPENT), 14, some)
    assert reading.decision == "ship"
    spent = reading.of("spent", "b")
    assert (spent.verdict, spent.absolute.reason) == ("open", "the control has no units, a test needs 50")
    assert spent.p_adjusted is None, "what was not asked is corrected for nowhere"
    assert reading.of("bought", "b").p_adjusted == reading.of("bought", "b").absolute.p_value


def test_all_equal_values_in_one_arm_only_are_compared() -> None:
    some = summed(values("spent", a=(9000, 3.0, 0.0), b=(9000, 3.2, 1.0)))
    one = one_look(plan(SPENT), 2, some).of("spent", "b")
    assert one.absolute.interval is not None
    assert one.verdict == "better"


def test_a_guardrail_whose_units_are_all_alike_holds_once_there_are_enough_of_them() -> None:
    """No error in n units: with a share of 0.01 or more that had a chance of 0.99^n, at most alpha from 299 on."""
    for n, verdict in ((49, "open"), (298, "open"), (299, "safe")):
        reading = one_look(
            plan(BOUGHT, ERRORS, **GUARDED),
            2,
            summed(counts("bought", a=(n, n // 10), b=(n, n // 10)), counts("errors", a=(n, 0), b=(n, 0))),
        )
        assert reading.of("errors", "b").verdict == verdict, n
    one = reading.of("errors", "b")
    assert one.absolute.reason == "all units of both arms have the value 0"
    assert one.absolute.estimate == 0.0
    n = 120_000
    bought = counts("bought", a=(n, 6000), b=(n, 6900))
    shipped = one_look(plan(BOUGHT, ERRORS, **GUARDED), 14, summed(bought, counts("errors", a=(n, 0), b=(n, 0))))
    assert shipped.decision == "ship", "a service without errors is no obstacle"
    constant = summed(bought, values("slow", a=(n, 5.0, 0.0), b=(n, 9.0, 0.0)))
    guarded = plan(BOUGHT, SLOW, guardrails=[{"metric": "slow", "margin": "5%"}])
    assert one_look(guarded, 14, constant).of("slow", "b").verdict == "open", "alike within, but not with one another"


def test_a_relative_effect_on_a_value_of_zero_has_no_size_to_plan_with() -> None:
    some = summed(values("spent", a=(9000, 0.0, 1.0), b=(9000, 0.0, 1.0)))
    one = one_look(plan({**SPENT, "mde": "5%"}), 2, some).of("spent", "b")
    assert one.fraction is None
    assert one.absolute.reason is not None
    absolute = one_look(plan({**SPENT, "mde": 0.1}), 2, some).of("spent", "b")
    assert absolute.fraction is not None
    assert absolute.absolute.interval is not None
    assert absolute.relative.estimate is None


def test_sums_that_cannot_be_are_refused() -> None:
    impossible = [UnitSums("spent", "a", 100, 100, 1000.0, yy=1.0), UnitSums("spent", "b", 100, 100, 10.0, yy=10.0)]
    with pytest.raises(StatisticError, match="cannot have the sum"):
        one_look(plan(SPENT), 2, summed(impossible))


def test_each_kind_of_metric_is_tested_by_its_own_statistic() -> None:
    rng = np.random.default_rng(4)
    n = 5000
    arms: dict[str, dict[str, Any]] = {}
    for arm in "ab":
        x = rng.poisson(3, n) + 1.0
        y = rng.binomial(x.astype(int), 0.4).astype(float)
        c = y + rng.normal(size=n)
        arms[arm] = {"y": y, "x": x, "c": c}

    def sums(metric: str) -> list[UnitSums]:
        return [
            UnitSums(
                metric, arm, n, n, one["y"].sum(), one["x"].sum(), one["c"].sum(), yy=(one["y"] ** 2).sum(),
                xx=(one["x"] ** 2).sum(), cc=(one["c"] ** 2).sum(), yx=(one["y"] * one["x"]).sum(),
                yc=(one["y"] * one["c"]).sum(),
            )
            for arm, one in arms.items()
        ]  # fmt: skip

    ratio = {
        "name": "rate",
        "kind": "ratio",
        "window": "1h",
        "mde": "50%",
        "numerator": {"outcome": "bought"},
        "denominator": {"prediction": "rows"},
    }
    cuped = {**SPENT, "covariate_window": "1d", "mde": "50%"}
    for metric, kind in ((ratio, Ratio), (cuped, Covaried), ({**SPENT, "mde": "50%"}, Mean)):
        one = one_look(plan(metric, kind="fixed"), 3, summed(sums(str(metric["name"])))).arms[0]
        first, second = sums(str(metric["name"]))
        made = []
        for s in (first, second):
            mean = Mean(s.n, s.y, s.yy)
            if kind is Ratio:
                made.append(Ratio(s.n, s.y, s.x, s.yy, s.xx, s.yx))
            else:
                made.append(Covaried(mean, Mean(s.n, s.c, s.cc), s.yc) if kind is Covaried else mean)
        reference = compare(made[0], made[1])
        assert one.absolute == reference
        assert one.relative == compare(made[0], made[1], scale="relative")
    shares = one_look(plan(kind="fixed"), 3, summed(counts("bought", a=(90_000, 4500), b=(90_000, 4600)))).arms[0]
    assert shares.absolute == compare(Proportion(90_000, 4500), Proportion(90_000, 4600))


def test_a_quantile_is_compared_through_its_bins_and_not_taken_to_be_exact() -> None:
    rng = np.random.default_rng(5)
    metric = {
        "name": "p90",
        "kind": "quantile",
        "prediction": "latency_ms",
        "percentile": 90,
        "window": "1h",
        "direction": "decrease",
        "mde": "3%",
    }
    gamma = 101 / 99
    bins, truth = [], []
    for arm, scale in (("a", 10.0), ("b", 10.6)):
        found = rng.exponential(scale, 40_000) + 50
        truth.append(np.quantile(found, 0.9))
        edges, number = np.unique(np.ceil(np.log(found) / math.log(gamma)), return_counts=True)
        middles = gamma**edges * 2 / (1 + gamma)
        bins.append(BinnedUnits("p90", arm, tuple(map(float, middles)), tuple(map(int, number))))
    reading = one_look(plan(metric, kind="fixed"), 3, summed([], units={"a": 40_000, "b": 40_000}, bins=bins))
    one = reading.of("p90", "b")
    assert one.absolute.values is not None
    assert one.absolute.values == pytest.approx(truth, rel=0.003)
    # The quantile's variance by its density: p(1 - p) / (n f²), f = 0.1 / scale for an exponential.
    exact = math.sqrt(sum(0.09 / 40_000 / (0.1 / scale) ** 2 for scale in (10.0, 10.6)))
    assert one.absolute.standard_error == pytest.approx(exact, rel=0.25)
    assert one.verdict == "worse"
    alike = [BinnedUnits("p90", arm, (5.0,), (9000,)) for arm in "ab"]
    same = one_look(plan(metric), 3, summed([], units={"a": 9000, "b": 9000}, bins=alike)).of("p90", "b")
    assert same.absolute.reason == "every unit has the same value: there is no variance to test against"


def test_values_within_a_bin_ascend_and_stay_inside_it() -> None:
    bins = BinnedUnits("m", "a", (-2.0, 0.0, 3.0, 3.06), (10, 5, 100, 40))
    found = [value_at(bins, rank) for rank in range(1, bins.n + 1)]
    assert found == sorted(found)
    assert found[10:15] == [0.0] * 5
    assert all(abs(one / -2.0 - 1) <= 0.0101 for one in found[:10])
    assert all(abs(one / 3.0 - 1) <= 0.0101 for one in found[15:115])


def test_a_slice_that_only_one_arm_can_be_in_is_no_split() -> None:
    versions = [SliceCounts("version", "1", {"a": 9000}, {"a": 5000, "b": 5000})]
    later = [SliceCounts("joined", "later", {"a": 10, "b": 9000}, {"a": 5000, "b": 5000})]
    some = summed(counts("bought", a=(9000, 450), b=(9000, 450)), slices=[*versions, *later])
    assert [(one.kind, one.value) for one in one_look(plan(), 3, some).splits] == [("all", "")]


def test_arms_without_buckets_at_the_start_are_not_held_against_the_split() -> None:
    some = summed(counts("bought", a=(9000, 450), b=(0, 0)))
    alone = replace(some, counts=[SliceCounts("all", "", {"a": 9000, "b": 40}, {"a": 5000})])
    reading = one_look(plan(), 3, alone)
    assert (reading.splits[0].p_value, reading.splits[0].mismatch) == (None, False)


def shown(reading: Reading) -> list[dict[str, Any]]:
    table = rows(reading).to_pylist()
    found: list[dict[str, Any]] = [{name: row[name] for name in _READ} for row in table]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_look_writes_is_what_the_next_one_reads(kind: str) -> None:
    n = 20_000
    some = plan(BOUGHT, ERRORS, SPENT, kind=kind, **GUARDED)
    parts = (counts("bought", a=(n, 1000), b=(n, 1050)), counts("errors", a=(n, 9), b=(n, 0)))
    reading = one_look(some, 3, summed(*parts, values("spent", a=(n, 3.0, 9.0), b=(n, 3.1, 9.0))))
    [back] = records(list(row.values()) for row in shown(reading))
    assert back == record(reading)
    assert back.looked_at.utcoffset() == timedelta(0)
    blank = one_look(some, 0.2, summed(counts("bought", a=(0, 0), b=(0, 0))))
    [empty] = records(list(row.values()) for row in shown(blank))
    assert empty == record(blank)
    assert all(json.loads(row["details"]) for row in shown(blank))


def test_details_that_cannot_be_read_name_the_look() -> None:
    reading = one_look(plan(), 3, summed(counts("bought", a=(9000, 450), b=(9000, 450))))
    [row] = shown(reading)
    with pytest.raises(DefinitionError, match=r"experiment_looks, look 1, bought/b: details cannot be read"):
        records([[*list(row.values())[:-1], "{}"]])


def test_a_past_look_is_taken_as_it_was_written_not_as_its_data_are_now() -> None:
    n = 20_000
    first = summed(counts("bought", a=(n, 1000), b=(n, 1050)))
    second = summed(counts("bought", a=(2 * n, 2000), b=(2 * n, 2080)))
    readings = looks(plan(), (3, first), (6, second))
    points = readings[1].history
    assert [(one.look, one.looked_at) for one in points] == [(1, at(3)), (2, at(6))]
    assert points[0] == readings[0].history[0]
    assert points[0].statistic == pytest.approx(1.1338, abs=1e-4)
    assert points[0].upper is not None
    assert points[1].upper is not None
    assert points[0].upper > points[1].upper, "O'Brien-Fleming's bounds come down"
