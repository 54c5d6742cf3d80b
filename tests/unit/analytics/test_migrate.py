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
        r"|ALTER TABLE \w+ (ADD (COLUMN|INDEX|PROJECTION) IF NOT EXISTS|DROP PROJECTION IF EXISTS|MODIFY"
        r"|MATERIALIZE (PROJECTION|COLUMN)|UPDATE \w+ = NULL WHERE)"
    )
    for statement in migration.statements():
        assert again.match(" ".join(statement.split())), statement[:80]


def test_scores_that_were_nan_become_null_and_the_roll_up_stays_what_it_was() -> None:
    columns = ("request_id", "model", "code", "score", "sent_at", "scored_at", "log_time")
    # Late enough never to be past its time to live.
    values = "'m', 'OK', {}, '2090-01-01 00:00:00', '2090-01-01 00:00:01', '2090-01-01 00:00:01'"
    rolled_up = "SELECT rows, scores, score_sum, score_sum_squares FROM predictions_per_minute"
    with fresh_warehouse() as warehouse:
        migrate(warehouse, migrations()[:2])
        for request, score in (("a", "0.5"), ("b", "nan"), ("c", "0.25")):
            row = f"('{request}', {values.format(score)})"
            warehouse.command(f"INSERT INTO predictions ({', '.join(columns)}) VALUES {row}")  # noqa: S608
        before = warehouse.query(rolled_up).rows
        migrate(warehouse)
        assert warehouse.query("SELECT request_id, score FROM predictions ORDER BY request_id").rows == (
            ("a", 0.5),
            ("b", None),
            ("c", 0.25),
        )
        assert warehouse.query("SELECT avg(score) FROM predictions").scalar() == 0.375
        assert warehouse.query(rolled_up).rows == before == ((3, 2, 0.75, 0.3125),)
        assert warehouse.query("SELECT count(), avg(score) FROM labelled_predictions").rows == ((0, None),)
        plan = warehouse.query(f"EXPLAIN projections = 1 {rolled_up}").rows
        assert any("per_minute" in line for (line,) in plan)


def test_every_table_that_ingest_fills_drops_a_repeated_block(warehouse: Warehouse) -> None:
    tables = ("predictions", "batch_summaries", "shadow_predictions", "shadow_summaries")
    for table in (*tables, "outcomes", "dead_letters", "control_history"):
        assert "non_replicated_deduplication_window" in warehouse.query(f"SHOW CREATE TABLE {table}").scalar()
