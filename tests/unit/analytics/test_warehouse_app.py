"""The warehouse over HTTP and `penstock sql`: answers, refusals, looks, and what is said when nobody is there."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from typer.testing import CliRunner
from waiting import until

from analytics.readonly import QueryLimits, ReadOnlySql
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from penstock.commands import sql as sql_command
from penstock.warehouse_app import AppServer, Looks, create_app
from producers.errors import BrokerUnavailableError
from stream_workers.ops_health import Health, OpsServerError

ENDLESS = "SELECT count() FROM numbers(300000000000) WHERE rand() % 7 = number % 7"
RUNNING = "SELECT count() FROM system.processes WHERE startsWith(query, 'SELECT count() FROM numbers(300000000000)')"


@pytest.fixture
def health() -> Health:
    return Health(expected=("warehouse",))


@pytest.fixture
def server(warehouse: Warehouse, health: Health) -> Iterator[AppServer]:
    registry = CollectorRegistry()
    Counter("seen", "Things seen", registry=registry).inc(3)
    session = warehouse.another()
    sql = ReadOnlySql(session, QueryLimits(at_once=2, patience=0.5))
    with session, AppServer(create_app(sql, health, registry), "127.0.0.1", 0) as one:
        yield one
    sql.close()


@pytest.fixture
def penstock(server: AppServer, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(server.port))
    return CliRunner()


def typer_app() -> object:
    import typer

    app = typer.Typer()
    sql_command.register(app)
    return app


def run(runner: CliRunner, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = runner.invoke(typer_app(), list(arguments), input=stdin)  # type: ignore[arg-type]
    return result.exit_code, result.stdout, result.stderr


def test_a_question_is_answered_as_json_and_csv_by_get_and_post(server: AppServer) -> None:
    answer = httpx.get(f"{server.url}/sql", params={"query": "SELECT 1 AS a, 'ü' AS b"})
    assert answer.json()["rows"] == [[1, "ü"]]
    assert httpx.post(f"{server.url}/sql?format=csv", content="SELECT 'ü' AS b").text == '"b"\n"ü"\n'


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DROP TABLE predictions", "only questions are answered"),
        ("SELECT nothing", "UNKNOWN_IDENTIFIER"),
        ("SELECT 1 -- " + "x" * 70_000, "the limit is 65536"),
        (b"SELECT '\xff'", "not UTF-8"),
        ("", "the query is empty"),
    ],
)
def test_what_cannot_be_answered_is_a_400_with_one_line(server: AppServer, sql: str | bytes, said: str) -> None:
    answer = httpx.post(f"{server.url}/sql", content=sql)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/sql?query=SELECT+1&format=xml", 400, "format: expected 'json' or 'csv'"),
        ("GET", "/sql", 400, "query: Field required"),
        ("PUT", "/sql", 405, "PUT /sql: Method Not Allowed"),
        ("GET", "/", 404, "GET /: Not Found"),
    ],
)
def test_every_other_error_has_the_same_form(server: AppServer, method: str, path: str, status: int, said: str) -> None:
    answer = httpx.request(method, f"{server.url}{path}")
    assert (answer.status_code, answer.json()) == (status, {"error": said})


def test_a_query_that_took_too_long_leaves_nothing_in_the_next_answer(warehouse: Warehouse, health: Health) -> None:
    with warehouse.another() as session:
        sql = ReadOnlySql(session, QueryLimits(seconds=0.5, at_once=1))
        with AppServer(create_app(sql, health, CollectorRegistry()), "127.0.0.1", 0) as server:
            late = httpx.post(f"{server.url}/sql?format=csv", content=ENDLESS, timeout=60)
            assert (late.status_code, "TIMEOUT_EXCEEDED" in late.json()["error"]) == (503, True)
            assert httpx.post(f"{server.url}/sql?format=csv", content="select 1 as one").text == '"one"\n1\n'
            assert httpx.post(f"{server.url}/sql", content="select 1 as one").json()["rows"] == [[1]]


def test_a_query_whose_asker_goes_away_is_broken_off_and_holds_up_nobody(
    server: AppServer, warehouse: Warehouse
) -> None:
    request = f"POST /sql HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ENDLESS)}\r\n\r\n{ENDLESS}".encode()

    def running() -> int:
        return int(warehouse.query(RUNNING).scalar())

    with httpx.Client(timeout=60) as asked:

        def free() -> bool:
            """A session comes back a little after its query has ended; until then one is told to ask again."""
            return asked.post(f"{server.url}/sql", content="SELECT 1").status_code != 503

        # Both sessions are taken; nobody reads the answers.
        with ExitStack() as askers:
            for _ in range(2):
                askers.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(request)
            until(lambda: running() == 2, 30, "both queries do not run")
            busy = asked.post(f"{server.url}/sql", content="SELECT 1")
            assert (busy.status_code, "2 questions are being answered" in busy.json()["error"]) == (503, True)
            assert asked.get(f"{server.url}/healthz").status_code == 200
        until(lambda: running() == 0, 30, "queries nobody waits for go on")
        until(free, 30, "no session is back")
        with socket.create_connection(("127.0.0.1", server.port)) as asker:
            asker.sendall(request)
            until(lambda: running() == 1, 30, "it does not run")
            until(free, 30, "the other session is not back")
            for _ in range(3):
                assert asked.post(f"{server.url}/sql?format=csv", content="SELECT 1 AS one").text == '"one"\n1\n'


def test_a_kept_connection_does_not_wait_for_acknowledgements(server: AppServer) -> None:
    with httpx.Client() as asked:
        took = [asked.get(f"{server.url}/healthz").elapsed for _ in range(20)]
    # Linux acknowledges a connection's first packets at once and later ones after 40 ms.
    assert min(took[10:]) < timedelta(milliseconds=30)


def test_health_readiness_and_metrics_are_served(server: AppServer, health: Health) -> None:
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    health.set("warehouse", True)
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert "seen_total 3.0" in httpx.get(f"{server.url}/metrics").text


def test_a_taken_port_is_one_line(warehouse: Warehouse, server: AppServer, health: Health) -> None:
    with (
        warehouse.another() as session,
        pytest.raises(OpsServerError, match=f"cannot listen on 127.0.0.1:{server.port}"),
    ):
        AppServer(create_app(ReadOnlySql(session), health, CollectorRegistry()), "127.0.0.1", server.port).start()


def test_penstock_sql_prints_a_table_json_or_csv(penstock: CliRunner) -> None:
    query = "SELECT 'ü' AS name, 2 AS many"
    code, out, _ = run(penstock, query)
    assert code == 0
    assert "name" in out
    assert "ü" in out
    code, out, _ = run(penstock, query, "--json")
    assert (code, json.loads(out)["rows"]) == (0, [["ü", 2]])
    assert run(penstock, query, "--csv")[:2] == (0, '"name","many"\n"ü",2\n')
    assert run(penstock, "-", "--csv", stdin="SELECT 1 AS a")[:2] == (0, '"a"\n1\n')


def test_penstock_sql_says_in_one_line_what_was_refused(penstock: CliRunner) -> None:
    code, out, err = run(penstock, "SELECT file('x')")
    assert (code, out) == (2, "")
    assert err == "penstock: file() reaches out of the warehouse and is not allowed\n"
    assert run(penstock, "SELECT 1", "--json", "--csv")[0] == 2
    assert run(penstock, "") == (2, "", "penstock: the query is empty\n")


def test_penstock_sql_at_the_port_of_another_program_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(501)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Silence."""

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(other.server_port))
        threading.Thread(target=other.handle_request).start()
        code, _, err = run(CliRunner(), "SELECT 1")
    assert code == 2
    assert err == (
        f"penstock: http://127.0.0.1:{other.server_port} answers 501 Not Implemented, not in the way of Penstock's "
        "warehouse: does http.warehouse_port belong to another program?\n"
    )


