"""What the monitor keeps of one partition of the summaries: its windows, its breaches, and what of them outlives it.

Pure; the clock is passed in. A model's summaries are all in one partition, so a series has one watch. Whatever changes
is told as entries, key to JSON, which the monitor keeps in its changelog; `restore` makes the same watch of them. A
record counts once however often it is read, since each pane knows the last record in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from schemas.records import BatchSummary
from stream_workers.guardrails import Breach, Limits, Reading, Recovery, at_fault, began, followed, read
from stream_workers.monitor_shift import Reference
from stream_workers.monitor_windows import (
    MICRO,
    Figures,
    Pane,
    Series,
    Windows,
    dumps,
    pane_from_json,
    pane_to_json,
)

Entries = dict[str, str | None]
# Without a record for so long, a partition's time goes on by the clock on the wall: nobody sends any more.
IDLE_SECONDS: Final = 2.0
OTHER: Final = "other"
_Key = tuple[Series, str, str]


class Rules(Protocol):
    """What series are held against; it may change at any time."""

    def limits(self, series: Series) -> Limits:
        """The limits of a series."""

    def reference(self, series: Series) -> Reference | None:
        """What its scores and features are compared with, where there is something."""

    def control(self, experiment: str) -> str:
        """The control variant's name; '' where nobody knows it."""


@dataclass(frozen=True, slots=True)
class Span:
    """How long a window is and how fine it slides, in microseconds."""

    width: int = 60 * MICRO
    pane: int = 5 * MICRO


