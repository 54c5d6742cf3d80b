"""The one way to ClickHouse: what it returns, and the one line it says when something is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
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


# Each writes something before it fails; what is checked before anything runs is left out: it leaves nothing.
ENDLESS = "SELECT count() FROM numbers(300000000000) WHERE rand() % 7 = number % 7"
FAILING = {
    "timeout": (ENDLESS, {"max_execution_time": "0.3"}),
    "thrown": ("SELECT throwIf(number = 300000) AS boom FROM numbers(1000000)", {}),
    "too many rows": ("SELECT number FROM numbers(200000)", {"max_result_rows": "1000"}),
    "syntax": ("SELEC 1", {}),
}
ASKING: dict[str, Callable[[Warehouse, str], object]] = {
    "raw": lambda session, sql: session.raw(sql, "CSVWithNames"),
    "query": lambda session, sql: session.query(sql).rows,
    "arrow": lambda session, sql: session.arrow(sql).to_pydict(),
}
ANSWERS = {"raw": b'"one"\n1\n', "query": ((1,),), "arrow": {"one": [1]}}


@pytest.mark.parametrize("failing", FAILING)
@pytest.mark.parametrize("first", [*ASKING, "command"])
def test_what_a_failed_query_had_written_is_in_no_later_answer(first: str, failing: str) -> None:
    sql, settings = FAILING[failing]
    with fresh_warehouse() as warehouse:
        for then, answer in ANSWERS.items():
            with warehouse.another() as session:
                session.restrict(settings)
                with pytest.raises(WarehouseError):
                    ASKING.get(first, Warehouse.command)(session, sql)
                assert ASKING[then](session, "SELECT 1 AS one") == answer


def test_threads_that_share_a_session_get_nothing_of_each_others_failures() -> None:
    wrong: list[object] = []
    rounds = 100

    def fail(session: Warehouse) -> None:
        for _ in range(rounds):
            with pytest.raises(WarehouseError, match="FUNCTION_THROW_IF"):
                session.raw("SELECT throwIf(number = 90000) AS boom FROM numbers(100000)", "CSVWithNames")

    def ask(session: Warehouse) -> None:
        for number in range(rounds):
            answer = session.query("SELECT {n:UInt32} AS n", {"n": number}).rows
            if answer != ((number,),):
                wrong.append(answer)

    with fresh_warehouse() as warehouse:
        threads = [threading.Thread(target=one, args=(warehouse,)) for one in (fail, ask, ask)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_session_stays_restricted_after_a_failure_and_closed_after_its_end() -> None:
    with fresh_warehouse() as warehouse:
        session = warehouse.another()
        session.restrict({"readonly": "1", "max_result_rows": "5"}, last=("readonly",))
        for sql in ("SELECT throwIf(1)", "CREATE TABLE t (a UInt8) ENGINE = Memory", "SELECT number FROM numbers(6)"):
            with pytest.raises(WarehouseError):
                session.raw(sql, "CSV")
        with pytest.raises(WarehouseError, match="READONLY"):
            session.command("CREATE TABLE t (a UInt8) ENGINE = Memory")
        session.close()
        for _ in range(2):
            with pytest.raises(WarehouseError, match="this session is closed"):
                session.query("SELECT 1")


def test_sessions_answer_side_by_side() -> None:
    with fresh_warehouse() as warehouse, warehouse.another() as other:
        ended: list[str] = []

        def long() -> None:
            with pytest.raises(WarehouseError) as caught:
                other.query(ENDLESS)
            ended.append(str(caught.value))

        thread = threading.Thread(target=long)
        thread.start()
        running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT count() FROM numbers(3%'"
        while warehouse.query(running).scalar() == 0:
            assert thread.is_alive()
        assert warehouse.query("SELECT 1").scalar() == 1
        assert (warehouse.query(running).scalar(), ended) == (1, [])
        warehouse.command("KILL QUERY WHERE query LIKE 'SELECT count() FROM numbers(3%' SYNC")
        thread.join()
        assert "QUERY_WAS_CANCELLED" in ended[0]