def test_penstock_sql_without_a_warehouse_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(taken.getsockname()[1]))
        code, _, err = run(CliRunner(), "SELECT 1")
    assert code == 2
    assert "start it by `penstock up`" in err


def looking(warehouse: Warehouse, looks: Looks | None, host: str = "127.0.0.1") -> AppServer:
    return AppServer(create_app(ReadOnlySql(warehouse), Health(), CollectorRegistry(), looks), host, 0)


def test_a_look_is_asked_for_by_post_and_answers_what_came_of_it(warehouse: Warehouse) -> None:
    asked: list[tuple[str, bool, float]] = []

    def looks(name: str, force: bool, ahead: float) -> list[dict[str, object]]:
        asked.append((name, force, ahead))
        return [{"experiment": "exp", "look": 1}]

    with warehouse.another() as session, looking(session, looks) as one:
        answer = httpx.post(f"{one.url}/experiments/look", params={"experiment": "exp", "force": True, "ahead": 90})
        assert answer.json() == {"outcomes": [{"experiment": "exp", "look": 1}]}
        assert httpx.post(f"{one.url}/experiments/look").status_code == 200
        assert httpx.get(f"{one.url}/experiments/look").status_code == 405, "a link must not look"
    assert asked == [("exp", True, 90.0), ("", False, 0.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(WarehouseUnavailableError("away"), 503), (BrokerUnavailableError("away"), 503), (WarehouseError("away"), 400)],
)
def test_a_look_that_fails_says_why_in_one_line(warehouse: Warehouse, error: Exception, status: int) -> None:
    def looks(_name: str, _force: bool, _ahead: float) -> list[dict[str, object]]:
        raise error

    with warehouse.another() as session, looking(session, looks) as one:
        answer = httpx.post(f"{one.url}/experiments/look")
    assert (answer.status_code, answer.json()) == (status, {"error": "away"})


def test_looks_are_made_for_this_machine_only_and_not_by_every_process(warehouse: Warehouse) -> None:
    with warehouse.another() as session:
        app = create_app(ReadOnlySql(session), Health(), CollectorRegistry(), lambda _name, _force: [])
        transport = httpx.ASGITransport(app, client=("10.1.2.3", 999))

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://warehouse") as client:
                return await client.post("/experiments/look")

        assert asyncio.run(ask()).status_code == 403
        with looking(session, None) as one:
            assert httpx.post(f"{one.url}/experiments/look").status_code == 404
