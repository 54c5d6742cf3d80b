"""Asks ClickHouse where a model's versions are live; what a version is comes from whoever holds the model store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from analytics.dashboard.spans import moment
from analytics.warehouse import Warehouse

LIVE: Final = timedelta(hours=1)
_BATCHES: Final = """
SELECT model, version, groupUniqArray(20)(worker) AS workers, groupUniqArray(8)(device) AS devices,
    groupUniqArrayIf(20)(experiment || ': ' || variant, experiment != '') AS variants, sum(b.rows) AS all_rows,
    max(scored_at) AS last
FROM batch_summaries AS b
WHERE scored_at >= {since:DateTime64(6, 'UTC')} AND version != ''
GROUP BY model, version
"""
_NEWEST: Final = "SELECT max(scored_at) FROM batch_summaries"
_CHOSEN: Final = """
SELECT name, argMax(body, (log_time, log_offset)) AS body, argMax(deleted, (log_time, log_offset)) AS gone
FROM control_history WHERE kind = {kind:String} GROUP BY name HAVING NOT gone
"""


@dataclass(frozen=True, slots=True)
class Version:
    """What a version says about itself. `profile` and `metrics` are its manifest's, free JSON."""

    model: str
    version: str
    newest: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    features: int
    size: int
    metrics: Mapping[str, Any]
    profile: Mapping[str, Any]
    lineage: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Live:
    """Where a version scored in the last hour that anything was scored."""

    workers: tuple[str, ...]
    devices: tuple[str, ...]
    variants: tuple[str, ...]
    rows: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Models:
    """All versions of the store, and those that have scored though the store has them no more. `chosen`: by control."""

    versions: tuple[Version, ...]
    live: Mapping[tuple[str, str], Live]
    chosen: Mapping[str, str]
    rollouts: Mapping[str, str]
    newest: datetime | None

    def stage(self, one: Version) -> str:
        """What the version is to its model's traffic."""
        if one.problem:
            return "broken"
        live = self.live.get((one.model, one.version))
        serves = self.chosen.get(one.model)
        if serves == one.version or (serves is None and one.newest):
            return "serves"
        if live is not None and live.variants:
            return "in an experiment"
        return "scores" if live is not None else "kept"


def models(warehouse: Warehouse, versions: Sequence[Version], now: datetime) -> Models:
    """What is known of `versions`. Raises `WarehouseError`."""
    newest = warehouse.query(_NEWEST).scalar()
    # Of an empty table the maximum is the beginning of time.
    newest = newest if newest is not None and newest.year > 1970 else None
    until = min(now, newest) if newest else now
    live = {}
    for model, version, workers, devices, variants, rows, last in warehouse.query(
        _BATCHES, {"since": moment(until - LIVE)}
    ).rows:
        live[(model, version)] = Live(
            tuple(sorted(workers)), tuple(sorted(devices)), tuple(sorted(variants)), rows, last
        )
    chosen = {name: _version(body) for name, body, _ in warehouse.query(_CHOSEN, {"kind": "model"}).rows}
    rollouts = {name: body for name, body, _ in warehouse.query(_CHOSEN, {"kind": "rollout"}).rows}
    known = {(one.model, one.version) for one in versions}
    gone = tuple(
        Version(model, version, False, (), (), 0, 0, {}, {}, {}, "it scored, and is not in this process's model store")
        for model, version in sorted(set(live) - known)
    )
    return Models((*versions, *gone), live, {name: one for name, one in chosen.items() if one}, rollouts, newest)


def _version(body: str) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    version = document.get("version") if isinstance(document, dict) else None
    return version if isinstance(version, str) else ""
