"""Writes docs/drift-flights.md: what drifted in the flights of 2013, when, how soon it was seen and what it did.

`python -m penstock.flights.drift_story` (or `make drift-flights`) scores the year by both versions into a chDB of its
own, has the drift job count it as if it had run each day, and writes the page with its pictures. About a minute.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from analytics.drift_figures import Limits
from analytics.drift_job import DriftJob, Watched
from analytics.migrate import migrate
from analytics.retraining import FIGURES, Policy, wish
from analytics.warehouse import Answer, Warehouse, WarehouseConfig
from models.registry import ModelStore
from penstock.docs import folder
from penstock.drift_watch import Versions
from penstock.flights.data import FIRST_DAY
from penstock.flights.drift_pictures import heat_map, lines, smooth, span
from penstock.flights.year import DAYS, MODEL, fill

PAGE: Final = "drift-flights.md"
VERSIONS: Final = ("1", "2")
# The last day a version was fitted to.
FITTED: Final = {"1": date(2013, 1, 31), "2": date(2013, 3, 31)}
NOW: Final = datetime(2014, 1, 15, tzinfo=UTC)
EVENTS: Final = {
    date(2013, 2, 8): "blizzard",
    date(2013, 3, 8): "snow",
    date(2013, 5, 23): "storms",
    date(2013, 7, 8): "storms",
    date(2013, 9, 12): "storms",
    date(2013, 12, 8): "ice, snow",
}
_DAILY: Final = "slice_by = ''"


def prepare(warehouse: Warehouse, start: date = FIRST_DAY, days: int = DAYS) -> None:
    """Score the flights of these days and count them. The warehouse must be migrated and otherwise empty."""
    store = ModelStore(Path(__file__).resolve().parents[2] / "models" / "zoo")
    fill(warehouse, store, VERSIONS, start, days, datetime.now(UTC))
    # The store's profiles are told to be as old as the models, so that none is younger than what it is held against.
    ours: list[Watched] = [one for one in Versions(store, None).watched() if one.model == MODEL]
    failed = [one.error for one in DriftJob(warehouse, lambda: ours, Limits(), clock=lambda: NOW).run() if one.error]
    if failed:
        raise RuntimeError(failed[0])


def page(warehouse: Warehouse) -> tuple[str, dict[str, str]]:
    """The page, and its pictures by file name."""
    pictures = {
        "drift-flights-psi.svg": _heat(warehouse, "1"),
        "drift-flights-auc.svg": _auc(warehouse),
    }
    text = _TEXT.format(
        months=_months(warehouse),
        first=_first_seen(warehouse),
        alarms=_alarms_by_feature(warehouse),
        days=_worst_days(warehouse),
        wishes=_wishes(warehouse),
        counts=_counts(warehouse),
    )
    return text, pictures


def _heat(warehouse: Warehouse, version: str) -> str:
    answer = warehouse.query(
        f"SELECT feature, toDate(window_start), max(value / threshold) FROM drift_days WHERE {_DAILY} "  # noqa: S608 - words of ours
        "AND version = {version:String} AND metric IN ('psi', 'ks') AND isFinite(value) GROUP BY 1, 2",
        {"version": version},
    )
    values = {(feature, day): ratio for feature, day, ratio in answer.rows}
    rows = sorted({feature for feature, _ in values}, key=lambda name: (name == "@score", name))
    return heat_map(f"Version {version}: PSI or KS by its threshold, day by day", rows, span(FIRST_DAY, DAYS), values)


def _auc(warehouse: Warehouse) -> str:
    days = span(FIRST_DAY, DAYS)
    series: dict[str, list[float]] = {}
    for version in VERSIONS:
        for metric, name in (("auc", "outcomes"), ("cbpe_auc", "estimate")):
            values = warehouse.query(
                f"SELECT toDate(window_start), value FROM drift_days WHERE {_DAILY} "  # noqa: S608 - words of ours
                "AND version = {version:String} AND metric = {metric:String}",
                {"version": version, "metric": metric},
            ).rows
            by_day = dict(values)
            series[f"version {version}, {name}"] = smooth([by_day.get(day, math.nan) for day in days], 7)
    title = "Area under the ROC curve within a day, mean of seven days"
    return lines(title, "0.5 is a coin", days, series, EVENTS)


def _months(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT formatDateTime(window_start, '%Y-%m') AS month,
            {", ".join(_month_columns())}
        FROM drift_days WHERE {_DAILY} GROUP BY month ORDER BY month
    """)  # noqa: S608 - words of ours
    head = ["month"]
    for version in VERSIONS:
        head += [
            f"AUC {version}",
            f"CBPE {version}",
            f"log loss {version}",
            f"bad days {version}",
            f"drifted {version}",
        ]
    return _table(head, answer.rows)


def _month_columns() -> Iterator[str]:
    for version in VERSIONS:
        mine = f"version = '{version}'"
        yield f"round(avgIf(value, {mine} AND metric = 'auc'), 3)"
        yield f"round(avgIf(value, {mine} AND metric = 'cbpe_auc'), 3)"
        yield f"round(avgIf(value, {mine} AND metric = 'log_loss'), 3)"
        yield f"uniqExactIf(window_start, {mine} AND kind = 'concept' AND verdict = 'drift')"
        yield f"uniqExactIf(window_start, {mine} AND kind IN ('data', 'prediction') AND verdict = 'drift')"


