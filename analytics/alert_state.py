"""The life of an alert: pending, firing, resolved. Pure: samples and the time come in, changes come out.

    condition holds ──> pending ── held for `hold` ──> firing ── gone for `keep_firing` ──> resolved
                           └────── gone at once ────────────────────────────────────────────> resolved (never fired)

An occurrence (`alert_id`: rule, labels, start) fires once and is resolved once, however often its condition comes and
goes in between and however often it is reported. A look that failed changes nothing: call `judge` only with samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from analytics.alert_catalogue import Source
from analytics.alert_rules import Rule

State = Literal["pending", "firing", "resolved"]
# One rule that finds more than this is a rule gone wrong, and nobody reads so many alerts.
MOST_ALERTS: Final = 1000
# Reports that were resolved and may come again; more than the topic keeps are not remembered.
_CLOSED_KEPT: Final = 100_000
_TICK: Final = timedelta(microseconds=1)


class AlertSampleError(ValueError):
    """Samples that cannot be judged, in one line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row a rule looks at. `figures` are its other numbers, for the summary; `n` what the value comes from."""

    labels: Mapping[str, str]
    value: float
    n: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert at its last change. `fired_at` None: it has not fired. Times are aware.

    `clear_since`: since when the condition of a firing alert does not hold.
    """

    alert_id: str
    rule: str
    fingerprint: str
    state: State
    severity: str
    labels: Mapping[str, str]
    summary: str
    value: float
    threshold: float
    n: int
    started_at: datetime
    changed_at: datetime
    source: Source = "rule"
    fired_at: datetime | None = None
    evidence: str = ""
    clear_since: datetime | None = None

    @property
    def fired(self) -> bool:
        """Whether it is or was more than pending."""
        return self.fired_at is not None


@dataclass(frozen=True, slots=True)
class Report:
    """What somebody else raised or resolved: the live monitor's record on the topic `alerts`.

    `at`: when it said so. A report read twice has the same time twice, so that the history has it once.
    """

    alert_id: str
    rule: str
    state: Literal["firing", "resolved"]
    severity: str
    source: Source
    labels: Mapping[str, str]
    summary: str
    value: float
    threshold: float
    n: int
    raised_at: datetime
    at: datetime
    evidence: str = ""


