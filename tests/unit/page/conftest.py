"""A warehouse with real flights in it, as a day of use leaves it: one for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from chdb_home import fresh_warehouse

from analytics.migrate import migrate
from analytics.warehouse import Warehouse
from benchmarks.page_world import World, fill_world

DAYS = 8


@pytest.fixture(scope="session")
def flights() -> Iterator[Warehouse]:
    """A warehouse that `fill_world` filled. Nothing may write into it."""
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        yield warehouse


@pytest.fixture(scope="session")
def world(flights: Warehouse) -> World:
    """What `flights` was filled with."""
    return fill_world(flights, datetime.now(UTC), days=DAYS, looks=2)


@pytest.fixture
def nothing() -> Iterator[Warehouse]:
    """A warehouse with all its tables and no rows."""
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        yield warehouse