@dataclass(slots=True)
class Watch:
    """The windows and breaches of one partition. `wall` is the clock on the wall, in microseconds since the epoch."""

    partition: int
    rules: Rules
    span: Span = field(default_factory=Span)
    recovery: Recovery = field(default_factory=Recovery)
    windows: Windows = field(init=False)
    breaches: dict[_Key, Breach] = field(init=False, default_factory=dict)
    offset: int = field(init=False, default=-1)
    readings: dict[Series, list[Reading]] = field(init=False, default_factory=dict)
    _heard: tuple[int, int] = field(init=False, default=(0, 0))

    def __post_init__(self) -> None:
        self.windows = Windows(self.span.width, self.span.pane)

    @classmethod
    def restored(
        cls, partition: int, rules: Rules, span: Span, recovery: Recovery, entries: Mapping[str, str], wall: int
    ) -> Watch:
        """The watch that told these entries; its time goes on from where it was."""
        watch = cls(partition, rules, span, recovery)
        panes = []
        for key, text in entries.items():
            owner, kind, *_ = json.loads(key)
            if owner != partition:
                continue
            value = json.loads(text)
            if kind == "mark":
                watch.offset = value["offset"]
                watch.windows.advance(value["now"])
            elif kind == "pane":
                panes.append(pane_from_json(value))
            elif kind == "breach":
                breach = Breach.from_json(value)
                watch.breaches[breach.series, breach.rule, breach.feature] = breach
        for pane in panes:
            watch.windows.restore(pane)
        watch._heard = (watch.windows.now, wall)
        return watch

    def cut_to(self, end: int) -> Entries:
        """Forget the windows where the log ends at `end`, before what was counted: it was made anew or lost its end.

        `end`: the offset that its next record will have. Such a log is read from its beginning, and what it holds must
        count, also where it counted before: marks of a log that is gone would pass it over. Time does not go back, so
        that what is older than a window is late and raises nothing again. Breaches stay, for an alert that is out must
        be followed to its end: the next look finds its series in the new windows, or that it has no rows.
        """
        if self.offset < end:
            return {}
        entries = self._gone([pane for series, _ in self.windows.totals() for pane in self.windows.panes(series)])
        now, self.windows = self.windows.now, Windows(self.span.width, self.span.pane)
        self.windows.advance(now)
        self.offset = -1
        # Last: a monitor that is killed before it is kept cuts again.
        return entries | self._mark()

    def take(self, records: Iterable[tuple[int, BatchSummary, bool]], wall: int) -> Entries:
        """Count records, each with its offset and whether it is of bulk scoring, and look at every window."""
        entries: Entries = {}
        for offset, record, bulk in records:
            if offset <= self.offset:
                continue
            # A worker's clock that is ahead would make everybody else's records late.
            at = min(record.scored_at, wall)
            entries |= self._gone(self.windows.advance(at))
            pane = self.windows.add(self._series(record, bulk), at, Figures.of(record), offset)
            if pane is not None:
                entries[self._pane_key(pane)] = dumps(pane_to_json(pane))
            self.offset = offset
        self._heard = (self.windows.now, wall)
        return entries | self._mark() | self.look()

    def idle(self, wall: int) -> Entries:
        """Nothing came until `wall`: where that is so for a while, time goes on all the same."""
        then, heard = self._heard
        if not then or wall - heard < IDLE_SECONDS * MICRO:
            return {}
        entries = self._gone(self.windows.advance(then + wall - heard))
        return entries | self.look()

    def look(self) -> Entries:
        """Hold every window against its limits; breaches begin, go on or end."""
        totals = dict(self.windows.totals())
        self.readings = {series: self._read(series, totals) for series in totals}
        entries: Entries = {}
        start = self.windows.end - self.windows.pane
        for series, readings in self.readings.items():
            for reading in readings:
                key = (series, reading.rule, reading.feature)
                if reading.breached and key not in self.breaches:
                    breach = began(reading, series, start)
                    entries |= self._keep(self._blamed(breach, reading, totals))
        for key, breach in list(self.breaches.items()):
            series, rule, feature = key
            found = (one for one in self.readings.get(series, ()) if (one.rule, one.feature) == (rule, feature))
            after = followed(breach, next(found, None), self.windows.now, self.recovery)
            if after != breach:
                entries |= self._keep(after)
        return entries

    def untold(self) -> list[Breach]:
        """Breaches of which an alert has still to say that they began, or are over."""
        return [one for one in self.breaches.values() if one.state != "firing"]

    def told(self, breach: Breach) -> Entries:
        """The alert is out."""
        if breach.state == "raising":
            return self._keep(replace(breach, state="firing"))
        del self.breaches[breach.series, breach.rule, breach.feature]
        return {self._breach_key(breach): None}

    def _series(self, record: BatchSummary, bulk: bool) -> Series:
        """The series of a record. What reached no version carries a model's name that anybody may make up: only that of
        a model that is served now is kept.
        """
        series = Series.of(record, bulk)
        if series.version or any(one.model == series.model and one.version for one, _ in self.windows.totals()):
            return series
        return replace(series, model=OTHER)

    def _read(self, series: Series, totals: Mapping[Series, Figures]) -> list[Reading]:
        reference = self.rules.reference(series)
        control = self.rules.control(series.experiment) if series.experiment else ""
        if (reference is None or not reference.scores) and control and series.variant != control:
            beside = _beside(series, control, totals)
            scores = totals[beside].scores if beside is not None else ()
            if sum(scores) >= self.rules.limits(series).min_score_rows:
                features = reference.features if reference is not None else {}
                reference = Reference(f"the control {control!r}, live", sum(scores), scores, features)
        return read(
            series, totals[series], self.rules.limits(series), reference, in_variant=bool(series.experiment)
        )  # fmt: skip

    def _blamed(self, breach: Breach, reading: Reading, totals: Mapping[Series, Figures]) -> Breach:
        """The breach with who is to blame, which decides whether the variant is stopped."""
        series = breach.series
        fault, why = False, "it is in no experiment: there is nothing to stop"
        if series.experiment and series.variant:
            control = self.rules.control(series.experiment)
            if series.variant == control:
                why = "it is the control: there is nothing to go back to"
            else:
                beside = _beside(series, control, totals)
                fault, why = at_fault(reading.rule, reading, self.readings[beside] if beside is not None else ())
        return replace(breach, evidence={**breach.evidence, "at_fault": fault, "why": why})

    def _keep(self, breach: Breach) -> Entries:
        self.breaches[breach.series, breach.rule, breach.feature] = breach
        return {self._breach_key(breach): dumps(breach.to_json())}

    def _mark(self) -> Entries:
        return {self._key("mark"): dumps({"now": self.windows.now, "offset": self.offset})}

    def _gone(self, panes: Sequence[Pane]) -> Entries:
        return {self._pane_key(pane): None for pane in panes}

    def _pane_key(self, pane: Pane) -> str:
        return self._key("pane", pane.series.to_json(), pane.start)

    def _breach_key(self, breach: Breach) -> str:
        return self._key("breach", breach.series.to_json(), breach.rule, breach.feature)

    def _key(self, *parts: object) -> str:
        return dumps([self.partition, *parts])


def partition_of(key: str) -> int:
    """The partition that an entry belongs to."""
    return int(json.loads(key)[0])


def _beside(series: Series, control: str, totals: Mapping[Series, Figures]) -> Series | None:
    """The control's window of the same experiment, the one with most rows where its version has changed."""
    found: Iterator[Series] = (
        one
        for one in totals
        if (one.model, one.experiment, one.variant, one.bulk) == (series.model, series.experiment, control, False)
        and one.version
    )
    return max(found, key=lambda one: totals[one].rows, default=None) if control else None
