"""Where a report's reading comes from: the process that holds the warehouse is asked for it over HTTP.

`serve` is that process's side, `ask` the other; in between goes the document of `analytics.reading_json`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

from analytics.reading_json import ReadingError, reading_from_json, reading_to_document
from penstock.warehouse_client import credentials

if TYPE_CHECKING:
    from fastapi import FastAPI

    from analytics.readings import Reading
    from penstock.settings import Settings

# A look over all of ten million predictions takes seconds; a process that says nothing for so long is not well.
_SECONDS: Final = 90


class ReadingUnavailableError(RuntimeError):
    """No reading could be had, in one line."""


class Read(Protocol):
    """Finds a reading where the warehouse is: look `look` of the experiment's last run, the newest for None.

    Raises `DefinitionError` for an experiment or a look that is not there, `WarehouseError`.
    """

    def __call__(self, name: str, look: int | None) -> Reading:
        """The reading."""
        ...


class ReadExperiment(Protocol):
    """Finds a reading for a command, from what the settings say. Raises `ReadingUnavailableError`."""

    def __call__(self, settings: Settings, name: str, look: int | None = None) -> Reading:
        """The reading."""
        ...


def serve(app: FastAPI, read: Read) -> None:
    """Add `GET /reading?experiment=NAME&look=N` to the warehouse's application.

    What is not there is 404 with {"error": one line}, ClickHouse out of reach 503, another failure of it 400.
    """
    from fastapi.responses import JSONResponse

    from analytics.definitions import DefinitionError
    from analytics.warehouse import WarehouseError, WarehouseUnavailableError

    def reading(experiment: str, look: int | None = None) -> JSONResponse:
        try:
            return JSONResponse(reading_to_document(read(experiment, look)))
        except DefinitionError as error:
            return JSONResponse({"error": str(error)}, 404)
        except WarehouseUnavailableError as error:
            return JSONResponse({"error": str(error)}, 503)
        except WarehouseError as error:
            return JSONResponse({"error": str(error)}, 400)

    app.get("/reading", response_model=None)(reading)


def ask(settings: Settings, name: str, look: int | None = None) -> Reading:
    """The reading from the process that the settings name. Raises `ReadingUnavailableError`."""
    host, port = settings.http.host, settings.http.warehouse_port
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    query = urlencode({"experiment": name} if look is None else {"experiment": name, "look": look})
    # A proxy of the environment is not meant for the process next door.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(f"{place}/reading?{query}", headers=credentials(settings))  # noqa: S310 - ours
        with opener.open(request, timeout=_SECONDS) as response:
            body = response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            raise ReadingUnavailableError(_said(error.read(), place, error.code)) from None
    except (urllib.error.URLError, OSError) as error:
        raise ReadingUnavailableError(
            f"no warehouse answers at {place} ({getattr(error, 'reason', error)}): start it by `penstock up`"
        ) from None
    try:
        return reading_from_json(body)
    except ReadingError as error:
        raise ReadingUnavailableError(f"{place} gives no reading of {name!r}: {error}") from None


def _said(body: bytes, place: str, status: int) -> str:
    try:
        answer: Any = json.loads(body)
        return str(answer["error"])
    except (ValueError, KeyError, TypeError):
        return f"{place} is not Penstock's warehouse: it answers {status}"
