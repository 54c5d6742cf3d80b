"""What is decided at a look, in which order, and in words that a product manager understands."""

from __future__ import annotations

from typing import Any

import pytest
from experiment_figures import (
    BOUGHT,
    ERRORS,
    GUARDED,
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

from analytics.definitions import Plan
from analytics.experiment_store import DayUnits, SliceCounts
from analytics.reading import Summed
from analytics.readings import Reading

KINDS = ("fixed", "group-sequential", "always-valid")
ENOUGH = 120_000  # units an arm: beyond the planned size of all three tests
GOOD = (ENOUGH, 0.001 * ENOUGH)
HARM = (ENOUGH, 0.03 * ENOUGH)


def plan_of(kind: str = "group-sequential", *more: dict[str, object], arms: str = "ab", **keys: object) -> Plan:
    return started(definition(BOUGHT, ERRORS, *more, arms=arms, test={"kind": kind}, **{**GUARDED, **keys}))


def decided(reading: Reading) -> tuple[str, str]:
    return reading.decision, reading.winner


@pytest.mark.parametrize("kind", KINDS)
def test_a_better_variant_with_sound_guardrails_is_shipped(kind: str) -> None:
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6700)), counts("errors", a=GOOD, b=GOOD))
    reading = one_look(plan_of(kind), 14, some)
    assert decided(reading) == ("ship", "b")
    assert reading.reason.startswith("b is better than a on bought: +12%, between +")
    assert reading.reason.endswith(", and every guardrail holds.")
    assert reading.of("bought", "b").verdict == "better"
    assert reading.trusted


@pytest.mark.parametrize("kind", KINDS)
def test_a_worse_variant_is_rolled_back(kind: str) -> None:
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 5300)), counts("errors", a=GOOD, b=GOOD))
    reading = one_look(plan_of(kind), 14, some)
    assert decided(reading) == ("roll back", "")
    assert reading.reason.startswith("b is worse than a on bought: -12%, between -")


@pytest.mark.parametrize("kind", KINDS)
def test_no_difference_at_the_planned_size_is_said_so(kind: str) -> None:
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6010)), counts("errors", a=GOOD, b=GOOD))
    reading = one_look(plan_of(kind), 14, some)
    assert decided(reading) == ("no difference", "")
    assert reading.reason.startswith("No difference is shown on bought (+0.17%")
    assert reading.reason.endswith("although it had the size to find one of 10%.")


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_on_its_way_keeps_going_and_says_how_long(kind: str) -> None:
    n = 10_000
    days = [DayUnits(at(day).date(), arm, 2000) for day in range(5) for arm in "ab"]
    some = summed(counts("bought", a=(n, 500), b=(n, 510)), counts("errors", a=(n, 10), b=(n, 10)), exposures=days)
    reading = one_look(plan_of(kind), 5, some)
    assert decided(reading) == ("keep going", "")
    assert "are left until" in reading.reason
    assert reading.needed is not None
    assert reading.days_left == pytest.approx((reading.needed - 20_000) / 4000 + 4 / 24, rel=1e-6)
    assert reading.power is not None
    assert 0.05 < reading.power < 0.8


def test_an_experiment_that_can_hardly_show_anything_any_more_is_called_off() -> None:
    n = 25_000
    same = counts("errors", a=(n, 10), b=(n, 10))
    reading = one_look(plan_of(), 9, summed(counts("bought", a=(n, 1300), b=(n, 1290)), same))
    assert reading.of("bought", "b").fraction == pytest.approx(0.83, abs=0.02)
    assert decided(reading) == ("no difference", "")
    assert "the chance to show one by the planned end is" in reading.reason
    early = one_look(plan_of(), 4, summed(counts("bought", a=(9000, 460), b=(9000, 450)), same))
    assert early.decision == "keep going", "less than half of the way says little"


def test_before_the_minimum_runtime_nothing_is_concluded_however_good_it_looks() -> None:
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 9000)), counts("errors", a=GOOD, b=GOOD))
    for kind in KINDS:
        reading = one_look(plan_of(kind), 0.9, some)
        assert decided(reading) == ("unhealthy", "")
        assert (
            reading.reason
            == "It has run for 22 hours, and nothing is concluded before the minimum runtime of 24 hours."
        )
    assert one_look(plan_of("group-sequential"), 1, some).decision == "ship", "at the runtime itself it counts"


