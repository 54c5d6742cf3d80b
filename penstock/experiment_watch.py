"""Runs the experiment job in a thread of the process that holds the warehouse, and whenever it is asked."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from analytics.definitions import PLAN_KIND
from analytics.experiment_job import Entries, ExperimentJob
from analytics.warehouse import Warehouse, WarehouseError
from producers.control import ControlTopic
from producers.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from analytics.readings import Reading
    from penstock.settings import Settings

log = logging.getLogger(__name__)


def plans_on(control: ControlTopic) -> Entries:
    """The plans on the control topic, read anew each time."""
    return lambda: [(name, entry.body) for (kind, name), entry in control.entries().items() if kind == PLAN_KIND]


def control_topic(settings: Settings) -> ControlTopic:
    """The control topic of the settings."""
    return ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control)


class ExperimentWatch:
    """A round every `seconds`; 0: only when asked. A context manager. What fails is logged and tried again."""

    def __init__(self, warehouse: Warehouse, entries: Entries, seconds: float) -> None:
        """`warehouse`: a session that nobody else uses; closed at the end."""
        self._warehouse = warehouse
        self._job = ExperimentJob(warehouse, entries)
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="experiments", daemon=True)

    def looks(self, experiment: str, force: bool, ahead: float) -> list[dict[str, Any]]:
        """A round now: see `ExperimentJob.run`; `ahead` in seconds."""
        found = self._job.run(only=experiment, force=force, ahead=timedelta(seconds=ahead))
        return [one.as_dict() for one in found]

    def reading(self, name: str, look: int | None) -> Reading:
        """See `ExperimentJob.reading`."""
        return self._job.reading(name, look)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._job.run()
            except (WarehouseError, BrokerUnavailableError) as error:
                log.warning("experiments were not looked at, trying again in %g s: %s", self._seconds, error)

    def __enter__(self) -> ExperimentWatch:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        if not self._thread.is_alive():
            self._warehouse.close()
