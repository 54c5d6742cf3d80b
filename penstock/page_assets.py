"""Serves the page's own files: style sheet, script, and plotly.js out of its wheel. Nothing comes from the network.

Their addresses hold a hash of what they are, so that a browser asks once and sees a new release at once.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response

from analytics.dashboard.style import script, style

_PLOTLY: Final = "plotly/package_data/plotly.min.js"
_FOREVER: Final = "public, max-age=31536000, immutable"


class AssetError(RuntimeError):
    """A file of the page that is not there, in one line."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    name: str
    media: str
    body: bytes = field(repr=False)
    packed: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, media: str, body: bytes) -> Asset:
        """Packed once, not for each who asks."""
        return cls(name, media, body, gzip.compress(body, 6, mtime=0))

    @property
    def path(self) -> str:
        """Its address."""
        return f"/page/{hashlib.sha256(self.body).hexdigest()[:12]}/{self.name}"


@cache
def assets() -> dict[str, Asset]:
    """The page's files by name. Raises `AssetError`."""
    try:
        plotly = Path(str(distribution("plotly").locate_file(_PLOTLY))).read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise AssetError(f"plotly.js is missing: install the package plotly ({error})") from None
    return {
        "style.css": Asset.of("style.css", "text/css; charset=utf-8", style().encode()),
        "page.js": Asset.of("page.js", "text/javascript; charset=utf-8", script().encode()),
        "plotly.min.js": Asset.of("plotly.min.js", "text/javascript; charset=utf-8", plotly),
    }


def serve_assets(app: FastAPI) -> None:
    """Add `GET /page/HASH/NAME`. Raises `AssetError`."""
    known = {one.path: one for one in assets().values()}

    def asset(request: Request, digest: str, name: str) -> Response:
        found = known.get(f"/page/{digest}/{name}")
        if found is None:
            return Response("no such file of the page\n", 404, media_type="text/plain")
        headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=found.media)
        return Response(found.body, headers=headers, media_type=found.media)

    app.get("/page/{digest}/{name}", include_in_schema=False, response_model=None)(asset)
