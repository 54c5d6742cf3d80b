"""Warehouses with all tables in the run's chDB: one fresh for each test, one that tests of alerts share."""

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


@pytest.fixture(scope="session")
def _alerts_database() -> Iterator[Warehouse]:
    with fresh_warehouse() as shared:
        migrate(shared)
        yield shared


@pytest.fixture
def alerts_warehouse(_alerts_database: Warehouse) -> Warehouse:
    """A migrated warehouse whose alerts and silences are this test's alone; to be left without anything else."""
    for table in ("alert_events", "alert_silences"):
        _alerts_database.command(f"TRUNCATE TABLE {table}")
    return _alerts_database
