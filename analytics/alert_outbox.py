"""Who is still to be told of what: grouping, repeating, silences and back-off. Pure: the time is passed in.

For each receiver an alert is told firing once and told resolved once; what failed stays until it was told, and
`Mail.delivered` is what has to be written down so that a later process goes on from there. Three rules:

- a receiver that was told of the firing is told of the end, silenced or not;
- an alert that a silence covered from its start to its end is told to nobody;
- an alert that came and went while a receiver was away is told as resolved once it is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from analytics.alert_silences import Silence, silenced_by, values_of
from analytics.alert_state import Alert

Event = Literal["firing", "resolved"]
# Alertmanager may forget what it has not told anybody yet, so the end is repeated for as long as Prometheus does it.
RESOLVED_KEPT: Final = timedelta(minutes=15)
_FIRST_PAUSE: Final = timedelta(seconds=1)
_LONGEST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_ASKED: Final = timedelta(minutes=10)
# Alerts of one message: a receiver reads it in one piece.
MOST_IN_A_MESSAGE: Final = 200
SILENCED: Final = "silenced by "
GIVEN_UP: Final = "given up: "


@dataclass(frozen=True, slots=True)
class Policy:
    """How a receiver is told. `refresh` set: a machine (Alertmanager), which groups and repeats by itself and takes an
    alert for resolved when it has not heard of it for a while. None: people, who get one message a group.
    """

    refresh: timedelta | None = None
    group_by: tuple[str, ...] = ("rule",)
    wait: timedelta = timedelta(seconds=10)
    interval: timedelta = timedelta(minutes=1)
    repeat: timedelta = timedelta(hours=4)
    give_up: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Message:
    """What one receiver is to be told at once. `again`: those of `firing` that it knows already.

    `group`: the labels that its alerts share, () for a machine.
    """

    receiver: str
    group: tuple[tuple[str, str], ...]
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    again: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Mail:
    """An event of an alert as it is to be written down: the alert as it was then, and what became of telling it."""

    alert: Alert
    delivered: Mapping[str, str]


@dataclass(slots=True)
class _Entry:
    """One occurrence. `marks`: by event and receiver '' (to be told), a time, or why it never is. `last`: when a
    receiver was told of it in any way; `held`: the silence that kept it from a receiver so far."""

    events: dict[Event, Alert] = field(default_factory=dict)
    marks: dict[Event, dict[str, str]] = field(default_factory=dict)
    last: dict[str, datetime] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)

    @property
    def event(self) -> Event:
        return "resolved" if "resolved" in self.events else "firing"

    @property
    def newest(self) -> Alert:
        return self.events[self.event]

    def heard_of(self, receiver: str) -> bool:
        return _is_time(self.marks.get("firing", {}).get(receiver, ""))


@dataclass(slots=True)
class _Line:
    """The way to one receiver."""

    policy: Policy
    failures: int = 0
    not_before: datetime | None = None
    problem: str = ""
    groups: dict[tuple[tuple[str, str], ...], datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LineState:
    """A receiver for people to see: events it is still to be told, and what went wrong at its last try."""

    receiver: str
    waiting: int
    problem: str


class Outbox:
    """Events of alerts on their way to receivers. Not thread-safe. Methods that change marks return the mail."""

    def __init__(self, receivers: Mapping[str, Policy], kept: Iterable[Mail] = ()) -> None:
        """`kept`: what an earlier process wrote down of alerts that were on, or were not told to all."""
        self._lines = {name: _Line(policy) for name, policy in receivers.items()}
        self._entries: dict[str, _Entry] = {}
        for mail in sorted(kept, key=lambda one: one.alert.changed_at):
            self._restore(mail)

    # -- what comes in

    def add(self, alert: Alert) -> Mail | None:
        """A change of an alert. None where there is nobody to tell and nothing to write beyond the alert itself."""
        if alert.state == "pending" or not alert.fired:
            return Mail(alert, {})
        entry = self._entries.setdefault(alert.alert_id, _Entry())
        if alert.state in entry.events:
            return None
        if alert.state == "firing":
            marks = dict.fromkeys(self._lines, "")
        else:
            marks = {name: "" for name, mark in entry.marks.get("firing", {}).items() if mark == "" or _is_time(mark)}
        entry.events[alert.state] = alert
        entry.marks[alert.state] = marks
        return Mail(alert, dict(marks))

    def update(self, alert: Alert) -> None:
        """Newer values of an alert that goes on: messages that go out later have them."""
        entry = self._entries.get(alert.alert_id)
        if entry is not None and "resolved" not in entry.events and alert.state == "firing":
            entry.events["firing"] = alert

    # -- what goes out

    def due(self, receiver: str, now: datetime, silences: Sequence[Silence] = ()) -> list[Message]:
        """What a receiver is to be told now; nothing while it is given a pause after a failure."""
        line = self._lines[receiver]
        if line.not_before is not None and now < line.not_before:
            return []
        firing: list[Alert] = []
        resolved: list[Alert] = []
        again: set[str] = set()
        for entry in self._entries.values():
            event = self._news(entry, receiver, now, silences)
            if event == "firing":
                firing.append(entry.newest)
            elif event == "resolved":
                resolved.append(entry.newest)
            elif self._again(entry, receiver, line.policy, now, silences):
                again.add(entry.newest.alert_id)
                (firing if entry.newest.state == "firing" else resolved).append(entry.newest)
        if line.policy.refresh is not None:
            return _cut(receiver, (), firing, resolved, again)
        return self._by_group(receiver, line, firing, resolved, again, now)

    def settle(self, now: datetime, silences: Sequence[Silence] = ()) -> list[Mail]:
        """Note what silences hold back, give up what a receiver did not take for too long, drop what is done."""
        changed: list[Mail] = []
        for alert_id, entry in list(self._entries.items()):
            for receiver, line in self._lines.items():
                changed += self._settle(entry, receiver, line, now, silences)
            done = "resolved" in entry.events and all(mark for marks in entry.marks.values() for mark in marks.values())
            if done and now - entry.newest.changed_at > RESOLVED_KEPT:
                del self._entries[alert_id]
        return changed

    def told(self, message: Message, now: datetime) -> list[Mail]:
        """A receiver took a message."""
        line = self._lines[message.receiver]
        line.failures, line.not_before, line.problem = 0, None, ""
        if message.group:
            line.groups[message.group] = now
        changed: list[Mail] = []
        stamp = now.isoformat(timespec="milliseconds")
        for alert in (*message.firing, *message.resolved):
            entry = self._entries.get(alert.alert_id)
            if entry is None:
                continue
            entry.last[message.receiver] = now
            # A message that says it is over says that it was, too.
            events: tuple[Event, ...] = ("firing",) if alert.state == "firing" else ("firing", "resolved")
            if alert.alert_id in message.again and line.policy.refresh is None and alert.state == "firing":
                # People are told again after hours: a later process has to know when that was.
                entry.marks["firing"][message.receiver] = stamp
                changed.append(Mail(entry.events["firing"], dict(entry.marks["firing"])))
            changed += self._mark(entry, message.receiver, events, stamp)
        return changed

    def failed(self, receiver: str, now: datetime, problem: str, pause: timedelta | None = None) -> timedelta:
        """A receiver did not take a message. Returns its pause: doubling to a minute, or what it asked for."""
        line = self._lines[receiver]
        doubled: timedelta = min(_FIRST_PAUSE * 2 ** min(line.failures, 10), _LONGEST_PAUSE)
        line.failures += 1
        line.problem = problem
        wait = min(max(doubled, pause or doubled), _LONGEST_ASKED)
        line.not_before = now + wait
        return wait

    def lines(self) -> list[LineState]:
        """Every receiver, and how many events it is still to be told."""
        waiting = dict.fromkeys(self._lines, 0)
        for entry in self._entries.values():
            for marks in entry.marks.values():
                for receiver, mark in marks.items():
                    if mark == "" and receiver in waiting:
                        waiting[receiver] += 1
        return [LineState(name, waiting[name], line.problem) for name, line in self._lines.items()]

    def delivered(self, alert_id: str) -> dict[str, str]:
        """What became of telling the newest event of an alert, by receiver."""
        entry = self._entries.get(alert_id)
        return dict(entry.marks[entry.event]) if entry else {}

    # -- how it is decided

    def _restore(self, mail: Mail) -> None:
        alert = mail.alert
        if alert.state == "pending" or not alert.fired:
            return
        entry = self._entries.setdefault(alert.alert_id, _Entry())
        marks = {
            name: mark or ("" if name in self._lines else f"{GIVEN_UP}no such receiver")
            for name, mark in mail.delivered.items()
        }
        if alert.state == "firing":
            # A receiver that has come since is told of what is on.
            marks = {**dict.fromkeys(self._lines, ""), **marks}
        for receiver, mark in marks.items():
            if _is_time(mark):
                entry.last[receiver] = datetime.fromisoformat(mark)
        entry.events[alert.state] = alert
        entry.marks[alert.state] = marks

    def _news(self, entry: _Entry, receiver: str, now: datetime, silences: Sequence[Silence]) -> Event | None:
        event = entry.event
        if entry.marks[event].get(receiver) != "":
            return None
        if entry.heard_of(receiver):
            return event
        if receiver in entry.held and event == "resolved":
            return None
        return None if silenced_by(entry.newest, silences, now) else event

    def _again(self, entry: _Entry, receiver: str, policy: Policy, now: datetime, silences: Sequence[Silence]) -> bool:
        """Whether a receiver is to hear once more what it knows."""
        last = entry.last.get(receiver)
        if last is None or not entry.heard_of(receiver):
            return False
        if policy.refresh is not None:
            recent = entry.newest.state == "firing" or now - entry.newest.changed_at <= RESOLVED_KEPT
            return recent and now - last >= policy.refresh
        quiet = entry.newest.state != "firing" or silenced_by(entry.newest, silences, now)
        return not quiet and now - last >= policy.repeat

    def _by_group(
        self,
        receiver: str,
        line: _Line,
        firing: Sequence[Alert],
        resolved: Sequence[Alert],
        again: set[str],
        now: datetime,
    ) -> list[Message]:
        policy = line.policy
        on = {group_of(one.newest, policy) for one in self._entries.values() if one.newest.state == "firing"}
        # A group in which nothing goes on any more starts anew next time.
        line.groups = {key: at for key, at in line.groups.items() if key in on or now - at < policy.interval}
        groups: dict[tuple[tuple[str, str], ...], tuple[list[Alert], list[Alert]]] = {}
        for which, alerts in enumerate((firing, resolved)):
            for one in alerts:
                groups.setdefault(group_of(one, policy), ([], []))[which].append(one)
        found: list[Message] = []
        for key, (its_firing, its_resolved) in groups.items():
            news = [one for one in (*its_firing, *its_resolved) if one.alert_id not in again]
            last = line.groups.get(key)
            if news and last is None and now - min(one.changed_at for one in news) < policy.wait:
                continue
            if last is not None and now - last < policy.interval:
                continue
            found += _cut(receiver, key, its_firing, its_resolved, again)
        return found

    def _settle(
        self, entry: _Entry, receiver: str, line: _Line, now: datetime, silences: Sequence[Silence]
    ) -> list[Mail]:
        newest = entry.newest
        waits = entry.marks[entry.event].get(receiver) == ""
        if not waits or entry.heard_of(receiver):
            pass
        elif newest.state == "firing":
            if quiet := silenced_by(newest, silences, now):
                entry.held[receiver] = quiet
            else:
                entry.held.pop(receiver, None)
            return []
        elif quiet := entry.held.get(receiver) or silenced_by(newest, silences, now):
            return self._mark(entry, receiver, ("firing", "resolved"), f"{SILENCED}{quiet}")
        if waits and newest.state == "resolved" and now - newest.changed_at > line.policy.give_up:
            return self._mark(entry, receiver, ("firing", "resolved"), f"{GIVEN_UP}{line.problem or 'never due'}")
        return []

    def _mark(self, entry: _Entry, receiver: str, events: Iterable[Event], mark: str) -> list[Mail]:
        changed = []
        for event in events:
            marks = entry.marks.get(event)
            if marks is not None and marks.get(receiver) == "":
                marks[receiver] = mark
                changed.append(Mail(entry.events[event], dict(marks)))
        return changed


def group_of(alert: Alert, policy: Policy) -> tuple[tuple[str, str], ...]:
    """The labels by which an alert shares a message with others."""
    values = values_of(alert)
    return tuple((name, values.get(name, "")) for name in policy.group_by)


def _cut(
    receiver: str,
    group: tuple[tuple[str, str], ...],
    firing: Sequence[Alert],
    resolved: Sequence[Alert],
    again: set[str],
) -> list[Message]:
    """As many messages as it takes."""
    both = [*firing, *resolved]
    found = []
    for start in range(0, len(both), MOST_IN_A_MESSAGE):
        part = both[start : start + MOST_IN_A_MESSAGE]
        found.append(
            Message(
                receiver,
                group,
                tuple(one for one in part if one.state == "firing"),
                tuple(one for one in part if one.state == "resolved"),
                frozenset(one.alert_id for one in part) & again,
            )
        )
    return found


def _is_time(mark: str) -> bool:
    return mark[:4].isdigit()
