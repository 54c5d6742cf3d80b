"""Faust's recovery of tables, which ends the app where Kafka does not answer in time.

Faust takes an answer that is late for an order to stop: the task that restores tables ends without a word, and the app
goes on without it, never ready.
"""

from __future__ import annotations

import logging
from typing import Any

from faust.tables import TableManager, recovery


class Recovery(recovery.Recovery):
    """Raises `TimeoutError` where it waited too long. Faust crashes the app with whatever it raises."""

    # As Faust's own, so that whoever quietens Faust quietens this.
    logger = logging.getLogger("faust.tables")

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 - Faust's parameter
        try:
            await super()._wait(coro, timeout)
        except recovery.ServiceStopped:
            if self.should_stop:
                raise
            raise TimeoutError(f"Kafka did not answer within {timeout:g} s while windows were restored") from None


class Tables(TableManager):
    """Faust's tables with the recovery above."""

    logger = logging.getLogger("faust.tables")

    @property
    def recovery(self) -> Recovery:
        """The one and only."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery  # type: ignore[return-value]
