"""Draws docs/page-*.png, pages over real flights, with Debian's Chromium.

`python -m benchmarks.page_picture`
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from typing import Final

from playwright.sync_api import sync_playwright
from prometheus_client import CollectorRegistry

from analytics.dashboard.overview_html import Lag
from analytics.dashboard.sessions import Sessions
from analytics.migrate import migrate
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse, WarehouseConfig
from benchmarks.page_world import fill_world
from benchmarks.report_picture import browser
from models.registry import ModelStore
from penstock.docs import folder
from penstock.page import Sources, serve_page
from penstock.page_access import Access
from penstock.page_guard import Guard
from penstock.page_models import versions_in
from penstock.settings import ModelSettings
from penstock.warehouse_app import AppServer, create_app
from stream_workers.ops_health import Health

DAYS: Final = 60
PICTURES: Final = {"overview": ("/", 940), "drift": ("/drift", 1130)}
LAGS: Final = (Lag("penstock-scoring", "scoring.requests", 3), Lag("penstock-ingest", "predictions", 12))


def main() -> int:
    """Draw them anew."""
    now = datetime.now(UTC)
    program = browser()
    if program is None:
        sys.stderr.write("no chromium is on PATH\n")
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="penstock-picture-") as place,
        Warehouse.open(WarehouseConfig(path=place)) as warehouse,
    ):
        migrate(warehouse)
        fill_world(warehouse, now, days=DAYS)
        _draw(warehouse, program, now)
    return 0


def _draw(warehouse: Warehouse, program: str, now: datetime) -> None:
    sessions, store = Sessions(warehouse), ModelSettings().store
    access = Access(hosts=frozenset({"127.0.0.1"}))
    with warehouse.another() as session, sync_playwright() as tool:
        sql = ReadOnlySql(session)
        app = create_app(sql, Health(), CollectorRegistry())
        versions = versions_in(ModelStore(store))
        serve_page(app, Sources(sessions, sql, access, versions, store, lambda: LAGS, clock=lambda: now))
        with AppServer(Guard(app, access), "127.0.0.1", 0) as server:
            chromium = tool.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            for name, (address, height) in PICTURES.items():
                page = chromium.new_page(viewport={"width": 1280, "height": height})
                page.goto(f"{server.url}{address}")
                page.locator(".chart svg.main-svg").first.wait_for()
                path = folder() / f"page-{name}.png"
                page.screenshot(path=path)
                sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes\n")
            chromium.close()
        sql.close()
    sessions.close()


if __name__ == "__main__":
    sys.exit(main())
