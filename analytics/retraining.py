"""Says when a model wants training again, and why: from what the drift job has written. Pure.

A trigger is performance (a figure of joined outcomes in drift over four weeks, or on several days in a row), PSI (the
same of a feature or the score), or schedule (so long since the profile was made). One bad day is weather; a run of them
is another world.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from analytics.drift_figures import DRIFT

KIND: Final = "retrain"
# What `wish` looks at. Places: model, version, begin.
FIGURES: Final = """
SELECT window_start, window_end, kind, feature, metric, value, n, threshold, verdict, message FROM drift_latest
WHERE model = {model:String} AND version = {version:String} AND slice_by = '' AND window_end > {begin:DateTime64(6)}
    AND window_start = toStartOfDay(window_start) AND window_end = toStartOfDay(window_end)
    AND (metric = 'psi' OR kind = 'concept') ORDER BY window_start, window_end, kind, feature, metric
"""
# When the last wish of a model was closed; 1970 where none was.
CLOSED: Final = """
SELECT max(log_time) FROM control_history WHERE kind = 'retrain' AND name = {model:String} AND deleted
"""
_COLUMNS: Final = (
    *("window_start", "window_end", "kind", "feature", "metric", "value", "n", "threshold", "verdict", "message"),
)
_DAY: Final = timedelta(days=1)


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

    `rows`: what `FIGURES` gives, of some days more than `policy.days`, as outcomes are behind. `made_at`: when its
    profile was made.
    """
    figures = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    for trigger, mine in (
        ("performance", [one for one in figures if one["kind"] == "concept"]),
        ("psi", [one for one in figures if one["metric"] == "psi"]),
    ):
        found = _worst(mine, policy.days)
        if found:
            last = found[-1]
            what = f"{last['metric']} of {last['feature']}" if last["feature"] else last["metric"]
            length = "four weeks" if len(found) == 1 else f"{len(found)} days in a row"
            reason = f"{what} is in drift over {length}, to {last['window_end'] - _DAY:%Y-%m-%d}: {last['message']}"
            told = tuple(
                {**one, "window_start": one["window_start"].isoformat(), "window_end": one["window_end"].isoformat()}
                for one in found
            )
            return Wish(model, version, trigger, reason, told)
    if policy.every and now - made_at >= policy.every:
        reason = (
            f"its reference profile is {(now - made_at).days} days old, and training is due every {policy.every.days}"
        )
        return Wish(model, version, "schedule", reason, ())
    return None


def _worst(figures: Sequence[dict[str, Any]], days: int) -> list[dict[str, Any]]:
    """The evidence that is furthest beyond its threshold: a figure's last four weeks, or its last `days` days in a row.

    Nothing where no feature and metric is in drift so long.
    """
    by_name: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for one in figures:
        long = one["window_end"] - one["window_start"] > _DAY
        by_name.setdefault((one["feature"], one["metric"], long), []).append(one)
    best: list[dict[str, Any]] = []
    for (_, _, long), some in by_name.items():
        last = some[-1:] if long else some[-days:]
        in_a_row = long or (
            len(last) == days and last[-1]["window_start"] - last[0]["window_start"] == (days - 1) * _DAY
        )
        if in_a_row and all(one["verdict"] == DRIFT for one in last) and _beyond(last) > _beyond(best):
            best = last
    return best


def _beyond(figures: Sequence[dict[str, Any]]) -> float:
    if not figures:
        return -1.0
    last = figures[-1]
    return float(abs(last["value"] - last["threshold"]) / max(abs(last["threshold"]), 1e-9))
