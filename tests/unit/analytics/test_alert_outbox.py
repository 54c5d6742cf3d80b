"""Who is told of what: once each, in groups, again after hours, never while silenced, and of the end in any case."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alert_outbox import MOST_IN_A_MESSAGE, Mail, Message, Outbox, Policy
from analytics.alert_silences import Matcher, Silence, SilenceError, matcher
from analytics.alert_state import Alert

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
PEOPLE = Policy()
MACHINE = Policy(refresh=timedelta(seconds=60))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def firing(name: str, seconds: float = 0, rule: str = "slow") -> Alert:
    return Alert(
        alert_id=name,
        rule=rule,
        fingerprint=f"f-{name}",
        state="firing",
        severity="warning",
        labels={"model": name[0]},
        summary=f"{name} is slow",
        value=2.0,
        threshold=1.0,
        n=10,
        started_at=at(seconds),
        changed_at=at(seconds),
        fired_at=at(seconds),
    )


def resolved(alert: Alert, seconds: float) -> Alert:
    return replace(alert, state="resolved", changed_at=at(seconds))


def silence(start: float, end: float, *matchers: str) -> Silence:
    return Silence("s1", tuple(matcher(one) for one in matchers or ["rule=slow"]), at(start), at(end), "why", "me")


def due(box: Outbox, seconds: float, *silences: Silence, name: str = "r") -> list[tuple[list[str], list[str]]]:
    """Ids of what is told now, and it is taken."""
    box.settle(at(seconds), silences)
    messages = box.due(name, at(seconds), silences)
    for one in messages:
        box.told(one, at(seconds))
    return [([a.alert_id for a in one.firing], [a.alert_id for a in one.resolved]) for one in messages]


def test_people_get_one_message_for_a_group_after_it_has_waited() -> None:
    box = Outbox({"r": PEOPLE})
    box.add(firing("a", 0))
    box.add(firing("b", 4))
    box.add(firing("c", 4, rule="late"))
    assert due(box, 9) == []
    assert due(box, 10) == [(["a", "b"], [])]
    assert due(box, 14) == [(["c"], [])]
    assert due(box, 15) == [], "nobody is told twice"


def test_news_of_a_group_that_was_told_of_wait_for_its_interval() -> None:
    box = Outbox({"r": PEOPLE})
    box.add(firing("a", 0))
    assert due(box, 10) == [(["a"], [])]
    box.add(firing("b", 12))
    assert due(box, 30) == []
    assert due(box, 70) == [(["b"], [])]
    box.add(resolved(firing("a", 0), 75))
    assert due(box, 129) == []
    assert due(box, 130) == [([], ["a"])]


def test_people_are_told_again_of_what_is_still_on_and_a_restart_does_not_bring_that_forward() -> None:
    box = Outbox({"r": PEOPLE})
    first = box.add(firing("a", 0))
    assert first is not None
    assert first.delivered == {"r": ""}
    (message,) = box.due("r", at(10))
    (mail,) = box.told(message, at(10))
    again = Outbox({"r": PEOPLE}, [mail])
    assert due(again, 10 + 4 * 3600 - 1) == []
    (repeat,) = again.due("r", at(10 + 4 * 3600))
    assert repeat.again == {"a"}
    (mail,) = again.told(repeat, at(10 + 4 * 3600))
    assert mail.delivered == {"r": at(10 + 4 * 3600).isoformat(timespec="milliseconds")}


def test_a_machine_is_told_at_once_and_again_before_it_takes_an_alert_for_resolved() -> None:
    box = Outbox({"r": MACHINE})
    alert = firing("a", 0)
    box.add(alert)
    assert due(box, 0) == [(["a"], [])]
    assert due(box, 59) == []
    box.update(replace(alert, value=7.0))
    (message,) = box.due("r", at(60))
    assert (message.firing[0].value, message.again) == (7.0, {"a"})
    box.told(message, at(60))
    box.add(resolved(alert, 70))
    assert due(box, 70) == [([], ["a"])]
    assert due(box, 130) == [([], ["a"])], "should it have been restarted before it told anybody"
    assert due(box, 70 + 15 * 60 + 60) == []


def test_what_a_receiver_does_not_take_is_told_when_it_is_back_and_then_once() -> None:
    box = Outbox({"r": MACHINE, "other": MACHINE})
    box.add(firing("a", 0))
    assert due(box, 0, name="other") == [(["a"], [])]
    pauses, now = [], 0.0
    while now < 60:
        assert len(box.due("r", at(now))) == 1
        pauses.append(box.failed("r", at(now), "away").total_seconds())
        assert box.due("r", at(now + pauses[-1] - 0.1)) == []
        now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32]
    assert [(one.receiver, one.waiting, one.problem) for one in box.lines()] == [("r", 1, "away"), ("other", 0, "")]
    assert due(box, 63) == [(["a"], [])]
    assert due(box, 63.5) == []
    assert box.failed("r", at(70), "away") == timedelta(seconds=1), "it starts anew after a success"
    assert box.failed("r", at(70), "busy", timedelta(seconds=90)) == timedelta(seconds=90)


def test_what_came_and_went_while_a_receiver_was_away_is_told_as_resolved() -> None:
    box = Outbox({"r": PEOPLE})
    alert = firing("a", 0)
    box.add(alert)
    box.failed("r", at(10), "away")
    box.add(resolved(alert, 20))
    assert due(box, 40) == [([], ["a"])]
    assert box.settle(at(40)) == []
    assert due(box, 41) == []


def test_what_a_receiver_does_not_take_for_a_day_after_its_end_is_given_up_with_the_reason() -> None:
    box = Outbox({"r": PEOPLE})
    alert = firing("a", 0)
    box.add(alert)
    box.add(resolved(alert, 20))
    box.failed("r", at(50), "r answers 404")
    assert box.settle(at(20 + 86_400)) == []
    marks = {mail.alert.state: mail.delivered for mail in box.settle(at(21 + 86_400))}
    assert marks == {"firing": {"r": "given up: r answers 404"}, "resolved": {"r": "given up: r answers 404"}}
    assert due(box, 30 + 86_400) == []


def test_an_alert_that_was_silenced_from_start_to_end_is_told_to_nobody() -> None:
    box, quiet = Outbox({"r": MACHINE}), silence(-5, 30)
    alert = firing("a", 0)
    box.add(alert)
    assert due(box, 1, quiet) == []
    box.add(resolved(alert, 29.9))
    marks = [mail.delivered for mail in box.settle(at(31), [quiet])]
    assert marks == [{"r": "silenced by s1"}] * 2, "though it is no longer silenced when that is noticed"
    assert due(box, 32, quiet) == []


def test_an_alert_that_outlives_its_silence_is_told_then() -> None:
    box, quiet = Outbox({"r": MACHINE}), silence(-5, 30)
    box.add(firing("a", 0))
    assert due(box, 29, quiet) == []
    assert due(box, 30, quiet) == [(["a"], [])]


def test_a_silence_does_not_hide_the_end_of_what_was_told() -> None:
    box, quiet = Outbox({"r": PEOPLE}), silence(20, 5000)
    alert = firing("a", 0)
    box.add(alert)
    assert due(box, 10) == [(["a"], [])]
    box.add(resolved(alert, 100))
    assert due(box, 110, quiet) == [([], ["a"])]


def test_a_machine_hears_of_what_it_knows_though_a_silence_has_come_or_it_would_take_it_for_resolved() -> None:
    box, quiet = Outbox({"r": MACHINE, "p": PEOPLE}), silence(20, 90_000)
    box.add(firing("a", 0))
    assert due(box, 10) == [(["a"], [])]
    assert due(box, 10, name="p") == [(["a"], [])]
    assert due(box, 70, quiet) == [(["a"], [])]
    assert due(box, 15_000, quiet, name="p") == [], "people are not told again"


def test_a_restart_goes_on_with_what_was_not_told_and_a_new_receiver_learns_what_is_on() -> None:
    kept = [
        Mail(firing("a", 0), {"r": "", "gone": ""}),
        Mail(firing("b", 0), {"r": at(1).isoformat()}),
        Mail(resolved(firing("b", 0), 5), {"r": ""}),
        Mail(replace(firing("c", 0), state="pending", fired_at=None), {}),
    ]
    box = Outbox({"r": MACHINE, "new": MACHINE}, kept)
    assert due(box, 10) == [(["a"], ["b"])]
    assert due(box, 10, name="new") == [(["a"], [])]
    assert due(box, 11) == []


def test_a_flood_comes_in_several_messages() -> None:
    box = Outbox({"r": MACHINE})
    for number in range(MOST_IN_A_MESSAGE + 5):
        box.add(firing(f"a{number}"))
    assert [len(one.firing) for one in box.due("r", at(0))] == [MOST_IN_A_MESSAGE, 5]


def test_what_is_over_and_told_is_dropped_from_memory() -> None:
    box = Outbox({"r": MACHINE})
    alert = firing("a")
    box.add(alert)
    due(box, 0)
    box.add(resolved(alert, 5))
    due(box, 5)
    box.settle(at(5 + 16 * 60))
    assert box.delivered("a") == {}
    assert box.told(Message("r", (), (alert,), ()), at(2000)) == [], "a late answer finds nothing to mark"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("model=a", True),
        ('model="a"', True),
        ("model!=a", False),
        ("rule=~sl.*", True),
        ("rule=~sl", False),
        ("rule!~late|sl..", False),
        ("severity=warning", True),
        ("region=", True),
        ("alertname=slow", True),
    ],
)
def test_matchers_see_labels_rule_severity_and_source_and_match_as_a_whole(text: str, fits: bool) -> None:
    made = Silence("s", (matcher(text), Matcher("source", "=", "rule")), at(0), at(9), "", "")
    assert made.covers(firing("a"), at(1)) is fits
    assert not made.covers(firing("a"), at(9))


@pytest.mark.parametrize(
    ("matchers", "said"),
    [
        (["slow"], "expected NAME=VALUE"),
        (["rule=~("], "no regular expression"),
        ([], "needs a matcher"),
        (["region="], "does not fit an alert without labels"),
        (["x" * 600 + "=1"], "expected NAME=VALUE"),
    ],
)
def test_a_silence_that_cannot_be_is_refused(matchers: list[str], said: str) -> None:
    with pytest.raises(SilenceError, match=said):
        Silence("s", tuple(matcher(one) for one in matchers), at(0), at(9), "", "")


EVENTS = st.lists(
    st.tuples(
        st.integers(1, 90),
        st.sampled_from(["raise", "end", "fail", "silence", "unsilence", "nothing", "restart"]),
        st.sampled_from("abc"),
    ),
    max_size=50,
)


@given(EVENTS, st.sampled_from([PEOPLE, MACHINE]))
def test_everybody_hears_of_each_alert_once_and_of_the_end_of_all_they_heard_of(
    events: list[tuple[int, str, str]], policy: Policy
) -> None:
    box, now, silences = Outbox({"r": policy}), 0, list[Silence]()
    on: dict[str, Alert] = {}
    written: dict[tuple[str, str], Mail] = {}
    told: dict[str, list[str]] = defaultdict(list)
    ended: set[str] = set()

    def note(mails: list[Mail]) -> None:
        written.update({(one.alert.alert_id, one.alert.state): one for one in mails})

    def tell() -> None:
        note(box.settle(at(now), silences))
        for message in box.due("r", at(now), silences):
            for alert in (*message.firing, *message.resolved):
                if alert.alert_id not in message.again:
                    told[alert.alert_id].append(alert.state)
            note(box.told(message, at(now)))

    for pause, what, which in events:
        now += pause
        if what == "raise" and which not in on:
            on[which] = firing(f"{which}{now}", now)
            note([mail for mail in [box.add(on[which])] if mail])
        elif what == "end" and which in on:
            alert = resolved(on.pop(which), now)
            ended.add(alert.alert_id)
            note([mail for mail in [box.add(alert)] if mail])
        elif what == "fail":
            box.failed("r", at(now), "away")
        elif what == "silence":
            silences = [silence(now, now + 10_000, f"model={which}")]
        elif what == "unsilence":
            silences = []
        elif what == "restart":
            box = Outbox({"r": policy}, list(written.values()))
        tell()
    silences = []
    for _ in range(4):
        now += 120
        tell()
    for alert_id, states in told.items():
        assert states in (["firing"], ["firing", "resolved"], ["resolved"])
        assert ("resolved" in states) == (alert_id in ended)
    for alert in on.values():
        assert told[alert.alert_id] == ["firing"], "once no silence holds, what is on has been told"
    assert all(mark for mail in written.values() for mark in mail.delivered.values()), "nothing is left to be told"
