"""What a look leaves for the next: one row a metric and variant in `experiment_looks`, and back.

A row has what people ask for in its columns, and what the next look needs of this one (the difference with its
variances, the evidence against the split) as JSON in `details`. A number that is not known is NaN there, as the columns
have no NULL.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from analytics.definitions import DefinitionError, Plan
from analytics.effects import Effect
from analytics.readings import ArmReading, PastLook, Reading
from analytics.results import Result
from analytics.splits import Slice

Pair = tuple[str, str]
_TIMES: Final = pa.timestamp("us", "UTC")
_READ: Final = (
    *("look", "looked_at", "metric", "variant", "lift", "lift_low", "lift_high", "statistic", "information"),
    *("alpha_spent", "decision", "reason", "details"),
)
SELECT: Final = (
    f"SELECT {', '.join(_READ)} FROM experiment_looks FINAL "  # noqa: S608 - names of ours
    "WHERE experiment = {experiment:String} AND started_at = {started_at:DateTime64(6)} ORDER BY look, metric, variant"
)


@dataclass(frozen=True, slots=True)
class PastArm:
    """What an earlier look found of a metric and variant; `effect` None: there was no difference to be tested."""

    effect: Effect | None
    fraction: float | None
    tuned_for: float | None
    shown: PastLook


@dataclass(frozen=True, slots=True)
class Record:
    """An earlier look. `evidence`: the largest so far against the split, by slice."""

    number: int
    looked_at: datetime
    decision: str
    reason: str
    arms: Mapping[Pair, PastArm]
    evidence: Mapping[Slice, float]


def record(reading: Reading) -> Record:
    """What the next look needs of this one."""
    arms = {
        (one.metric.name, one.variant): PastArm(one.effect, one.fraction, one.tuned_for, _shown(reading, one))
        for one in reading.arms
    }
    evidence = {(one.kind, one.value): one.evidence for one in reading.splits}
    return Record(reading.number, reading.looked_at, reading.decision, reading.reason, arms, evidence)


def rows(reading: Reading) -> pa.Table:
    """The look as rows of `experiment_looks`, one block."""
    body = [_row(reading, one, first=not at) for at, one in enumerate(reading.arms)]
    table = pa.Table.from_pylist(body)
    for name in ("started_at", "looked_at"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array([row[name] for row in body], _TIMES))
    return table


def records(found: Iterable[Sequence[Any]]) -> list[Record]:
    """The looks of a run from the rows that `SELECT` gives. Raises `DefinitionError` for details that are none."""
    looks: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        one = dict(zip(_READ, row, strict=True))
        looks.setdefault(int(one["look"]), []).append(one)
    return [_record(number, looks[number]) for number in sorted(looks)]


def _record(number: int, found: Sequence[Mapping[str, Any]]) -> Record:
    arms: dict[Pair, PastArm] = {}
    evidence: dict[Slice, float] = {}
    for one in found:
        try:
            details = json.loads(one["details"])
            effect = None if details["effect"] is None else _effect(details["effect"])
            bounds = details["bounds"]
            evidence |= {(kind, value): float(size) for kind, value, size in details.get("splits", ())}
        except (ValueError, KeyError, TypeError) as error:
            raise DefinitionError(
                f"experiment_looks, look {number}, {one['metric']}/{one['variant']}: details cannot be read ({error!r})"
            ) from None
        numbers = {name: _known(one[name]) for name in ("lift", "lift_low", "lift_high", "statistic")}
        fraction, spent = _known(one["information"]), _known(one["alpha_spent"])
        shown = PastLook(
            look=number,
            looked_at=one["looked_at"],
            metric=one["metric"],
            variant=one["variant"],
            lift=numbers["lift"],
            low=numbers["lift_low"],
            high=numbers["lift_high"],
            statistic=numbers["statistic"],
            lower=bounds[0],
            upper=bounds[1],
            fraction=fraction,
            alpha_spent=spent,
        )
        arms[one["metric"], one["variant"]] = PastArm(effect, fraction, details["tuned_for"], shown)
    first = found[0]
    return Record(number, first["looked_at"], first["decision"], first["reason"], arms, evidence)


def _row(reading: Reading, one: ArmReading, *, first: bool) -> dict[str, Any]:
    plan: Plan = reading.plan
    # Each is corrected for how many slices there are, so that the smallest speaks for the split as a whole.
    split = [part.p_value for part in reading.splits if part.p_value is not None]
    details: dict[str, Any] = {
        "effect": None if one.effect is None else _document(one.effect),
        "tuned_for": one.tuned_for,
        "bounds": [_known(one.lower), _known(one.upper)],
        "verdict": one.verdict,
        "why_not": one.absolute.reason,
        "winner": reading.winner,
        "mismatches": [[split.kind, split.value] for split in reading.splits if split.mismatch],
    }
    if first:  # the same for all rows of a look
        details["splits"] = [[split.kind, split.value, split.evidence] for split in reading.splits]
    n = one.absolute.n if len(one.absolute.n) == 2 else (0, 0)
    means = one.absolute.values or (None, None)
    low, high = _ends(one.absolute)
    lift_low, lift_high = _ends(one.relative)
    return {
        "experiment": plan.definition.name,
        "started_at": plan.started_at,
        "look": reading.number,
        "looked_at": reading.looked_at,
        "role": one.role,
        "metric": one.metric.name,
        "control": one.control,
        "variant": one.variant,
        "method": one.absolute.method,
        "n_control": n[0],
        "n_variant": n[1],
        "mean_control": _number(means[0]),
        "mean_variant": _number(means[1]),
        "estimate": _number(one.absolute.estimate),
        "low": low,
        "high": high,
        "lift": _number(one.relative.estimate),
        "lift_low": lift_low,
        "lift_high": lift_high,
        "statistic": _number(one.statistic),
        "bound": _number(one.upper),
        "p_value": _number(one.absolute.p_value),
        "p_adjusted": _number(one.p_adjusted),
        "chance_to_win": _number(one.chance_to_win),
        "information": _number(one.fraction),
        "alpha_spent": _number(one.alpha_spent),
        "srm_p": _number(min(split, default=None)),
        "units": reading.crossed.units,
        "crossed": reading.crossed.crossed,
        "days_left": _number(reading.days_left),
        "decision": reading.decision,
        "reason": reading.reason,
        "details": json.dumps(details, ensure_ascii=False, allow_nan=False),
    }


def _shown(reading: Reading, one: ArmReading) -> PastLook:
    interval = one.relative.interval
    return PastLook(
        look=reading.number,
        looked_at=reading.looked_at,
        metric=one.metric.name,
        variant=one.variant,
        lift=one.relative.estimate,
        low=None if interval is None else _known(interval.low),
        high=None if interval is None else _known(interval.high),
        statistic=one.statistic,
        lower=_known(one.lower),
        upper=_known(one.upper),
        fraction=one.fraction,
        alpha_spent=one.alpha_spent,
    )


def _ends(result: Result) -> tuple[float, float]:
    return (math.nan, math.nan) if result.interval is None else (result.interval.low, result.interval.high)


def _document(effect: Effect) -> dict[str, Any]:
    document = asdict(effect)
    # JSON knows no infinity, which is what a normal distribution has.
    return {**document, "n": list(effect.n), "degrees": _known(effect.degrees)}


def _effect(document: Mapping[str, Any]) -> Effect:
    n, degrees = document["n"], document["degrees"]
    return Effect(**{**document, "n": (n[0], n[1]), "degrees": math.inf if degrees is None else degrees})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
