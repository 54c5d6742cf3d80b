"""The reference profile of a model version: what its data, scores and performance were, which drift is measured by.

Its JSON is in the model's manifest (`profile`) or made of a window of logged predictions. For each feature, by name:

    {"kind": "numeric", "low", "high", "edges": [deciles], "shares": [of rows with a value], "null_share", "mean",
     "deviation"}                        bin i holds edges[i-1] < x <= edges[i]; low and high are the least and greatest
    {"kind": "categorical", "shares": {value: of all rows}, "null_share", "unseen_share"}

each with `worst_day`, {"psi", "ks"}: the furthest that a day of the reference was from all of it, as rows of a day are
not independent, but share its weather and its weekday. Beside `features`: `rows`; `score` (as a numeric feature, with
`positive_share` and `confidence`); `label` (`outcome`: the outcome's name, `rate`, `delay_hours`: how long outcomes are
waited for); `calibration` (groups by rising score: `rows`, `mean_score`, `late_share`, the share that came true);
`performance` (`rows`, `accuracy`, `f1`, `auc`, `log_loss`, `calibration`, of rows that the model was not fitted to
where there are such, and `days`: {figure: [mean over days, their deviation, how many]}); and `slices`: {by: {value:
{"rows", "features": {name: counts}, "score": counts, "worst_day": {name: ...}, "performance"}}} over the same bins, for
slices that differ from the whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from itertools import pairwise
from typing import Any, Final

import numpy as np

from analytics.drift_axes import SCORE, Axis, CategoryAxis, Counts, NumberAxis

PERFORMANCE: Final = ("accuracy", "f1", "auc", "log_loss", "calibration")
NUMERIC: Final = "numeric"
CATEGORICAL: Final = "categorical"
DELAY: Final = timedelta(days=1)
_DIGITS: Final = 6


class ProfileError(ValueError):
    """A profile that cannot be used, in one line that names the place."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A feature's (or the score's) bins and the reference's rows in them; mean and deviation of a number, else NaN.

    `worst_psi`, `worst_ks`: of the reference's own days against all of it; NaN where it has too few days to know.
    """

    axis: Axis
    counts: tuple[float, ...]
    mean: float = math.nan
    deviation: float = math.nan
    worst_psi: float = math.nan
    worst_ks: float = math.nan

    @property
    def array(self) -> Counts:
        """The counts [bins]."""
        return np.array(self.counts, np.float64)


@dataclass(frozen=True, slots=True)
class Label:
    """Which outcome says whether the score was right (1 positive), how many were, and how long it may take to come."""

    outcome: str
    rate: float
    delay: timedelta = DELAY


@dataclass(frozen=True, slots=True)
class Performance:
    """Figures by name (those of `PERFORMANCE` that are known) over `rows` with an outcome.

    `days`: of single days, by figure, the mean, the deviation and how many there were.
    """

    rows: int
    figures: Mapping[str, float]
    days: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SliceReference:
    """A slice's own counts, by feature, over the profile's axes; `SCORE` is the score's."""

    rows: int
    counts: Mapping[str, tuple[float, ...]]
    performance: Performance | None = None
    worst: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """A version's reference: see the module. `calibration`: (rows, mean score, share positive) by rising score;
    `answers`: mean_score, positive_share and confidence, those of them that are known.
    """

    model: str
    version: str
    rows: int
    features: tuple[Reference, ...]
    score: Reference | None = None
    label: Label | None = None
    calibration: tuple[tuple[float, float, float], ...] = ()
    performance: Performance | None = None
    answers: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[tuple[str, str], SliceReference] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Which version it is of, in words."""
        return f"{self.model} {self.version}"

    @property
    def sliced_by(self) -> tuple[str, ...]:
        """The features that rows are cut by."""
        return tuple(sorted({by for by, _ in self.slices}))


def from_json(body: Any, model: str, version: str) -> Profile:
    """A profile from its JSON object. Raises `ProfileError` naming the key."""
    at = f"profile of {model} {version}"
    root = _mapping(body, at)
    rows = _number(root.get("rows"), f"{at}: rows", least=1)
    features = tuple(
        _reference(name, one, rows, f"{at}: features.{name}")
        for name, one in _mapping(root.get("features"), f"{at}: features").items()
    )
    score = root.get("score")
    by_name = {one.axis.name: one for one in features}
    found = None
    if score is not None:
        where = f"{at}: score"
        if "edges" not in _mapping(score, where):
            raise ProfileError(
                f"{where}.edges: missing; train the version anew, or make a profile of logged predictions"
            )
        found = _reference(SCORE, {"kind": NUMERIC, **score}, rows, where)
        by_name[SCORE] = found
    return Profile(
        model,
        version,
        int(rows),
        features,
        found,
        _label(root.get("label"), f"{at}: label"),
        tuple(_group(one, f"{at}: calibration") for one in root.get("calibration") or ()),
        _performance(root.get("performance"), f"{at}: performance"),
        _answers(score, f"{at}: score"),
        _slices(root.get("slices"), by_name, f"{at}: slices"),
    )


def parse(text: str, model: str, version: str) -> Profile:
    """A profile from JSON text. Raises `ProfileError`."""
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ProfileError(f"profile of {model} {version}: it is no JSON: {error}") from None
    return from_json(body, model, version)


def check_signature(profile: Profile, takes: Mapping[str, str]) -> None:
    """Raise `ProfileError` unless the profile has each feature the model takes, of its kind, and no other.

    `takes`: kind (`NUMERIC` or `CATEGORICAL`) by name. A vector's elements, `name[0]` and so on, are of its name.
    """
    has = {
        one.axis.name.partition("[")[0]: NUMERIC if isinstance(one.axis, NumberAxis) else CATEGORICAL
        for one in profile.features
    }
    wrong = [f"it has no {name}" for name in sorted(takes.keys() - has.keys())]
    wrong += [f"the model takes no {name}" for name in sorted(has.keys() - takes.keys())]
    wrong += [
        f"{name} is {has[name]} there and {takes[name]} in the model"
        for name in sorted(has.keys() & takes.keys())
        if has[name] != takes[name]
    ]
    if wrong:
        raise ProfileError(
            f"the profile of {profile.name} is for another signature: {'; '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}"
        )


def number_document(axis: NumberAxis, counts: Sequence[float], mean: float, deviation: float) -> dict[str, Any]:
    """A number's part of the JSON; outer bins are empty in a profile made over its own low and high."""
    inner = np.array(counts[1:-2], np.float64)
    inner[0] += counts[0]
    inner[-1] += counts[-2]
    known, rows = float(inner.sum()), float(sum(counts))
    return {
        "kind": NUMERIC,
        "low": _finite(axis.low),
        "high": _finite(axis.high),
        "edges": list(axis.edges),
        "shares": [short(one / known) for one in inner] if known else [0.0] * len(inner),
        "null_share": short(counts[-1] / rows) if rows else 0.0,
        "mean": _finite(mean),
        "deviation": _finite(deviation),
    }


