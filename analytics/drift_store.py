"""Reads what has been counted and writes what was found: the drift tables of the warehouse.

What a window found is written before the window is noted as counted: a job that is killed between the two counts it
again, and the rows replace themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from analytics import drift_sql as sql
from analytics.drift_axes import SCORE, Counts
from analytics.drift_figures import DATA, PREDICTION, Figure
from analytics.drift_weeks import DayFigure
from analytics.performance_metrics import BINS, ScoredOutcomes
from analytics.profiles import Profile, Reference
from analytics.warehouse import Warehouse

Counted = Literal["rows", "outcomes", "last day"]
Window = Literal["day", "all"]
Slice = tuple[str, str]
WHOLE: Final[Slice] = ("", "")
DAY: Final = timedelta(days=1)
_TIMES: Final = pa.timestamp("us", "UTC")
_OF_DAYS: Final = """
WHERE model = {model:String} AND version = {version:String} AND slice_by = '' AND computed_at >= {since:DateTime64(6)}
    AND window_start >= {begin:DateTime64(6)} AND window_start < {end:DateTime64(6)}
    AND window_end = window_start + INTERVAL 1 DAY AND window_start = toStartOfDay(window_start)
"""
_DAY_ROWS: Final = f"SELECT window_start, feature, n FROM drift_results FINAL {_OF_DAYS} AND metric = 'psi'"  # noqa: S608
_DAY_SHARES: Final = f"""
SELECT window_start, feature, arrayMap(one -> one.2, arraySort(groupArray((bin, current_share)))) FROM drift_bins FINAL
{_OF_DAYS} GROUP BY window_start, feature ORDER BY window_start
"""  # noqa: S608 - words of ours
_DAY_FIGURES: Final = f"""
SELECT window_start, metric, value, n FROM drift_results FINAL {_OF_DAYS} AND kind = 'concept' ORDER BY window_start
"""  # noqa: S608 - words of ours


@dataclass(frozen=True, slots=True)
class Spoken:
    """A window of a slice and what is to be said of it."""

    start: datetime
    end: datetime
    slice: Slice
    figures: tuple[Figure, ...]
    counts: Mapping[str, Counts]
    references: Mapping[str, Reference]


@dataclass(frozen=True, slots=True)
class Stored:
    """A reference profile as it is kept."""

    source: str
    made_at: datetime
    body: str


class DriftStore:
    """The tables of drift, of one warehouse. Everything raises `WarehouseError`."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def profile(self, model: str, version: str) -> Stored | None:
        """The profile that holds for a version: the newest that was made of a window, else what came with it."""
        rows = self._warehouse.query(
            "SELECT source, made_at, body FROM reference_profiles WHERE model = {model:String} "
            "AND version = {version:String} ORDER BY source = 'window' DESC, made_at DESC LIMIT 1",
            {"model": model, "version": version},
        ).rows
        return Stored(*rows[0]) if rows else None

    def keep_training(self, model: str, version: str, body: Mapping[str, Any], now: datetime) -> None:
        """Keep the profile that came with the model, unless it is the last one that came so."""
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        last = self._warehouse.query(
            "SELECT argMax(body, made_at) FROM reference_profiles WHERE model = {model:String} "
            "AND version = {version:String} AND source = 'training'",
            {"model": model, "version": version},
        ).scalar()
        if last != text:
            self.keep(model, version, "training", text, now)

    def keep(self, model: str, version: str, source: str, body: str, now: datetime) -> None:
        """Keep a profile: from now on it is the version's."""
        row = {"model": [model], "version": [version], "source": [source], "body": [body]}
        self._warehouse.insert("reference_profiles", pa.table({**row, "made_at": pa.array([now], _TIMES)}))

    def days(self) -> dict[tuple[str, str], dict[datetime, int]]:
        """Scored rows by day, of every model and version that has any."""
        found: dict[tuple[str, str], dict[datetime, int]] = {}
        for model, version, start, rows in self._warehouse.query(sql.DAYS).rows:
            found.setdefault((model, version), {})[start] = int(rows)
        return found

    def counted(self, model: str, version: str, counted: Counted) -> dict[datetime, int]:
        """Windows that have been counted, each with the rows there were."""
        rows = self._warehouse.query(
            "SELECT window_start, rows FROM drift_windows FINAL WHERE model = {model:String} "
            "AND version = {version:String} AND counted = {counted:String}",
            {"model": model, "version": version, "counted": counted},
        ).rows
        return dict(rows)

    def note(self, model: str, version: str, counted: Counted, days: Mapping[datetime, int]) -> None:
        """Note windows of a day as counted."""
        if not days:
            return
        starts = list(days)
        self._warehouse.insert(
            "drift_windows",
            pa.table(
                {
                    "model": [model] * len(days),
                    "version": [version] * len(days),
                    "counted": [counted] * len(days),
                    "window_start": pa.array(starts, _TIMES),
                    "window_end": pa.array([one + DAY for one in starts], _TIMES),
                    "rows": pa.array(list(days.values()), pa.uint64()),
                }
            ),
        )

    def counts(
        self, profile: Profile, sliced_by: Sequence[str], window: Window, begin: datetime, end: datetime
    ) -> dict[datetime, dict[Slice, dict[str, Counts]]]:
        """Counts by feature of each window from `begin` to `end`, of all rows (`WHOLE`) and of each slice."""
        references = [*profile.features, *([profile.score] if profile.score else ())]
        axes = [one.axis for one in references]
        answer = self._warehouse.query(sql.count(axes, sliced_by, window), _places(profile, begin, end))
        found: dict[datetime, dict[Slice, dict[str, Counts]]] = {}
        cuts = len(sliced_by)
        for start, *rest in answer.rows:
            arrays = [np.array(one, np.float64) for one in rest[cuts:]]
            of_window = found.setdefault(start, {})
            # A row without a value for a cut is in none of its slices.
            for one in (WHOLE, *((by, value) for by, value in zip(sliced_by, rest[:cuts], strict=True) if value)):
                into = of_window.setdefault(one, {axis.name: np.zeros(axis.bins) for axis in axes})
                for axis, counts in zip(axes, arrays, strict=True):
                    into[axis.name] += counts
        return found

    def scores(
        self, profile: Profile, window: Window, begin: datetime, end: datetime
    ) -> dict[datetime, tuple[Counts, Counts]]:
        """Rows and sums of scores [BINS] of each window."""
        found: dict[datetime, tuple[Counts, Counts]] = {}
        for start, at, rows, total in self._warehouse.query(sql.scores(window), _places(profile, begin, end)).rows:
            counts, scores = found.setdefault(start, (np.zeros(BINS), np.zeros(BINS)))
            counts[at], scores[at] = rows, total
        return found

    def outcomes(
        self, profile: Profile, sliced_by: Sequence[str], begin: datetime, end: datetime
    ) -> dict[datetime, dict[Slice, ScoredOutcomes]]:
        """Scored rows with their outcome of each day, of all rows and of each slice. The profile must have a label."""
        assert profile.label is not None  # noqa: S101 - who calls has asked
        places = {"outcome": profile.label.outcome, "logged": begin - DAY}
        answer = self._warehouse.query(sql.outcomes(sliced_by), {**_places(profile, begin, end), **places})
        sums: dict[datetime, dict[Slice, list[Any]]] = {}
        for start, *rest in answer.rows:
            at, positive, rows, scores, loss, squares = rest[len(sliced_by) :]
            cuts = ((by, value) for by, value in zip(sliced_by, rest, strict=False) if value)
            for one in (WHOLE, *cuts):
                new = [np.zeros(BINS), np.zeros(BINS), np.zeros(BINS), 0.0, 0.0]
                into = sums.setdefault(start, {}).setdefault(one, new)
                into[0 if positive else 1][at] += rows
                into[2][at] += scores
                into[3] += loss
                into[4] += squares
        return {start: {one: ScoredOutcomes(*into) for one, into in parts.items()} for start, parts in sums.items()}

    def day_counts(
        self, profile: Profile, since: datetime, begin: datetime, end: datetime
    ) -> dict[datetime, dict[str, Counts]]:
        """Counts by feature of all rows of each day from `begin` to `end`, from what was written since `since`."""
        places = {**_places(profile, begin, end), "since": since}
        rows = {(start, name): n for start, name, n in self._warehouse.query(_DAY_ROWS, places).rows}
        axes = {one.axis.name: one.axis for one in (*profile.features, *([profile.score] if profile.score else ()))}
        found: dict[datetime, dict[str, Counts]] = {}
        for start, name, shares in self._warehouse.query(_DAY_SHARES, places).rows:
            if name in axes and len(shares) == axes[name].bins and (start, name) in rows:
                found.setdefault(start, {})[name] = np.round(np.array(shares, np.float64) * rows[start, name])
        return found

    def day_figures(self, profile: Profile, since: datetime, begin: datetime, end: datetime) -> list[DayFigure]:
        """The figures of performance of each day from `begin` to `end` that were written since `since`."""
        places = {**_places(profile, begin, end), "since": since}
        return [DayFigure(*row) for row in self._warehouse.query(_DAY_FIGURES, places).rows]

    def touched(self, profile: Profile, begin: datetime, end: datetime) -> set[datetime]:
        """Days between two times about which outcomes have come that were not there at the last `mark`."""
        assert profile.label is not None  # noqa: S101 - who calls has asked
        places = {**_places(profile, begin, end), "outcome": profile.label.outcome}
        return {start for (start,) in self._warehouse.query(sql.TOUCHED, places).rows}

    def ends(self, outcome: str) -> list[tuple[str, int, int]]:
        """How far the outcomes of a name have come: log, partition, next offset."""
        return [(log, part, end) for log, part, end in self._warehouse.query(sql.ENDS, {"outcome": outcome}).rows]

    def looked_at(self, model: str, version: str) -> datetime | None:
        """When outcomes were last looked through for late ones."""
        rows = self._warehouse.query(
            "SELECT max(looked_at) FROM drift_marks WHERE model = {model:String} AND version = {version:String} "
            "HAVING count() > 0",
            {"model": model, "version": version},
        ).rows
        return rows[0][0] if rows else None

    def mark(self, model: str, version: str, ends: Sequence[tuple[str, int, int]], now: datetime) -> None:
        """Outcomes before these offsets have been looked through."""
        if ends:
            logs, parts, nexts = zip(*ends, strict=True)
            self._warehouse.insert(
                "drift_marks",
                pa.table(
                    {
                        "model": [model] * len(ends),
                        "version": [version] * len(ends),
                        "log": pa.array(logs, pa.string()),
                        "log_partition": pa.array(parts, pa.int32()),
                        "next": pa.array(nexts, pa.int64()),
                        "looked_at": pa.array([now] * len(ends), _TIMES),
                    }
                ),
            )

    def write(self, profile: Profile, spoken: Iterable[Spoken], now: datetime) -> None:
        """Write figures, and the bins of all rows and of slices that are not ok."""
        some = list(spoken)
        figures = _figures(profile, some, now)
        if figures.num_rows:
            self._warehouse.insert("drift_results", figures)
        bins = _bins(profile, some, now)
        if bins.num_rows:
            self._warehouse.insert("drift_bins", bins)


