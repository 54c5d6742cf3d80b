"""Has a question answered in a thread, and breaks it off where whoever asked has gone away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from analytics.readonly import Cancel, ReadOnlySql
from analytics.warehouse import WarehouseError

log = logging.getLogger(__name__)
T = TypeVar("T")
# A cancelled query is looked for again after this: the first look may have come before ClickHouse had it.
_CANCEL_AGAIN: Final = 0.5


async def while_there(request: Request, sql: ReadOnlySql, answer: Callable[[Cancel], T]) -> T:
    """What `answer` gives; its query, marked with the `Cancel` it is given, is broken off when the asker has gone."""
    cancel = Cancel()
    asked = asyncio.ensure_future(run_in_threadpool(answer, cancel))
    gone = asyncio.ensure_future(_gone(request))
    await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    while not asked.done():
        try:
            # Not one of the threads that wait for answers: there may be none left.
            await asyncio.to_thread(sql.cancel, cancel)
        except WarehouseError as error:  # it ends by its own limit then
            log.warning("a query that nobody waits for goes on: %s", error)
            break
        await asyncio.wait({asked}, timeout=_CANCEL_AGAIN)
    return await asked


async def _gone(request: Request) -> None:
    """Returns when the connection of whoever asked is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
