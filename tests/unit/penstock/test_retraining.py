"""When a model is to be trained again, and that this is asked once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analytics.retraining import Policy, wish
from penstock.retraining import RetrainError, Retraining
from schemas.records import Control

DAY0 = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = DAY0 + 10 * DAY


def figure(
    day: int, verdict: str = "drift", *, value: float = 0.5, feature: str = "x", metric: str = "psi", days: int = 1
) -> tuple[Any, ...]:
    kind = "data" if metric == "psi" else "concept"
    start = DAY0 + day * DAY
    return start, start + days * DAY, kind, feature, metric, value, 1000, 0.2, verdict, "PSI of what it is"


def asked(*figures: tuple[Any, ...], policy: Policy = Policy(), made: datetime = DAY0) -> Any:  # noqa: B008 - frozen
    return wish("m", "1", figures, made, policy, NOW)


def test_days_in_a_row_ask_for_training_and_one_bad_day_or_a_gap_does_not() -> None:
    found = asked(*(figure(day) for day in range(3)))
    assert (found.model, found.version, found.trigger) == ("m", "1", "psi")
    assert found.reason == "psi of x is in drift over 3 days in a row, to 2026-03-03: PSI of what it is"
    assert [one["window_start"][:10] for one in found.figures] == ["2026-03-01", "2026-03-02", "2026-03-03"]
    assert asked(figure(0), figure(1, "ok"), figure(2)) is None
    assert asked(figure(0), figure(1), figure(3)) is None
    assert asked(figure(0), figure(1), figure(2), figure(3, "ok")) is None, "it is over"
    assert asked(figure(0), figure(1, feature="y"), figure(2)) is None


def test_four_weeks_in_drift_ask_by_themselves_and_performance_comes_first() -> None:
    assert asked(figure(-20, days=28)).reason.startswith("psi of x is in drift over four weeks, to 2026-03-08")
    both = asked(figure(-20, days=28), figure(-20, days=28, feature="", metric="auc"))
    assert (both.trigger, both.figures[0]["metric"]) == ("performance", "auc")
    assert asked(figure(-20, "watch", days=28)) is None


def test_of_several_features_the_furthest_beyond_its_threshold_is_told() -> None:
    some = [figure(day, feature=name, value=value) for day in range(3) for name, value in (("x", 0.3), ("y", 2.0))]
    assert "of y " in asked(*some).reason


def test_training_is_due_when_the_profile_is_old_where_a_schedule_says_so() -> None:
    weekly = Policy(every=timedelta(days=7))
    assert asked(policy=weekly, made=NOW - 8 * DAY).trigger == "schedule"
    assert asked(policy=weekly, made=NOW - 6 * DAY) is None
    assert asked(made=NOW - 999 * DAY) is None


class Topic:
    """A control topic in memory."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Control] = {}
        self.puts = 0

    def entries(self) -> dict[tuple[str, str], Control]:
        return dict(self.held)

    def put(self, kind: str, name: str, body: Any, *, author: str = "") -> Control:
        import json

        self.puts += 1
        self.held[kind, name] = Control(kind, name, self.puts, json.dumps(body), self.puts, author)
        return self.held[kind, name]

    def remove(self, kind: str, name: str) -> None:
        del self.held[kind, name]


def test_a_model_has_one_open_wish_which_a_newer_version_or_a_person_closes() -> None:
    topic = Topic()
    ours = Retraining(topic, lambda: NOW)
    wanted = {"m": asked(figure(-20, days=28))}
    [opened] = ours.settle(wanted, {"m": "1"})
    assert opened.opened
    assert ours.settle(wanted, {"m": "1"}) == []
    assert topic.puts == 1
    [one] = ours.listed()
    assert (one["model"], one["opened_at"], one["by"]) == ("m", NOW.isoformat(), "penstock drift")
    assert one["evidence"]["trigger"] == "psi"
    assert one["evidence"]["version"] == "1"
    [closed] = ours.settle(wanted, {"m": "2"})
    assert (closed.opened, ours.listed()) == (False, [])
    assert "version 2 is live" in closed.words
    assert ours.settle(wanted, {"m": "2"}) == [], "what is wished is about a version that is not live"
    ours.settle(wanted, {"m": "1"})
    ours.close("m")
    assert ours.listed() == []
    with pytest.raises(RetrainError, match=r"nothing asks for 'm' to be trained again; open: none"):
        ours.close("m")


def test_an_entry_that_somebody_else_wrote_oddly_stays_open() -> None:
    topic = Topic()
    topic.held["retrain", "m"] = Control("retrain", "m", 1, "[]", 1)
    assert Retraining(topic).settle({"m": asked(figure(-20, days=28))}, {"m": "1"}) == []
