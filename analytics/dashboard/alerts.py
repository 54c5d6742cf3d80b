"""Asks ClickHouse which alerts are on, what happened to those before, and what is kept quiet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from analytics.dashboard.spans import moment
from analytics.warehouse import Warehouse

HISTORY: Final = 200
_COLUMNS: Final = (
    "alert_id, rule, state, severity, labels, summary, value, threshold, n, started_at, changed_at, source, delivered"
)
_NOW: Final = f"""
SELECT {_COLUMNS} FROM alerts_now WHERE state IN ('firing', 'pending')
ORDER BY state, indexOf(['critical', 'page', 'error', 'warning', 'info'], severity) = 0, severity, started_at DESC
"""  # noqa: S608 - texts of ours, as all below
_HISTORY: Final = f"""
SELECT {_COLUMNS} FROM alert_events FINAL ORDER BY changed_at DESC, alert_id, state LIMIT {HISTORY}
"""  # noqa: S608
_FIRING: Final = "SELECT count() FROM alerts_now WHERE state = 'firing'"
_SILENCES: Final = """
SELECT silence_id, matchers, starts_at, until, comment, author FROM alert_silences FINAL
WHERE until > {now:DateTime64(6, 'UTC')} ORDER BY until
"""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert at one of its changes. `delivered` says of each receiver when it was told, or why not."""

    alert_id: str
    rule: str
    state: str
    severity: str
    labels: Mapping[str, str]
    summary: str
    value: float
    threshold: float
    n: int
    started_at: datetime
    changed_at: datetime
    source: str
    delivered: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Silence:
    """What is kept quiet until when: all `matchers` (model=flight-delay) have to fit."""

    silence_id: str
    matchers: tuple[str, ...]
    starts_at: datetime
    until: datetime
    comment: str
    author: str


@dataclass(frozen=True, slots=True)
class Alerts:
    """What is on, what was, what is kept quiet."""

    now: tuple[Alert, ...]
    history: tuple[Alert, ...]
    silences: tuple[Silence, ...]


def alerts(warehouse: Warehouse, now: datetime) -> Alerts:
    """Everything the page shows. Raises `WarehouseError`."""
    silences = warehouse.query(_SILENCES, {"now": moment(now)}).rows
    return Alerts(
        tuple(Alert(*row) for row in warehouse.query(_NOW).rows),
        tuple(Alert(*row) for row in warehouse.query(_HISTORY).rows),
        tuple(Silence(name, tuple(matchers), *rest) for name, matchers, *rest in silences),
    )


def firing(warehouse: Warehouse) -> int:
    """How many alerts fire now. Raises `WarehouseError`."""
    return int(warehouse.query(_FIRING).scalar() or 0)
