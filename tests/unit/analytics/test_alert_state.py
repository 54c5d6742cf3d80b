"""An alert fires once and is resolved once, whatever its condition does in between and however often it is reported."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alert_rules import Condition, Rule
from analytics.alert_state import (
    MOST_ALERTS,
    Alert,
    AlertBook,
    AlertSampleError,
    Report,
    Sample,
    fingerprint,
    from_micros,
)

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
RULE = Rule("slow", Condition(">", 1.0), "{model} takes {value:g}", metric="latency_p99_ms")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def of(model: str, value: float, n: int | None = None) -> Sample:
    return Sample({"model": model}, value, n)


def states(changes: list[Alert]) -> list[str]:
    return [one.state for one in changes]


def test_a_condition_fires_after_it_has_held_and_is_resolved_after_it_has_been_gone() -> None:
    book, rule = AlertBook(), replace(RULE, hold=timedelta(seconds=60), keep_firing=timedelta(seconds=30))
    assert states(book.judge(rule, [of("a", 2)], at(0))) == ["pending"]
    assert book.judge(rule, [of("a", 3)], at(59)) == []
    (fired,) = book.judge(rule, [of("a", 4)], at(60))
    assert (fired.state, fired.started_at, fired.fired_at, fired.summary) == ("firing", at(0), at(60), "a takes 4")
    assert book.judge(rule, [of("a", 0)], at(70)) == []
    assert book.judge(rule, [of("a", 9)], at(80)) == [], "it comes back before it was taken for gone"
    assert book.judge(rule, [], at(90)) == []
    assert book.judge(rule, [], at(119)) == []
    (resolved,) = book.judge(rule, [], at(120))
    assert (resolved.state, resolved.alert_id, resolved.changed_at) == ("resolved", fired.alert_id, at(120))
    assert book.active == ()
    (again,) = book.judge(replace(rule, hold=timedelta()), [of("a", 2)], at(130))
    assert again.fingerprint == fired.fingerprint
    assert again.alert_id != fired.alert_id


def test_what_was_pending_and_passed_never_fired() -> None:
    book, rule = AlertBook(), replace(RULE, hold=timedelta(seconds=60))
    book.judge(rule, [of("a", 2)], at(0))
    (passed,) = book.judge(rule, [of("a", 0)], at(30))
    assert (passed.state, passed.fired) == ("resolved", False)


def test_a_restart_goes_on_where_it_was() -> None:
    rule = replace(RULE, hold=timedelta(seconds=60))
    (pending,) = AlertBook().judge(rule, [of("a", 2)], at(0))
    book = AlertBook([pending])
    (fired,) = book.judge(rule, [of("a", 2)], at(60))
    assert (fired.state, fired.alert_id) == ("firing", pending.alert_id)
    assert states(AlertBook([fired]).judge(rule, [], at(70))) == ["resolved"]


def test_few_rows_other_labels_and_no_number_raise_nothing() -> None:
    rule = replace(RULE, min_n=100, where={"model": ("a", "b")})
    rows = [of("a", 5, 99), of("b", float("nan"), 500), of("c", 5, 500)]
    assert AlertBook().judge(rule, rows, at(0)) == []
    assert states(AlertBook().judge(rule, [of("a", 5, 100)], at(0))) == ["firing"]


@pytest.mark.parametrize(
    ("samples", "summary", "said"),
    [
        ([of("a", 2), of("a", 3)], "x", "two rows have the same labels: model=a"),
        ([of(str(one), 2) for one in range(MOST_ALERTS + 1)], "x", "1001 alerts at once, the limit is 1000"),
        ([of("a", 2)], "{who}", "summary: nothing fills {who}; there are model, value"),
        ([of("a", 2)], "{model:.2f}", "summary: cannot be filled: "),
    ],
)
def test_samples_that_cannot_be_judged_say_why_and_change_nothing(
    samples: list[Sample], summary: str, said: str
) -> None:
    book = AlertBook()
    book.judge(RULE, [of("z", 2)], at(0))
    before = book.active
    with pytest.raises(AlertSampleError) as caught:
        book.judge(replace(RULE, summary=summary), samples, at(1))
    assert said in str(caught.value)
    assert book.active == before


def test_an_alert_whose_rule_is_gone_is_resolved() -> None:
    book = AlertBook()
    book.judge(RULE, [of("a", 2)], at(0))
    book.hear(report("firing", "m1"))
    (gone,) = book.retire(["other"], at(5))
    assert (gone.rule, gone.state) == ("slow", "resolved")
    assert [one.alert_id for one in book.active] == ["m1"]


def report(state: str, alert_id: str, seconds: float = 0, rule: str = "guardrail") -> Report:
    return Report(
        alert_id=alert_id,
        rule=rule,
        state=state,  # type: ignore[arg-type] - "firing" or "resolved"
        severity="critical",
        source="monitor",
        labels={"model": "a"},
        summary="p99 over its limit",
        value=2.0,
        threshold=1.0,
        n=50,
        raised_at=at(0),
        at=at(seconds),
    )


def test_a_report_counts_once_however_often_it_comes() -> None:
    book = AlertBook()
    assert states(book.hear(report("firing", "m1"))) == ["firing"]
    assert book.hear(report("firing", "m1", 1)) == []
    (resolved,) = book.hear(report("resolved", "m1", 9))
    assert (resolved.state, resolved.changed_at, resolved.fired_at) == ("resolved", at(9), at(0))
    assert book.hear(report("resolved", "m1", 10)) == []
    assert book.hear(report("firing", "m1", 11)) == [], "a late copy does not raise it anew"
    assert AlertBook(closed=["m1"]).hear(report("firing", "m1")) == [], "nor after a restart"


def test_a_monitor_that_lost_its_memory_raises_the_same_problem_under_a_new_id() -> None:
    book = AlertBook()
    book.hear(report("firing", "m1"))
    first, second = book.hear(report("firing", "m2", 5))
    assert [(one.alert_id, one.state) for one in (first, second)] == [("m1", "resolved"), ("m2", "firing")]
    assert book.hear(report("resolved", "m1", 6)) == []
    assert states(book.hear(report("resolved", "m2", 7))) == ["resolved"]


def test_an_end_whose_beginning_was_compacted_away_is_kept_for_the_history_alone() -> None:
    (only,) = AlertBook().hear(report("resolved", "m1"))
    assert (only.state, only.fired) == ("resolved", False)


def test_a_report_that_nobody_ends_is_forgotten_in_the_end() -> None:
    book = AlertBook()
    book.hear(report("firing", "m1"))
    book.judge(RULE, [of("a", 2)], at(0))
    assert book.forget(at(0), at(50)) == []
    (gone,) = book.forget(at(1), at(50))
    assert (gone.alert_id, gone.state) == ("m1", "resolved")


def test_a_rule_of_the_monitors_name_does_not_end_what_the_monitor_raised() -> None:
    book = AlertBook()
    book.hear(report("firing", "m1", rule="slow"))
    assert book.judge(RULE, [], at(5)) == []
    assert len(book.active) == 1


def test_the_fingerprint_goes_by_rule_and_labels_in_any_order() -> None:
    assert fingerprint("r", {"a": "1", "b": "2"}) == fingerprint("r", {"b": "2", "a": "1"})
    assert fingerprint("r", {"a": "1"}) != fingerprint("r", {"a": "2"})
    assert fingerprint("r", {}) != fingerprint("s", {})


def test_microseconds_become_a_time_exactly() -> None:
    assert from_micros(1_700_000_000_123_457) == datetime(2023, 11, 14, 22, 13, 20, 123457, tzinfo=UTC)


STEPS = st.lists(
    st.tuples(st.integers(1, 40), st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 2.0]))), max_size=40
)


@given(STEPS, st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_whatever_a_condition_does_every_alert_fires_once_and_is_resolved_once(
    steps: list[tuple[int, dict[str, float]]], hold: int, keep: int, restarts: bool
) -> None:
    rule = replace(RULE, hold=timedelta(seconds=hold), keep_firing=timedelta(seconds=keep))
    book, now = AlertBook(), 0
    seen: dict[str, list[Alert]] = defaultdict(list)
    since: dict[str, int] = {}
    gone: dict[str, int] = {}
    for pause, values in steps:
        now += pause
        for model in "abc":
            if values.get(model, 0.0) > 1:
                since.setdefault(model, now)
                gone.pop(model, None)
            else:
                since.pop(model, None)
                gone.setdefault(model, now)
        if restarts:
            # Only the holding of a firing alert is forgotten: it then holds for longer, never shorter.
            book = AlertBook([replace(one, clear_since=None) for one in book.active])
        for change in book.judge(rule, [of(model, value) for model, value in values.items()], at(now)):
            seen[change.alert_id].append(change)
            model = change.labels["model"]
            if change.state == "firing":
                assert now - since[model] >= hold
            if change.state == "resolved":
                assert model in gone
                assert not change.fired or restarts or now - gone[model] >= keep
    for model, begun in since.items():
        (one,) = [one for one in book.active if one.labels["model"] == model]
        assert one.state == "firing" or now - begun < hold
    for changes in seen.values():
        order = [one.state for one in changes]
        assert order in (
            ["pending"],
            ["firing"],
            ["pending", "firing"],
            ["pending", "resolved"],
            ["firing", "resolved"],
            ["pending", "firing", "resolved"],
        )
        assert len({one.fingerprint for one in changes}) == 1
        assert sorted(one.changed_at for one in changes) == [one.changed_at for one in changes]


@given(st.lists(st.tuples(st.sampled_from(["firing", "resolved"]), st.sampled_from(["m1", "m2", "m3"])), max_size=30))
def test_whatever_order_reports_come_in_each_is_raised_once_and_resolved_once(reports: list[tuple[str, str]]) -> None:
    book = AlertBook()
    seen: dict[str, list[str]] = defaultdict(list)
    for number, (state, alert_id) in enumerate(reports):
        for change in book.hear(report(state, alert_id, number)):
            seen[change.alert_id].append(change.state)
    assert all(order in (["firing"], ["resolved"], ["firing", "resolved"]) for order in seen.values())
    assert len(book.active) <= 1, "they are one problem"