def test_no_interval_is_shown_where_no_test_was_made() -> None:
    some = summed(counts("bought", a=(9000, 450), b=(9000, 500)), counts("errors", a=(9000, 9), b=(9000, 9)))
    early = one_look(plan_of("group-sequential"), 0.5, some).of("bought", "b")
    assert early.absolute.interval is None
    assert early.absolute.p_value is None
    assert early.absolute.estimate == pytest.approx(50 / 9000)
    assert early.absolute.reason == "nothing is tested before the minimum runtime"
    unread = one_look(plan_of("fixed"), 3, some).of("bought", "b")
    assert unread.absolute.interval is None
    assert unread.absolute.reason is not None
    assert unread.absolute.reason.startswith("a fixed test is read once, at its planned size, of which 29% is there")


@pytest.mark.parametrize("kind", KINDS)
def test_a_breached_guardrail_rolls_back_at_once_even_before_the_minimum_runtime(kind: str) -> None:
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 9000)), counts("errors", a=GOOD, b=HARM))
    for days in (0.1, 14):
        reading = one_look(plan_of(kind), days, some)
        assert decided(reading) == ("roll back", "")
        assert reading.reason.startswith("b harms errors by more than the 0.01 its guardrail allows: +")
        assert reading.reason.endswith("end it now.")


def test_a_breach_is_not_forgotten() -> None:
    bad = summed(counts("bought", a=(5000, 250), b=(5000, 250)), counts("errors", a=(5000, 5), b=(5000, 200)))
    good = summed(counts("bought", a=(9000, 450), b=(9000, 450)), counts("errors", a=(9000, 9), b=(9000, 200)))
    assert [one.decision for one in looks(plan_of(), (0.2, bad), (0.3, good))] == ["roll back", "roll back"]


def test_a_guardrail_that_is_not_yet_shown_to_hold_keeps_a_better_variant_waiting() -> None:
    plan = plan_of("group-sequential", guardrails=[{"metric": "errors", "margin": 0.001}])
    loud = counts("errors", a=(ENOUGH, 3600), b=(ENOUGH, 3660))
    better = counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6700))
    reading = one_look(plan, 14, summed(better, loud))
    assert reading.of("errors", "b").verdict == "open"
    assert decided(reading) == ("keep going", "")
    assert reading.reason == "b is better on bought, but not yet shown to be harmless to errors."
    ended = one_look(plan.stop(at(14)), 15, summed(better, loud))
    assert ended.decision == "roll back"
    assert ended.reason.endswith("it has ended without showing that.")


def test_a_broken_split_comes_before_everything_and_says_where_it_is_broken() -> None:
    good = counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 9000))
    calm, harm = counts("errors", a=GOOD, b=GOOD), counts("errors", a=GOOD, b=HARM)
    split = {"a": 61_000, "b": 59_000}
    reading = one_look(plan_of(), 14, summed(good, calm, units=split))
    assert decided(reading) == ("unhealthy", "")
    assert reading.reason == (
        "The split is broken: 61,000 met a, 59,000 met b, where 60,000, 60,000 were expected, "
        "so no comparison with a can be trusted."
    )
    assert not reading.trusted
    breached = one_look(plan_of(), 0.5, summed(good, harm, units=split))
    assert breached.decision == "unhealthy", "arms that are not alike prove no harm either"
    assert breached.reason.endswith("so stop it in any case.")
    one_worker = SliceCounts("worker", "w3", {"a": 3200, "b": 2500}, {"a": 5000, "b": 5000})
    other = SliceCounts("worker", "w4", {"a": 5000, "b": 5100}, {"a": 5000, "b": 5000})
    sliced = one_look(plan_of(), 14, summed(good, calm, slices=[one_worker, other]))
    assert sliced.decision == "unhealthy"
    assert sliced.reason.startswith("The split is broken on worker w3: 3,200 met a, 2,500 met b")
    assert not sliced.trusted


