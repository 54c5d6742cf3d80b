"""Counts what has come since the last round, holds it against each version's reference profile, and writes it down.

1. A day (UTC) that is over is counted once: all features, the score, slices, and what the scores let expect. It is
   counted again only where rows of it have come since: one whose rows are being forgotten stays as it was found.
2. At each full hour the 24 hours before it are counted: what goes wrong today is seen within the hour. A whole day, as
   an hour of the night differs from one of the day without any drift.
3. With each day the four weeks that end with it are held against the reference, from what days have left: what is slow
   shows there.
4. A day's outcomes are counted when the label's delay has passed since its end, so that late outcomes, which are not
   like the early ones, are in. Outcomes that come later still make it be counted again; they are looked for once an
   hour.

A round that is broken off is finished by the next. What goes wrong with one version is in its outcome and harms no
other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from analytics import drift_figures, drift_weeks, performance_figures, profiles
from analytics.drift_figures import DRIFT, WATCH, Figure, Limits
from analytics.drift_sql import VARIANT
from analytics.drift_store import DAY, WHOLE, DriftStore, Slice, Spoken, Window
from analytics.profiles import Profile, ProfileError
from analytics.results import StatisticError
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError

log = logging.getLogger(__name__)

# A day is over this long after its end: what is under way through Kafka and ingest comes in.
SETTLE: Final = timedelta(minutes=5)
# Outcomes this old are looked for no more.
LATEST_OUTCOME: Final = timedelta(days=60)
_DAYS_AT_ONCE: Final = 31


@dataclass(frozen=True, slots=True)
class Watched:
    """A version of the model store: the profile it came with (empty where it has none), what it takes (kind by name),
    and whether it is its model's default."""

    model: str
    version: str
    profile: Mapping[str, Any]
    takes: Mapping[str, str]
    live: bool = False


@dataclass(frozen=True, slots=True)
class Alarm:
    """A figure whose verdict is not ok, and where."""

    start: datetime
    end: datetime
    slice: Slice
    figure: Figure

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in ISO 8601."""
        one = self.figure
        cut = dict(zip(("slice_by", "slice"), self.slice, strict=True))
        return {
            "window_start": self.start.isoformat(),
            "window_end": self.end.isoformat(),
            **cut,
            "kind": one.kind,
            "feature": one.feature,
            "metric": one.metric,
            "value": one.value,
            "n": one.n,
            "threshold": one.threshold,
            "verdict": one.verdict,
            "message": one.message,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round did about a version: windows counted, rows or outcomes in them, alarms, or what went wrong."""

    model: str
    version: str
    days: int = 0
    hours: int = 0
    outcome_days: int = 0
    rows: int = 0
    alarms: tuple[Alarm, ...] = field(default=())
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {name: getattr(self, name) for name in ("model", "version", "days", "hours", "outcome_days", "rows")}
        return {**plain, "alarms": [one.as_dict() for one in self.alarms], "error": self.error}


