"""Asks ClickHouse what drifted: figures by feature and window, histograms against the reference, performance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from analytics.dashboard.spans import moment
from analytics.warehouse import Warehouse

SCORE: Final = "@score"
METRICS: Final = ("psi", "ks", "js", "wasserstein", "chi2", "null_share", "unseen_share")
WINDOWS: Final = (35, 90, 366)
_DAY: Final = 86_400
_SLICE: Final = (
    "model = {model:String} AND version = {version:String} AND slice_by = {slice_by:String} AND slice = {slice:String} "
    "AND dateDiff('second', window_start, window_end) = {seconds:UInt32}"
)
_SCOPES: Final = """
SELECT model, version, slice_by, slice, dateDiff('second', window_start, window_end) AS seconds,
    max(window_end) AS newest
FROM drift_latest GROUP BY model, version, slice_by, slice, seconds ORDER BY model, version, slice_by, slice, seconds
"""
_COLUMNS: Final = (
    "window_start, window_end, kind, feature, metric, value, n, reference_value, reference_n, quiet_95, threshold, "
    "verdict, message, computed_at"
)
_LAST: Final = f"""
SELECT DISTINCT window_start FROM drift_latest WHERE {_SLICE}
ORDER BY window_start DESC LIMIT {{windows:UInt32}}
"""  # noqa: S608 - texts of ours, as all below
_HEAT: Final = f"""
SELECT {_COLUMNS} FROM drift_latest
WHERE {_SLICE} AND kind IN ('data', 'prediction') AND metric = {{metric:String}}
    AND window_start >= {{since:DateTime64(6, 'UTC')}}
ORDER BY window_start, feature
"""  # noqa: S608
_ONE: Final = f"""
SELECT {_COLUMNS} FROM drift_latest
WHERE {_SLICE} AND kind IN ('data', 'prediction') AND feature = {{feature:String}}
    AND window_start = {{at:DateTime64(6, 'UTC')}}
ORDER BY metric
"""  # noqa: S608
_BINS: Final = f"""
SELECT bin, any(label), any(reference_share), any(current_share) FROM drift_bins FINAL
WHERE {_SLICE} AND feature = {{feature:String}} AND window_start = {{at:DateTime64(6, 'UTC')}}
GROUP BY bin ORDER BY bin
"""  # noqa: S608
_PERFORMANCE: Final = f"""
SELECT {_COLUMNS} FROM drift_latest
WHERE {_SLICE} AND kind IN ('concept', 'estimate') AND window_start >= {{since:DateTime64(6, 'UTC')}}
ORDER BY window_start
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Scope:
    """What is looked at: a model's version, all of it (`slice_by` '') or one slice, by windows of `seconds`.

    Windows of one length are shown at a time, as those of a day and of the four weeks that end with it overlap.
    """

    model: str
    version: str
    slice_by: str = ""
    slice: str = ""
    seconds: int = 0

    @property
    def parameters(self) -> dict[str, str | int]:
        """For a query."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one window. NaN where there is no reference, quiet level or threshold."""

    start: datetime
    end: datetime
    kind: str
    feature: str
    metric: str
    value: float
    n: int
    reference_value: float
    reference_n: int
    quiet_95: float
    threshold: float
    verdict: str
    message: str
    computed_at: datetime


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of a histogram and its shares (0 to 1)."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True, slots=True)
class Drift:
    """The heat map of a scope: `cells` by feature and window start; `scopes` are all that can be looked at."""

    scopes: tuple[Scope, ...]
    scope: Scope
    metric: str
    windows: tuple[datetime, ...]
    features: tuple[str, ...]
    cells: Mapping[tuple[str, datetime], Figure]
    performance: tuple[Figure, ...]

    @property
    def days(self) -> tuple[datetime, ...]:
        """What each window is called by: its beginning or, where it is longer than a day, its last day."""
        return tuple(called(one, one + timedelta(seconds=self.scope.seconds)) for one in self.windows)


@dataclass(frozen=True, slots=True)
class Detail:
    """A feature in a window: every figure, and the histograms that they were made of."""

    feature: str
    at: datetime
    figures: tuple[Figure, ...]
    bins: tuple[Bin, ...]


def drift(warehouse: Warehouse, wanted: Scope, metric: str = "psi", windows: int = WINDOWS[0]) -> Drift | None:
    """The last `windows` windows of a scope; the newest scope where that one is not there. None: nothing at all.

    Raises `WarehouseError`.
    """
    rows = warehouse.query(_SCOPES).rows
    if not rows:
        return None
    scopes = tuple(Scope(*row[:5]) for row in rows)
    scope = _nearest(scopes, wanted, {Scope(*row[:5]): row[5] for row in rows})
    starts = [row[0] for row in warehouse.query(_LAST, {**scope.parameters, "windows": windows}).rows]
    since = {**scope.parameters, "since": moment(min(starts))}
    found = _figures(warehouse, _HEAT, {**since, "metric": metric})
    cells = {(one.feature, one.start): one for one in found}
    worst: dict[str, float] = {}
    for one in found:
        worst[one.feature] = max(worst.get(one.feature, 0.0), one.value)
    # The score first, then what moved most.
    features = sorted(worst, key=lambda name: (name != SCORE, -worst[name], name))
    columns = sorted({one.start for one in found}) or sorted(starts)
    performance = _figures(warehouse, _PERFORMANCE, since)
    return Drift(scopes, scope, metric, tuple(columns), tuple(features), cells, tuple(performance))


def detail(warehouse: Warehouse, scope: Scope, feature: str, at: datetime) -> Detail:
    """A cell of the heat map from near. Raises `WarehouseError`."""
    about = {**scope.parameters, "feature": feature, "at": moment(at)}
    bins = tuple(Bin(str(label), float(reference), float(current))
                 for _, label, reference, current in warehouse.query(_BINS, about).rows)  # fmt: skip
    return Detail(feature, at, tuple(_figures(warehouse, _ONE, about)), bins)


def _figures(warehouse: Warehouse, sql: str, about: Mapping[str, Any]) -> list[Figure]:
    return [Figure(*row) for row in warehouse.query(sql, about).rows]


def _nearest(scopes: Sequence[Scope], wanted: Scope, newest: Mapping[Scope, datetime]) -> Scope:
    """The scope that was asked for, or the one that has most in common with it; days, unless other windows are."""

    def fits(one: Scope) -> tuple[bool, bool, bool, bool, int, datetime]:
        same_model = one.model == wanted.model
        same_version = same_model and one.version == wanted.version
        whole = (one.slice_by, one.slice) == (wanted.slice_by, wanted.slice)
        return same_model, same_version, whole, one.seconds == (wanted.seconds or _DAY), -one.seconds, newest[one]

    return wanted if wanted in newest else max(scopes, key=fits)


def called(start: datetime, end: datetime) -> datetime:
    """The day by which a window is called."""
    day = timedelta(days=1)
    return end - day if end - start > day else start


def worst_cell(found: Drift) -> tuple[str, datetime] | None:
    """The cell to begin with: of those that drifted the largest of the newest window, else the largest of all."""
    drifted = [one for one in found.cells.values() if one.verdict == "drift"]
    if drifted:
        best = max(drifted, key=lambda one: (one.start, one.value))
        return best.feature, best.start
    some = [one for one in found.cells.values() if math.isfinite(one.value)]
    if not some:
        return None
    best = max(some, key=lambda one: (one.value, one.start))
    return best.feature, best.start