def test_a_broken_split_stays_broken_when_the_counts_even_out() -> None:
    good, calm = counts("bought", a=(9000, 450), b=(9000, 450)), counts("errors", a=(9000, 9), b=(9000, 9))
    broken = summed(good, calm, units={"a": 5600, "b": 4900})
    mended = summed(good, calm, units={"a": 20_000, "b": 20_000})
    assert [one.decision for one in looks(plan_of(), (2, broken), (3, mended))] == ["unhealthy", "unhealthy"]


def test_more_than_one_percent_in_two_variants_is_unhealthy() -> None:
    parts = (counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 9000)), counts("errors", a=GOOD, b=GOOD))
    assert one_look(plan_of(), 14, summed(*parts, crossed=2000)).decision == "ship"
    reading = one_look(plan_of(), 14, summed(*parts, crossed=3000))
    assert decided(reading) == ("unhealthy", "")
    assert reading.reason == "1.2% of the users met two variants, more than 1%, so no comparison with a can be trusted."
    assert not reading.trusted


def test_of_several_variants_the_best_sound_one_is_shipped() -> None:
    plan = plan_of(arms="abcd")
    bought = counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6700), c=(ENOUGH, 6900), d=(ENOUGH, 7500))
    errors = counts("errors", a=GOOD, b=GOOD, c=GOOD, d=HARM)
    assert decided(one_look(plan, 14, summed(bought, errors))) == ("ship", "c"), "d is better still, and does harm"
    none_good = counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6000), c=(ENOUGH, 5900), d=(ENOUGH, 7500))
    reading = one_look(plan, 14, summed(none_good, errors))
    assert reading.decision == "roll back"
    assert reading.reason.startswith("d harms errors")


def test_a_variant_that_is_worse_on_another_metric_is_not_shipped() -> None:
    plan = plan_of("group-sequential", SPENT)
    some = summed(
        counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6900)),
        counts("errors", a=GOOD, b=GOOD),
        values("spent", a=(ENOUGH, 10.0, 20.0), b=(ENOUGH, 9.0, 20.0)),
    )
    reading = one_look(plan, 14, some)
    assert (reading.of("bought", "b").verdict, reading.of("spent", "b").verdict) == ("better", "worse")
    assert decided(reading) == ("roll back", "")
    assert reading.reason.startswith("b is worse than a on spent: -10%")


def test_guardrails_are_outside_the_correction_and_metrics_and_arms_are_in_it() -> None:
    plan = started(definition(BOUGHT, ERRORS, SPENT, arms="abc", test={"kind": "fixed"}, **GUARDED))
    some = summed(
        counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6200), c=(ENOUGH, 6230)),
        counts("errors", a=GOOD, b=GOOD, c=GOOD),
        values("spent", a=(ENOUGH, 10.0, 20.0), b=(ENOUGH, 10.1, 20.0), c=(ENOUGH, 10.2, 20.0)),
    )
    reading = one_look(plan, 14, some)
    family = sorted((one for one in reading.arms if one.role == "metric"), key=lambda one: one.absolute.p_value or 0)
    p_values = [one.absolute.p_value for one in family]
    assert all(one is not None for one in p_values)
    highest = 0.0
    for at_, one in enumerate(family):  # Holm's, by hand
        highest = max(highest, (4 - at_) * float(one.absolute.p_value or 0))
        assert one.p_adjusted == pytest.approx(min(1.0, highest))
    assert [one.p_adjusted for one in reading.arms if one.role == "guardrail"] == [None, None]


