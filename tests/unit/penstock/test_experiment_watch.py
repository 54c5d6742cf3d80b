"""The thread that looks at experiments now and then: it goes on after what fails, and ends when it is told to."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import pytest

from analytics.warehouse import Warehouse, WarehouseUnavailableError
from penstock.experiment_watch import ExperimentWatch
from producers.errors import BrokerUnavailableError


class Session:
    """A session that is never asked anything, as there are no experiments."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Control:
    """A control topic without experiments that fails at first; `asked` is set at the fourth time."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked = threading.Event()
        self.times = 0

    def __call__(self) -> list[tuple[str, str]]:
        self.times += 1
        if self.times > len(self.failures):
            self.asked.set()
            return []
        raise self.failures[self.times - 1]


def watch(session: Session, control: Control, seconds: float) -> ExperimentWatch:
    return ExperimentWatch(cast(Warehouse, session), control, seconds)


def test_rounds_go_on_after_kafka_or_the_warehouse_were_away(caplog: pytest.LogCaptureFixture) -> None:
    session = Session()
    control = Control(BrokerUnavailableError("no broker"), WarehouseUnavailableError("no warehouse"))
    with caplog.at_level(logging.WARNING), watch(session, control, 0.01):
        assert control.asked.wait(30)
    assert [one.getMessage().split(": ")[1] for one in caplog.records] == ["no broker", "no warehouse"]
    assert session.closed
    before = control.times
    assert not threading.Event().wait(0.05)
    assert control.times == before, "it has ended"


def test_without_an_interval_a_round_is_made_only_when_it_is_asked_for() -> None:
    session, control = Session(), Control()
    with watch(session, control, 0) as one:
        assert control.times == 0
        found: list[dict[str, Any]] = one.looks("", False, 0.0)
    assert (found, control.times, session.closed) == ([], 1, True)
