"""Runs the experiment job in a thread of the process that holds the warehouse, and whenever it is asked."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from analytics.definitions import PLAN_KIND
from analytics.experiment_job import Entries, ExperimentJob
from analytics.warehouse import Warehouse, WarehouseError
from penstock.rounds import Rounds
from producers.control import ControlTopic
from producers.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from analytics.readings import Reading
    from penstock.settings import Settings


def plans_on(control: ControlTopic) -> Entries:
    """The plans on the control topic, read anew each time."""
    return lambda: [(name, entry.body) for (kind, name), entry in control.entries().items() if kind == PLAN_KIND]


def control_topic(settings: Settings) -> ControlTopic:
    """The control topic of the settings."""
    return ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)


class ExperimentWatch(Rounds):
    """A look at every experiment that is due, every `seconds`; 0: only when asked."""

    def __init__(self, warehouse: Warehouse, entries: Entries, seconds: float) -> None:
        """`warehouse`: a session that nobody else uses; closed at the end."""
        self._job = ExperimentJob(warehouse, entries)
        super().__init__("experiments", self._job.run, seconds, warehouse, (WarehouseError, BrokerUnavailableError))

    def looks(self, experiment: str, force: bool, ahead: float) -> list[dict[str, Any]]:
        """A round now: see `ExperimentJob.run`; `ahead` in seconds."""
        found = self._job.run(only=experiment, force=force, ahead=timedelta(seconds=ahead))
        return [one.as_dict() for one in found]

    def reading(self, name: str, look: int | None) -> Reading:
        """See `ExperimentJob.reading`."""
        return self._job.reading(name, look)
