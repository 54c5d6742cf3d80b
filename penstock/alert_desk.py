"""Alerts over HTTP, in the process that holds the warehouse: what is on, silences, trials.

    GET    /api/alerts                  what is on, silences, receivers, rules that cannot be looked at
    POST   /api/alerts/silences         {"matchers": […], "seconds": 3600, "comment": …, "author": …}
    DELETE /api/alerts/silences/ID      ends one
    POST   /api/alerts/test             {"rules": TOML or null, "send": false}: looks at rules, or tries receivers

What changes or sends something is for this machine alone, and has to be JSON, which no page of another site can send.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse

from analytics.alert_rules import AlertRuleError, parse_rules
from analytics.alert_silences import Silence, SilenceError
from analytics.warehouse import WarehouseError, WarehouseUnavailableError
from penstock.warehouse_app import is_loopback
from stream_workers.alert_receivers import fields_of

if TYPE_CHECKING:
    from stream_workers.alert_engine import AlertEngine, Standing

LONGEST_SILENCE: Final = timedelta(days=90)


def serve(app: FastAPI, engine: AlertEngine) -> None:
    """Add the routes. What cannot be done is {"error": one line}: 400, 403 from elsewhere, 404, 503 for later."""

    def refusal(request: Request) -> JSONResponse | None:
        if request.client is None or not is_loopback(request.client.host):
            return JSONResponse({"error": "this is asked for on the machine itself"}, 403)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"error": "expected a body of JSON, Content-Type: application/json"}, 400)
        return None

    def failed(error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503 if isinstance(error, WarehouseUnavailableError) else 400)

    def alerts() -> JSONResponse:
        try:
            return JSONResponse(standing_document(engine.standing()))
        except WarehouseError as error:
            return failed(error)

    def silence(request: Request, body: Annotated[dict[str, Any], Body()]) -> JSONResponse:
        if (no := refusal(request)) is not None:
            return no
        try:
            matchers, lasts, comment, author = _wish(body)
            return JSONResponse(silence_document(engine.silence(matchers, lasts, comment, author)))
        except (SilenceError, WarehouseError) as error:
            return failed(error)

    def unsilence(request: Request, silence_id: str) -> JSONResponse:
        if (no := refusal(request)) is not None:
            return no
        try:
            return JSONResponse(silence_document(engine.end_silence(silence_id)))
        except SilenceError as error:
            return JSONResponse({"error": str(error)}, 404)
        except WarehouseError as error:
            return failed(error)

    def test(request: Request, body: Annotated[dict[str, Any], Body()]) -> JSONResponse:
        if (no := refusal(request)) is not None:
            return no
        text = body.get("rules")
        try:
            rules = None if text is None else parse_rules(str(text), str(body.get("name", "rules")))
            found: dict[str, Any] = {"rules": engine.try_rules(rules)}
        except AlertRuleError as error:
            return failed(error)
        if body.get("send") is True:
            found["receivers"] = engine.try_receivers()
        return JSONResponse(found)

    app.get("/api/alerts", response_model=None)(alerts)
    app.post("/api/alerts/silences", response_model=None)(silence)
    app.delete("/api/alerts/silences/{silence_id}", response_model=None)(unsilence)
    app.post("/api/alerts/test", response_model=None)(test)


def _wish(body: dict[str, Any]) -> tuple[list[str], timedelta, str, str]:
    """A silence as it is asked for. Raises `SilenceError` naming the key."""
    matchers, seconds = body.get("matchers"), body.get("seconds")
    if not isinstance(matchers, list) or not all(isinstance(one, str) for one in matchers):
        raise SilenceError("matchers: expected a list of texts")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise SilenceError("seconds: expected a number")
    if not 0 < seconds <= LONGEST_SILENCE.total_seconds():
        raise SilenceError(f"a silence lasts up to {LONGEST_SILENCE.days} days: what is never to be told needs no rule")
    comment, author = body.get("comment", ""), body.get("author", "")
    if not isinstance(comment, str) or not comment.strip():
        raise SilenceError("comment: say why, for whoever finds the silence later")
    if not isinstance(author, str) or not author.strip():
        raise SilenceError("author: say who silences")
    return matchers, timedelta(seconds=seconds), comment.strip(), author.strip()


def silence_document(silence: Silence) -> dict[str, Any]:
    """A silence as JSON values."""
    return {
        "silence_id": silence.silence_id,
        "matchers": [str(one) for one in silence.matchers],
        "starts_at": silence.starts_at.isoformat(timespec="seconds"),
        "until": silence.until.isoformat(timespec="seconds"),
        "comment": silence.comment,
        "author": silence.author,
    }


def standing_document(standing: Standing) -> dict[str, Any]:
    """What the engine knows as JSON values."""
    return {
        "leads": standing.leads,
        "alerts": [
            {**fields_of(alert), "delivered": dict(delivered), "silenced_by": quiet}
            for alert, delivered, quiet in standing.alerts
        ],
        "silences": [silence_document(one) for one in standing.silences],
        "receivers": [
            {"receiver": one.receiver, "waiting": one.waiting, "problem": one.problem} for one in standing.receivers
        ],
        "problems": dict(standing.problems),
    }
