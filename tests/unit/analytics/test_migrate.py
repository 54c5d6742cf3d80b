"""Migrations: run twice they do nothing, edited or unknown ones are refused, and every statement can be run again."""

from __future__ import annotations

import dataclasses
import re

import pytest
from chdb_home import fresh_warehouse

from analytics.migrate import Migration, MigrationError, migrate, migrations
from analytics.warehouse import Warehouse, WarehouseError


def test_the_second_run_does_nothing() -> None:
    with fresh_warehouse() as warehouse:
        assert [one.number for one in migrate(warehouse)] == [one.number for one in migrations()]
        assert migrate(warehouse) == ()
        recorded = warehouse.query("SELECT number, name, checksum FROM schema_migrations ORDER BY number").rows
    assert recorded == tuple((one.number, one.name, one.checksum) for one in migrations())


def test_an_edited_migration_is_refused_but_its_comments_may_change(warehouse: Warehouse) -> None:
    first, *rest = migrations()
    commented = dataclasses.replace(first, text="-- another remark\n" + first.text.replace("    ", "  "))
    assert migrate(warehouse, [commented, *rest]) == ()
    edited = dataclasses.replace(first, text=first.text.replace("180 DAY", "181 DAY"))
    with pytest.raises(MigrationError, match=r"001_tables\.sql was edited after it had been applied"):
        migrate(warehouse, [edited, *rest])


def test_a_warehouse_newer_than_the_release_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(MigrationError, match="run a newer release"):
        migrate(warehouse, migrations()[:1])


def test_a_run_that_broke_off_within_a_file_is_finished_by_the_next() -> None:
    broken = Migration(
        1,
        "two",
        "CREATE TABLE IF NOT EXISTS a (x UInt8) ENGINE = Memory;\n"
        "CREATE TABLE IF NOT EXISTS b (x NoType) ENGINE = Memory;\n",
    )
    mended = dataclasses.replace(broken, text=broken.text.replace("NoType", "UInt8"))
    with fresh_warehouse() as warehouse:
        with pytest.raises(WarehouseError, match="NoType"):
            migrate(warehouse, [broken])
        assert migrate(warehouse, [mended]) == (mended,)
        assert warehouse.query("SELECT count() FROM b").scalar() == 0


@pytest.mark.parametrize("migration", migrations(), ids=lambda one: one.name)
def test_every_statement_can_be_run_again(migration: Migration) -> None:
    again = re.compile(
        r"CREATE (TABLE|MATERIALIZED VIEW|VIEW) IF NOT EXISTS|CREATE OR REPLACE VIEW|DROP (TABLE|VIEW) IF EXISTS"
        r"|ALTER TABLE \w+ (ADD (COLUMN|INDEX|PROJECTION) IF NOT EXISTS|MODIFY)"
    )
    for statement in migration.statements():
        assert again.match(" ".join(statement.split())), statement[:80]


def test_every_table_that_ingest_fills_drops_a_repeated_block(warehouse: Warehouse) -> None:
    tables = ("predictions", "batch_summaries", "outcomes", "dead_letters", "control_history")
    for table in tables:
        assert "non_replicated_deduplication_window" in warehouse.query(f"SHOW CREATE TABLE {table}").scalar()