def _alarms_by_feature(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT feature, countIf(version = '1' AND drift) AS days_1, countIf(version = '2' AND drift) AS days_2,
            argMaxIf(day, furthest, version = '1') AS worst, round(maxIf(furthest, version = '1'), 1) AS times
        FROM (SELECT version, feature, toDate(window_start) AS day, max(verdict = 'drift') AS drift,
                max(if(isFinite(value), value / threshold, 0)) AS furthest
            FROM drift_days WHERE {_DAILY} AND metric IN ('psi', 'ks') AND day > '{FITTED["1"]}'
            GROUP BY version, feature, day)
        GROUP BY feature ORDER BY days_1 DESC, feature
    """)  # noqa: S608 - words of ours
    head = ["feature", "days in drift, version 1", "version 2", "furthest day", "times the threshold"]
    return _table(head, answer.rows)


def _worst_days(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT toDate(window_start) AS day, groupUniqArrayIf(feature, kind = 'data' AND verdict = 'drift') AS features,
            round(anyIf(value, version = '1' AND metric = 'positive_share' AND kind = 'concept'), 2) AS late,
            round(anyIf(value, version = '1' AND metric = 'mean_score'), 2) AS told,
            round(anyIf(value, version = '1' AND metric = 'log_loss'), 2) AS log_loss,
            round(anyIf(value, version = '1' AND metric = 'auc'), 2) AS auc
        FROM drift_days WHERE {_DAILY} AND day > '{FITTED["1"]}'
        GROUP BY day ORDER BY log_loss DESC LIMIT 10
    """)  # noqa: S608 - words of ours
    rows = [(day, ", ".join(sorted(names)) or "none", *rest) for day, names, *rest in answer.rows]
    return _table(["day", "features in drift", "late", "mean score", "log loss", "AUC"], rows)


def _first_seen(warehouse: Warehouse) -> str:
    rows = []
    for day, word in EVENTS.items():
        answer = warehouse.query(
            f"SELECT toDate(window_start) AS day, feature, max(value / threshold) AS times FROM drift_days "  # noqa: S608 - words of ours
            f"WHERE {_DAILY} AND version = '1' AND verdict = 'drift' AND kind IN ('data', 'prediction') "
            "AND day BETWEEN {day:Date} AND {last:Date} GROUP BY day, feature ORDER BY day, times DESC LIMIT 4 BY day",
            {"day": day, "last": day + timedelta(days=3)},
        )
        first = answer.rows[0][0] if answer.rows else None
        names = [f"{feature} ({times:.1f})" for at, feature, times in answer.rows if at == first]
        delay = "not seen" if first is None else f"{(first - day).days} days"
        rows.append((day, word, delay, ", ".join(names)))
    return _table(["from", "what", "first day in drift after", "by (times the threshold)"], rows)


def _wishes(warehouse: Warehouse) -> str:
    """The days on which a wish for training would have been opened, were each answered by nobody for four weeks."""
    rows: list[tuple[Any, ...]] = []
    for version in VERSIONS:
        figures = warehouse.query(
            FIGURES, {"model": MODEL, "version": version, "begin": datetime(2013, 1, 1, tzinfo=UTC)}
        ).rows
        after = FITTED[version]
        for day in span(FIRST_DAY, DAYS):
            if day <= after:
                continue
            known = _known(figures, day)
            found = wish(MODEL, version, known, NOW, Policy(), NOW)
            if found is not None:
                rows.append((version, day + timedelta(days=1), found.trigger, found.reason))
                after = day + timedelta(days=28)
    return _table(["version", "opened", "trigger", "why"], rows)


def _known(figures: Sequence[Sequence[Any]], day: date) -> list[Sequence[Any]]:
    """What was known in the night after a day: its features, and the outcomes of the day before it."""
    found = []
    for one in figures:
        behind = (day - one[1].date()).days + 1 - (one[2] == "concept")
        if 0 <= behind < 5:
            found.append(one)
    return found


def _counts(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT version, count(), countIf(verdict = 'drift'), countIf(verdict = 'watch') FROM drift_days
        WHERE {_DAILY} AND toDate(window_start) <= '{FITTED["1"]}' AND kind IN ('data', 'prediction')
            AND metric IN ('psi', 'ks') GROUP BY version ORDER BY version
    """)  # noqa: S608 - words of ours
    return _table(["version", "figures", "in drift", "to be watched"], answer.rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]] | Answer) -> str:
    body = rows.rows if isinstance(rows, Answer) else rows
    written = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    written += ["| " + " | ".join(_cell(one) for one in row) + " |" for row in body]
    return "\n".join(written)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "none" if math.isnan(value) else f"{value:g}"
    return str(value)


_TEXT: Final = "{months}\n\n{first}\n\n{alarms}\n\n{days}\n\n{wishes}\n\n{counts}\n"


def main() -> int:
    """Write the page and its pictures."""
    docs = folder()
    with (
        tempfile.TemporaryDirectory(prefix="penstock-drift-") as place,
        Warehouse.open(WarehouseConfig(path=place)) as warehouse,
    ):
        migrate(warehouse)
        prepare(warehouse)
        text, pictures = page(warehouse)
    (docs / PAGE).write_text(text, "utf-8")
    for name, picture in pictures.items():
        (docs / name).write_text(picture, "utf-8")
    print(f"{docs / PAGE} and {len(pictures)} pictures", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