def _places(profile: Profile, begin: datetime, end: datetime) -> dict[str, Any]:
    return {"model": profile.model, "version": profile.version, "begin": begin, "end": end}


def _figures(profile: Profile, spoken: Sequence[Spoken], now: datetime) -> pa.Table:
    rows = [(one, figure) for one in spoken for figure in one.figures]
    texts = ("kind", "feature", "metric", "verdict", "message")
    numbers = ("value", "reference_value", "quiet_95", "threshold")
    return pa.table(
        {
            **_keys(profile, [one for one, _ in rows], now),
            **{name: pa.array([getattr(figure, name) for _, figure in rows], pa.string()) for name in texts},
            **{name: pa.array([getattr(figure, name) for _, figure in rows], pa.float64()) for name in numbers},
            "n": pa.array([figure.n for _, figure in rows], pa.uint64()),
            "reference_n": pa.array([figure.reference_n for _, figure in rows], pa.uint64()),
        }
    )


def _bins(profile: Profile, spoken: Sequence[Spoken], now: datetime) -> pa.Table:
    rows: list[tuple[Spoken, str, int, str, float, float]] = []
    for one in spoken:
        told = {figure.feature for figure in one.figures if figure.verdict not in ("ok", "too few")}
        for name, reference in one.references.items():
            current, before = one.counts.get(name), reference.array
            if current is None or not (one.slice == WHOLE or name in told) or not current.sum():
                continue
            shares = (before / max(before.sum(), 1.0)).tolist(), (current / current.sum()).tolist()
            for at, (label, p, q) in enumerate(zip(reference.axis.labels, *shares, strict=True)):
                rows.append((one, name, at, label, p, q))
    return pa.table(
        {
            **_keys(profile, [row[0] for row in rows], now),
            "kind": pa.array([PREDICTION if row[1] == SCORE else DATA for row in rows], pa.string()),
            "feature": pa.array([row[1] for row in rows], pa.string()),
            "bin": pa.array([row[2] for row in rows], pa.uint16()),
            "label": pa.array([row[3] for row in rows], pa.string()),
            "reference_share": pa.array([row[4] for row in rows], pa.float64()),
            "current_share": pa.array([row[5] for row in rows], pa.float64()),
        }
    )


def _keys(profile: Profile, of: Sequence[Spoken], now: datetime) -> dict[str, pa.Array]:
    return {
        "model": pa.array([profile.model] * len(of), pa.string()),
        "version": pa.array([profile.version] * len(of), pa.string()),
        "window_start": pa.array([one.start for one in of], _TIMES),
        "window_end": pa.array([one.end for one in of], _TIMES),
        "slice_by": pa.array([one.slice[0] for one in of], pa.string()),
        "slice": pa.array([one.slice[1] for one in of], pa.string()),
        "computed_at": pa.array([now] * len(of), _TIMES),
    }
