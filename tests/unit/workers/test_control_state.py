"""Control entries: the good ones work at once, the bad ones leave what was there, and history leaves no trace."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from confluent_kafka import KafkaError

from models.rollout import Rollout
from models.routing import Experiment
from schemas.codec import Codec, DecodeError, schema_fingerprint
from schemas.framing import MARKER, RegistryUnavailableError
from schemas.records import Control, ScoreRequest
from stream_workers.control import ControlFollower, ControlState

CODEC = Codec()


def put(state: ControlState, kind: str, name: str, body: Any, revision: int = 1, key: str | None = None) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    record = Control(kind, name, revision, text, changed_at=0)
    return state.apply((key or f"{kind}/{name}").encode(), CODEC.encode(record))


def experiment(name: str, ranges: tuple[tuple[int, int], ...] = ((0, 10_000),), model: str = "m") -> str:
    return Experiment.create(name, model, {"a": 1.0}, {"a": "1"}, layer="page", layer_ranges=ranges).to_json()


@pytest.fixture
def state() -> ControlState:
    return ControlState(CODEC)


def test_an_experiment_assigns_until_it_is_deleted(state: ControlState) -> None:
    assert put(state, "experiment", "e", experiment("e")) == "experiment"
    assert state.router.assign("e", "user") is not None
    assert state.apply(b"experiment/e", None) == "experiment"
    assert state.router.assign("e", "user") is None


def test_an_analysts_plan_changes_nothing_for_a_worker(state: ControlState) -> None:
    put(state, "experiment", "e", experiment("e"))
    before = state.router
    assert put(state, "experiment-plan", "e", {"definition": {"name": "e"}, "started_at": 1}) == "experiment-plan"
    assert state.apply(b"experiment-plan/e", None) == "experiment-plan"
    assert state.router is before


def test_a_default_version_holds_until_it_is_deleted(state: ControlState) -> None:
    put(state, "model", "m", {"version": "2"})
    assert state.live == {"m": "2"}
    state.apply(b"model/m", None)
    assert state.live == {}


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[" * 100_000,
        "null",
        '{"name": "e"}',
        experiment("e").replace('"salt": "e"', '"salt": ""'),
        experiment("e").replace("[[0, 10000]]", "[[0, 20000]]"),
        experiment("another"),
    ],
    ids=["no json", "deep", "null", "keys missing", "empty salt", "beyond the buckets", "of another name"],
)
def test_a_bad_experiment_keeps_the_last_good_one(
    state: ControlState, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(state, "experiment", "e", experiment("e"))
    before = state.router.assign("e", "user")
    assert put(state, "experiment", "e", body, revision=2) == ""
    assert state.router.assign("e", "user") == before
    assert "experiment/e is refused" in caplog.text


@pytest.mark.parametrize("body", ["[]", "{}", '{"version": null}', '{"version": 3}', '{"version": ""}', "nonsense"])
def test_a_bad_default_version_keeps_the_last_good_one(state: ControlState, body: str) -> None:
    put(state, "model", "m", {"version": "1"})
    assert put(state, "model", "m", body, revision=2) == ""
    assert state.live == {"m": "1"}


@pytest.mark.parametrize("value", [b"", b"junk", CODEC.encode(ScoreRequest("r", "m", "u", 0))])
def test_bytes_that_are_no_control_record_change_nothing(state: ControlState, value: bytes) -> None:
    put(state, "model", "m", {"version": "1"})
    assert state.apply(b"model/m", value) == ""
    assert state.live == {"m": "1"}


def test_an_entry_under_a_key_that_is_not_its_own_is_refused(state: ControlState) -> None:
    assert put(state, "model", "m", {"version": "1"}, key="model/other") == ""
    assert state.live == {}


def test_an_older_revision_does_not_undo_a_newer_one(state: ControlState) -> None:
    put(state, "model", "m", {"version": "2"}, revision=5)
    assert put(state, "model", "m", {"version": "1"}, revision=4) == ""
    assert state.live == {"m": "2"}


def test_after_a_deletion_revisions_begin_anew(state: ControlState) -> None:
    put(state, "model", "m", {"version": "2"}, revision=5)
    state.apply(b"model/m", None)
    put(state, "model", "m", {"version": "1"}, revision=1)
    assert state.live == {"m": "1"}


def test_overlapping_experiments_of_a_layer_are_refused(state: ControlState, caplog: pytest.LogCaptureFixture) -> None:
    put(state, "experiment", "a", experiment("a", ((0, 6_000),)))
    assert put(state, "experiment", "b", experiment("b", ((5_000, 10_000),))) == ""
    assert "overlap" in caplog.text
    assert set(state.router.experiments) == {"a"}


def test_a_refused_overlap_takes_effect_once_the_other_makes_room_as_in_a_worker_that_starts_then(
    state: ControlState,
) -> None:
    put(state, "experiment", "a", experiment("a", ((0, 6_000),)))
    put(state, "experiment", "b", experiment("b", ((5_000, 10_000),)))
    put(state, "experiment", "a", experiment("a", ((0, 5_000),)), revision=2)
    fresh = ControlState(CODEC)
    put(fresh, "experiment", "b", experiment("b", ((5_000, 10_000),)))
    put(fresh, "experiment", "a", experiment("a", ((0, 5_000),)), revision=2)
    assert dict(state.router.experiments) == dict(fresh.router.experiments)
    assert set(state.router.experiments) == {"a", "b"}


def test_a_refused_experiment_that_is_deleted_never_comes_back(state: ControlState) -> None:
    put(state, "experiment", "a", experiment("a"))
    put(state, "experiment", "b", experiment("b"))
    state.apply(b"experiment/b", None)
    state.apply(b"experiment/a", None)
    assert dict(state.router.experiments) == {}


def test_a_foreign_schema_makes_its_records_readable() -> None:
    codec = Codec()
    schema = {
        "type": "record",
        "name": "Control",
        "namespace": "penstock.v1",
        "fields": [
            {"name": "kind", "type": "string"},
            {"name": "name", "type": "string"},
            {"name": "revision", "type": "long"},
            {"name": "body", "type": "string"},
            {"name": "changed_at", "type": "long"},
            {"name": "brand_new", "type": "string", "default": ""},
        ],
    }
    body = b"\x0amodel" + b"\x02m" + b"\x02" + bytes([2 * 16]) + b'{"version": "9"}' + b"\x00" + b"\x00"
    value = MARKER + schema_fingerprint(schema) + body
    state = ControlState(codec)
    assert state.apply(b"model/m", value) == ""
    with pytest.raises(DecodeError):
        codec.decode(Control, value)
    put(state, "schema", "control-2", schema)
    state.apply(b"model/m", value)
    assert state.live == {"m": "9"}


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e400", "NaN"])
def test_a_number_that_is_none_keeps_the_last_good_rollout(state: ControlState, number: str) -> None:
    rollout = Rollout("m", "2", "1", "s", 0, 0, steps=(100, 10_000), hold_seconds=31.5, min_requests=100)
    assert put(state, "rollout", "m", rollout.to_json()) == "rollout"
    spoilt = rollout.to_json().replace("31.5", number)
    assert spoilt != rollout.to_json()
    assert put(state, "rollout", "m", spoilt, revision=2) == ""
    assert state.rollouts == {"m": rollout}


class Polled:
    """A control topic of one entry and its end, then another entry."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.left: list[Any] = [Entry(), Entry(KafkaError(KafkaError._PARTITION_EOF)), Entry()]

    def assign(self, _: Any) -> None: ...

    def close(self) -> None: ...

    def poll(self, timeout: float) -> Any:
        return self.left.pop(0) if self.left else time.sleep(timeout)


