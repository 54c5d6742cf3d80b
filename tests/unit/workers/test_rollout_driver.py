"""The driver takes a rollout on, back or to its end by what it sees, whoever is killed or in its way meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from memory_topic import BrokenOffError, MemoryTopic
from prometheus_client import CollectorRegistry

from models.live import Live
from models.rollout import BUCKETS, LOADING, MICRO, Guard, Rollout
from schemas.records import Alert, BatchSummary
from stream_workers.rollout import RolloutDriver, Seen, alert_id
from stream_workers.rollout_metrics import RolloutMetrics
from stream_workers.worker_state import ModelState, WorkerState

EVEN = (5,) * 20
HIGH = (0,) * 19 + (100,)


class Sources:
    """Workers that do as they are told at once, and summaries that a test puts there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[Seen] = []
        self.closed = False

    def summaries(self, models: Iterable[str]) -> list[Seen]:
        found, self.sent = self.sent, []
        return [one for one in found if one[0].model in set(models)]

    def workers(self) -> Mapping[str, WorkerState] | None:
        return self.world.workers()

    def close(self) -> None:
        self.closed = True


class Alerts:
    def __init__(self) -> None:
        self.log: list[Alert] = []

    def put(self, alert: Alert) -> None:
        self.log.append(alert)

    def states(self) -> dict[str, str]:
        return {one.alert_id: one.state for one in self.log}


class World:
    """A control topic, workers that obey it, a driver, and a clock that stands still until it is told otherwise."""

    def __init__(self, **changes: Any) -> None:
        self.topic = MemoryTopic()
        self.now = self.topic.clock
        self.alerts = Alerts()
        self.failed: dict[str, str] = {}
        self.slow: set[str] = set()
        self.offset = 0
        self.topic.put("model", "late", Live("3", ("2",)).to_json())
        plain: dict[str, Any] = {
            "model": "late",
            "candidate": "4",
            "current": "3",
            "salt": "salt",
            "started": self.now,
            "since": self.now,
            "steps": (1000, BUCKETS),
            "hold_seconds": 60.0,
            "min_requests": 200,
            "guard": Guard(),
        }
        self.put(Rollout(**{**plain, **changes}))
        self.start_driver()

    def start_driver(self) -> None:
        """A new one: nothing of the one before is left, but what stands on topics."""
        self.sources = Sources(self)
        self.driver = RolloutDriver(
            self.topic.restarted_worker(),
            self.topic,
            self.alerts,
            lambda _since: self.sources,
            RolloutMetrics(CollectorRegistry()),
            wall=lambda: self.now,
            clock=lambda: self.now / MICRO,
        )

    def put(self, one: Rollout) -> None:
        self.topic.put("rollout", one.model, one.to_json())

    @property
    def rollout(self) -> Rollout:
        return Rollout.from_json(self.topic.entries()["rollout", "late"].body)

    @property
    def live(self) -> Live:
        return Live.from_json(self.topic.entries()["model", "late"].body)

    def workers(self) -> dict[str, WorkerState]:
        one = self.rollout
        found = {}
        for name in ("w1", "w2"):
            failed = {"4": self.failed[name]} if name in self.failed else {}
            ready = {"3": 0.1} if failed or name in self.slow else {"3": 0.1, "4": 0.2}
            model = ModelState(ready=ready, failed=failed, rollout=one.salt, step=one.step, users=5000)
            found[name] = WorkerState(name, f"{name}-run", {"late": model})
        return found

    def scored(
        self,
        version: str,
        rows: int = 400,
        *,
        failed: int = 0,
        code: str = "INFERENCE_FAILED",
        scores: tuple[int, ...] = EVEN,
        late: bool = False,
        infer_us: int = 1000,
    ) -> None:
        """A batch of a version now, answered within 16 ms, or some seconds."""
        self.offset += 1
        self.sources.sent.append(
            (
                BatchSummary(
                    batch_id=str(self.offset),
                    worker="w1",
                    device="cpu",
                    model="late",
                    version=version,
                    experiment="",
                    variant="",
                    topic="scoring.requests",
                    scored_at=self.now,
                    requests=rows,
                    rows=rows,
                    infer_us=infer_us,
                    latency_histogram=(0,) * (13 if late else 4) + (rows,),
                    score_histogram=tuple(count * rows // 100 for count in scores),
                    errors={code: failed} if failed else {},
                ),
                self.offset,
                False,
            )
        )

    def look(self, seconds: float = 0.0) -> Rollout:
        """The driver follows control, and looks, `seconds` later."""
        self.now += int(seconds * MICRO)
        state = self.driver._state
        fresh = self.topic.restarted_worker()
        state.rollouts, state.models, state.entries = fresh.rollouts, fresh.models, fresh.entries
        self.driver.look()
        return self.rollout


def test_a_good_version_goes_from_step_to_step_and_is_live_at_once_with_the_end() -> None:
    world = World()
    assert world.look(1).share == 0.1
    world.scored("3")
    world.scored("4")
    assert world.look(59).step == 0
    on = world.look(2)
    assert (on.share, on.passed[0].requests, on.passed[0].seen) == (1.0, 400, "400 requests, 0 rows failed, p99 16 ms")
    world.scored("4")
    writes = len(world.topic.log)
    assert world.look(61).state == "done"
    assert world.live == Live("4", ("3", "2"))
    # The live version first: whoever has read only that sends nobody elsewhere.
    assert [one.kind for one in world.topic.history()[writes:]] == ["model", "rollout"]
    assert world.look(1).state == "done"
    assert world.alerts.log == []
    assert world.sources.closed


def test_each_step_waits_for_time_requests_and_every_worker() -> None:
    world = World()
    world.slow = {"w2"}
    assert world.look(600).step == LOADING
    world.slow = set()
    assert world.look(3).step == 0
    world.scored("4", 100)
    world.scored("3")
    assert world.look(600).step == 0
    world.slow = {"w2"}
    world.scored("4", 150)
    assert world.look(3).step == 0
    world.slow = set()
    assert world.look(3).step == 1


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"failed": 40}, "10.0% of 400 rows failed, at most 2.0% may"),
        ({"late": True, "infer_us": 90_000}, "(a batch runs 90 ms, of version 3 1 ms)"),
        ({"scores": HIGH}, "scores have moved from the reference: PSI"),
    ],
)
def test_a_bad_version_goes_back_at_once_and_an_alert_says_why(what: Any, why: str) -> None:
    world = World()
    world.look(1)
    world.scored("3")
    world.scored("4", **what)
    over = world.look(1)
    assert over.state == "rolled back"
    assert why in over.reason
    assert over.passed[0].requests == 400
    assert world.live.version == "3"
    world.look(1)
    (alert,) = world.alerts.log
    assert (alert.alert_id, alert.state, alert.labels) == (alert_id(over), "firing", {"model": "late", "version": "4"})
    assert why in alert.summary
    assert json.loads(alert.evidence)["passed"][0]["share"] == 0.1