def category_document(axis: CategoryAxis, counts: Sequence[float]) -> dict[str, Any]:
    """A category's part of the JSON; the most frequent value first."""
    rows = float(sum(counts)) or 1.0
    pairs = sorted(zip(axis.values, counts, strict=False), key=lambda pair: (-pair[1], pair[0]))
    return {
        "kind": CATEGORICAL,
        "shares": {value: short(count / rows) for value, count in pairs},
        "null_share": short(counts[-1] / rows),
        "unseen_share": short(counts[-2] / rows),
    }


def short(value: float) -> float:
    """As it is written: six digits after the point, or six from the first that is not 0 on, whichever are more."""
    return _written(value, ROUND_HALF_EVEN)


def outward(low: float, high: float) -> tuple[float, float]:
    """A range written so short that nothing in it falls out."""
    return _written(low, ROUND_FLOOR), _written(high, ROUND_CEILING)


def _written(value: float, rounding: str) -> float:
    exact = Decimal(float(value))
    if not exact.is_finite():
        return float(value)
    digits = max(_DIGITS, exact.adjusted() + 1 + _DIGITS)
    return float(Context(prec=digits, rounding=rounding).plus(exact))


def _finite(value: float) -> float | None:
    return short(value) if math.isfinite(value) else None


def _reference(name: str, body: Any, rows: float, where: str) -> Reference:
    one = _mapping(body, where)
    kind = one.get("kind")
    null = _number(one.get("null_share", 0.0), f"{where}.null_share", most=1)
    if kind == CATEGORICAL:
        shares = _mapping(one.get("shares"), f"{where}.shares")
        unseen = _number(one.get("unseen_share", 0.0), f"{where}.unseen_share", most=1)
        counts = [rows * _number(share, f"{where}.shares.{value}", most=1) for value, share in shares.items()]
        worst = _worst(one.get("worst_day"), f"{where}.worst_day")
        every = (*map(_whole, counts), _whole(rows * unseen), _whole(rows * null))
        return Reference(CategoryAxis(name, tuple(shares)), every, math.nan, math.nan, *worst)
    if kind != NUMERIC:
        raise ProfileError(f"{where}.kind: expected {NUMERIC} or {CATEGORICAL}, got {kind!r}")
    edges = [_number(edge, f"{where}.edges", least=-math.inf) for edge in _list(one.get("edges"), f"{where}.edges")]
    if any(a >= b for a, b in pairwise(edges)):
        raise ProfileError(f"{where}.edges: expected ascending numbers, got {edges}")
    parts = [_number(share, f"{where}.shares", most=1) for share in _list(one.get("shares"), f"{where}.shares")]
    if len(parts) != len(edges) + 1:
        raise ProfileError(f"{where}.shares: {len(edges)} edges need {len(edges) + 1} shares, there are {len(parts)}")
    low, high = (
        other if one.get(key) is None else _number(one[key], f"{where}.{key}", least=-math.inf)
        for key, other in (("low", -math.inf), ("high", math.inf))
    )
    if low > high or (edges and not low <= edges[0] <= edges[-1] <= high):
        raise ProfileError(f"{where}: low {low:g}, edges and high {high:g} must ascend")
    known = rows * (1 - null)
    # Without a value there was no range either: whatever comes lies above it.
    axis = NumberAxis(name, low, high, tuple(edges)) if any(parts) else NumberAxis(name, -math.inf, -math.inf, ())
    inner = [_whole(known * part) for part in parts] if any(parts) else [0.0]
    mean, deviation = (
        math.nan if one.get(key) is None else _number(one[key], f"{where}.{key}", least=-math.inf)
        for key in ("mean", "deviation")
    )
    counts = [0.0, *inner, 0.0, _whole(rows * null)]
    return Reference(axis, tuple(counts), mean, deviation, *_worst(one.get("worst_day"), f"{where}.worst_day"))


