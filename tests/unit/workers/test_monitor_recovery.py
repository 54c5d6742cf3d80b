"""Where Kafka does not answer while windows are restored, the app crashes: it does not go on for ever without them."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
import pytest
from faust.tables.recovery import ServiceStopped
from faust.types import TP
from test_monitor_consumer import Pieces


class Silent(Pieces):
    """A thread whose Kafka answers nothing."""

    async def highwaters(self, *_: TP) -> Any:
        await asyncio.sleep(3600)


async def crashed(app: faust.App) -> str:
    """Why the app has crashed, '' where it has not within 3 s."""
    for _ in range(60):
        if app._crashed.is_set():
            return repr(app._crash_reason)
        await asyncio.sleep(0.05)
    return ""


def test_a_broker_that_falls_silent_while_tables_are_restored_crashes_the_app_with_a_line() -> None:
    async def main() -> None:
        app = Silent().app
        app.conf.broker_request_timeout, app.conf.stream_recovery_delay = 0.1, 0.0
        recovery = app.tables.recovery
        await recovery.start()
        recovery.signal_recovery_start.set()
        reason = await crashed(app)
        assert reason == "TimeoutError('Kafka did not answer within 0.1 s while windows were restored')"
        await recovery.stop()

    asyncio.run(main())


def test_who_stops_while_tables_are_restored_crashes_nothing() -> None:
    async def main() -> None:
        recovery = Silent().app.tables.recovery
        waiting = asyncio.ensure_future(recovery._wait(asyncio.sleep(3600), timeout=3600))
        await asyncio.sleep(0.05)
        recovery._stopped.set()
        with pytest.raises(ServiceStopped):
            await waiting

    asyncio.run(main())


def test_what_is_answered_in_time_is_waited_for() -> None:
    async def main() -> None:
        answered: list[str] = []

        async def answer() -> None:
            await asyncio.sleep(0.05)
            answered.append("yes")

        await Silent().app.tables.recovery._wait(answer(), timeout=3)
        assert answered == ["yes"]

    asyncio.run(main())
