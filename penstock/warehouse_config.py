"""The warehouse's place as the settings give it: `analytics` never sees the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analytics.warehouse import WarehouseConfig

if TYPE_CHECKING:
    from penstock.settings import Settings


def warehouse_config(settings: Settings) -> WarehouseConfig:
    """Section `clickhouse` as `analytics.warehouse` wants it."""
    section = settings.clickhouse
    own = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in section.settings.items()}
    return WarehouseConfig(url=section.url, path=section.path, database=section.database, settings=own)
