"""The metrics an alert rule may name: what each measures, its labels, and the question or figure it comes from.

A question's text columns are labels; its column `value` is what a rule compares, `n` what that was computed from, and
other columns can stand in summaries. `{now:Int64}` is the time of the look in microseconds, `{window:UInt32}` the
rule's window in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

Source = Literal["rule", "monitor", "experiment", "drift"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: either `sql` (see the module) or `series`, a gauge of the warehouse process, summed by `labels`.

    `source` is never monitor: that is what the live monitor itself reports, which no rule may end.
    """

    name: str
    meaning: str
    labels: tuple[str, ...]
    figures: tuple[str, ...] = ("n",)
    sql: str = ""
    series: str = ""
    source: Source = "rule"
    window: timedelta = timedelta(minutes=5)


_NOW: Final = "fromUnixTimestamp64Micro({now:Int64}, 'UTC')"
# By the minute and grouped as the projection `per_minute` is: the question then reads minutes and no predictions.
_MINUTES: Final = (
    f"toStartOfMinute(scored_at) >= toStartOfMinute({_NOW} - toIntervalSecond({{window:UInt32}})) "
    f"AND toStartOfMinute(scored_at) <= toStartOfMinute({_NOW})"
)


def _share(codes: str) -> str:
    return (
        f"SELECT model, version, sumIf(c, code IN ({codes})) / sum(c) AS value, sum(c) AS n "  # noqa: S608 - ours
        f"FROM (SELECT model, version, code, count() AS c FROM predictions WHERE {_MINUTES} "
        "GROUP BY model, version, code) GROUP BY model, version"
    )


_NEWEST_LOOK: Final = (
    "SELECT experiment, argMax(started_at, looked_at) AS run, argMax(srm_p, looked_at) AS srm_p, "  # noqa: S608 - ours
    "argMax(decision, looked_at) AS decision, argMax(units, looked_at) AS units, "
    "argMax(crossed, looked_at) AS crossed, max(looked_at) AS looked FROM experiment_results "
    f"WHERE looked_at > {_NOW} - INTERVAL 2 DAY "
    # What is stopped harms nobody any more.
    f"AND experiment IN (SELECT experiment FROM experiment_runs WHERE ended_at > {_NOW}) GROUP BY experiment"
)
# A figure of drift speaks for its window: of each length (a day, four weeks) the newest counts, and none that is over a
# week old. The bound of the start, four weeks before that of the end, is what the table's order can find rows by.
_NEWEST_DRIFT: Final = (
    "SELECT model, version, slice_by, slice, kind, feature, metric, "  # noqa: S608 - ours
    "dateDiff('second', d.window_start, d.window_end) AS length, max(d.window_end) AS ended, "
    "argMax(d.value, d.window_end) AS figure, "
    "argMax(d.n, d.window_end) AS n, argMax(d.quiet_95, d.window_end) AS quiet_95, "
    "argMax(d.reference_value, d.window_end) AS reference, argMax(d.verdict, d.window_end) AS verdict "
    f"FROM drift_latest AS d WHERE d.window_end > {_NOW} - INTERVAL 8 DAY "
    f"AND d.window_start > {_NOW} - INTERVAL 36 DAY "
    "GROUP BY model, version, slice_by, slice, kind, feature, metric, length"
)


def _worst_drift(labels: tuple[str, ...], figures: tuple[str, ...], value: str, where: str = "1") -> str:
    """Of the windows the one of the greatest value; where these are alike the one that ends last, then the longer."""
    worst = [f"argMax(w.{name}, (w.value, w.ended, w.length)) AS {name}" for name in figures]
    return (
        f"SELECT {', '.join(labels)}, max(w.value) AS value, {', '.join(worst)} "  # noqa: S608 - ours
        f"FROM (SELECT *, {value} AS value FROM ({_NEWEST_DRIFT}) WHERE {where}) AS w GROUP BY {', '.join(labels)}"
    )


_DRIFT: Final = ("model", "version", "kind", "feature", "metric", "slice_by", "slice")
_FALL: Final = ("model", "version", "kind", "metric", "slice_by", "slice")

