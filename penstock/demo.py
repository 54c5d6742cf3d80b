"""The demo: real flights of 2013 through the whole stack, and the evidence of what became of them.

A flight is a request at its scheduled departure; its unit of assignment (the user) is its tail number; an experiment
gives half of them to each version of the model; what happened is published as an outcome, in the order of the real
arrivals. The order is 2013's, the clock is today's: `sent_at`, deadlines and latencies are real ones of this run, and
only `Outcome.occurred_at` says when the flight arrived. `began` and `prefix` tell a run's rows from an earlier run's,
which stay in the warehouse.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import time
from typing import Final

from analytics.definition_reader import from_toml
from analytics.definitions import Definition
from models.routing import Experiment
from models.store import Store
from penstock.demo_evidence import Arrived, Evidence, Findings, Run
from penstock.experiments import Experiments, assignment_of
from penstock.flights.data import LAST_DAY, Dataset, Flight, features, flights
from penstock.model_store import open_store
from penstock.pools import placement
from penstock.settings import Settings
from penstock.warehouse_client import credentials
from producers.control import ControlTopic, now_us
from producers.inbox import Inbox
from producers.publisher import Publisher
from producers.replay import Event, Pace, Progress, Replay, Tally, in_order
from schemas.records import Outcome, ScoreRequest

MODEL: Final = "flight-delay"
EXPERIMENT: Final = "flight-delay-mlp"
OUTCOME: Final = "arr_delay_15"
VERSIONS: Final = {"logistic": "1", "mlp": "2"}


DEFINITION: Final = Path(__file__).parent / "flights" / "experiment.toml"


class DemoError(RuntimeError):
    """A demo that cannot go on, in one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which flights, by New York's date, and how fast: `rate` requests a second (None: as fast as the answers come)
    with at most `in_flight` unanswered."""

    start: date
    days: int
    rate: float | None = 2000.0
    in_flight: int = 2000

    @property
    def last(self) -> date:
        """The last day."""
        return min(self.start + timedelta(days=self.days - 1), LAST_DAY)


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo found: `tally` is what it counted itself, `findings` what ClickHouse says."""

    plan: Plan
    run: Run
    tally: Tally
    findings: Findings
    complete: bool

    def faults(self) -> list[str]:
        """What should not be, a line each; none in a good run."""
        tally, found = self.tally, self.findings
        outcomes = f"{found.outcomes:,} of {tally.outcomes:,} outcomes are in ClickHouse"
        checks = {
            f"{found.lost:,} requests have no row in ClickHouse": found.lost,
            f"{found.duplicated:,} rows are in ClickHouse more than once": found.duplicated,
            f"{tally.unanswered:,} requests were never answered": tally.unanswered,
            f"{found.misassigned:,} flights met another variant than their tail number's hash gives": found.misassigned,
            outcomes: found.outcomes != tally.outcomes,
        }
        return [line for line, wrong in checks.items() if wrong]


def definition() -> Definition:
    """The demo's experiment as an analyst defines it: half of the tail numbers to each version."""
    return from_toml(DEFINITION)


def experiment() -> Experiment:
    """Who meets which version."""
    return assignment_of(definition())


def publish_experiment(settings: Settings) -> None:
    """Create the experiment and start a run of it, ending one that an earlier demo left running.

    Raises `BrokerUnavailableError`, `DefinitionError` and `ModelError` without the models.
    """
    topic = ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)
    ours = Experiments(topic, open_store(settings.models), now_us)
    earlier = ours.states().get(EXPERIMENT)
    if earlier is not None and earlier.status not in ("created", "stopped"):
        ours.stop(EXPERIMENT)
    ours.create(definition(), "the demo's definition")
    ours.start(EXPERIMENT)


def new_run(now: Callable[[], float] = time) -> Run:
    """A run of its own name. `now`: seconds since the epoch."""
    began = now()
    stamp = datetime.fromtimestamp(began, UTC).strftime("%Y%m%dT%H%M%S")
    return Run(f"{stamp}-{secrets.token_hex(2)}", round(began * 1e6), MODEL, OUTCOME)


