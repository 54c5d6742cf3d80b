"""Has a reference profile made of logged predictions, where the warehouse is or by the process that holds it."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from analytics.definition_values import Expected, duration
from analytics.drift_store import DriftStore
from analytics.profiles import Label, ProfileError, from_json
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from analytics.window_profile import profile_of_window
from penstock.warehouse_app import is_loopback
from penstock.warehouse_client import AskError, post

if TYPE_CHECKING:
    from penstock.settings import Settings

Make = Callable[[Mapping[str, str]], dict[str, Any]]


def make(warehouse: Warehouse, wanted: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Make and keep a profile: `wanted` has model, version, from, to (days, both in it), outcome, delay, slice_by.

    Returns it. Raises `ProfileError`, `WarehouseError`.
    """
    try:
        begin, last = (datetime.fromisoformat(wanted[key]).replace(tzinfo=UTC) for key in ("from", "to"))
        delay = duration(wanted.get("delay") or "24h")
    except (KeyError, ValueError) as error:
        raise ProfileError(f"expected days like 2026-01-31: {error}") from None
    except Expected as expected:
        raise ProfileError(f"delay: expected {expected}, got {wanted['delay']!r}") from None
    if last < begin:
        raise ProfileError(f"the last day, {wanted['to']}, lies before the first, {wanted['from']}")
    model, version = wanted["model"], wanted["version"]
    label = Label(wanted["outcome"], 0.0, delay) if wanted.get("outcome") else None
    cuts = [one for one in wanted.get("slice_by", "").split(",") if one]
    body = profile_of_window(warehouse, model, version, begin, last + timedelta(days=1), label=label, sliced_by=cuts)
    from_json(body, model, version)  # what is kept can be read
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    DriftStore(warehouse).keep(model, version, "window", text, now)
    return body


def made_here(settings: Settings, wanted: Mapping[str, str]) -> dict[str, Any]:
    """On the ClickHouse server that the settings name. Raises `AskError`."""
    from penstock.warehouse_config import warehouse_config

    try:
        with Warehouse.open(warehouse_config(settings), create=False) as warehouse:
            return make(warehouse, wanted, datetime.now(UTC))
    except (ProfileError, WarehouseError) as error:
        raise AskError(str(error)) from None


def ask_for_profile(settings: Settings, wanted: Mapping[str, str]) -> dict[str, Any]:
    """By the process that holds chDB. Raises `AskError`."""
    made: dict[str, Any] = json.loads(post(settings, f"/drift/profile?{urllib.parse.urlencode(wanted)}", b"", 600))
    return made


def serve(app: FastAPI, make_one: Make) -> None:
    """Add POST `/drift/profile` (the fields of `make` as the query), from this machine only, as it writes."""

    def profile(request: Request) -> JSONResponse:
        if request.client is None or not is_loopback(request.client.host):
            return JSONResponse({"error": "profiles are made for who asks on the machine itself"}, 403)
        try:
            return JSONResponse(make_one(dict(request.query_params)))
        except WarehouseUnavailableError as error:
            return JSONResponse({"error": str(error)}, 503)
        except (ProfileError, WarehouseError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)

    app.post("/drift/profile", response_model=None)(profile)
