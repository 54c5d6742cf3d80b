"""A good version reaches everybody without a failed request, a bad one is thrown back, whoever is killed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rollout_world import QUICK, USERS, Load, World

from models.rollout import Guard
from penstock.brokers import EmbeddedBroker, LocalBroker
from penstock.live_models import LiveModels, RefusedError
from producers.errors import ControlConflictError
from schemas.codes import Code

pytestmark = pytest.mark.kafka


def _world(broker: LocalBroker, factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(broker, factory.mktemp("rollout"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def _on_embedded(embedded_broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from _world(embedded_broker, tmp_path_factory)


@pytest.fixture(scope="module")
def _on_apache(apache_kafka: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from _world(apache_kafka, tmp_path_factory)


@pytest.fixture
def world(broker: LocalBroker, request: pytest.FixtureRequest) -> World:
    name = "_on_embedded" if isinstance(broker, EmbeddedBroker) else "_on_apache"
    found: World = request.getfixturevalue(name)
    return found


def went_over_once(versions: dict[str, list[str]]) -> None:
    """Every user met version 1, then version 2, and never version 1 again."""
    for user, own in versions.items():
        assert own == sorted(own), f"{user!r} met {own}"


def test_a_good_version_reaches_everybody_and_no_request_fails(world: World) -> None:
    with Load(world, "good").flowing() as load:
        world.rollouts.begin("good", "2", QUICK)
        over = world.until("good", lambda one: not one.is_on)
        # The last step has been everybody's; the live version changes nothing for anybody.
        load.goes_on(0.5)
    assert (over.state, [step.share for step in over.passed]) == ("done", [0.4, 0.7, 1.0])
    assert world.live("good") == '{"version": "2", "history": ["1"]}'
    versions = load.versions()
    went_over_once(versions)
    first = {user for user in USERS if replace(over, state="running", step=0).meets(user)}
    assert all("2" in versions[user] for user in first)
    assert versions[""][-1] == "2"
    assert all(step.requests >= QUICK.min_requests for step in over.passed)
    assert not world.alerts("good")
    assert LiveModels(world.control, world.store).rollback("good").version == "1"


def test_a_driver_and_a_worker_that_are_killed_stop_nothing(world: World) -> None:
    with Load(world, "kills").flowing() as load:
        world.rollouts.begin("kills", "2", QUICK)
        begun = world.until("kills", lambda one: one.step >= 0)
        world.monitor.kill()
        world.monitor = world.start_monitor().await_alive()
        on = world.until("kills", lambda one: one.step >= 1)
        assert (on.salt, on.started, on.passed[0].share) == (begun.salt, begun.started, 0.4)
        world.scene.workers[1].process.kill()
        world.scene.workers[1].process.wait()
        del world.scene.workers[1]
        world.scene.start_worker("w2")
        over = world.until("kills", lambda one: not one.is_on)
        world.scene.workers[1].await_ready()
    assert (over.state, over.salt) == ("done", begun.salt), over.reason
    went_over_once(load.versions())


@pytest.mark.parametrize(
    ("model", "guard", "why"),
    [
        ("errors", Guard(p99_ms=None, p99_ratio=None, min_rows=30), "rows failed"),
        ("shifted", Guard(p99_ms=None, p99_ratio=None, min_rows=60), "scores have moved"),
    ],
)
def test_a_bad_version_is_thrown_back_by_itself_and_nobody_meets_it_after(
    world: World, model: str, guard: Guard, why: str
) -> None:
    with Load(world, model).flowing() as load:
        # Nothing but a guardrail ends its first step.
        world.rollouts.begin(model, "2", replace(QUICK, hold_seconds=60.0, guard=guard))
        over = world.until(model, lambda one: not one.is_on)
        obeyed = time.monotonic() + 1.0
        load.goes_on(2.0)
    assert over.state == "rolled back"
    assert why in over.reason
    assert [step.share for step in over.passed] == [0.4]
    assert world.live(model) == '{"version": "1"}'
    outside = {user for user in USERS if not replace(over, state="running", step=0).meets(user)}
    for at, user, answer in load.answers():
        if at > obeyed or user in outside:
            assert (answer.reply.version, answer.reply.code) == ("1", Code.OK)
    (alert,) = world.alerts(model)
    assert (alert.state, alert.severity, alert.labels["version"]) == ("firing", "critical", "2")
    assert why in alert.summary


def test_a_slow_version_is_thrown_back(world: World) -> None:
    guard = Guard(p99_ms=100.0, p99_ratio=None, score_psi=None, min_rows=8)
    with Load(world, "slow", users=40, pause=0.5).flowing():
        world.rollouts.begin("slow", "2", replace(QUICK, hold_seconds=60.0, guard=guard))
        over = world.until("slow", lambda one: not one.is_on)
    assert over.state == "rolled back"
    assert "99% of" in over.reason


def test_of_two_who_begin_at_once_one_succeeds_and_an_operator_ends_it(world: World) -> None:
    failed: list[Exception] = []

    def begin() -> None:
        try:
            world.rollouts.begin("ends", "2", replace(QUICK, hold_seconds=60.0))
        except (ControlConflictError, RefusedError) as error:
            failed.append(error)

    both = [threading.Thread(target=begin) for _ in range(2)]
    with Load(world, "ends").flowing() as load:
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert len(failed) == 1
        world.until("ends", lambda one: one.step == 0)
        assert world.rollouts.change("ends", "pause").state == "paused"
        assert world.rollouts.change("ends", "resume").state == "running"
        done = LiveModels(world.control, world.store).rollback("ends")
        assert (done.version, done.before) == ("1", "2")
        over = world.rollout("ends")
        assert (over.state, over.step) == ("aborted", 0)
        obeyed = time.monotonic() + 1.0
        load.goes_on(1.5)
    for at, _, answer in load.answers():
        assert answer.reply.code is Code.OK
        assert answer.reply.version == "1" or at < obeyed
    assert world.rollout("ends") == over
    assert over.passed[0].share == 0.4


@pytest.mark.parametrize(("model", "state"), [("ghost", "done"), ("haunted", "rolled back")])
def test_a_shadow_is_scored_and_logged_and_answers_nobody(world: World, model: str, state: str) -> None:
    shadows = world.shadows(model)
    with Load(world, model).flowing() as load:
        world.rollouts.begin(model, "2", QUICK, mode="shadow")
        over = world.until(model, lambda one: not one.is_on)
    assert over.state == state, over.reason
    assert world.live(model) == '{"version": "1"}'
    assert {version for own in load.versions().values() for version in own} == {"1"}
    asked = {one.request_id for _, one in load.sent}
    scored = {one for one, version in shadows() if version == "2"}
    assert len(scored) >= over.passed[0].requests >= (QUICK.min_requests if state == "done" else 1)
    assert scored <= asked
    fates = [fate for one in asked for fate in world.scene.fates[one]]
    assert {fate.version for fate in fates} == {"1"}
    assert len(fates) == len(asked)