def test_a_stopped_experiment_is_judged_once_more_with_what_there_is() -> None:
    n = 20_000
    calm = counts("errors", a=(n, 10), b=(n, 10))
    plan = plan_of().stop(at(8))
    reading = one_look(plan, 9, summed(counts("bought", a=(n, 1000), b=(n, 1090)), calm))
    spent = reading.of("bought", "b").alpha_spent
    assert spent is not None
    assert spent < 0.01, "it may have been stopped for what it showed, which gets no alpha"
    assert reading.decision == "no difference"
    going = one_look(plan_of(), 8, summed(counts("bought", a=(n, 1000), b=(n, 1090)), calm))
    assert going.decision == "keep going"
    nearly = summed(counts("bought", a=(30_000, 1500), b=(30_000, 1650)), counts("errors", a=GOOD, b=GOOD))
    whole = one_look(plan, 9, nearly)
    assert 0.9 < (whole.of("bought", "b").fraction or 0) < 1
    assert whole.of("bought", "b").alpha_spent == pytest.approx(0.05), "what is left of alpha is spent"
    assert decided(whole) == ("ship", "b")
    weak = one_look(plan, 9, summed(counts("bought", a=(n, 1000), b=(n, 1040)), calm))
    assert weak.decision == "no difference"
    assert "of the evidence that finding 10% takes" in weak.reason
    hasty = one_look(plan_of().stop(at(0.5)), 9, summed(counts("bought", a=(n, 1000), b=(n, 1400)), calm))
    assert hasty.decision == "unhealthy"
    assert hasty.reason == (
        "It was stopped after 12 hours, before the minimum runtime of 24 hours, so nothing can be concluded."
    )


def test_a_fixed_test_that_is_stopped_short_concludes_nothing() -> None:
    some = summed(counts("bought", a=(20_000, 1000), b=(20_000, 1150)), counts("errors", a=GOOD, b=GOOD))
    reading = one_look(plan_of("fixed").stop(at(8)), 9, some)
    assert reading.decision == "no difference"
    assert reading.of("bought", "b").absolute.p_value is None


@pytest.mark.parametrize("kind", ["fixed", "group-sequential"])
def test_a_stopped_test_is_over_with_the_first_look_at_everything(kind: str) -> None:
    calm = counts("errors", a=GOOD, b=GOOD)
    plan = plan_of(kind).stop(at(8))
    first = summed(counts("bought", a=(30_000, 1500), b=(30_000, 1530)), calm)
    late = summed(counts("bought", a=(30_000, 1500), b=(30_000, 1650)), calm)
    one, two = looks(plan, (9, first), (10, late))
    assert [one.decision, two.decision] == ["no difference", "no difference"]


@pytest.mark.parametrize("kind", ["fixed", "group-sequential"])
def test_what_a_test_that_is_over_found_stays(kind: str) -> None:
    calm = counts("errors", a=GOOD, b=GOOD)
    end = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6000)), calm)
    later = summed(counts("bought", a=(2 * ENOUGH, 12_000), b=(2 * ENOUGH, 13_500)), calm)
    first, second = looks(plan_of(kind), (14, end), (28, later))
    assert [first.decision, second.decision] == ["no difference", "no difference"]
    assert second.of("bought", "b").absolute.p_value == first.of("bought", "b").absolute.p_value


def test_a_reason_is_one_line_without_jargon() -> None:
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6700)), counts("errors", a=GOOD, b=GOOD))
    for days in (0.5, 14):
        reason = one_look(plan_of(), days, some).reason
        assert "\n" not in reason
        assert reason.endswith(".")
        for word in ("p-value", "null", "alpha", "NaN", "None", "inf"):
            assert word not in reason


def test_among_several_metrics_too_the_answer_of_the_end_stays() -> None:
    plan = started(definition(BOUGHT, SPENT))
    spent = values("spent", a=(ENOUGH, 10.0, 20.0), b=(ENOUGH, 10.1, 20.0))
    end = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6100)), spent)
    later = summed(counts("bought", a=(3 * ENOUGH, 18_000), b=(3 * ENOUGH, 21_000)), spent)
    first, second = looks(plan, (14, end), (28, later))
    assert [first.decision, second.decision] == ["no difference", "no difference"]
    for one in ("bought", "spent"):
        assert second.of(one, "b").absolute == first.of(one, "b").absolute
        assert second.of(one, "b").relative == first.of(one, "b").relative


