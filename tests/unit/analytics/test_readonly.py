"""Read-only SQL: questions are answered; whatever writes, reads files, reaches out or goes on too long is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analytics.readonly import Cancel, QueryLimits, QueryRefusedError, ReadOnlySql, check_read_only
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError

ENDLESS = "SELECT count() FROM numbers(300000000000) WHERE rand() % 7 = number % 7"
RUNNING = "SELECT count() FROM system.processes WHERE startsWith(query, 'SELECT count() FROM numbers(300000000000)')"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  select 1 ; ",
        "WITH (SELECT 1) AS one SELECT one -- ; a remark",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SELECT ';' AS a, 'INTO OUTFILE' AS b, $$file('x')$$ AS c",
        "SELECT format('{}-{}', 'a', 'b') AS format",
        "SHOW TABLES",
        "DESCRIBE TABLE predictions",
        "EXPLAIN SELECT count() FROM predictions",
        "EXISTS TABLE predictions",
        "SELECT number FROM numbers(3) /* a remark; */",
        "SELECT request_id FROM predictions WHERE message != 'don\\'t; stop'",
    ],
)
def test_questions_are_answered(sql: str, warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        assert "columns" in ReadOnlySql(session).json(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        " -- nothing\n;",
        "INSERT INTO control_history (kind) VALUES ('x')",
        "DROP TABLE predictions",
        "KILL QUERY WHERE 1",
        "SET readonly = 0",
        "SYSTEM SHUTDOWN",
        "SELECT 1; SELECT 2",
        "SELECT 1 INTO OUTFILE 'x'",
        "SELECT 1 FORMAT CSV",
        "SELECT file('x')",
        "SELECT `file`('x')",
        "SELECT \"file\" /* a remark */ ('x')",
        "SELECT * FROM file('x', 'CSV')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV')",
        "SELECT * FROM Python(x)",
        "SELECT * FROM remote('127.0.0.1', 'system.one')",
        "SELECT * FROM executable('id', 'TSV', 'a String')",
        "DESCRIBE TABLE s3('http://127.0.0.1:1/a/b', 'CSV')",
        "SELECT aiGenerate('x', 'y')",
        "SELECT \u2018 -- \u2019, file('x')",
        "SELECT 1\x00; DROP TABLE x",
    ],
)
def test_whatever_is_no_harmless_question_is_refused_before_clickhouse_sees_it(sql: str, warehouse: Warehouse) -> None:
    with warehouse.another() as session, pytest.raises(QueryRefusedError):
        ReadOnlySql(session).json(sql)


def test_clickhouse_itself_refuses_what_the_look_at_tokens_might_miss(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        ReadOnlySql(session)
        for sql in ("DROP TABLE predictions", "SET readonly = 0", "CREATE TABLE x (a UInt8) ENGINE = Memory"):
            with pytest.raises(WarehouseError):
                session.command(sql)
    assert warehouse.query("SELECT count() FROM predictions").scalar() == 0


def test_settings_cannot_be_changed_within_a_question(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        sql = ReadOnlySql(session)
        with pytest.raises(QueryRefusedError, match="SETTINGS are not taken"):
            sql.json("SELECT 1 SETTINGS max_execution_time = 0")
        with pytest.raises(WarehouseError, match="READONLY"):
            session.raw("SELECT 1 SETTINGS max_execution_time = 0", "JSONCompact")


def test_a_question_that_costs_too_much_is_broken_off(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        limited = ReadOnlySql(session, QueryLimits(seconds=0.5, rows=1000))
        with pytest.raises(WarehouseError, match="TIMEOUT_EXCEEDED"):
            limited.json("SELECT sum(sleepEachRow(0.3)) FROM numbers(9)")
        with pytest.raises(WarehouseError, match="TOO_MANY_ROWS"):
            limited.json("SELECT number FROM numbers(200000)")


def test_a_question_after_one_that_took_too_long_gets_its_own_answer(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        sql = ReadOnlySql(session, QueryLimits(seconds=0.3, at_once=1))
        for _ in range(2):
            with pytest.raises(WarehouseError, match="TIMEOUT_EXCEEDED"):
                sql.csv(ENDLESS)
            assert sql.csv("SELECT 1 AS one") == b'"one"\n1\n'
            assert sql.json("SELECT 1 AS one")["rows"] == [[1]]


def test_questions_run_side_by_side_up_to_a_bound_and_can_be_broken_off(warehouse: Warehouse) -> None:
    with warehouse.another() as session, ThreadPoolExecutor(2) as pool:
        sql = ReadOnlySql(session, QueryLimits(seconds=60, at_once=3, patience=0.2))
        cancels = [Cancel(), Cancel()]
        asked = [pool.submit(sql.csv, ENDLESS, one) for one in cancels]
        while warehouse.query(RUNNING).scalar() != 2:
            assert not any(one.done() for one in asked)
        with ThreadPoolExecutor(1) as third:
            last = Cancel()
            blocked = third.submit(sql.csv, ENDLESS, last)
            while warehouse.query(RUNNING).scalar() != 3:
                assert not blocked.done()
            with pytest.raises(WarehouseUnavailableError, match=r"3 questions are being answered .* within 0\.2 s"):
                sql.csv("SELECT 1")
            for question, cancel in zip([*asked, blocked], [*cancels, last], strict=True):
                sql.cancel(cancel)
                with pytest.raises(WarehouseError, match="QUERY_WAS_CANCELLED"):
                    question.result(30)
        with pytest.raises(WarehouseError, match="broken off"):
            sql.csv("SELECT 1", last)
        assert [sql.csv("SELECT 1 AS one") for _ in range(4)] == [b'"one"\n1\n'] * 4
        sql.close()


def test_that_a_question_can_be_broken_off_does_not_show_in_its_errors(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        sql = ReadOnlySql(session)
        said = []
        for cancel in (None, Cancel()):
            with pytest.raises(WarehouseError, match="Syntax error: failed at position 10") as caught:
                sql.csv("SELECT 1 2 AS", cancel)
            said.append(str(caught.value)[:200])
        assert said[0] == said[1]
        assert sql.csv("SELECT 1 AS one -- a remark", Cancel()) == b'"one"\n1\n'


def test_results_are_plain_json_and_csv(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        sql = ReadOnlySql(session)
        assert sql.json("SELECT nan AS a, toUInt64(7) AS b, 'ü' AS c") == {
            "columns": [
                {"name": "a", "type": "Float64"},
                {"name": "b", "type": "UInt64"},
                {"name": "c", "type": "String"},
            ],
            "rows": [[None, 7, "ü"]],
        }
        assert sql.json("SELECT number AS n FROM numbers(0)")["columns"][0]["name"] == "n"
        assert sql.csv("SELECT 1 AS a, 'x,y' AS b") == b'"a","b"\n1,"x,y"\n'


def test_no_file_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(QueryRefusedError, match="INTO OUTFILE"):
        check_read_only(f"SELECT 1 INTO -- a remark\n OUTFILE '{tmp_path}/x'")
