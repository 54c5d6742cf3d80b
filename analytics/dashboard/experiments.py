"""Asks ClickHouse which experiments there are and what the last look at each found, and reads a look for its report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from analytics.definition_reader import plan_from_json
from analytics.definitions import PLAN_KIND, DefinitionError, Plan
from analytics.experiment_job import current, past_looks
from analytics.experiment_store import ExperimentStore
from analytics.readings import Reading
from analytics.warehouse import Warehouse

log = logging.getLogger(__name__)
State = Literal["created", "running", "stopped"]
# The last entry of each name on the control topic, as ingest wrote it down.
_PLANS: Final = """
SELECT name, argMax(body, (log_time, log_offset)) AS body, argMax(deleted, (log_time, log_offset)) AS gone
FROM control_history WHERE kind = {kind:String} GROUP BY name HAVING NOT gone ORDER BY name
"""
_LAST: Final = """
SELECT experiment, started_at, max(look) AS looks, argMax(looked_at, look) AS last, argMax(decision, look) AS decision,
    argMax(reason, look) AS reason, argMax(units, look) AS units, argMax(srm_p, look) AS srm_p
FROM experiment_looks FINAL GROUP BY experiment, started_at
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """An experiment and its last look; `looks` 0: nobody has looked. `problem`: why its plan cannot be read."""

    name: str
    model: str
    state: State
    started_at: datetime | None
    hypothesis: str = ""
    looks: int = 0
    looked_at: datetime | None = None
    decision: str = ""
    reason: str = ""
    units: int = 0
    problem: str = ""


def experiments(warehouse: Warehouse) -> list[Listed]:
    """All that the control topic has or had and that nobody removed: running ones first. Raises `WarehouseError`."""
    last = {(row["experiment"], row["started_at"]): row for row in warehouse.query(_LAST).dicts()}
    found = []
    for name, body, _ in warehouse.query(_PLANS, {"kind": PLAN_KIND}).rows:
        try:
            plan = plan_from_json(body, f"experiment-plan/{name}")
        except DefinitionError as error:
            found.append(Listed(name, "", "created", None, problem=str(error)))
            continue
        state: State = "created" if plan.started_at is None else "stopped" if plan.stopped_at else "running"
        look = last.get((name, plan.started_at)) if plan.started_at is not None else None
        about = (look["looks"], look["last"], look["decision"], look["reason"], look["units"]) if look else ()
        definition = plan.definition
        found.append(Listed(name, definition.model, state, plan.started_at, definition.hypothesis, *about))
    order = {"running": 0, "created": 1, "stopped": 2}
    return sorted(found, key=lambda one: (order[one.state], one.name))


def plan_of(warehouse: Warehouse, name: str) -> Plan:
    """The plan as ingest last saw it. Raises `DefinitionError` where there is none, `WarehouseError`."""
    for one, body, _ in warehouse.query(_PLANS, {"kind": PLAN_KIND}).rows:
        if one == name:
            return plan_from_json(body, f"experiment-plan/{name}")
    raise DefinitionError(f"there is no experiment {name!r}; `penstock experiments list` names those there are")


def reading(warehouse: Warehouse, name: str, look: int | None = None) -> Reading:
    """A look that was written, the newest for None, read again. Asks the warehouse alone, whatever Kafka does.

    Raises `DefinitionError` for an experiment or a look that is not there, `WarehouseError`.
    """
    plan = plan_of(warehouse, name)
    past = past_looks(warehouse, plan) if plan.started_at is not None else []
    found = current(ExperimentStore(warehouse), plan, past[:look])
    if found is None or look not in (None, found.number):
        there = f"it has {len(past)}" if past else "nobody has looked yet"
        raise DefinitionError(f"experiment {name!r} has no look {look or 'yet'}: {there}")
    return found


def looks_of(warehouse: Warehouse, plan: Plan) -> int:
    """How many looks the plan's run has. Raises `WarehouseError`."""
    return len(past_looks(warehouse, plan)) if plan.started_at is not None else 0
