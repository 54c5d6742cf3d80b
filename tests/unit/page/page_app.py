"""The page's application over a warehouse, as the process that holds it puts it together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from analytics.dashboard.overview_html import Lag
from analytics.dashboard.sessions import Sessions
from analytics.readonly import QueryLimits, ReadOnlySql
from analytics.warehouse import Warehouse
from models.registry import ModelStore
from penstock.page import Silence, Sources, serve_page
from penstock.page_access import Access
from penstock.page_guard import Guard
from penstock.page_models import versions_in
from penstock.settings import ModelSettings
from penstock.warehouse_app import create_app
from stream_workers.ops_health import Health

HERE = frozenset({"127.0.0.1", "localhost", "testserver"})
OPEN = Access(hosts=HERE)
LIMITS = QueryLimits()
LAGS = (Lag("penstock-scoring", "scoring.requests", 3),)


@contextmanager
def page_over(
    warehouse: Warehouse,
    access: Access = OPEN,
    *,
    silence: Silence | None = None,
    store: str | None = None,
    now: datetime | None = None,
    limits: QueryLimits = LIMITS,
) -> Iterator[ASGIApp]:
    """The guarded application."""
    sessions = Sessions(warehouse, most=2)
    place = ModelSettings().store if store is None else store
    with warehouse.another() as session:
        sql = ReadOnlySql(session, limits)
        app = create_app(sql, Health(), CollectorRegistry())
        serve_page(
            app,
            Sources(
                sessions, sql, access, versions_in(ModelStore(place)), place, lambda: LAGS, silence,
                clock=lambda: now or datetime.now(UTC),
            ),
        )  # fmt: skip
        yield Guard(app, access)
        sql.close()
    sessions.close()
