"""Says when a model wants training again, and why: from what the drift job has written. Pure.

A trigger is PSI (a feature or the score in drift on several days in a row), performance (the same of a figure of joined
outcomes), or schedule (so long since the profile was made). One bad day is weather; a run of them is another world.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from analytics.drift_figures import DRIFT

KIND: Final = "retrain"
# The days that `evidence` may look at. Places: model, version, begin.
DAYS: Final = """
SELECT window_start, kind, feature, metric, value, n, threshold, verdict, message FROM drift_latest
WHERE model = {model:String} AND version = {version:String} AND slice_by = '' AND window_start >= {begin:DateTime64(6)}
    AND window_end = window_start + INTERVAL 1 DAY AND window_start = toStartOfDay(window_start)
    AND (metric = 'psi' OR kind = 'concept') ORDER BY window_start, kind, feature, metric
"""
# When the last wish of a model was closed; 1970 where none was.
CLOSED: Final = """
SELECT max(log_time) FROM control_history WHERE kind = 'retrain' AND name = {model:String} AND deleted
"""
_COLUMNS: Final = ("window_start", "kind", "feature", "metric", "value", "n", "threshold", "verdict", "message")


@dataclass(frozen=True, slots=True)
class Policy:
    """When to ask for training: after `days` in a row in drift; every `every` (zero: never by schedule)."""

    days: int = 3
    every: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Wish:
    """That a model be trained again: why, in a line, and the figures it rests on."""

    model: str
    version: str
    trigger: str
    reason: str
    figures: tuple[dict[str, Any], ...]

    def body(self, now: datetime) -> dict[str, Any]:
        """The body of the control entry `retrain/MODEL`."""
        evidence = {"version": self.version, "trigger": self.trigger, "figures": list(self.figures)}
        return {"reason": self.reason, "evidence": evidence, "opened_at": now.isoformat(), "by": "penstock drift"}


def wish(
    model: str, version: str, rows: Iterable[Sequence[Any]], made_at: datetime, policy: Policy, now: datetime
) -> Wish | None:
    """The first reason there is to train a model's live version again; None where there is none.

    `rows`: what `DAYS` gives, of some days more than `policy.days`, as outcomes are behind. `made_at`: when its profile
    was.
    """
    figures = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    for trigger, mine in (
        ("performance", [one for one in figures if one["kind"] == "concept"]),
        ("psi", [one for one in figures if one["metric"] == "psi"]),
    ):
        found = _run(mine, policy.days)
        if found:
            last = found[-1]
            what = f"{last['metric']} of {last['feature']}" if last["feature"] else last["metric"]
            reason = f"{what} has been in drift {policy.days} days in a row, last on {last['window_start']:%Y-%m-%d}: "
            told = tuple({**one, "window_start": one["window_start"].isoformat()} for one in found)
            return Wish(model, version, trigger, reason + last["message"], told)
    if policy.every and now - made_at >= policy.every:
        reason = (
            f"its reference profile is {(now - made_at).days} days old, and training is due every {policy.every.days}"
        )
        return Wish(model, version, "schedule", reason, ())
    return None


def _run(figures: Sequence[dict[str, Any]], days: int) -> list[dict[str, Any]]:
    """The last `days` days of a feature and metric, where all of them are in drift; of several, the furthest beyond."""
    by_name: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in figures:
        by_name.setdefault((one["feature"], one["metric"]), []).append(one)
    best: list[dict[str, Any]] = []
    for some in by_name.values():
        last = some[-days:]
        in_a_row = len(last) == days and last[-1]["window_start"] - last[0]["window_start"] == timedelta(days=days - 1)
        if in_a_row and all(one["verdict"] == DRIFT for one in last) and _beyond(last) > _beyond(best):
            best = last
    return best


def _beyond(figures: Sequence[dict[str, Any]]) -> float:
    if not figures:
        return -1.0
    last = figures[-1]
    return float(abs(last["value"] - last["threshold"]) / max(abs(last["threshold"]), 1e-9))
