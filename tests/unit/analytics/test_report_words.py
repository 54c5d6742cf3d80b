"""What a report says: decisions and their colour, why nothing is to be trusted, and SQL that really runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import report_readings as made

from analytics import report_words as words
from analytics.definitions import Procedure
from analytics.experiment_store import Crossed
from analytics.readings import Decision
from analytics.readonly import check_read_only
from analytics.report_guardrails import allowed, harm, worst
from analytics.warehouse import Warehouse
from benchmarks.simulated_reading import simulated_reading

NINE = simulated_reading(9)


@pytest.mark.parametrize("reading", [NINE, made.not_started()])
def test_the_sql_of_a_report_runs_and_changes_nothing(warehouse: Warehouse, reading: object) -> None:
    for about, statement in words.sql(reading):  # type: ignore[arg-type]
        check_read_only(statement)
        assert warehouse.query(statement).rows == (), about


def test_a_quote_in_a_name_stays_within_its_quotes(warehouse: Warehouse) -> None:
    named = replace(NINE.plan.definition, name="x' OR 1 = 1 --\\")
    reading = replace(NINE, plan=replace(NINE.plan, definition=named))
    for _, statement in words.sql(reading):
        assert "'x\\' OR 1 = 1 --\\\\'" in statement
        assert warehouse.query(statement).rows == ()


@pytest.mark.parametrize(
    ("decision", "winner", "said", "tone"),
    [
        ("ship", "ranker-7", "Ship ranker-7", "good"),
        ("roll back", "", "Roll back", "bad"),
        ("keep going", "", "Keep going", "open"),
        ("no difference", "", "No difference", "open"),
        ("unhealthy", "", "Unhealthy", "open"),
    ],
)
def test_a_decision_has_words_and_a_tone(decision: Decision, winner: str, said: str, tone: str) -> None:
    reading = replace(NINE, decision=decision, winner=winner)
    assert (words.headline(reading), words.decision_tone(reading)) == (said, tone)


def test_unhealthy_is_bad_where_the_data_are_and_open_where_it_is_too_early() -> None:
    broken = replace(NINE, decision="unhealthy", crossed=Crossed(100, 50))
    assert words.decision_tone(broken) == "bad"


def test_a_slice_out_of_shape_is_named() -> None:
    odd = (NINE.splits[0], NINE.splits[1], replace(NINE.splits[2], mismatch=True), *NINE.splits[3:])
    check = words.split_check(replace(NINE, splits=odd))
    assert (check.tone, check.title) == ("bad", "Split as planned, but not in partition 1")


def test_without_units_there_is_nothing_to_distrust_and_without_a_split_there_is() -> None:
    assert words.why_untrusted(made.not_started()) == ""
    assert words.decision_tone(made.not_started()) == "open"
    unknown = replace(NINE, splits=())
    assert words.why_untrusted(unknown).startswith("Not to be trusted: the split of the units is not known")


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (Procedure(), "group sequential, O'Brien-Fleming spending, 14 planned looks, alpha 5%, power 80%"),
        (Procedure(spending="power", spending_parameter=2.0, looks=5), "power family 2 spending, 5 planned looks"),
        (Procedure(kind="always-valid", alpha=0.01), "always valid, alpha 1%, power 80%"),
        (Procedure(kind="fixed"), "one look at the planned size, alpha 5%, power 80%"),
    ],
)
def test_the_test_is_named_in_a_line(test: Procedure, said: str) -> None:
    assert said in words.test(test)


@pytest.mark.parametrize(("kind", "said"), [("fixed", "Valid at one look"), ("always-valid", "A confidence sequence")])
def test_the_notes_are_about_the_test_that_was_made(kind: str, said: str) -> None:
    definition = replace(NINE.plan.definition, test=replace(NINE.plan.definition.test, kind=kind))
    notes = dict(words.notes(replace(NINE, plan=replace(NINE.plan, definition=definition))))
    assert notes["Interval"].startswith(said)
    assert "above 400 counts as that" in notes["Winsorised"]
    assert "CUPED" not in notes


def test_guardrails_are_measured_by_what_they_allow() -> None:
    latency = NINE.of("latency", "ranker-7")
    returned = NINE.of("returned", "ranker-7")
    guardrails = {one.metric: one for one in NINE.plan.definition.guardrails}
    assert worst(latency, guardrails["latency"]) == 0.05
    assert worst(returned, guardrails["returned"]) == pytest.approx(0.002 / returned.absolute.values[0])  # type: ignore[index]
    assert harm(latency, guardrails["latency"]).estimate == pytest.approx(latency.relative.estimate / 0.05)  # type: ignore[operator]
    assert harm(returned, guardrails["returned"]).estimate == pytest.approx(returned.absolute.estimate / 0.002)  # type: ignore[operator]
    assert allowed(latency, guardrails["latency"]) == "less than 5% rise"
    assert allowed(returned, guardrails["returned"]) == "less than 0.2 pp rise"


def test_where_higher_is_better_harm_is_a_drop() -> None:
    latency = NINE.of("latency", "ranker-7")
    sales = replace(latency, metric=replace(latency.metric, direction="increase"))
    guardrail = NINE.plan.definition.guardrails[0]
    falling = harm(sales, guardrail)
    assert falling.estimate == pytest.approx(-latency.relative.estimate / 0.05)  # type: ignore[operator]
    assert falling.low is not None
    assert falling.high is not None
    assert falling.low < falling.high
    assert worst(sales, guardrail) == -0.05
    assert allowed(sales, guardrail) == "less than 5% drop"
