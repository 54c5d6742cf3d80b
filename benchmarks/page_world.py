"""Fills a warehouse as a day of use would leave it, for pictures and tests of the page: real flights and real scores.

What is made up is the hour: flights of months are sent within hours before `now`, in batches, with a slow spell in
between. Drift is what these flights show, computed here in numpy by the definitions of docs/page.md, and so is what the
alerts say of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
from scipy.stats import chi2, rankdata

from analytics.definitions import PLAN_KIND, Plan
from analytics.experiment_job import ExperimentJob
from analytics.migrate import migrate
from analytics.warehouse import Warehouse
from models.loading import LoadedModel
from models.registry import ModelStore
from penstock.demo import EXPERIMENT, MODEL, definition, experiment
from penstock.flights.data import dataset
from penstock.flights.evidence import fill
from penstock.flights.features import CATEGORIES, FEATURES
from penstock.flights.signature import OUTPUT
from penstock.settings import ModelSettings
from schemas.records import Control
from stream_workers.ingest_rows import LogRecord, build

VERSION: Final = "2"
REFERENCE: Final = (date(2013, 1, 1), 31)
_BINS: Final = 10
_FLOOR: Final = 1e-4
_THRESHOLD: Final = 0.2
_FEWEST: Final = 200
# A window of one day has one of its seven days of the week, which is no drift.
_WATCHED: Final = tuple(name for name in FEATURES if name != "day_of_week")
Array = np.ndarray[Any, Any]

# A flight's moment: even, but for three waves of rate. Within 0.4 s all are sent at once, so that there are batches.
_RETIMED: Final = """
INSERT INTO predictions
WITH
    {begin:Int64} AS begin,
    {length:Int64} AS length,
    (SELECT count() FROM {scratch:Identifier}.predictions) AS total
SELECT * EXCEPT (place, moment, bucket, slow, sent, got, run, ended, failed) REPLACE (
    fromUnixTimestamp64Micro(sent, 'UTC') AS sent_at,
    fromUnixTimestamp64Micro(got, 'UTC') AS received_at,
    fromUnixTimestamp64Micro(ended, 'UTC') AS scored_at,
    if(failed = '', code, failed) AS code,
    if(failed = '', score, NULL) AS score,
    multiIf(failed = 'DEADLINE_EXCEEDED', 'the deadline passed 12 ms ago', failed = 'INVALID_INPUT',
        'feature seats: expected a number, got text', '') AS message,
    version || '-' || toString(bucket) AS batch_id,
    'worker-' || toString(1 + bucket % 2) AS worker,
    toDateTime64(fromUnixTimestamp64Micro(ended + 20000 + cityHash64(bucket, 3) % 70000, 'UTC'), 3, 'UTC') AS log_time
)
FROM
(
    SELECT
        *,
        offset / total AS place,
        begin + toInt64(length * (place + 0.03 * sin(place * 19))) AS moment,
        intDiv(moment, 400000) AS bucket,
        place > 0.82 AND place < 0.86 AS slow,
        bucket * 400000 + intDiv(moment % 400000, 80) AS sent,
        sent + 700 + toInt64(-log((1 + cityHash64(request_id) % 9999) / 10000) * if(slow, 22000, 1400)) AS got,
        350 + cityHash64(bucket, 1) % 400 + if(version = '2', 380, 0) + if(slow, 2500, 0) AS run,
        max(got) OVER (PARTITION BY version, bucket) + cityHash64(bucket, 2) % 1500 + run AS ended,
        multiIf(slow AND cityHash64(request_id, 7) % 40 = 0, 'DEADLINE_EXCEEDED',
            cityHash64(request_id, 8) % 900 = 0, 'INVALID_INPUT', '') AS failed
    FROM {scratch:Identifier}.predictions
)
"""
_SUMMARISED: Final = """
INSERT INTO batch_summaries (* EXCEPT(batches, degraded, feature_histograms))
SELECT batch_id, any(worker), any(device), model, version, any(experiment), any(variant), any(topic), max(scored_at),
    count(), count(), 0, sum(dateDiff('microsecond', sent_at, received_at)),
    sum(greatest(dateDiff('microsecond', received_at, scored_at) - 800, 0)),
    350 + 45 * count() + cityHash64(batch_id) % 400,
    [], countIf(score IS NOT NULL), sum(ifNull(score, 0)), sum(ifNull(score * score, 0)), [],
    map('DEADLINE_EXCEEDED', toInt64(countIf(code = 'DEADLINE_EXCEEDED'))), 'summaries@world', 0,
    rowNumberInAllBlocks(), max(log_time)