class DriftJob:
    """Makes rounds. `watched`: the versions there are; `clock`: what time it is (aware). Thread-safe."""

    def __init__(
        self,
        warehouse: Warehouse,
        watched: Callable[[], Iterable[Watched]],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = DriftStore(warehouse)
        self._watched = watched
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()

    def run(self, *, only: str = "", again: tuple[datetime, datetime] | None = None) -> list[Outcome]:
        """One round over all versions with scored rows, or those of the model named.

        `again`: count the finished days that begin in this range once more, whatever has been counted. Raises
        `WarehouseUnavailableError`, and whatever `watched` raises.
        """
        with self._lock:
            now = self._clock()
            known = {(one.model, one.version): one for one in self._watched()}
            days = self._store.days()
            found = []
            for model, version in sorted(days):
                if only in ("", model):
                    one = known.get((model, version), Watched(model, version, {}, {}))
                    found.append(self._one(one, days[model, version], again, now))
            return found

    def _one(
        self,
        one: Watched,
        days: Mapping[datetime, int],
        again: tuple[datetime, datetime] | None,
        now: datetime,
    ) -> Outcome:
        done = Outcome(one.model, one.version)
        try:
            profile, made_at = reference(self._store, one, now)
            round_ = _Round(self._store, profile, made_at, self._limits, now)
            round_.count_days(days, again)
            round_.count_last_day(days)
            round_.count_outcomes(days, again)
        except WarehouseUnavailableError:
            raise
        except (ProfileError, StatisticError, WarehouseError) as error:
            log.error("drift of %s %s was not looked at: %s", one.model, one.version, error)
            return replace(done, error=str(error))
        return round_.outcome()


def reference(store: DriftStore, one: Watched, now: datetime) -> tuple[Profile, datetime]:
    """The profile that holds for a version, and since when. Raises `ProfileError`, `WarehouseError`."""
    if one.profile:
        store.keep_training(one.model, one.version, one.profile, now)
    kept = store.profile(one.model, one.version)
    if kept is None:
        raise ProfileError(
            f"{one.model} {one.version} has no reference profile: "
            f"make one of logged predictions by `penstock drift profile {one.model} --version {one.version}`"
        )
    profile = profiles.parse(kept.body, one.model, one.version)
    if one.takes:
        profiles.check_signature(profile, one.takes)
    return profile, kept.made_at


class _Round:
    """One round over one version."""

    def __init__(self, store: DriftStore, profile: Profile, made_at: datetime, limits: Limits, now: datetime) -> None:
        self._store = store
        self._profile = profile
        self._made_at = made_at
        self._limits = limits
        self._now = now
        self._cuts = (*profile.sliced_by, VARIANT)
        self._alarms: list[Alarm] = []
        self._sizes = dict.fromkeys(("days", "hours", "outcome_days", "rows"), 0)

    def outcome(self) -> Outcome:
        """What was done."""
        sizes = self._sizes
        return Outcome(
            self._profile.model,
            self._profile.version,
            sizes["days"],
            sizes["hours"],
            sizes["outcome_days"],
            sizes["rows"],
            tuple(self._alarms),
        )

    def count_days(self, days: Mapping[datetime, int], again: tuple[datetime, datetime] | None) -> None:
        """Count the features and scores of days that are over and not counted."""
        before = self._store.counted(self._profile.model, self._profile.version, "rows")
        over = {day: rows for day, rows in days.items() if day + DAY + SETTLE <= self._now}
        due = {day: rows for day, rows in over.items() if rows > before.get(day, 0) or _within(day, again)}
        for some in _together(sorted(due)):
            self._windows("day", some)
            self._weeks(some)
            noted = {day: due[day] for day in some}
            self._store.note(self._profile.model, self._profile.version, "rows", noted)
            self._sizes["rows"] += sum(noted.values())
            self._sizes["days"] += len(noted)

    def count_last_day(self, days: Mapping[datetime, int]) -> None:
        """Count the 24 hours before the last full hour, once, where there are rows and it is no day by itself."""
        end = _hour(self._now - SETTLE)
        begin = end - DAY
        if end.hour == 0 or not any(begin - DAY < day < end for day in days):
            return
        name = (self._profile.model, self._profile.version)
        if begin not in self._store.counted(*name, "last day"):
            self._sizes["hours"] += self._windows("all", [begin])
            self._store.note(*name, "last day", {begin: 0})

    def count_outcomes(self, days: Mapping[datetime, int], again: tuple[datetime, datetime] | None) -> None:
        """Count the outcomes of days whose label has had its time."""
        label, name = self._profile.label, (self._profile.model, self._profile.version)
        if label is None:
            return
        before = self._store.counted(*name, "outcomes")
        ripe = {day for day in days if day + DAY + max(label.delay, SETTLE) <= self._now}
        # The rows there were are noted: with later rows come their outcomes.
        due = {day for day in ripe if days[day] > before.get(day, 0) or _within(day, again)}
        late, ends = self._late({day for day in ripe & before.keys() if days[day] >= before[day]})
        for some in _together(sorted(due | late)):
            self._outcomes(some)
            self._weeks_of_outcomes(some)
            self._store.note(*name, "outcomes", {day: days[day] for day in some})
            self._sizes["outcome_days"] += len(some)
        self._store.mark(*name, ends, self._now)

    def _late(self, counted: set[datetime]) -> tuple[set[datetime], list[tuple[str, int, int]]]:
        """Days counted about which outcomes have come since, and how far was looked."""
        assert self._profile.label is not None  # noqa: S101 - who calls has asked
        last = self._store.looked_at(self._profile.model, self._profile.version)
        if last is not None and _hour(last) == _hour(self._now):
            return set(), []
        ends = self._store.ends(self._profile.label.outcome)
        recent = sorted(day for day in counted if day + LATEST_OUTCOME >= self._now)
        if not recent or last is None:
            return set(), ends
        return self._store.touched(self._profile, recent[0], recent[-1] + DAY) & counted, ends

    def _windows(self, window: Window, starts: Sequence[datetime]) -> int:
        """Count windows of a day each, and write what there is to say; returns how many had rows."""
        begin, end = starts[0], starts[-1] + DAY
        cuts = self._cuts if window == "day" else ()
        counted = self._store.counts(self._profile, cuts, window, begin, end)
        scored = self._store.scores(self._profile, window, begin, end) if self._profile.score else {}
        spoken: list[Spoken] = []
        for start in starts:
            slices = counted.get(start, {})
            ends = start + DAY
            for one, counts in sorted(slices.items()):
                if one == WHOLE:
                    references = [*self._profile.features, *([self._profile.score] if self._profile.score else ())]
                    figures = drift_figures.whole(self._profile, counts, self._limits)
                    if start in scored:
                        figures += drift_figures.answers(self._profile, *scored[start])
                        figures += performance_figures.estimates(*scored[start], self._profile, self._limits)
                else:
                    references = drift_figures.references_of(self._profile, *one)
                    beside = sum(other[0] == one[0] for other in slices)
                    figures = drift_figures.part(references, counts, beside, self._limits)
                by_name = {reference.axis.name: reference for reference in references}
                spoken.append(Spoken(start, ends, one, tuple(figures), counts, by_name))
        self._write(spoken)
        return len(counted)

    def _outcomes(self, starts: Sequence[datetime]) -> None:
        counted = self._store.outcomes(self._profile, self._cuts, starts[0], starts[-1] + DAY)
        spoken: list[Spoken] = []
        for start in starts:
            slices = counted.get(start, {})
            for one, some in sorted(slices.items()):
                if one == WHOLE:
                    reference, beside = self._profile.performance, 1
                else:
                    own = self._profile.slices.get(one)
                    known = self._profile.performance if one[0] not in self._profile.sliced_by else None
                    reference = own.performance if own is not None else known
                    beside = sum(other[0] == one[0] for other in slices)
                    if some.rows < self._limits.rows:
                        continue
                figures = performance_figures.concept(some, reference, self._limits, beside)
                spoken.append(Spoken(start, start + DAY, one, tuple(figures), {}, {}))
        self._write(spoken)

    def _weeks(self, days: Sequence[datetime]) -> None:
        """The four weeks that end with each of these days."""
        begin, end = days[0] + DAY - drift_weeks.LENGTH, days[-1] + DAY
        by_day = self._store.day_counts(self._profile, self._made_at, begin, end)
        references = [*self._profile.features, *([self._profile.score] if self._profile.score else ())]
        by_name = {reference.axis.name: reference for reference in references}
        spoken = []
        for day in days:
            figures, total = drift_weeks.histograms(self._profile, by_day, day, self._limits)
            if figures:
                start = day + DAY - drift_weeks.LENGTH
                spoken.append(Spoken(start, day + DAY, WHOLE, tuple(figures), total, by_name))
        self._write(spoken)

    def _weeks_of_outcomes(self, days: Sequence[datetime]) -> None:
        begin, end = days[0] + DAY - drift_weeks.LENGTH, days[-1] + DAY
        by_day = self._store.day_figures(self._profile, self._made_at, begin, end)
        spoken = []
        for day in days:
            figures = tuple(drift_weeks.performance(self._profile, by_day, day, self._limits))
            if figures:
                spoken.append(Spoken(day + DAY - drift_weeks.LENGTH, day + DAY, WHOLE, figures, {}, {}))
        self._write(spoken)

    def _write(self, spoken: Sequence[Spoken]) -> None:
        self._store.write(self._profile, spoken, self._now)
        for one in spoken:
            for figure in one.figures:
                if figure.verdict in (DRIFT, WATCH):
                    self._alarms.append(Alarm(one.start, one.end, one.slice, figure))


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _within(day: datetime, span: tuple[datetime, datetime] | None) -> bool:
    return span is not None and span[0] <= day < span[1]


def _together(starts: Sequence[datetime]) -> list[list[datetime]]:
    """Days that follow one another, so many at a time as one query may count."""
    groups: list[list[datetime]] = []
    for start in starts:
        if groups and start - groups[-1][-1] == DAY and len(groups[-1]) < _DAYS_AT_ONCE:
            groups[-1].append(start)
        else:
            groups.append([start])
    return groups
