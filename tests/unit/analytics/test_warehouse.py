"""The one way to ClickHouse: what it returns, and the one line it says when something is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from chdb_home import fresh_warehouse, home

from analytics.warehouse import (
    Warehouse,
    WarehouseAccessError,
    WarehouseConfig,
    WarehouseError,
    WarehouseUnavailableError,
)

TESTS = Path(__file__).parent.parent.parent


def test_times_come_back_aware_and_in_utc() -> None:
    with fresh_warehouse() as warehouse:
        answer = warehouse.query(
            "SELECT toDateTime64('2013-04-01 12:00:00.123456', 6, 'UTC') AS t, {who:String} AS who", {"who": "O'Hara ü"}
        )
    assert answer.dicts() == [{"t": datetime(2013, 4, 1, 12, 0, 0, 123456, UTC), "who": "O'Hara ü"}]
    assert answer.types == ("DateTime64(6, 'UTC')", "String")


def test_an_unreachable_server_is_one_line_without_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(WarehouseUnavailableError) as caught:
            Warehouse.open(WarehouseConfig(url=f"http://me:secret@127.0.0.1:{port}", connect_timeout=2))
    assert "Connection refused" in str(caught.value)
    assert f"http://127.0.0.1:{port} cannot be reached" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_password_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    command = [sys.executable, str(TESTS / "clickhouse_front.py"), str(tmp_path), "0", "right"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        port = int(front.stdout.readline().split()[1])
        try:
            with pytest.raises(
                WarehouseAccessError, match=r"refuses this user or password: check clickhouse\.url"
            ) as caught:
                Warehouse.open(WarehouseConfig(url=f"http://default:wrong@127.0.0.1:{port}"))
            assert "wrong" not in str(caught.value)
            with Warehouse.open(
                WarehouseConfig(url=f"http://default:right@127.0.0.1:{port}", database="d")
            ) as warehouse:
                assert warehouse.query("SELECT {a:UInt8} + 1", {"a": 1}).scalar() == 2
                assert warehouse.query("SELECT now64(6, 'UTC')").scalar().tzinfo is not None
        finally:
            front.kill()


def test_a_second_path_or_a_second_process_is_refused_in_one_line(tmp_path: Path) -> None:
    with fresh_warehouse():
        with pytest.raises(WarehouseError, match="this process has another chDB path open already"):
            Warehouse.open(WarehouseConfig(path=str(tmp_path / "other")))
        program = (
            "import sys; from analytics.warehouse import *\n"
            "try: Warehouse.open(WarehouseConfig(path=sys.argv[1]))\n"
            "except WarehouseError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, home()], capture_output=True, text=True, cwd=TESTS.parent, check=True
        )
    assert "cannot be opened: another process has it open" in done.stdout


@pytest.mark.parametrize("name", ["", "a-b", "x; DROP DATABASE y", "1a"])
def test_a_database_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(WarehouseError, match="database name"):
        WarehouseConfig(database=name)


def test_an_error_of_sql_names_what_is_wrong_in_one_line() -> None:
    with fresh_warehouse() as warehouse, pytest.raises(WarehouseError, match="UNKNOWN_TABLE") as caught:
        warehouse.query("SELECT * FROM nowhere")
    assert not isinstance(caught.value, WarehouseUnavailableError)
    assert "\n" not in str(caught.value)


def test_a_block_with_a_known_token_is_dropped_and_one_with_a_new_token_is_not() -> None:
    with fresh_warehouse() as warehouse:
        warehouse.command(
            "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 10"
        )
        for token in ("one", "one", "two"):
            warehouse.insert("t", pa.table({"a": pa.array([1, 2], pa.uint8())}), token)
        assert warehouse.query("SELECT count() FROM t").scalar() == 4


def test_a_large_insert_is_one_part() -> None:
    with fresh_warehouse() as warehouse:
        warehouse.command("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        warehouse.command("SYSTEM STOP MERGES t")
        half = pa.table({"a": pa.array(range(60_000), pa.uint64()), "b": ["x" * 50] * 60_000})
        warehouse.insert("t", pa.concat_tables([half, half]))
        parts = warehouse.query(
            "SELECT count(), sum(rows) FROM system.parts WHERE database = currentDatabase() AND table = 't' AND active"
        )
    assert parts.rows == ((1, 120_000),)
