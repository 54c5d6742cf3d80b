"""Looks at every running experiment when a look is due, decides, and writes it down; safe to be killed at any moment.

A look is made of what was mature at the time it was due, not at the time of the job. So a job that was killed between
bringing the statistics up to date and writing, or that another one overtook, makes the same look again under the same
number, and `experiment_looks` keeps one of them. All rows of a look are written as one block: all are there, or none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics.definition_reader import plan_from_json
from analytics.definitions import DefinitionError, Plan
from analytics.experiment_state import Run, advance
from analytics.experiment_store import ExperimentStore
from analytics.look_records import SELECT, Record, records, rows
from analytics.look_schedule import due, next_due
from analytics.reading import Summed, read
from analytics.readings import Reading
from analytics.results import StatisticError
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError

log = logging.getLogger(__name__)

# Name and body of each entry of kind `experiment-plan` on the control topic.
Entries = Callable[[], Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round did about an experiment: a look with its decision, or when the next is due, or what went wrong."""

    experiment: str
    look: int | None = None
    looked_at: datetime | None = None
    decision: str = ""
    reason: str = ""
    next_at: datetime | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in ISO 8601."""
        return {
            "experiment": self.experiment,
            "look": self.look,
            "looked_at": self.looked_at and self.looked_at.isoformat(),
            "decision": self.decision,
            "reason": self.reason,
            "next_at": self.next_at and self.next_at.isoformat(),
            "error": self.error,
        }


class ExperimentJob:
    """Makes looks. `entries`: what is on the control topic; `clock`: what time it is (aware). Thread-safe."""

    def __init__(
        self, warehouse: Warehouse, entries: Entries, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._warehouse = warehouse
        self._store = ExperimentStore(warehouse)
        self._entries = entries
        self._clock = clock
        self._lock = threading.Lock()

    def run(self, *, only: str = "", force: bool = False, ahead: timedelta = timedelta()) -> list[Outcome]:
        """One round over all experiments that have been started, or over the one named.

        `ahead`: look as if it were so much later, for whoever knows that nothing more comes (a replay that is over).
        `force`: look now, due or not. A look that nobody planned costs no error, as a test counts information; it does
        where somebody looks because of what they have seen. What goes wrong with one experiment is in its outcome.
        Raises `WarehouseUnavailableError`, and whatever `entries` raises.
        """
        with self._lock:
            found = []
            for name, body in sorted(self._entries()):
                if only in ("", name):
                    outcome = self._one(name, body, force, ahead)
                    if outcome is not None:
                        found.append(outcome)
            return found

    def reading(self, name: str, number: int | None) -> Reading:
        """A look that was written, the newest for None, read again for a report; its data as of then.

        Raises `DefinitionError` for an experiment or a look that is not there, `WarehouseError`, what `entries` raises.
        """
        body = dict(self._entries()).get(name)
        if body is None:
            raise DefinitionError(f"there is no experiment {name!r}; `penstock experiments list` names those there are")
        plan = plan_from_json(body, f"experiment-plan/{name}")
        past = past_looks(self._warehouse, plan) if plan.started_at is not None else []
        found = current(self._store, plan, past[:number])
        if found is None or number not in (None, found.number):
            there = f"it has {len(past)}" if past else "`penstock experiments watch --once` makes those that are due"
            raise DefinitionError(f"experiment {name!r} has no look {number or 'yet'}: {there}")
        return found

    def _one(self, name: str, body: str, force: bool, ahead: timedelta) -> Outcome | None:
        try:
            plan = plan_from_json(body, f"experiment-plan/{name}")
            if plan.started_at is None:
                return None
            now = self._clock() + ahead
            past = past_looks(self._warehouse, plan)
            last = past[-1].looked_at if past else None
            at = now if force and (last is None or now > last) else due(plan, last, now)
            if at is None:
                return Outcome(name, next_at=next_due(plan, now))
            reading = look(self._warehouse, self._store, plan, at, past)
        except WarehouseUnavailableError:
            raise
        except (DefinitionError, StatisticError, WarehouseError) as error:
            log.error("experiment %s was not looked at: %s", name, error)
            return Outcome(name, error=str(error))
        log.info("experiment %s, look %d: %s. %s", name, reading.number, reading.decision, reading.reason)
        return Outcome(name, reading.number, at, reading.decision, reading.reason, next_due(plan, now))


def past_looks(warehouse: Warehouse, plan: Plan) -> list[Record]:
    """The looks that have been written of the plan's run, oldest first. Raises `DefinitionError`, `WarehouseError`."""
    run = Run.of(plan)
    answer = warehouse.query(SELECT, {"experiment": plan.definition.name, "started_at": run.started_at})
    return records(answer.rows)


def look(warehouse: Warehouse, store: ExperimentStore, plan: Plan, at: datetime, past: Sequence[Record]) -> Reading:
    """Look at a run as it was at `at`, after the looks in `past`, and write it down.

    Raises `DefinitionError`, `StatisticError`, `WarehouseError`.
    """
    advance(warehouse, plan, at)
    reading = read(plan, past[-1].number + 1 if past else 1, at, summed(store, plan, at), past)
    warehouse.insert("experiment_looks", rows(reading))
    return reading


def summed(store: ExperimentStore, plan: Plan, at: datetime) -> Summed:
    """What a reading at `at` is made of. Raises `DefinitionError`, `WarehouseError`."""
    quantiles = [one for one in plan.definition.metrics if one.kind == "quantile"]
    return Summed(
        sums=store.sums(plan, at),
        bins=[bins for metric in quantiles for bins in store.bins(plan, metric, at)],
        counts=store.unit_counts(plan, at),
        crossed=store.crossed(plan, at),
        exposures=store.exposures_by_day(plan, at),
    )


def current(store: ExperimentStore, plan: Plan, past: Sequence[Record]) -> Reading | None:
    """The last look that was written, read again for a report: its data as of then. None where there is none."""
    if not past:
        return None
    last = past[-1]
    return read(plan, last.number, last.looked_at, summed(store, plan, last.looked_at), past)
