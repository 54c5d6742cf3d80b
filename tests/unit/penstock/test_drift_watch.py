"""The thread that looks for drift: it goes on after what fails, ends when it is told to, and reads the model store."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from analytics.warehouse import Warehouse, WarehouseUnavailableError
from models.errors import ManifestError
from models.registry import ModelStore
from penstock.drift_watch import DriftRounds, DriftWatch, Versions
from producers.errors import BrokerUnavailableError
from schemas.records import Control

ZOO = Path(__file__).parents[3] / "models" / "zoo"


class Session:
    """A session that is never asked anything."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Rounds:
    """Rounds that fail at first; `done` is set at the first that does not."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.done = threading.Event()

    def run(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.done.set()


def test_rounds_go_on_after_kafka_the_warehouse_or_the_store_were_away(caplog: pytest.LogCaptureFixture) -> None:
    session = Session()
    away = [BrokerUnavailableError("no broker"), WarehouseUnavailableError("no warehouse"), ManifestError("no store")]
    rounds = Rounds(*away)
    watch = DriftWatch(cast(Warehouse, session), cast(DriftRounds, rounds), 0.01)
    with caplog.at_level(logging.WARNING), watch:
        assert rounds.done.wait(30)
    assert [one.getMessage().split(": ")[1] for one in caplog.records] == ["no broker", "no warehouse", "no store"]
    assert session.closed


def test_the_control_topic_says_which_version_is_live_where_it_says_anything() -> None:
    class Topic:
        def entries(self) -> dict[tuple[str, str], Control]:
            body = json.dumps({"version": "1"})
            return {("model", name): Control("model", name, 1, body, 1) for name in ("flight-delay", "gone")}

    assert Versions(ModelStore(ZOO), None).live() == {"flight-delay": "2"}
    assert Versions(ModelStore(ZOO), cast(Any, Topic())).live() == {"flight-delay": "1"}


def test_every_version_of_the_zoo_has_a_profile_for_its_signature() -> None:
    from analytics import profiles

    watched = [one for one in Versions(ModelStore(ZOO), None).watched() if one.model == "flight-delay"]
    assert [one.version for one in watched] == ["1", "2"]
    for one in watched:
        profile = profiles.from_json(one.profile, one.model, one.version)
        profiles.check_signature(profile, one.takes)
        assert profile.sliced_by == ("carrier", "origin")
        assert profile.label is not None
        assert profile.label.outcome == "arr_delay_15"
        assert profile.performance is not None
        assert set(profile.performance.days) == set(profiles.PERFORMANCE)
        assert all(feature.worst_psi > 0 for feature in profile.features)