def test_what_befalls_both_versions_holds_the_rollout_up_and_does_not_end_it() -> None:
    world = World()
    world.look(1)
    world.scored("3", failed=40)
    world.scored("4", failed=40)
    assert world.look(61).state == "running"
    assert world.look(61).step == 0


def test_what_a_dead_worker_does_to_latency_ends_nothing_not_in_the_last_step_either() -> None:
    world = World()
    world.look(1)
    world.scored("3")
    world.scored("4", late=True, infer_us=3000, rows=4000)
    assert world.look(61).state == "running"
    for seconds in (1, 70):
        world.look(seconds)
        world.scored("4")
    assert world.look(1).share == 1.0
    world.scored("4", late=True, failed=100, code="DEADLINE_EXCEEDED")
    assert world.look(1).state == "running"


def test_in_the_last_step_the_step_before_is_what_it_is_compared_with() -> None:
    world = World()
    world.look(1)
    world.scored("3")
    world.scored("4")
    assert world.look(61).share == 1.0
    world.start_driver()
    world.look(1)
    world.scored("4", scores=HIGH)
    assert world.look(1).state == "rolled back"


def test_what_went_well_for_long_does_not_hide_what_goes_wrong_now() -> None:
    world = World(hold_seconds=3600.0)
    world.look(1)
    for _ in range(50):
        world.scored("3", 2000)
        world.scored("4", 2000)
        world.look(30)
    world.scored("4", 400, failed=300)
    limit = Guard().error_rate
    assert limit is not None
    assert limit > 300 / 100_400
    assert "12.5% of 2,400 rows failed" in world.look(1).reason


def test_a_worker_that_cannot_load_it_ends_it_and_nobody_met_it() -> None:
    world = World()
    world.failed = {"w2": "its checksum is wrong"}
    over = world.look(1)
    assert (over.state, over.reason) == ("rolled back", "worker w2 cannot load version 4: its checksum is wrong")
    assert over.passed == ()


def test_the_alert_is_over_when_the_next_rollout_begins() -> None:
    world = World()
    world.failed = {"w2": "its checksum is wrong"}
    over = world.look(1)
    world.look(1)
    world.failed = {}
    world.put(Rollout("late", "5", "3", "other", world.now, world.now, min_requests=200))
    world.look(1)
    assert [(one.alert_id, one.state) for one in world.alerts.log] == [
        (alert_id(over), "firing"),
        (alert_id(over), "resolved"),
    ]


def test_another_version_that_was_made_live_ends_it() -> None:
    world = World()
    world.look(1)
    world.topic.put("model", "late", Live("5", ("3",)).to_json())
    assert world.look(1).reason == "version 5 was made live meanwhile, in place of 3"
    assert world.live.version == "5"


@pytest.mark.parametrize("end", ["done", "rolled back"])
def test_a_driver_that_dies_at_any_write_is_followed_by_one_that_goes_on(end: str) -> None:
    for writes in range(6):
        world = World()
        world.topic.writes_left = writes
        deaths = 0
        for _ in range(12):
            try:
                world.scored("3")
                world.scored("4", failed=0 if end == "done" or world.rollout.step < 1 else 200)
                if world.look(61).state != "running":
                    break
            except BrokenOffError:
                deaths += 1
                world.topic.writes_left = None
                world.start_driver()
        world.look(1)
        assert (world.rollout.state, world.live.version) == (end, "4" if end == "done" else "3")
        assert deaths <= 1
        assert len(world.alerts.log) == (1 if end == "rolled back" else 0)


def test_a_driver_that_died_before_its_alert_was_out_is_followed_by_one_that_tells_it_once() -> None:
    world = World()
    over = world.rollout.ended("rolled back", "slow", world.now)
    world.put(over)
    for _ in range(3):
        world.start_driver()
        world.look(1)
    assert [one.alert_id for one in world.alerts.log] == [alert_id(over)]


def test_of_two_drivers_that_decide_at_once_one_succeeds_and_the_other_looks_again() -> None:
    world = World()
    first = world.driver
    world.start_driver()
    second = world.driver
    second.look()
    assert world.rollout.step == 0
    # It has not heard of the step, and decides on what it knows.
    first.look()
    assert world.rollout.step == 0
    assert [one.kind for one in world.topic.history()].count("rollout") == 2
