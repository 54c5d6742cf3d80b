"""The page's routes: each asks the warehouse for a view of `analytics.dashboard` and sends it as HTML, or as JSON.

    GET /   /experiments   /experiments/NAME   /drift   /alerts   /models   /console   ?format=json: the same as data
    POST /alerts/silence   GET, POST /login   POST /logout

Who may ask is decided in front of it (`penstock.page_guard`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from analytics.dashboard import (
    alerts,
    alerts_html,
    console,
    drift,
    drift_html,
    experiments,
    experiments_html,
    models,
    models_html,
    overview,
    overview_html,
)
from analytics.dashboard.layout import Frame, Theme, document, empty, note, title
from analytics.dashboard.models import Version
from analytics.dashboard.overview_html import Lag
from analytics.dashboard.sessions import Sessions
from analytics.dashboard.spans import span as span_of
from analytics.definitions import DefinitionError, Plan
from analytics.readonly import Cancel, QueryRefusedError, ReadOnlySql
from analytics.report_markup import Markup, element, join
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from penstock.asking import while_there
from penstock.page_access import COOKIE, HOURS, Access, inside, loopback
from penstock.page_assets import assets, serve_assets

Form = Literal["html", "json"]
# Sets a silence from matchers (model=flight-delay), a duration (1h), a comment and who wrote it. Raises `ValueError` in
# one line for what cannot be one.
Silence = Callable[[str, str, str, str], None]
REFRESH: Final = 5
_MOST_BODY: Final = 16 * 1024
_MOST_REPORTS: Final = 64
_THEME: Final = "penstock_theme"
_THEMES: Final[dict[str, Theme]] = {"light": "light", "dark": "dark"}
_TABLES: Final = """
SELECT name, if(engine LIKE '%View', 'view', 'table') AS kind FROM system.tables
WHERE database = currentDatabase() AND NOT startsWith(name, '.') AND name != 'schema_migrations'
ORDER BY kind DESC, name
"""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the page is made of. `versions` reads the model store named `store`; `lags` is what Kafka said last."""

    sessions: Sessions
    sql: ReadOnlySql
    access: Access
    versions: Callable[[], Sequence[Version]]
    store: str
    lags: Callable[[], Sequence[Lag]] = field(default=lambda: ())
    silence: Silence | None = None
    clock: Callable[[], datetime] = _now


def serve_page(app: FastAPI, sources: Sources) -> None:
    """Add the page to the warehouse's application. Raises `AssetError`."""
    serve_assets(app)
    page = _Page(sources)
    for path, handler in (
        ("/", page.overview_page),
        ("/experiments", page.experiments_page),
        ("/experiments/{name:path}", page.experiment_page),
        ("/drift", page.drift_page),
        ("/alerts", page.alerts_page),
        ("/models", page.models_page),
        ("/console", page.console_page),
        ("/login", page.login),
    ):
        app.get(path, include_in_schema=False, response_model=None)(handler)
    for path, changes in (("/alerts/silence", page.silence), ("/login", page.sign_in), ("/logout", page.leave)):
        app.post(path, include_in_schema=False, response_model=None)(changes)