def fingerprint(rule: str, labels: Mapping[str, str]) -> str:
    """What is the same alert whenever it comes: 16 hex digits of SHA-256 of rule and labels."""
    text = json.dumps([rule, sorted(labels.items())], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def occurrence(rule: str, mark: str, started_at: datetime) -> str:
    """One occurrence's id: rule, fingerprint and start in microseconds."""
    return f"{rule}-{mark}-{round(started_at.timestamp() * 1e6)}"


def fill(summary: str, rule: Rule, sample: Sample, labels: Mapping[str, str]) -> str:
    """A rule's summary for a sample. Raises `AlertSampleError` where nothing fills one of its places."""
    there: dict[str, object] = {
        **labels,
        **sample.figures,
        "value": sample.value,
        "threshold": rule.condition.threshold,
        "rule": rule.name,
        "severity": rule.severity,
    }
    if sample.n is not None:
        there["n"] = sample.n
    try:
        return " ".join(summary.format_map(there).split())
    except KeyError as error:
        raise AlertSampleError(f"summary: nothing fills {{{error.args[0]}}}; there are {', '.join(there)}") from None
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise AlertSampleError(f"summary: cannot be filled: {error}") from None


class AlertBook:
    """What is pending or firing now. Every method returns the alerts that changed, in their new state."""

    def __init__(self, active: Iterable[Alert] = (), closed: Iterable[str] = ()) -> None:
        """`active`: what was pending or firing when an earlier process wrote it down; `closed`: reports resolved."""
        self._active = {one.fingerprint: one for one in sorted(active, key=lambda one: one.started_at)}
        self._closed = dict.fromkeys(closed)

    @property
    def active(self) -> tuple[Alert, ...]:
        """Pending and firing alerts, oldest first, with their newest values."""
        return tuple(sorted(self._active.values(), key=lambda one: (one.started_at, one.alert_id)))

    def judge(self, rule: Rule, samples: Sequence[Sample], now: datetime) -> list[Alert]:
        """A look at a rule's samples. A label set without a sample is one whose condition does not hold.

        Raises `AlertSampleError` (two samples of the same labels, too many of them, a summary that cannot be filled)
        and then has changed nothing.
        """
        holding: dict[str, tuple[Sample, dict[str, str], str]] = {}
        seen: set[str] = set()
        for sample in samples:
            labels = {**sample.labels, **rule.labels}
            mark = fingerprint(rule.name, labels)
            if mark in seen:
                raise AlertSampleError(f"two rows have the same labels: {_shown(labels)}")
            seen.add(mark)
            wanted = all(sample.labels.get(name) in allowed for name, allowed in rule.where.items())
            enough = sample.n is None or sample.n >= rule.min_n
            if wanted and enough and rule.condition.holds(sample.value):
                holding[mark] = (sample, labels, fill(rule.summary, rule, sample, labels))
        if len(holding) > MOST_ALERTS:
            raise AlertSampleError(f"{len(holding)} alerts at once, the limit is {MOST_ALERTS}: it needs fewer labels")
        changes = [self._hold(rule, mark, *found, now) for mark, found in holding.items()]
        gone = [one for one in self._active.values() if _ours(one, rule.name) and one.fingerprint not in holding]
        changes += [self._clear(one, rule, now) for one in gone]
        return [one for one in changes if one is not None]

    def hear(self, report: Report) -> list[Alert]:
        """A report of somebody else; one that was heard before changes nothing.

        The same problem under a new id (its raiser lost its memory) is still the one alert, resolved with the new id.
        """
        mark = fingerprint(report.rule, report.labels)
        known = self._active.get(mark)
        if report.alert_id in self._closed:
            return []
        alert = Alert(
            alert_id=report.alert_id,
            rule=report.rule,
            fingerprint=mark,
            state="firing",
            severity=report.severity,
            labels=dict(report.labels),
            summary=report.summary,
            value=report.value,
            threshold=report.threshold,
            n=report.n,
            started_at=report.raised_at,
            changed_at=max(report.raised_at, report.at),
            source=report.source,
            fired_at=report.raised_at,
            evidence=report.evidence,
        )
        if report.state == "resolved":
            self._close(report.alert_id)
            if known is not None and known.alert_id == report.alert_id:
                del self._active[mark]
                after = max(alert.changed_at, known.changed_at + _TICK)
                return [replace(alert, state="resolved", started_at=known.started_at, changed_at=after)]
            # Its raising was never heard (compacted away, or another id took its place): for the history alone.
            return [replace(alert, state="resolved", fired_at=None)] if known is None else []
        if known is not None and known.alert_id == report.alert_id:
            return []
        self._active[mark] = alert
        if known is None:
            return [alert]
        # The old occurrence ends where the new one takes over.
        self._close(known.alert_id)
        return [replace(known, state="resolved", changed_at=max(alert.changed_at, known.changed_at + _TICK)), alert]

    def retire(self, rules: Iterable[str], now: datetime) -> list[Alert]:
        """Resolve what was raised by rules that are none of these: they were renamed or taken out."""
        there = set(rules)
        gone = [one for one in self._active.values() if one.source != "monitor" and one.rule not in there]
        for one in gone:
            del self._active[one.fingerprint]
        return [replace(one, state="resolved", changed_at=now) for one in gone]

    def forget(self, before: datetime, now: datetime) -> list[Alert]:
        """Resolve reports raised before `before`: whoever raised them will not come back to resolve them."""
        gone = [one for one in self._active.values() if one.source == "monitor" and one.started_at < before]
        for one in gone:
            del self._active[one.fingerprint]
            self._close(one.alert_id)
        return [replace(one, state="resolved", changed_at=now) for one in gone]

    def _close(self, alert_id: str) -> None:
        self._closed[alert_id] = None
        if len(self._closed) > _CLOSED_KEPT:
            del self._closed[next(iter(self._closed))]

    def _hold(
        self, rule: Rule, mark: str, sample: Sample, labels: dict[str, str], summary: str, now: datetime
    ) -> Alert | None:
        known = self._active.get(mark)
        if known is None:
            known = Alert(
                alert_id=occurrence(rule.name, mark, now),
                rule=rule.name,
                fingerprint=mark,
                state="pending",
                severity=rule.severity,
                labels=labels,
                summary=summary,
                value=sample.value,
                threshold=rule.condition.threshold,
                n=sample.n or 0,
                started_at=now,
                changed_at=now,
                source=rule.source,
            )
            changed = True
        else:
            known = replace(
                known,
                summary=summary,
                severity=rule.severity,
                value=sample.value,
                threshold=rule.condition.threshold,
                n=sample.n or 0,
                clear_since=None,
            )
            changed = False
        if known.state == "pending" and now - known.started_at >= rule.hold:
            known, changed = replace(known, state="firing", changed_at=now, fired_at=now), True
        self._active[mark] = known
        return known if changed else None

    def _clear(self, alert: Alert, rule: Rule, now: datetime) -> Alert | None:
        since = alert.clear_since or now
        if alert.state == "firing" and now - since < rule.keep_firing:
            self._active[alert.fingerprint] = replace(alert, clear_since=since)
            return None
        del self._active[alert.fingerprint]
        return replace(alert, state="resolved", changed_at=now, clear_since=None)


def _ours(alert: Alert, rule: str) -> bool:
    """Whether an alert is this rule's to end: what the monitor raised under the same name is not."""
    return alert.rule == rule and alert.source != "monitor"


def _shown(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items()) or "none"


def from_micros(micros: int) -> datetime:
    """A time of a record."""
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
