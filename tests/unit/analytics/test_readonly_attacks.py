"""Ways around the look at a question's tokens, each of which ClickHouse would have answered with a file or a secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics.readonly import QueryLimits, QueryRefusedError, ReadOnlySql, check_read_only
from analytics.warehouse import Warehouse, WarehouseError

FILE = "('/etc/hostname')"
BLANKS = ("\u200b", "\ufeff", "\u180e", "\u2060", "\u00ad", "\u2028")


@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_that_only_clickhouse_takes_for_one_does_not_hide_a_call(blank: str) -> None:
    with pytest.raises(QueryRefusedError):
        check_read_only(f"SELECT file{blank}{FILE}")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"SELECT `fil\\x65`{FILE}", "escapes are not allowed"),
        (f'SELECT "fil\\x65"{FILE}', "escapes are not allowed"),
        (f'SELECT "fi""le"{FILE}', "escapes are not allowed"),
        (f"SELECT file // a remark to ClickHouse\n{FILE}", "reaches out"),
        (f"SELECT 1 /* /* */ ' */, file{FILE} /* ' */ */", "a remark within a remark"),
        (f"SELECT 1 AS a$$ , file{FILE}, 2 AS b$$", "a \\$ after a letter"),
        ("SELECT * APPLY(file) FROM (SELECT '/etc/hostname')", "reaches out"),
        ("SELECT * APPLY file FROM (SELECT '/etc/hostname')", "reaches out"),
        ("SELECT arrayMap(file, ['/etc/hostname'])", "reaches out"),
        ("SELECT arrayMap((`file`), ['/etc/hostname'])", "reaches out"),
        (f"SELECT FILE{FILE}", "reaches out"),
        ("SELECT * FROM '/etc/hostname'", "a table's name is not a text"),
        ("SELECT * FROM numbers(1) JOIN 'x.csv' ON 1", "a table's name is not a text"),
    ],
)
def test_a_file_is_not_read_however_the_call_is_written(sql: str, said: str) -> None:
    with pytest.raises(QueryRefusedError, match=said):
        check_read_only(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM system.processes",
        "SELECT * FROM system /* a remark */ . `query_log`",
        "SELECT 1 IN (system.users)",
        "SELECT * FROM SYSTEM.named_collections",
        "SELECT * FROM merge('system', 'processes')",
        "SELECT * FROM cluster('default', system.one)",
        "SHOW PROCESSLIST",
        "SHOW GRANTS",
        "SHOW USERS",
        "SHOW SETTINGS LIKE '%'",
        "SHOW CREATE USER default",
        "SHOW ACCESS",
        "SELECT getServerSetting('max_connections')",
        "SELECT getSetting('max_threads')",
        "SELECT getClientHTTPHeader('Authorization')",
        "SELECT dictGet('x', 'y', 1)",
        "SELECT dictHas('x', 1)",
        "SELECT * FROM dictionary('x')",
        "SELECT * FROM mysql('a', 'b', 'c', 'd', 'e')",
        "EXPLAIN TABLE OVERRIDE mysql('a', 'b', 'c', 'd', 'e') PARTITION BY x",
        "SELECT * FROM loop(numbers(10))",
        "SELECT * FROM input('a String')",
        "SELECT 1 SETTINGS allow_introspection_functions = 1",
        "SELECT * FROM (SELECT 1 SETTINGS readonly = 0)",
        "EXPLAIN SELECT 1 SETTINGS max_threads = 1",
    ],
)
def test_secrets_users_dictionaries_settings_and_other_servers_are_out_of_reach(sql: str, warehouse: Warehouse) -> None:
    with warehouse.another() as session, pytest.raises(QueryRefusedError):
        ReadOnlySql(session).json(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH y AS (SELECT 'a' AS kind) INSERT INTO control_history (kind) SELECT * FROM y",
        "SELECT 1 PARALLEL WITH DROP TABLE predictions",
        "SELECT * FROM default.`/etc/hostname`",
        'SELECT * FROM default."http://127.0.0.1:1/"',
        "SELECT * FROM format(CSV, 'a,b')",
        "SELECT * FROM predictions FORMAT CSV SETTINGS max_threads = 1",
    ],
)
def test_what_begins_like_a_question_and_writes_or_reads_a_file_is_refused_by_clickhouse(
    sql: str, warehouse: Warehouse
) -> None:
    with warehouse.another() as session, pytest.raises(WarehouseError):
        ReadOnlySql(session).json(sql)
    assert warehouse.query("SELECT count() FROM control_history").scalar() == 0


@pytest.mark.parametrize("text", ["/* " * 20_000, "'" + "a" * 60_000, "SELECT `x", "SELECT $x$ 1", 'SELECT "a'])
def test_what_is_not_closed_is_refused_at_its_first_sign(text: str) -> None:
    with pytest.raises(QueryRefusedError, match="is not closed"):
        check_read_only(text)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(url), any(remote) FROM (SELECT 1 AS url, 2 AS remote)",
        "SELECT t.file FROM values('file UInt8', 1) AS t",
        "SELECT name FROM system.tables WHERE database = currentDatabase() LIMIT 1",
        "SHOW CREATE TABLE predictions",
        "SHOW TABLES LIKE 'pred%'",
        "SELECT 1 // a remark\n + 1",
        "SELECT $$it's; $$ || $a$ file('x') $a$",
        "SELECT settings FROM (SELECT 1 AS settings)",
        "SELECT * FROM values('a String', ('x'))",
    ],
)
def test_what_only_looks_like_it_is_answered(sql: str, warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        assert ReadOnlySql(session).json(sql)["rows"]


def test_every_cut_says_what_to_do(warehouse: Warehouse) -> None:
    # Time is cut in a session of its own: on a busy machine the other limits may take longer to be reached.
    limits = QueryLimits(rows=1000, bytes=1024**2, memory=64 * 1024**2)
    with warehouse.another() as session, warehouse.another() as hurried:
        with pytest.raises(WarehouseError, match=r"ran for more than 0\.3 s and was broken off: ask for less"):
            ReadOnlySql(hurried, replace(limits, seconds=0.3)).json(
                "SELECT count() FROM numbers(300000000000) WHERE rand() % 7 = number % 7"
            )
        sql = ReadOnlySql(session, limits)
        with pytest.raises(WarehouseError, match=r"larger than 1,000 rows or 1 MiB: .* end it with LIMIT 1000"):
            sql.json("SELECT number FROM numbers(10000000)")
        with pytest.raises(WarehouseError, match="larger than 1,000 rows or 1 MiB"):
            sql.json("SELECT repeat(toString(number), 5000) FROM numbers(900)")
        with pytest.raises(WarehouseError, match=r"more than 0\.0625 GiB of memory"):
            sql.json("SELECT length(groupArray(number)) FROM numbers(20000000)")
