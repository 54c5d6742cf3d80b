"""One warehouse with all tables, fresh for each test, in the run's chDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chdb_home import fresh_warehouse

from analytics.migrate import migrate
from analytics.warehouse import Warehouse


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    """A migrated warehouse of this test alone."""
    with fresh_warehouse() as fresh:
        migrate(fresh)
        yield fresh