def test_looks_before_the_minimum_runtime_spend_nothing_and_prove_nothing() -> None:
    plan = started(definition(BOUGHT, test={"kind": "group-sequential", "spending": "pocock"}))
    early = summed(counts("bought", a=(9000, 450), b=(9000, 700)))
    later = summed(counts("bought", a=(15_000, 750), b=(15_000, 760)))
    first, second = looks(plan, (0.5, early), (2, later))
    assert first.decision == "unhealthy"
    assert second.decision == "keep going", "what the first hours showed is no reason to ship"
    alone = one_look(plan, 2, later)
    assert second.of("bought", "b").alpha_spent == alone.of("bought", "b").alpha_spent
    assert second.of("bought", "b").absolute == alone.of("bought", "b").absolute


def test_a_breach_stays_one_even_where_much_later_the_guardrail_would_hold() -> None:
    def step(n: int, errors: int) -> Summed:
        return summed(
            counts("bought", a=(n, n // 20), b=(n, n // 20)), counts("errors", a=(n, n // 100), b=(n, errors))
        )

    breach, calm = step(5000, 200), step(500_000, 5000)
    assert one_look(plan_of("always-valid"), 3, calm).of("errors", "b").verdict == "safe"
    readings = looks(plan_of("always-valid"), (0.2, breach), (3, calm))
    assert [one.of("errors", "b").verdict for one in readings] == ["breached", "breached"]


def test_a_stopped_experiment_is_over_when_its_slowest_metric_has_matured() -> None:
    n = 20_000
    slow = {**SPENT, "window": "48h"}
    plan = started(definition(BOUGHT, slow)).stop(at(8))
    some = summed(counts("bought", a=(n, 1000), b=(n, 1090)), values("spent", a=(n, 3.0, 9.0), b=(n, 3.0, 9.0)))
    assert one_look(plan, 9, some).decision == "keep going"
    assert one_look(plan, 8 + 50 / 24, some).decision in ("ship", "no difference")


def test_what_a_sequence_is_tuned_for_is_settled_at_the_first_look() -> None:
    rates = ((6000, 300), (9000, 500))
    some = [summed(counts("bought", a=(n, y), b=(n, y)), counts("errors", a=(n, 9), b=(n, 3))) for n, y in rates]
    first, second = looks(plan_of("always-valid"), (2, some[0]), (3, some[1]))
    for one in ("bought", "errors"):
        assert first.of(one, "b").tuned_for is not None
        assert second.of(one, "b").tuned_for == first.of(one, "b").tuned_for
        assert one_look(plan_of("always-valid"), 3, some[1]).of(one, "b").tuned_for != first.of(one, "b").tuned_for


LATER: dict[str, Any] = {"name": "kept", "kind": "proportion", "outcome": "kept", "window": "7d"}


@pytest.mark.parametrize("kind", ["fixed", "group-sequential"])
@pytest.mark.parametrize("days", [(2, 9), (9, 16)])
def test_nothing_is_shipped_before_a_metric_with_a_long_window_has_been_tested(
    kind: str, days: tuple[int, int]
) -> None:
    """Whoever looked on the second day shipped, and whoever looked on the ninth alone rolled back."""
    plan = started(definition(BOUGHT, LATER, test={"kind": kind}))
    better = counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6800))
    early = summed(better, counts("kept", a=(0, 0), b=(0, 0)))
    ripe = summed(better, counts("kept", a=(ENOUGH, 6000), b=(ENOUGH, 3600)))
    first, last = looks(plan, *((day, early if day == 2 else ripe) for day in days))
    if first.decision == "keep going":
        assert first.reason == "b is better on bought, but not yet tested on kept."
    else:
        assert (kind, days[0], first.decision) == ("group-sequential", 9, "roll back")
    assert (last.decision, last.of("kept", "b").verdict) == ("roll back", "worse")


def test_a_metric_that_is_yet_to_be_tested_counts_among_those_that_are() -> None:
    plan = started(definition(BOUGHT, LATER))
    some = summed(counts("bought", a=(ENOUGH, 6000), b=(ENOUGH, 6300)), counts("kept", a=(0, 0), b=(0, 0)))
    one = one_look(plan, 2, some).of("bought", "b")
    assert one.p_adjusted == pytest.approx(2 * (one.absolute.p_value or 0))
