"""Asks workers one request at a time through the client that applications use, and counts what goes wrong."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from penstock.bench.bed import Bed, BenchError
from penstock.bench.figures import GIVEN_UP_SECONDS
from penstock.bench.workload import POOL
from producers.client import ScoringClient
from producers.errors import ScoringError


class Asker:
    """A client. `errors`: how many of each kind; `inside`: seconds between reading and reply in the worker, of each.

    A context manager.
    """

    def __init__(self, bed: Bed, timeout: float = GIVEN_UP_SECONDS) -> None:
        self._bed = bed
        self._client = ScoringClient(
            bed.client(), bed.settings.codec(), bed.topics, timeout=timeout, max_in_flight=10_000
        )  # fmt: skip
        self.errors: dict[str, int] = {}
        self.inside: list[float] = []

    def __enter__(self) -> Asker:
        self._client.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._client.__exit__(*exc)

    async def ask(self, number: int) -> bool:
        """Request `number`; whether it was answered."""
        work, at = self._bed.workload, number % POOL
        given: dict[str, Any] = (
            {"features": work.features[at]}
            if work.features
            else {"inputs": {name: array[at : at + 1] for name, array in work.inputs.items()}}
        )
        try:
            score = await self._client.score(work.model, user_id=f"u{number % 1000}", **given)
        except ScoringError as error:
            name = type(error).__name__
            self.errors[name] = self.errors.get(name, 0) + 1
            return False
        self.inside.append(score.worker_seconds)
        return True

    def forget(self) -> None:
        """Begin to count anew."""
        self.errors.clear()
        self.inside.clear()

    def await_first(self, seconds: float = 60.0) -> None:
        """Wait until a worker answers: it is ready a moment before it has its partitions."""

        async def once() -> bool:
            return await self.ask(0)

        end = time.monotonic() + seconds
        while not asyncio.run(once()):
            if time.monotonic() > end:
                raise BenchError(f"no worker answered within {seconds:.0f} s")
