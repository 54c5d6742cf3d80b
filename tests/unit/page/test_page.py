"""The page over HTTP: every address, as HTML and JSON, with and without data, with hostile names, signed in or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from page_app import HERE, page_over
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from test_page_views import HOSTILE, Tags

from analytics.definitions import PLAN_KIND
from analytics.readonly import QueryLimits
from analytics.warehouse import Warehouse
from benchmarks.page_world import World
from penstock.demo import EXPERIMENT
from penstock.page_access import COOKIE, Access
from penstock.page_guard import POLICY
from penstock.page_silence import silence_by
from schemas.records import Control
from stream_workers.ingest_rows import LogRecord, build

PAGES = ("/", "/experiments", f"/experiments/{EXPERIMENT}", "/drift", "/alerts", "/models", "/console")
TOKEN = "correct-horse-battery"  # noqa: S105


@pytest.fixture
def client(flights: Warehouse, world: World) -> Iterator[TestClient]:
    """The page over flights, asked from this machine."""
    with page_over(flights, now=world.now) as app:
        yield asked(app)


def asked(app: ASGIApp, host: str = "127.0.0.1") -> TestClient:
    return TestClient(app, "http://testserver", client=(host, 5000), follow_redirects=False)


def tags(answer: httpx.Response) -> Tags:
    found = Tags()
    found.feed(answer.text)
    return found


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_and_loads_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("<!doctype html>")
    assert "http://" not in answer.text.replace("http://127.0.0.1", "")
    assert "https://" not in answer.text
    found = tags(answer)
    assert found.handlers == []
    assert found.names.count("main") == found.names.count("h1") == 1


def test_the_pages_own_files_are_kept_by_the_browser_and_packed(client: TestClient) -> None:
    page = client.get("/").text
    for name in ("style.css", "page.js", "plotly.min.js"):
        path = next(part for part in page.split('"') if part.endswith(f"/{name}"))
        answer = client.get(path, headers={"Accept-Encoding": "gzip"})
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip"
        assert client.get(path, headers={"Accept-Encoding": "identity"}).content == answer.content
        assert client.get(path.replace("/page/", "/page/0")).status_code == 404


@pytest.mark.parametrize("path", ["/", "/experiments", "/drift", "/alerts", "/models"])
def test_every_page_is_there_as_json_too(client: TestClient, path: str) -> None:
    answer = client.get(path, params={"format": "json"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()


def test_an_overview_of_json_has_the_figures_of_the_page(client: TestClient, world: World) -> None:
    found = client.get("/?format=json&span=6h").json()
    assert found["overview"]["predictions"] == world.predictions
    assert found["lag"][0]["records"] == 3


def test_the_overview_draws_rate_latency_stages_batches_and_errors(client: TestClient) -> None:
    found = tags(client.get("/?span=6h"))
    assert len(found.figures) == 6
    for figure in found.figures:
        data: Any = figure["data"]
        assert any(value for trace in data for value in trace["y"]), figure


def test_a_cell_of_the_heat_map_leads_to_its_histogram(client: TestClient) -> None:
    page = client.get("/drift?windows=3").text
    link = next(part for part in page.split('"') if part.startswith("/drift?") and "feature=wind_speed" in part)
    answer = client.get(link.replace("&amp;", "&"))
    assert "wind_speed: reference and window" in answer.text
    bars: Any = next(one for one in tags(answer).figures if any(t["type"] == "bar" for t in one["data"]))  # type: ignore[attr-defined]
    assert [one["name"] for one in bars["data"]] == ["reference", "this window"]
    assert client.get("/drift?feature=none&at=2013-02-01T00:00:00").status_code == 200
    assert client.get("/drift?at=yesterday").status_code == 400


def test_a_report_is_the_one_of_the_command_and_earlier_looks_are_a_link_away(client: TestClient) -> None:
    answer = client.get(f"/experiments/{EXPERIMENT}")
    assert "Can it be trusted?" in answer.text
    assert "look 2 of 2" in answer.text
    assert "look 1 of 2" in client.get(f"/experiments/{EXPERIMENT}?look=1").text
    assert client.get(f"/experiments/{EXPERIMENT}?look=9").status_code == 404
    assert client.get("/experiments/none").status_code == 404


def test_the_console_answers_refuses_and_cuts_in_one_line(flights: Warehouse, world: World) -> None:
    with page_over(flights, limits=QueryLimits(seconds=0.5, rows=2000)) as app:
        client = asked(app)
        page = client.get("/console", params={"query": "SELECT variant, count() AS n FROM predictions GROUP BY ALL"})
        assert "mlp" in page.text
        assert "/sql?query=SELECT+variant" in page.text
        for sql, said in (
            ("DROP TABLE predictions", "only questions are answered"),
            ("SELECT file('x')", "reaches out of the warehouse"),
            ("SELECT sum(sleepEachRow(0.2)) FROM numbers(9)", "ran for more than 0.5 s"),
            ("SELECT number FROM numbers(10000000)", "larger than 2,000 rows"),
            ("SELECT nothing", "UNKNOWN_IDENTIFIER"),
        ):
            answer = client.get("/console", params={"query": sql})
            line = answer.text.split('class="failed"')[1].split("</p>")[0]
            assert said in line
            assert "\n" not in line
        many = client.get("/console", params={"query": "SELECT number FROM numbers(1500)"}).text
        assert "The first 1,000 of 1,500 rows" in many
        assert many.count("<tr>") == 1001
        assert "may run for 0.5 s and return 2,000 rows" in many


def test_where_nothing_is_every_page_says_what_to_do(nothing: Warehouse, tmp_path: Path) -> None:
    with page_over(nothing, store=str(tmp_path)) as app:
        client = asked(app)
        for path, command in (
            ("/", "penstock request"),
            ("/experiments", "penstock experiments create"),
            ("/drift", "penstock drift run"),
            ("/alerts", "penstock alerts"),
            ("/models", "penstock models add"),
        ):
            answer = client.get(path)
            assert answer.status_code == 200
            assert 'class="empty"' in answer.text
            assert command in answer.text, path


def test_hostile_names_are_text_on_every_page(nothing: Warehouse) -> None:
    now = datetime.now(UTC)
    spiteful(nothing, now)
    with page_over(nothing) as app:
        client = asked(app)
        bare = HOSTILE.replace("'", "")
        asked_sql = {"query": f"SELECT '{bare}' AS a"}
        pages: list[tuple[str, dict[str, str] | None]] = [(path, None) for path in PAGES if EXPERIMENT not in path]
        for path, query in (
            *pages,
            ("/console", asked_sql),
            ("/alerts", {"fit": HOSTILE}),
            ("/console", {"query": HOSTILE}),
        ):
            answer = client.get(path, params=query)
            found = tags(answer)
            assert "img" not in found.names, path
            assert found.handlers == [], path
            if path != "/console" or query:
                assert "onerror=alert(1)" in answer.text, f"{path} does not show the name at all"
        for path in (
            f"/experiments/{quote(HOSTILE, safe='')}",
            f"/models?model={quote(HOSTILE)}&version={quote(HOSTILE)}",
        ):
            assert "img" not in tags(client.get(path)).names


def spiteful(warehouse: Warehouse, now: datetime) -> None:
    """A row with a hostile name in every table that a page reads."""
    h = "{h:String}"
    day = "toDateTime64('2026-01-01', 6, 'UTC'), toDateTime64('2026-01-02', 6, 'UTC'), '', '', 'data'"
    for statement in (
        f"""predictions (request_id, user_id, model, version, experiment, variant, sent_at, received_at, scored_at,
            code, message, score, worker, device, log_time)
            SELECT {h}, {h}, {h}, {h}, {h}, {h}, now64(6), now64(6), now64(6), {h}, {h}, 0.5, {h}, {h}, now64(3)""",
        f"""batch_summaries (batch_id, worker, device, model, version, experiment, variant, topic, scored_at, requests,
            rows, queue_us, batch_us, infer_us, log_time)
            SELECT {h}, {h}, {h}, {h}, {h}, {h}, {h}, 'scoring.requests', now64(6), 1, 1, 9, 9, 9, now64(3)""",
        f"drift_results SELECT {h}, {h}, {day}, {h}, 'psi', 0.5, 9, nan, 9, 0.1, 0.2, 'drift', {h}, now64(6)",
        f"drift_bins SELECT {h}, {h}, {day}, {h}, 0, {h}, 1, 1, now64(6)",
        f"""alert_events SELECT 'a', {h}, {h}, 'firing', {h}, map({h}, {h}), {h}, 1, 1, 1, now64(6), now64(6), now64(6),
            {h}, '', map({h}, {h}), now64(6)""",
        f"alert_silences SELECT {h}, [{h}], now64(6), now64(6) + INTERVAL 1 HOUR, {h}, {h}, now64(6)",
    ):
        warehouse.query(f"INSERT INTO {statement}", {"h": HOSTILE})
    at = round(now.timestamp() * 1e6)
    entry = Control(PLAN_KIND, HOSTILE, at, "{}", at, HOSTILE)
    warehouse.insert("control_history", build([LogRecord(0, at // 1000, 0, entry)], "c@1", 0))
    rollout = Control("rollout", HOSTILE, at, json.dumps({HOSTILE: HOSTILE}), at, HOSTILE)
    warehouse.insert("control_history", build([LogRecord(1, at // 1000, 0, rollout)], "c@1", 0))


def test_with_a_token_the_page_asks_for_it_and_remembers_who_signed_in(flights: Warehouse, world: World) -> None:
    with page_over(flights, Access(TOKEN)) as app:
        client = asked(app, "10.1.2.3")
        away = client.get("/drift?model=a", headers={"Accept": "text/html"})
        assert (away.status_code, away.headers["location"]) == (303, "/login?next=%2Fdrift%3Fmodel%3Da")
        bare = client.get("/sql?query=SELECT+1")
        assert (bare.status_code, bare.headers["www-authenticate"]) == (401, 'Bearer realm="penstock"')
        assert client.get("/sql?query=SELECT+1", headers={"Authorization": f"Bearer {TOKEN}"}).json()["rows"] == [[1]]
        here = {"Origin": "http://testserver"}
        wrong = client.post("/login", data={"token": "wrong", "next": "/drift"}, headers=here)
        assert (wrong.status_code, "That is not the token" in wrong.text, "set-cookie" in wrong.headers) == (
            401,
            True,
            False,
        )
        elsewhere = client.post("/login", data={"token": TOKEN, "next": "/"}, headers={"Origin": "http://evil.example"})
        assert elsewhere.status_code == 403
        signed = client.post("/login", data={"token": TOKEN, "next": "//evil.example"}, headers=here)
        assert (signed.status_code, signed.headers["location"]) == (303, "/")
        cookie = signed.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert TOKEN not in cookie
        assert client.get("/models").status_code == 200
        assert "Leave" in client.get("/models").text
        client.post("/logout", headers=here)
        assert COOKIE not in client.cookies
        assert client.get("/models").status_code == 401


def test_a_silence_is_set_from_this_machine_by_this_page_and_said_to_be(flights: Warehouse, world: World) -> None:
    asked_for: list[tuple[str, ...]] = []

    def silence(*fields: str) -> None:
        if "=" not in fields[0]:
            raise ValueError(f"a matcher is like model=flight-delay, not {fields[0]!r}")
        asked_for.append(fields)

    form = {"matchers": "rule=p99", "duration": "1h", "comment": "a drill"}
    with page_over(flights, silence=silence) as app:
        client = asked(app)
        assert 'value="rule=p99 model=flight-delay"' in client.get("/alerts?fit=rule%3Dp99+model%3Dflight-delay").text
        done = client.post("/alerts/silence", data=form, headers={"Origin": "http://testserver"})
        assert (done.status_code, done.headers["location"]) == (303, "/alerts?said=silenced")
        assert client.post("/alerts/silence", data=form, headers={"Origin": "http://evil"}).status_code == 403
        assert client.get("/alerts/silence").status_code in (404, 405)
        wrong = client.post("/alerts/silence", data={**form, "matchers": "<b>"})
        assert (wrong.status_code, "&lt;b&gt;" in wrong.text) == (400, True)
        assert client.post("/alerts/silence", data={"matchers": "a=b"}).status_code == 400
        assert client.post("/alerts/silence", data={**form, "comment": "x" * 20_000}).status_code == 400
        assert asked(app, "10.1.2.3").post("/alerts/silence", data=form).status_code == 403
        assert "penstock alerts silence" in asked(app, "10.1.2.3").get("/alerts").text
    assert asked_for == [("rule=p99", "1h", "a drill", "page")]


def test_a_foreign_name_is_refused_before_anything_is_asked(flights: Warehouse, world: World) -> None:
    with page_over(flights, Access(hosts=HERE)) as app:
        answer = TestClient(app, "http://rebound.example").get("/sql?query=SELECT+1")
    assert answer.status_code == 421
    assert "rebound.example" in answer.json()["error"]


def test_a_console_query_whose_asker_goes_away_is_broken_off(flights: Warehouse, world: World) -> None:
    endless = "SELECT count() FROM numbers(300000000000) WHERE rand() % 11 = number % 11"
    running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT count() FROM numbers(3%rand() % 11%'"

    async def leave() -> None:
        with page_over(flights) as app:
            gone = asyncio.Event()

            async def receive() -> dict[str, str]:
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(_message: object) -> None:
                """Nobody reads it."""

            scope = {
                "type": "http", "method": "GET", "path": "/console", "raw_path": b"/console", "root_path": "",
                "query_string": httpx.QueryParams({"query": endless}).__str__().encode(), "scheme": "http",
                "headers": [(b"host", b"testserver")], "client": ("127.0.0.1", 1), "server": ("testserver", 80),
                "http_version": "1.1", "asgi": {"version": "3.0"},
            }  # fmt: skip
            asking = asyncio.ensure_future(app(scope, receive, send))  # type: ignore[arg-type]
            while await asyncio.to_thread(lambda: flights.query(running).scalar()) != 1:
                assert not asking.done()
            gone.set()
            await asyncio.wait_for(asking, 60)

    asyncio.run(leave())
    assert flights.query(running).scalar() == 0


def test_what_clickhouse_does_not_answer_is_a_page_that_says_so(flights: Warehouse, world: World) -> None:
    with page_over(flights) as app:
        client = asked(app)
        flights.command("RENAME TABLE alerts_now TO elsewhere")
        try:
            answer = client.get("/alerts")
        finally:
            flights.command("RENAME TABLE elsewhere TO alerts_now")
        assert answer.status_code == 500
        assert "alerts_now" in answer.text
        assert client.get("/alerts").status_code == 200


def test_light_and_dark_can_be_chosen_and_stay_so(client: TestClient) -> None:
    assert "data-theme" not in client.get("/alerts").text.split(">")[1]
    dark = client.get("/alerts", headers={"Cookie": "penstock_theme=dark"}).text
    assert '<html lang="en" data-theme="dark">' in dark
    odd = client.get("/alerts", headers={"Cookie": 'penstock_theme="><script>'}).text
    assert '<html lang="en">' in odd


def test_a_silence_of_the_form_is_read_as_the_command_reads_it() -> None:
    put: list[tuple[object, ...]] = []
    silence = silence_by(lambda *fields: put.append(fields))
    silence("rule=p99 model='flight delay'", "4h", " a drill ", "page")
    assert put == [(["rule=p99", "model=flight delay"], timedelta(hours=4), "a drill", "page")]
    for wrong in (("rule='p99", "4h", "a"), ("rule=p99", "9h", "a"), ("rule=p99", "4h", " ")):
        with pytest.raises(ValueError, match=r"matchers|duration|say why"):
            silence(*wrong, "page")
