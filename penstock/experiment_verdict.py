"""Carries a decision out: what has to be written to the control topic so that workers obey it, and nothing twice.

Promote: the winner's version becomes the model's default, then the experiment stops. Roll back: the same with the
control's version (without an entry the default would be the newest one). In this order nobody meets another version in
between, and whatever a broken-off attempt has left undone, the next one does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from analytics.definition_reader import plan_from_json
from analytics.definitions import PLAN_KIND, Plan
from models.routing import Experiment
from schemas.records import Control

Entries = Mapping[tuple[str, str], Control]
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class VerdictError(RuntimeError):
    """A decision that is not carried out, in one line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last look's decision on a run. `winner`: the variant to ship, or ''."""

    experiment: str
    started_at: datetime
    look: int
    looked_at: datetime
    decision: str
    reason: str
    winner: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Verdict:
        """From a row of `LAST_LOOK`."""
        started, looked = (EPOCH + timedelta(microseconds=int(row[name])) for name in ("started", "looked"))
        winner = str(json.loads(row["details"]).get("winner", ""))
        return cls(row["experiment"], started, int(row["look"]), looked, row["decision"], row["reason"], winner)


@dataclass(frozen=True, slots=True)
class Step:
    """One entry to be written, and what it does in words."""

    kind: str
    name: str
    body: str
    words: str


def last_look(experiment: str) -> str:
    """The statement that finds an experiment's last look; its name must be one (see `definition_values.name`)."""
    return (
        "SELECT experiment, toUnixTimestamp64Micro(started_at) AS started, look, "  # noqa: S608 - quoted below
        "toUnixTimestamp64Micro(looked_at) AS looked, decision, reason, details FROM experiment_results "
        f"WHERE experiment = '{_quoted(experiment)}' ORDER BY started_at DESC, look DESC LIMIT 1"
    )


def plan_in(entries: Entries, experiment: str) -> Plan:
    """The experiment's plan. Raises `VerdictError` where there is none, `DefinitionError` where it cannot be read."""
    entry = entries.get((PLAN_KIND, experiment))
    if entry is None:
        known = ", ".join(sorted(name for kind, name in entries if kind == PLAN_KIND)) or "none"
        raise VerdictError(f"there is no experiment {experiment!r}; experiments: {known}")
    return plan_from_json(entry.body, f"{PLAN_KIND}/{experiment}")


def allowed(verdict: Verdict, plan: Plan) -> str:
    """The variant that wins by this decision, the control for a roll back. Raises `VerdictError` for any other."""
    if plan.started_at != verdict.started_at:
        raise VerdictError(
            f"experiment {verdict.experiment!r}: its last look is of the run that started at "
            f"{verdict.started_at.isoformat()}, not of the present one: wait for a look, or make one by "
            "`penstock experiments watch --once --now`"
        )
    if verdict.decision == "ship":
        return verdict.winner
    if verdict.decision == "roll back":
        return plan.definition.control
    raise VerdictError(
        f"experiment {verdict.experiment!r}: there is nothing to apply of the decision '{verdict.decision}': "
        "wait for another one, or overrule it by --force WHY"
    )


def steps(plan: Plan, winner: str, entries: Entries, now: datetime) -> list[Step]:
    """What is still to be written so that `winner`'s version is the default and the experiment has stopped."""
    definition = plan.definition
    version = definition.versions()[winner]
    found = []
    if _default(entries, definition.model) != version:
        words = f"{definition.model} {version} ({winner}) is the default"
        found.append(Step("model", definition.model, json.dumps({"version": version}), words))
    assignment = entries.get(("experiment", definition.name))
    if assignment is not None:
        running = Experiment.from_json(assignment.body)
        if running.status == "running":
            found.append(
                Step(
                    "experiment",
                    definition.name,
                    running.stop().to_json(),
                    f"{definition.name} assigns nobody any more",
                )
            )
    if plan.stopped_at is None:
        found.append(Step(PLAN_KIND, definition.name, plan.stop(now).to_json(), f"{definition.name} has stopped"))
    return found


def _default(entries: Entries, model: str) -> str | None:
    entry = entries.get(("model", model))
    if entry is None:
        return None
    try:
        version = json.loads(entry.body)["version"]
    except (ValueError, KeyError, TypeError):
        return None  # no worker obeys it either
    return str(version)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
