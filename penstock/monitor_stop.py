"""Stops an experiment whose variant is at fault, as `penstock experiments decide --apply` does a roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from analytics.definitions import PLAN_KIND, DefinitionError
from models.routing import Experiment, ExperimentError
from penstock.experiment_verdict import Entries, Step, VerdictError, plan_in, steps
from penstock.experiments import KIND, Topic
from stream_workers.guardrails import Breach
from stream_workers.monitor import StopRefusedError
from stream_workers.monitor_alerts import SOURCE

AUTHOR: Final = f"penstock {SOURCE}"


def stop_steps(entries: Entries, breach: Breach, now: datetime) -> list[Step]:
    """What is still to be written so that nobody meets the variant at fault. Raises `StopRefusedError`.

    With a plan: the control's version becomes the default and the experiment ends, in this order, so that its users go
    to the control's version and to no other. Without one nobody knows the control: the experiment ends, and its users
    go to the model's default, unless that is the version at fault.
    """
    series = breach.series
    assignment = entries.get((KIND, series.experiment))
    try:
        if assignment is None:
            return []
        running = Experiment.from_json(assignment.body)
        met = next((one.version for one in running.variants if one.name == series.variant), "")
        if met != series.version:
            # It was started anew with another version meanwhile: what the window saw is not there any more.
            return []
        if (PLAN_KIND, series.experiment) in entries:
            plan = plan_in(entries, series.experiment)
            over = running.status != "running" and plan.stopped_at is not None
            return [] if over else steps(plan, plan.definition.control, entries, now)
        if running.status != "running":
            return []
    except (VerdictError, DefinitionError, ExperimentError) as error:
        raise StopRefusedError(str(error)) from None
    default = entries.get(("model", series.model))
    if default is None or f'"{series.version}"' in default.body:
        raise StopRefusedError(
            f"experiment {series.experiment!r} has no plan that names its control, and users would go to the model's "
            f"default, which is, or may be, version {series.version} itself: say which one it is (penstock control "
            f"set model {series.model}), then stop it (penstock experiments stop {series.experiment})"
        )
    return [Step(KIND, running.name, running.stop().to_json(), f"{running.name} assigns nobody any more")]


class ExperimentStop:
    """The `Stop` of a running monitor. What the topic raises passes through."""

    def __init__(
        self, topic: Topic, *, allowed: bool = True, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`allowed` False: every stop is refused."""
        self._topic = topic
        self._allowed = allowed
        self._now = now

    def __call__(self, breach: Breach) -> Sequence[str]:
        """Write what is left to write; what that did, in words. Raises `StopRefusedError`."""
        if not self._allowed:
            raise StopRefusedError("monitor.stop is false")
        done = []
        for step in stop_steps(self._topic.entries(), breach, self._now()):
            self._topic.put(step.kind, step.name, step.body, author=f"{AUTHOR}, {breach.alert_id}")
            done.append(step.words)
        return done