_ALL: Final = (
    Metric(
        "error_share",
        "part of the predictions that failed by our fault (INFERENCE_FAILED, INTERNAL, UNAVAILABLE)",
        ("model", "version"),
        sql=_share("'INFERENCE_FAILED', 'INTERNAL', 'UNAVAILABLE'"),
    ),
    Metric(
        "refused_share",
        "part of the predictions refused by their sender's fault (INVALID_ARGUMENT, TOO_LARGE, UNKNOWN_MODEL)",
        ("model", "version"),
        sql=_share("'INVALID_ARGUMENT', 'TOO_LARGE', 'UNKNOWN_MODEL'"),
    ),
    Metric(
        "late_share",
        "part of the predictions whose deadline had passed (DEADLINE_EXCEEDED)",
        ("model", "version"),
        sql=_share("'DEADLINE_EXCEEDED'"),
    ),
    Metric(
        "latency_p99_ms",
        "99% of the answered predictions were ready within so many milliseconds of being sent",
        ("model", "version"),
        sql=(
            "SELECT model, version, "  # noqa: S608 - ours
            "quantilesTDigest(0.5, 0.9, 0.99)(dateDiff('microsecond', sent_at, scored_at))[3] / 1000 AS value, "
            f"count() AS n FROM predictions WHERE code = 'OK' AND {_MINUTES} GROUP BY model, version"
        ),
    ),
    Metric(
        "seconds_since_prediction",
        "how long ago the last prediction was, of a model that had some within a day",
        ("model",),
        sql=(
            f"SELECT model, dateDiff('second', max(minute), {_NOW}) AS value, sum(c) AS n "  # noqa: S608 - ours
            "FROM (SELECT model, toStartOfMinute(scored_at) AS minute, count() AS c FROM predictions "
            f"WHERE toStartOfMinute(scored_at) >= toStartOfMinute({_NOW} - INTERVAL 1 DAY) "
            f"AND toStartOfMinute(scored_at) <= toStartOfMinute({_NOW}) GROUP BY model, minute) GROUP BY model"
        ),
    ),
    Metric(
        "dead_letters",
        "records that could not be read",
        ("topic", "reason"),
        sql=(
            "SELECT topic, reason, count() AS value, count() AS n FROM dead_letters FINAL "  # noqa: S608 - ours
            f"WHERE failed_at > {_NOW} - toIntervalSecond({{window:UInt32}}) AND failed_at <= {_NOW} "
            "GROUP BY topic, reason"
        ),
        window=timedelta(minutes=15),
    ),
    Metric(
        "drift",
        "what the newest drift figure of a feature, the score or an outcome came to: 0 ok, 1 watch, 2 drift; "
        "the worse of the newest day's and the newest four weeks'",
        _DRIFT,
        ("n", "figure", "quiet_95", "reference"),
        sql=_worst_drift(
            _DRIFT,
            ("n", "figure", "quiet_95", "reference"),
            "multiIf(verdict = 'drift', 2, verdict = 'watch', 1, 0)",
        ),
        source="drift",
    ),
    Metric(
        "performance_fall",
        "by which part of its reference accuracy, F1 or AUC (measured or estimated) fell, where so few rows would not; "
        "the greater fall of the newest day and the newest four weeks",
        _FALL,
        ("n", "figure", "reference"),
        sql=_worst_drift(
            _FALL,
            ("n", "figure", "reference"),
            "(reference - figure) / reference",
            "kind IN ('concept', 'estimate') AND match(metric, '^(cbpe_)?(accuracy|f1|auc)$') "
            "AND verdict IN ('watch', 'drift') AND reference > 0",
        ),
        source="drift",
    ),
    Metric(
        "experiment_split_p",
        "p-value of the sample-ratio check at a running experiment's newest look, the smallest of all users and of "
        "each slice, corrected for how many are tested: small where the split is broken",
        ("experiment",),
        sql=f"SELECT experiment, srm_p AS value, units AS n FROM ({_NEWEST_LOOK})",  # noqa: S608 - ours
        source="experiment",
    ),
    Metric(
        "experiment_crossed_share",
        "part of a running experiment's users that met two variants",
        ("experiment",),
        sql=(
            f"SELECT experiment, crossed / units AS value, units AS n FROM ({_NEWEST_LOOK}) "  # noqa: S608 - ours
            "WHERE units > 0"
        ),
        source="experiment",
    ),
    Metric(
        "experiment_rollback",
        "1 where a running experiment's newest look decided to roll back",
        ("experiment",),
        sql=(
            "SELECT experiment, toUInt8(decision = 'roll back') AS value, units AS n "  # noqa: S608 - ours
            f"FROM ({_NEWEST_LOOK})"
        ),
        source="experiment",
    ),
    Metric(
        "monitor_alerts",
        "alerts of the live monitor that are on",
        ("monitor_rule",),
        sql=(
            "SELECT rule AS monitor_rule, count() AS value, count() AS n FROM alerts_now "
            "WHERE source = 'monitor' AND state = 'firing' GROUP BY monitor_rule"
        ),
    ),
    Metric(
        "retrain_open_hours",
        "for how many hours a retraining of a model has been asked for and not been done",
        ("model",),
        (),
        sql=(
            "SELECT model, dateDiff('second', opened, "  # noqa: S608 - ours
            f"{_NOW}) / 3600 AS value FROM (SELECT name AS model, argMax(deleted, (log_time, log_offset)) AS closed, "
            "argMax(changed_at, (log_time, log_offset)) AS opened FROM control_history WHERE kind = 'retrain' "
            "GROUP BY name) WHERE NOT closed"
        ),
        source="drift",
    ),
    Metric(
        "ingest_lag",
        "records between ingest and the end of a topic, in this process",
        ("topic",),
        (),
        series="penstock_ingest_lag",
    ),
    Metric(
        "ingest_paused",
        "1 while ClickHouse does not take what ingest gives it, in this process",
        (),
        (),
        series="penstock_ingest_paused",
    ),
)
CATALOGUE: Final[Mapping[str, Metric]] = {one.name: one for one in _ALL}
