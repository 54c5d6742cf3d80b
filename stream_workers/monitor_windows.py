"""Sliding windows over batch summaries: figures that add up, in panes that come and go. Pure; the clock is passed in.

A window is the last `width / pane` panes, the one that is filling among them. What a pane adds is taken off again,
whole numbers only, when it leaves, so that a window equals what a recount of its summaries would give (a test holds it
to that). Every time is in microseconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from operator import add, sub
from typing import Any, Final, Self

from schemas.codes import Code
from schemas.records import BatchSummary

Counts = tuple[int, ...]
MICRO: Final = 1_000_000
_PLAIN: Final = ("batches", "requests", "rows", "padded_rows", "queue_us", "batch_us", "infer_us", "score_micros")


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """What is watched on its own: a version of a model, outside an experiment or as one of its variants.

    `bulk`: batches of bulk scoring, which nobody waits for. `version` is empty for what reached none.
    """

    model: str
    version: str
    experiment: str = ""
    variant: str = ""
    bulk: bool = False

    @classmethod
    def of(cls, one: BatchSummary, bulk: bool) -> Self:
        """The series that a summary belongs to. An experiment without a variant is one that assigned nobody, and
        its name may be made up.
        """
        return cls(one.model, one.version, one.experiment if one.variant else "", one.variant, bulk)

    def labels(self) -> dict[str, str]:
        """As labels of an alert; what is empty is left out."""
        named = {name: getattr(self, name) for name in ("model", "version", "experiment", "variant")}
        return {name: value for name, value in named.items() if value} | ({"lane": "bulk"} if self.bulk else {})

    def to_json(self) -> list[Any]:
        """What `from_json` reads."""
        return [self.model, self.version, self.experiment, self.variant, self.bulk]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(*value)

    def __str__(self) -> str:
        where = f" as {self.variant!r} of {self.experiment!r}" if self.experiment else ""
        return f"{self.model} {self.version or '(no version)'}{where}{' in bulk' if self.bulk else ''}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What summaries say together. Adds with its like, and takes off what was added before.

    `score_micros`: sum of scores in millionths, whole so that taking off is exact. `latency`, `scores` and `features`
    are histograms as in BatchSummary; `errors` are rows by code.
    """

    batches: int = 0
    requests: int = 0
    rows: int = 0
    padded_rows: int = 0
    queue_us: int = 0
    batch_us: int = 0
    infer_us: int = 0
    score_micros: int = 0
    latency: Counts = ()
    scores: Counts = ()
    errors: Mapping[str, int] = field(default_factory=dict)
    features: Mapping[str, Counts] = field(default_factory=dict)

    @classmethod
    def of(cls, one: BatchSummary) -> Self:
        """The figures of one summary."""
        return cls(
            batches=one.batches,
            requests=one.requests,
            rows=one.rows,
            padded_rows=one.padded_rows,
            queue_us=one.queue_us,
            batch_us=one.batch_us,
            infer_us=one.infer_us,
            score_micros=round(one.score_sum * MICRO),
            latency=_trimmed(one.latency_histogram),
            scores=_trimmed(one.score_histogram),
            errors={code: rows for code, rows in one.errors.items() if rows},
            features={name: _trimmed(counts) for name, counts in one.feature_histograms.items() if any(counts)},
        )

    def __add__(self, other: Figures) -> Figures:
        return self._with(other, add)

    def __sub__(self, other: Figures) -> Figures:
        return self._with(other, sub)

    def _with(self, other: Figures, op: Any) -> Figures:
        codes, names = {**self.errors, **other.errors}, {**self.features, **other.features}
        errors = {code: op(self.errors.get(code, 0), other.errors.get(code, 0)) for code in codes}
        features = {name: _each(self.features.get(name, ()), other.features.get(name, ()), op) for name in names}
        plain = {name: op(getattr(self, name), getattr(other, name)) for name in _PLAIN}
        return Figures(
            **plain,
            latency=_each(self.latency, other.latency, op),
            scores=_each(self.scores, other.scores, op),
            errors={code: rows for code, rows in errors.items() if rows},
            features={name: counts for name, counts in features.items() if counts},
        )

    @property
    def scored(self) -> int:
        """Rows with a score."""
        return sum(self.scores)

    @property
    def timed(self) -> int:
        """Rows whose latency is known."""
        return sum(self.latency)

    def latency_ms(self, share: float) -> float:
        """The latency in milliseconds that `share` of the rows stay within; NaN without rows.

        Straight lines between the histogram's bounds, which are powers of two: at most a factor of two off, and what
        lies beyond the last bound counts as that.
        """
        total = self.timed
        if not total:
            return float("nan")
        wanted, below = share * total, 0
        for place, count in enumerate(self.latency):
            if count and below + count >= wanted:
                lower = 2.0 ** (place - 1) if place else 0.0
                return lower + (2.0**place - lower) * max(wanted - below, 0.0) / count
            below += count
        return 2.0 ** (len(self.latency) - 1)

    def failed(self, *, but: frozenset[str]) -> int:
        """Rows that ended with an error of another code than these."""
        return sum(rows for code, rows in self.errors.items() if code not in but)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; what is zero or empty is left out."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`, also after JSON made lists of tuples."""
        found = dict(value)
        for name in ("latency", "scores"):
            found[name] = tuple(found.get(name, ()))
        found["features"] = {name: tuple(counts) for name, counts in found.get("features", {}).items()}
        return cls(**found)