class Entry:
    def __init__(self, error: KafkaError | None = None) -> None:
        self._error = error

    def error(self) -> KafkaError | None:
        return self._error

    def key(self) -> bytes:
        return b"model/m"

    def value(self) -> None:
        return None

    def offset(self) -> int:
        return 0


def test_a_follower_waits_for_a_registry_that_is_away(monkeypatch: pytest.MonkeyPatch, state: ControlState) -> None:
    monkeypatch.setattr("stream_workers.control.Consumer", Polled)
    monkeypatch.setattr("stream_workers.control.ASK_SECONDS", 0.01)
    apply, calls = state.apply, []

    def away_for_a_while(key: bytes, value: bytes | None) -> str:
        calls.append(key)
        if 2 <= len(calls) <= 4:
            raise RegistryUnavailableError("no route")
        return apply(key, value)

    state.apply = away_for_a_while  # type: ignore[method-assign]
    changed = threading.Semaphore(0)
    follower = ControlFollower({}, "control", state, lambda _: changed.release())
    follower.start(5)
    assert changed.acquire(timeout=5)
    assert changed.acquire(timeout=5), "the entry that waited is applied"
    assert (len(calls), follower.failure) == (5, None)
    follower.stop()


def test_a_follower_that_cannot_go_on_says_so(monkeypatch: pytest.MonkeyPatch, state: ControlState) -> None:
    monkeypatch.setattr("stream_workers.control.Consumer", Polled)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ended = threading.Event()
    apply, calls = state.apply, []

    def failing(key: bytes, value: bytes | None) -> str:
        calls.append(key)
        if len(calls) == 2:
            raise RuntimeError("a bug")
        return apply(key, value)

    state.apply = failing  # type: ignore[method-assign]
    follower = ControlFollower({}, "control", state, lambda _: None, on_failure=ended.set)
    follower.start(5)
    assert ended.wait(5)
    assert str(follower.failure) == "a bug"
    follower.stop()