class _Page:
    """A handler a page. Those that are no coroutines run in the server's threads."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        # A look that was written stays as it is, and reading it again costs seconds on a large experiment.
        self._reports: dict[tuple[str, datetime | None, int, int], Markup] = {}

    # -- pages

    def overview_page(self, request: Request, span: str = "", format: Form = "html") -> Response:  # noqa: A002
        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            found = overview.overview(warehouse, span_of(span), self._sources.clock())
            lags = self._sources.lags()
            return overview_html.content(found, lags, self._sources.clock()), {"overview": found, "lag": lags}

        return self._page(request, "Overview", "/", show, format, refresh=REFRESH)

    def experiments_page(self, request: Request, format: Form = "html") -> Response:  # noqa: A002
        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            found = experiments.experiments(warehouse)
            return experiments_html.listed(found, self._sources.clock()), found

        return self._page(request, "Experiments", "/experiments", show, format, refresh=REFRESH)

    def experiment_page(self, request: Request, name: str, look: int | None = None) -> Response:
        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            plan = experiments.plan_of(warehouse, name)
            looks = experiments.looks_of(warehouse, plan)
            if not looks:
                state = "has not been started" if plan.started_at is None else "runs, and nobody has looked yet"
                return experiments_html.no_look(name, f"It {state}."), None
            return self._report(warehouse, plan, look or looks, looks), None

        return self._page(request, name, "/experiments", show, "html", charted=False, refresh=REFRESH * 6)

    def drift_page(
        self,
        request: Request,
        model: str = "",
        version: str = "",
        slice: str = "",  # noqa: A002 - the query's own words
        metric: str = "psi",
        length: int = 0,
        windows: int = drift.WINDOWS[0],
        feature: str = "",
        at: datetime | None = None,
        format: Form = "html",  # noqa: A002
    ) -> Response:
        slice_by, _, value = slice.partition("=")
        chosen = metric if metric in drift.METRICS else drift.METRICS[0]
        many = min(max(windows, 1), drift.WINDOWS[-1])

        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            found = drift.drift(warehouse, drift.Scope(model, version, slice_by, value, length), chosen, many)
            cell = None
            if found is not None:
                wanted = (feature, at if at.tzinfo else at.replace(tzinfo=UTC)) if feature and at else None
                place = wanted or drift.worst_cell(found)
                cell = drift.detail(warehouse, found.scope, *place) if place else None
            return drift_html.content(found, cell, many), {"drift": found, "cell": cell}

        return self._page(request, "Drift", "/drift", show, format)

    def alerts_page(self, request: Request, fit: str = "", said: str = "", format: Form = "html") -> Response:  # noqa: A002
        may = self._sources.silence is not None and _from_here(request)

        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            now = self._sources.clock()
            found = alerts.alerts(warehouse, now)
            words = {"silenced": "Silenced."}.get(said, "")
            return alerts_html.content(found, now, may_silence=may, fit=fit, said=words), found

        return self._page(request, "Alerts", "/alerts", show, format, charted=False, refresh=REFRESH)

    def models_page(
        self,
        request: Request,
        model: str = "",
        version: str = "",
        feature: str = "",
        format: Form = "html",  # noqa: A002
    ) -> Response:
        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            now = self._sources.clock()
            found = models.models(warehouse, self._sources.versions(), now)
            shown = models_html.content(found, self._sources.store, now, model=model, version=version, feature=feature)
            return shown, {"versions": found.versions, "chosen": found.chosen}

        return self._page(request, "Models", "/models", show, format)

    async def console_page(self, request: Request, query: str = "") -> Response:
        result = None
        if query.strip():
            result = await while_there(request, self._sources.sql, lambda cancel: self._answer(query, cancel))
        limits = self._sources.sql.limits
        words = f"a question may run for {limits.seconds:g} s and return {limits.rows:,} rows"

        def show(warehouse: Warehouse) -> tuple[Markup, Any]:
            tables = [(str(name), str(kind)) for name, kind in warehouse.query(_TABLES).rows]
            return console.content(query, result, tables, words), None

        return await run_in_threadpool(lambda: self._page(request, "SQL", "/console", show, "html", charted=False))

    # -- changes

    async def silence(self, request: Request) -> Response:
        sources = self._sources
        if sources.silence is None or not _from_here(request):
            return self._said(request, 403, "Silences are set on the machine itself, by `penstock alerts silence`.")
        try:
            matchers, duration, comment = await _fields(request, "matchers", "duration", "comment")
            await run_in_threadpool(sources.silence, matchers, duration, comment, "page")
        except ValueError as error:
            return self._said(request, 400, str(error))
        except WarehouseError as error:
            return self._said(request, 503, str(error))
        return RedirectResponse("/alerts?said=silenced", 303)

    def login(self, request: Request, next: str = "/") -> Response:  # noqa: A002 - the query's own word
        if not self._sources.access.token:
            return RedirectResponse("/", 303)
        return self._sign_in_page(request, inside(next), "")

    async def sign_in(self, request: Request) -> Response:
        access = self._sources.access
        try:
            token, where = await _fields(request, "token", "next")
        except ValueError as error:
            return self._said(request, 400, str(error))
        if not access.right(token.strip()):
            return self._sign_in_page(request, inside(where), "That is not the token.", 401)
        answer = RedirectResponse(inside(where), 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, access.session(), max_age=HOURS * 3600, httponly=True, samesite="lax", secure=secure, path="/"
        )
        return answer

    async def leave(self, request: Request) -> Response:
        del request
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
        return answer

    # -- what they have in common

    def _page(
        self,
        request: Request,
        heading: str,
        active: str,
        show: Callable[[Warehouse], tuple[Markup, Any]],
        form: Form,
        *,
        charted: bool = True,
        refresh: int = 0,
    ) -> Response:
        status, firing = 200, 0
        try:
            with self._sources.sessions.one() as warehouse:
                content, data = show(warehouse)
                firing = alerts.firing(warehouse)
        except DefinitionError as error:
            status, content, data = 404, _problem(heading, str(error)), {"error": str(error)}
        except WarehouseUnavailableError as error:
            status, content, data = 503, _problem(heading, str(error)), {"error": str(error)}
        except WarehouseError as error:
            status, content, data = 500, _problem(heading, str(error)), {"error": str(error)}
        if form == "json":
            return Response(to_json(data), status, media_type="application/json")
        frame = self._frame(request, firing)
        return HTMLResponse(document(frame, heading, active, content, charted=charted, refresh=refresh), status)

    def _frame(self, request: Request, firing: int = 0) -> Frame:
        known = assets()
        theme = _THEMES.get(request.cookies.get(_THEME, ""), "")
        return Frame(
            known["style.css"].path, known["page.js"].path, known["plotly.min.js"].path, theme, firing,
            leave=bool(self._sources.access.token),
        )  # fmt: skip

    def _report(self, warehouse: Warehouse, plan: Plan, look: int, looks: int) -> Markup:
        name = plan.definition.name
        key = (name, plan.started_at, look, looks)
        found = self._reports.get(key)
        if found is None:
            found = experiments_html.one_report(experiments.reading(warehouse, name, look), looks)
            if len(self._reports) >= _MOST_REPORTS:
                self._reports.clear()
            self._reports[key] = found
        return found

    def _answer(self, query: str, cancel: Cancel) -> console.Result:
        began = time.perf_counter()
        try:
            found = self._sources.sql.json(query, cancel)
        except (QueryRefusedError, WarehouseError) as error:
            return console.Result(error=str(error))
        columns = tuple((one["name"], one["type"]) for one in found["columns"])
        return console.Result(columns, tuple(tuple(row) for row in found["rows"]), time.perf_counter() - began)

    def _said(self, request: Request, status: int, words: str) -> Response:
        content = join((title("Not done"), note(words, "bad"), element("p", element("a", "Back", href="/alerts"))))
        return HTMLResponse(document(self._frame(request), "Not done", "", content, charted=False), status)

    def _sign_in_page(self, request: Request, where: str, problem: str, status: int = 200) -> Response:
        form = element(
            "form",
            element("h1", "Penstock"),
            element("p", "This page asks for the token that its process was started with (page.token)."),
            note(problem, "bad") if problem else "",
            element("label", "Token", for_="token", class_="hidden"),
            element("input", type="password", name="token", id="token", placeholder="token", required=True,
                    autofocus=True, autocomplete="current-password"),
            element("input", type="hidden", name="next", value=where),
            element("button", "Sign in", type="submit", class_="primary"),
            method="post", action="/login", class_="login",
        )  # fmt: skip
        return HTMLResponse(document(self._frame(request), "Sign in", "", form, charted=False), status)


def to_json(data: Any) -> str:
    """A view as JSON: fields by name, times as ISO 8601, what is not a number as null."""
    return json.dumps(_values(data), ensure_ascii=False, allow_nan=False)


def _values(data: Any) -> Any:
    if hasattr(data, "__dataclass_fields__"):
        return _values(asdict(data))
    if isinstance(data, dict):
        keys = {key: key if isinstance(key, str) else ", ".join(str(_values(part)) for part in key) for key in data}
        return {keys[key]: _values(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_values(one) for one in data]
    if isinstance(data, datetime):
        return data.isoformat()
    if isinstance(data, float) and data - data != 0:  # neither infinity nor not-a-number is JSON
        return None
    return data if isinstance(data, (str, int, float, bool)) or data is None else str(data)


def _problem(heading: str, why: str) -> Markup:
    return join((title(heading), note(why, "bad"), empty("What the processes say is in their logs.", "penstock up")))


def _from_here(request: Request) -> bool:
    return request.client is not None and loopback(request.client.host)


async def _fields(request: Request, *names: str) -> list[str]:
    """Fields of a form, all of them there. Raises `ValueError`."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BODY:
            raise ValueError(f"the form is larger than {_MOST_BODY} bytes")
    found = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    missing = [one for one in names if one not in found]
    if missing:
        raise ValueError(f"the form lacks {', '.join(missing)}")
    return [found[one][0] for one in names]