FROM predictions GROUP BY batch_id, model, version
"""


@dataclass(frozen=True, slots=True)
class World:
    """What was filled."""

    now: datetime
    plan: Plan
    predictions: int


def fill_world(warehouse: Warehouse, now: datetime, *, days: int = 60, hours: float = 2.0, looks: int = 6) -> World:
    """Everything, up to `now`. The warehouse must be migrated and otherwise empty. Raises `WarehouseError`."""
    start = date(2013, 2, 1)
    began = now - timedelta(hours=hours)
    _serve(warehouse, start, days, began, now)
    plan = _experiment(warehouse, began, now, looks)
    found = fill_drift(warehouse, start, days)
    _alerts(warehouse, now, found)
    total = int(warehouse.query("SELECT count() FROM predictions").scalar())
    return World(now, plan, total)


def _serve(warehouse: Warehouse, start: date, days: int, began: datetime, now: datetime) -> None:
    scratch_name = f"{warehouse.config.database}_scratch"
    config = warehouse.config
    scratch = Warehouse.open(type(config)(config.url, config.path, scratch_name, config.settings))
    with scratch:
        migrate(scratch)
        fill(scratch, ModelStore(ModelSettings().store), start, days, now)
        about = {
            "begin": round(began.timestamp() * 1e6),
            "length": round((now - began).total_seconds() * 1e6) - 45_000_000,
            "scratch": scratch_name,
        }
        warehouse.query(_RETIMED, about)
        warehouse.query("INSERT INTO outcomes SELECT * FROM {scratch:Identifier}.outcomes", {"scratch": scratch_name})
    warehouse.command(f"DROP DATABASE {scratch_name}")
    warehouse.command(_SUMMARISED)


def _experiment(warehouse: Warehouse, began: datetime, now: datetime, looks: int) -> Plan:
    # The demo's slots are a second long, as its month takes minutes; hours have too many of those.
    plan = Plan(replace(definition(), slot=timedelta(seconds=30))).start(began - timedelta(seconds=1))
    at = round(began.timestamp() * 1e6)
    bodies = (("experiment", EXPERIMENT, experiment().to_json()), (PLAN_KIND, EXPERIMENT, plan.to_json()))
    for number, (kind, name, body) in enumerate(bodies):
        record = LogRecord(number, at // 1000, 0, Control(kind, name, at, body, at, "penstock demo"))
        warehouse.insert("control_history", build([record], "control@world", 0))
    clock = iter(began + (now - began) * share for share in np.linspace(0.3, 1.0, looks))
    for moment in clock:
        ExperimentJob(warehouse, lambda: [(EXPERIMENT, plan.to_json())], clock=lambda at=moment: at).run(force=True)  # type: ignore[misc]
    return plan


# -- drift


@dataclass(frozen=True, slots=True)
class _Histogram:
    labels: list[str]
    edges: Array | None

    def shares(self, values: Array) -> Array:
        """Counts by bin; the last is what is missing."""
        if self.edges is None:
            known = {label: at for at, label in enumerate(self.labels)}
            where = np.array([known.get(one, len(known) - 2) for one in values.tolist()])
        else:
            where = np.where(np.isnan(values), len(self.labels) - 1, np.searchsorted(self.edges, values, "right"))
        return np.bincount(where, minlength=len(self.labels)).astype(float)


def _histogram(values: Array, *, category: bool) -> _Histogram:
    if category:
        names, counts = np.unique(values, return_counts=True)
        top = [str(name) for name in names[np.argsort(-counts)][:24]]
        return _Histogram([*top, "another", "missing"], None)
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    inner = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return _Histogram([f"below {edges[0]:.4g}", *inner, f"from {edges[-1]:.4g}", "missing"], edges)


def _psi(reference: Array, current: Array) -> float:
    a = np.maximum(reference / reference.sum(), _FLOOR)
    b = np.maximum(current / current.sum(), _FLOOR)
    return float(((b - a) * np.log(b / a)).sum())


def _ks(reference: Array, current: Array) -> float:
    return float(np.abs(np.cumsum(reference / reference.sum()) - np.cumsum(current / current.sum())).max())


def _js(reference: Array, current: Array) -> float:
    a, b = reference / reference.sum(), current / current.sum()
    middle = (a + b) / 2

    def kl(p: Array) -> float:
        return float((p[p > 0] * np.log2(p[p > 0] / middle[p > 0])).sum())

    return math.sqrt((kl(a) + kl(b)) / 2)


def _scores(rows: slice) -> Array:
    """The scores of a version for some flights."""
    data = dataset()
    model = LoadedModel.load(ModelStore(ModelSettings().store), MODEL, VERSION, "cpu")
    parts = []
    for at in range(rows.start, rows.stop, 4096):
        part = slice(at, min(at + 4096, rows.stop))
        columns = {name: values[part] for name, values in data.features.items()}
        (answer,) = model.run([model.manifest.signature.assemble_columns(columns, part.stop - part.start).inputs])
        parts.append(np.asarray(answer[OUTPUT], float).ravel())
    model.close()
    return np.concatenate(parts)


def fill_drift(warehouse: Warehouse, start: date, days: int) -> list[dict[str, Any]]:
    """Fills the tables of drift; returns the figures that drifted, the largest first."""
    data = dataset()
    base = data.between(*REFERENCE)
    reference = {name: data.features[name][base] for name in _WATCHED} | {"@score": _scores(base)}
    shapes = {name: _histogram(values, category=name in CATEGORIES) for name, values in reference.items()}
    known = {name: shapes[name].shares(values) for name, values in reference.items()}
    base_scores, base_labels = reference["@score"], data.labels(base)
    base_figures = _performance(base_scores, base_labels)
    figures: list[dict[str, Any]] = []
    bins: list[dict[str, Any]] = []
    for number in range(days):
        day = start + timedelta(days=number)
        rows = data.between(day, 1)
        window = _window(day)
        scores = _scores(rows)
        for name, values in ({one: data.features[one][rows] for one in _WATCHED} | {"@score": scores}).items():
            current = shapes[name].shares(values)
            kind = "prediction" if name == "@score" else "data"
            figures += _moved({**window, "kind": kind, "feature": name}, known[name], current)
            for at, label in enumerate(shapes[name].labels):
                shares = (known[name][at] / known[name].sum(), current[at] / current.sum())
                bins.append({**window, "kind": kind, "feature": name, "bin": at, "label": label,
                             "reference_share": shares[0], "current_share": shares[1]})  # fmt: skip
        figures += _performed(window, base_figures, base_labels, scores, data.labels(rows))
    for table, some in (("drift_results", figures), ("drift_bins", bins)):
        warehouse.insert(table, _table(some))
    # Of each feature the largest, the largest first.
    found = sorted(
        (one for one in figures if one["verdict"] == "drift" and one["metric"] == "psi"),
        key=lambda one: float(one["value"]),
    )
    return list({one["feature"]: one for one in found}.values())[::-1]


def _window(day: date) -> dict[str, Any]:
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return {"model": MODEL, "version": VERSION, "window_start": at, "window_end": at + timedelta(days=1),
            "slice_by": "", "slice": ""}  # fmt: skip


def _moved(key: dict[str, Any], reference: Array, current: Array) -> Iterator[dict[str, Any]]:
    n, m = current.sum(), reference.sum()
    quiet = (1 / n + 1 / m) * chi2.ppf(0.95, len(reference) - 1)
    psi = _psi(reference, current)
    verdict = "too few" if n < _FEWEST else "drift" if psi > max(_THRESHOLD, quiet) else "watch" if psi > 0.1 else "ok"
    for metric, value, threshold in (
        ("psi", psi, _THRESHOLD),
        ("ks", _ks(reference, current), math.nan),
        ("js", _js(reference, current), math.nan),
        ("null_share", current[-1] / n, math.nan),
    ):
        own = verdict if metric == "psi" else "too few" if n < _FEWEST else "ok"
        noise = float(quiet) if metric == "psi" else math.nan
        yield _figure(key, metric, float(value), int(n), math.nan, int(m), noise, threshold, own)


def _performance(scores: Array, labels: Array) -> dict[str, float]:
    known = ~np.isnan(labels)
    p, y = np.clip(scores[known], 1e-7, 1 - 1e-7), labels[known]
    ones, zeros = y.sum(), (1 - y).sum()
    auc = (rankdata(p)[y == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros) if ones and zeros else math.nan
    return {
        "auc": float(auc),
        "accuracy": float(((p > 0.5) == (y > 0.5)).mean()),
        "log_loss": float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()),
        "calibration": float(abs(p.mean() - y.mean())),
    }


def _performed(
    window: dict[str, Any], base: dict[str, float], base_labels: Array, scores: Array, labels: Array
) -> Iterator[dict[str, Any]]:
    n, m = int((~np.isnan(labels)).sum()), int((~np.isnan(base_labels)).sum())
    for metric, value in _performance(scores, labels).items():
        fell = metric in ("auc", "accuracy") and value < 0.95 * base[metric]
        yield _figure({**window, "kind": "concept", "feature": ""}, metric, value, n, base[metric], m, math.nan,
                      0.95 * base[metric] if metric in ("auc", "accuracy") else math.nan,
                      "drift" if fell else "ok")  # fmt: skip
    # What calibrated scores say of themselves (CBPE): a score is then the chance of its own label.
    order = np.argsort(-scores)
    p = scores[order]
    ahead = np.cumsum(1 - p) - (1 - p)
    pairs = p.sum() * (1 - p).sum()
    estimates = {
        "cbpe_auc": 1 - float((p * ahead).sum() / pairs),
        "cbpe_accuracy": float(np.maximum(scores, 1 - scores).mean()),
    }
    for metric, value in estimates.items():
        yield _figure({**window, "kind": "estimate", "feature": ""}, metric, value, len(scores), math.nan, 0, math.nan,
                      math.nan, "ok")  # fmt: skip


def _figure(
    key: dict[str, Any],
    metric: str,
    value: float,
    n: int,
    base: float,
    m: int,
    quiet: float,
    limit: float,
    verdict: str,
) -> dict[str, Any]:
    name = key["feature"] or metric
    message = f"{name}: {metric} {value:.3f} is above {limit:g}" if verdict == "drift" and key["feature"] else ""
    return {**key, "metric": metric, "value": value, "n": n, "reference_value": base, "reference_n": m,
            "quiet_95": quiet, "threshold": limit, "verdict": verdict, "message": message}  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    types = {
        "window_start": pa.timestamp("us", "UTC"),
        "window_end": pa.timestamp("us", "UTC"),
        "n": pa.uint64(),
        "reference_n": pa.uint64(),
        "bin": pa.uint16(),
    }
    return pa.table({name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]})


# -- alerts


def _alerts(warehouse: Warehouse, now: datetime, drifted: list[dict[str, Any]]) -> None:
    """What alerts on this world say: the slow spell, which is over, and the newest drift, which is not."""
    slow = now - timedelta(minutes=20)
    rows = []
    labels = {"model": MODEL, "version": VERSION}
    for state, at, summary, value in (
        ("pending", slow, "p99 of flight-delay is 118 ms, above 100 ms", 118.0),
        ("firing", slow + timedelta(seconds=30), "p99 of flight-delay is 131 ms, above 100 ms", 131.0),
        ("resolved", slow + timedelta(minutes=6), "p99 of flight-delay is 9 ms, below 100 ms", 9.0),
    ):
        told = {} if state == "pending" else {"slack": at.isoformat(timespec="seconds")}
        rows.append(_alert("p99", state, "critical", labels, summary, value, 100.0, slow, at, "monitor", told))
    for number, one in enumerate(drifted[:2]):
        at = now - timedelta(minutes=47 - number)
        name = "score" if one["feature"] == "@score" else one["feature"]
        summary = f"{name} of flight-delay 2 drifted on {one['window_start']:%d %b %Y}: PSI {one['value']:.2f}"
        told = {"slack": "", "log": at.isoformat(timespec="seconds")}
        own = {**labels, "feature": name}
        rows.append(
            _alert("drift-psi", "firing", "warning", own, summary, one["value"], _THRESHOLD, at, at, "drift", told)
        )
    at = now - timedelta(seconds=50)
    rows.append(_alert("errors", "pending", "warning", {"model": MODEL}, "0.9% of answers of flight-delay are errors",
                       0.009, 0.005, at, at, "rule", {}))  # fmt: skip
    kinds = {"started_at": pa.timestamp("us", "UTC"), "fired_at": pa.timestamp("us", "UTC"),
             "changed_at": pa.timestamp("us", "UTC"), "n": pa.uint64(), "labels": pa.map_(pa.string(), pa.string()),
             "delivered": pa.map_(pa.string(), pa.string())}  # fmt: skip
    columns = {
        name: pa.array([list(row[name].items()) if isinstance(row[name], dict) else row[name] for row in rows],
                       kinds.get(name))
        for name in rows[0]
    }  # fmt: skip
    warehouse.insert("alert_events", pa.table(columns))
    warehouse.command(
        "INSERT INTO alert_silences (silence_id, matchers, starts_at, until, comment, author) VALUES "
        "('s-5f2c', ['rule=drift-psi', 'feature=precipitation'], now64(6), now64(6) + INTERVAL 5 HOUR, "
        "'a dry week is no news', 'ana')"
    )


def _alert(
    rule: str, state: str, severity: str, labels: dict[str, str], summary: str, value: float, threshold: float,
    started: datetime, changed: datetime, source: str, delivered: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    name = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return {
        "alert_id": f"{rule}/{name}/{started:%Y%m%dT%H%M%S}", "rule": rule, "fingerprint": f"{rule}/{name}",
        "state": state, "severity": severity, "labels": labels, "summary": summary, "value": value,
        "threshold": threshold, "n": 941, "started_at": started, "fired_at": started, "changed_at": changed,
        "source": source, "evidence": "{}", "delivered": delivered,
    }  # fmt: skip