def _worst(body: Any, where: str) -> tuple[float, float]:
    one = _mapping(body or {}, where)
    psi, ks = (math.nan if one.get(key) is None else _number(one[key], f"{where}.{key}") for key in ("psi", "ks"))
    return psi, ks


def _label(body: Any, where: str) -> Label | None:
    if body is None:
        return None
    one = _mapping(body, where)
    outcome = one.get("outcome")
    if outcome is None:  # a profile that knows no outcome by name has its rate to tell and nothing to be joined with
        return None
    if not isinstance(outcome, str) or not outcome:
        raise ProfileError(f"{where}.outcome: expected the name of an outcome, got {outcome!r}")
    delay = timedelta(hours=_number(one.get("delay_hours", 24), f"{where}.delay_hours"))
    return Label(outcome, _number(one.get("rate", 0.0), f"{where}.rate", most=1), delay)


def _group(body: Any, where: str) -> tuple[float, float, float]:
    one = _mapping(body, where)
    rows, mean, share = (_number(one.get(key), f"{where}.{key}") for key in ("rows", "mean_score", "late_share"))
    return rows, mean, share


def _performance(body: Any, where: str) -> Performance | None:
    if body is None:
        return None
    one = _mapping(body, where)
    figures = {key: _number(one[key], f"{where}.{key}") for key in PERFORMANCE if one.get(key) is not None}
    days: dict[str, tuple[float, float, float]] = {}
    for key, some in _mapping(one.get("days") or {}, f"{where}.days").items():
        if len(_list(some, f"{where}.days.{key}")) != 3:
            raise ProfileError(f"{where}.days.{key}: expected mean, deviation and number of days, got {_shown(some)}")
        mean, deviation, count = (_number(value, f"{where}.days.{key}") for value in some)
        days[key] = (mean, deviation, count)
    return Performance(int(_number(one.get("rows"), f"{where}.rows")), figures, days)


def _answers(body: Any, where: str) -> dict[str, float]:
    one = _mapping(body or {}, where)
    keys = {"mean_score": "mean", "positive_share": "positive_share", "confidence": "confidence"}
    return {
        name: _number(one[key], f"{where}.{key}", least=-math.inf)
        for name, key in keys.items()
        if one.get(key) is not None
    }


def _slices(body: Any, by_name: Mapping[str, Reference], where: str) -> dict[tuple[str, str], SliceReference]:
    found: dict[tuple[str, str], SliceReference] = {}
    for by, values in _mapping(body or {}, where).items():
        if by not in by_name:
            raise ProfileError(f"{where}.{by}: no feature of this profile has that name")
        for value, one in _mapping(values, f"{where}.{by}").items():
            there = f"{where}.{by}.{value}"
            counts = dict(_mapping(one.get("features"), f"{there}.features"))
            if one.get("score") is not None:
                counts[SCORE] = one["score"]
            for name, some in counts.items():
                if name not in by_name or len(_list(some, f"{there}.{name}")) != by_name[name].axis.bins:
                    raise ProfileError(f"{there}.{name}: expected the counts of a feature's bins")
            found[by, str(value)] = SliceReference(
                int(_number(one.get("rows"), f"{there}.rows")),
                {name: tuple(_number(count, f"{there}.{name}") for count in some) for name, some in counts.items()},
                _performance(one.get("performance"), f"{there}.performance"),
                {
                    name: _worst(some, f"{there}.worst_day.{name}")
                    for name, some in _mapping(one.get("worst_day") or {}, f"{there}.worst_day").items()
                },
            )
    return found


def _whole(count: float) -> float:
    """Shares are written short; rows were whole."""
    return float(round(count))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ProfileError(f"{where}: expected an object, got {_shown(value)}")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ProfileError(f"{where}: expected a list, got {_shown(value)}")
    return value


def _number(value: Any, where: str, *, least: float = 0.0, most: float = math.inf) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most:
        raise ProfileError(f"{where}: expected a number{_range(least, most)}, got {_shown(value)}")
    return float(value)


def _range(least: float, most: float) -> str:
    if math.isfinite(most):
        return f" from {least:g} to {most:g}"
    return f" of {least:g} or more" if math.isfinite(least) else ""


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