# Codes that tell of the sender, not of the model that answers.
SENDERS: Final = frozenset({Code.UNKNOWN_MODEL.value, Code.MALFORMED.value, Code.INVALID_ARGUMENT.value})


@dataclass(frozen=True, slots=True)
class Pane:
    """The figures of one series in [start, start + pane). `offset`: the last record of the log that is in it."""

    series: Series
    start: int
    figures: Figures
    offset: int


class Windows:
    """The windows of every series of one partition of the log.

    The partition's own time is the latest that it was told; a record older than a window is late and not counted.
    """

    def __init__(self, width: int, pane: int) -> None:
        """Microseconds; a window is a whole number of panes."""
        if pane <= 0 or width < pane or width % pane:
            raise ValueError(f"a window of {width} µs is no whole number of panes of {pane} µs")
        self.width = width
        self.pane = pane
        self.now = 0
        self.late = 0
        self._panes: dict[Series, dict[int, Pane]] = {}
        self._totals: dict[Series, Figures] = {}

    @property
    def begin(self) -> int:
        """Where the windows begin now."""
        return self.now - self.now % self.pane - self.width + self.pane

    @property
    def end(self) -> int:
        """Where the pane that is filling ends."""
        return self.begin + self.width

    def advance(self, now: int) -> list[Pane]:
        """It is `now` at least; returns the panes that have left."""
        self.now = max(self.now, now)
        begin, gone = self.begin, []
        for series, panes in list(self._panes.items()):
            for start in [start for start in panes if start < begin]:
                pane = panes.pop(start)
                self._totals[series] -= pane.figures
                gone.append(pane)
            if not panes:
                del self._panes[series], self._totals[series]
        return gone

    def add(self, series: Series, at: int, figures: Figures, offset: int) -> Pane | None:
        """Count what one record says of the time `at`; the pane as it is now.

        None where it does not count: the record is late, or its pane holds it already.
        """
        start = at - at % self.pane
        if start < self.begin:
            self.late += 1
            return None
        before = self._panes.get(series, {}).get(start)
        if before is not None and offset <= before.offset:
            return None
        pane = Pane(series, start, figures if before is None else before.figures + figures, offset)
        self._put(pane, figures)
        return pane

    def restore(self, pane: Pane) -> None:
        """A pane as it was kept. Call `advance` with the time that was kept before."""
        if pane.start >= self.begin:
            self._put(pane, pane.figures)

    def total(self, series: Series) -> Figures:
        """The window of a series."""
        return self._totals.get(series, Figures())

    def totals(self) -> Iterator[tuple[Series, Figures]]:
        """Every window that holds anything, in order of series."""
        yield from sorted(self._totals.items())

    def panes(self, series: Series) -> list[Pane]:
        """The panes of a series, oldest first."""
        return [pane for _, pane in sorted(self._panes.get(series, {}).items())]

    def _put(self, pane: Pane, more: Figures) -> None:
        self._panes.setdefault(pane.series, {})[pane.start] = pane
        self._totals[pane.series] = self._totals.get(pane.series, Figures()) + more


def pane_to_json(pane: Pane) -> dict[str, Any]:
    """What `pane_from_json` reads."""
    head = {"series": pane.series.to_json(), "start": pane.start, "offset": pane.offset}
    return {**head, "figures": pane.figures.to_json()}


def pane_from_json(value: Mapping[str, Any]) -> Pane:
    """The reverse of `pane_to_json`."""
    series, figures = Series.from_json(value["series"]), Figures.from_json(value["figures"])
    return Pane(series, value["start"], figures, value["offset"])


def dumps(value: Any) -> str:
    """JSON without spaces, keys in order: equal values are equal texts."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _each(one: Counts, other: Counts, op: Any) -> Counts:
    """Element by element; the shorter one goes on with zeros, and zeros at the end are no elements."""
    width = max(len(one), len(other))
    return _trimmed(map(op, one + (0,) * (width - len(one)), other + (0,) * (width - len(other))))


def _trimmed(counts: Any) -> Counts:
    """Without zeros at the end."""
    found = list(counts)
    while found and not found[-1]:
        found.pop()
    return tuple(found)