def overlaps(store: Store, plan: Plan) -> list[str]:
    """A line for each version that was trained on some of the plan's days. Raises `ModelError` without the models."""
    lines = []
    for version in VERSIONS.values():
        trained = store.manifest(MODEL, version).metrics.get("train", {})
        first, last = (date.fromisoformat(trained[end]) if end in trained else None for end in ("from", "to"))
        if first is not None and last is not None and first <= plan.last and plan.start <= last:
            lines.append(
                f"version {version} was trained on {first} to {last}, which overlaps {plan.start} to {plan.last}: "
                "its figures flatter it"
            )
    return lines


def kinds(store: Store) -> dict[str, str]:
    """What each version is, in words."""
    return {version: str(store.manifest(MODEL, version).lineage.get("kind", "")) for version in VERSIONS.values()}


def events(some: Iterable[Flight], run: Run) -> Iterator[Event]:
    """Flights as requests and outcomes in order of their time."""
    return in_order((_request(one, run), _outcome(one, run)) for one in some)


def replay(
    settings: Settings,
    warehouse: str,
    plan: Plan,
    data: Dataset,
    *,
    say: Callable[[str], None],
    on_replay: Callable[[Progress], None],
    on_arrived: Callable[[Arrived, Tally], None],
    run: Run | None = None,
) -> Report:
    """Replay the plan's flights on a running stack, wait until all of it is in ClickHouse, and ask it what happened.

    `warehouse`: the URL of the ingest process. Raises `NoAnswerError`, `DeliveryError`, `BrokerUnavailableError`,
    `EvidenceError`.
    """
    run = run or new_run()
    kafka = settings.kafka
    client = {**kafka.client(), **kafka.consumer_properties}
    inbox = Inbox(client, kafka.topics.replies, rng=random.SystemRandom())
    # The pace is ours: what is due goes at once.
    publisher = Publisher(kafka.producer(**{"linger.ms": 0}), settings.codec())
    with closing(inbox):
        inbox.open(timeout=15.0)
        place = placement(settings).of
        replaying = Replay(publisher, inbox, settings.codec(), kafka.topics, run.prefix, place=place)
        say("waiting until the workers answer")
        # Not part of the run: joining the group takes seconds, which are nobody's latency.
        first = next(iter(flights(plan.start, plan.days, data)))
        replaying.knock(ScoreRequest(f"knock-{run.name}", MODEL, "", 0, features=features(first)))
        tally = replaying.run(
            events(flights(plan.start, plan.days, data), run), Pace(plan.rate, plan.in_flight), on_replay
        )
    evidence = Evidence(warehouse, run, credentials(settings))
    complete = evidence.wait(tally.requests, tally.outcomes, lambda arrived: on_arrived(arrived, tally))
    return Report(plan, run, tally, evidence.findings(tally.requests, experiment()), complete)


def _request(flight: Flight, run: Run) -> Event:
    request = ScoreRequest(
        request_id=run.prefix + flight.request_id,
        model=MODEL,
        user_id=flight.tail_number,
        sent_at=0,
        experiment=EXPERIMENT,
        features=features(flight),
    )
    return Event(_microseconds(flight.scheduled_departure), request)


def _outcome(flight: Flight, run: Run) -> Event | None:
    if flight.late is None or flight.arrived_at is None:
        return None
    at = _microseconds(flight.arrived_at)
    request_id = run.prefix + flight.request_id
    outcome = Outcome(
        outcome_id=f"{request_id}/{OUTCOME}",
        user_id=flight.tail_number,
        name=OUTCOME,
        value=float(flight.late),
        occurred_at=at,
        request_id=request_id,
        experiment=EXPERIMENT,
        model=MODEL,
    )
    return Event(at, outcome)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000_000
