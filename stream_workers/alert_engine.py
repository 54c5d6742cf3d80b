"""Judges rules, hears reports, writes the history and tells receivers, in this order and with every step repeatable.

    1  read the topic's reports, ask each rule's question, judge           book
    2  write what changed                                                  history (later, where ClickHouse is away)
    3  commit the topic's offsets                                          only after 2
    4  tell receivers, each from a thread of its own                       outbox (whether 2 could be done or not)
    5  write who has been told                                             history

Killed between any two of these, the next process raises nothing twice: what was written goes on from there, and what
was not is found again, by the rules or in the topic. A message that was taken while the process died before step 5 is
sent again: Alertmanager knows the alert by its labels, a webhook by the message's Idempotency-Key.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final

from analytics.alert_history import KEPT, AlertHistory, Kept
from analytics.alert_outbox import LineState, Mail, Message, Outbox, Policy
from analytics.alert_rules import Rule
from analytics.alert_samples import Sampler
from analytics.alert_silences import Silence, silenced_by
from analytics.alert_state import Alert, AlertBook, AlertSampleError, Report, fingerprint, occurrence
from analytics.warehouse import WarehouseError
from stream_workers.alert_receivers import DeliveryFailedError, Receiver
from stream_workers.alert_reports import Reports
from stream_workers.ops_alerts import AlertMetrics

log = logging.getLogger(__name__)
# Messages of one receiver that are sent before it is looked whether something newer has come.
_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class Told:
    """A receiver and how it is told."""

    receiver: Receiver
    policy: Policy


@dataclass(frozen=True, slots=True)
class Standing:
    """What the engine knows, for people: alerts that are on with who was told of them and what silences them."""

    alerts: tuple[tuple[Alert, Mapping[str, str], str], ...]
    silences: tuple[Silence, ...]
    receivers: tuple[LineState, ...]
    problems: Mapping[str, str]
    leads: bool


class AlertEngine:
    """See the module. `round` is called by one thread, `tell` by one thread a receiver, the rest by any.

    `clock`: what time it is (aware).
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        sampler: Sampler,
        history: AlertHistory,
        reports: Reports,
        receivers: Mapping[str, Told],
        metrics: AlertMetrics,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.rules = tuple(rules)
        self.receivers = dict(receivers)
        self._sampler = sampler
        self._history = history
        self._reports = reports
        self._metrics = metrics
        self._clock = clock
        # Guards all below; never held over a question, an insert or a message.
        self._lock = threading.Lock()
        self._heard: list[Report] = []
        self._leads = False
        self._book = AlertBook()
        self._outbox = self._new_outbox(())
        self._silences: tuple[Silence, ...] = ()
        self._problems: dict[str, str] = {}
        self._unwritten: dict[tuple[str, str, datetime], Mail] = {}
        self._writing = threading.Lock()
        self._write_problem = ""

    def round(self, timeout: float, look: bool) -> None:
        """Steps 1 to 3. `timeout`: how long, in seconds, to wait for reports; `look`: judge the rules as well.

        What fails is logged and done the next time. Raises `WarehouseUnavailableError` where this process has just
        become the one that judges and cannot read what another one left.
        """
        # Kept until they are in the book: the next line may fail, and their offsets are committed with the first write.
        self._heard += self._reports.read(timeout)
        if not self._lead():
            self._heard.clear()
            return
        with self._lock:
            heard, self._heard = self._heard, []
            self._change([change for report in heard for change in self._book.hear(report)])
        if look:
            self._look()
        self._reload_silences(look)
        with self._lock:
            self._note(self._outbox.settle(self._clock(), self._silences))
        if self._write():
            self._reports.commit()
        self._show()

    def tell(self, name: str) -> int:
        """Steps 4 and 5 for one receiver: send what is due. Returns how many messages it took."""
        told = self.receivers[name]
        taken = 0
        with self._lock:
            messages = self._outbox.due(name, self._clock(), self._silences) if self._leads else []
        for message in messages[:_AT_ONCE]:
            try:
                told.receiver.send(message, self._clock())
            except DeliveryFailedError as error:
                with self._lock:
                    pause = self._outbox.failed(name, self._clock(), str(error), error.pause)
                self._metrics.message(name, "failed")
                log.warning("alerts: %s was not told, trying again in %g s: %s", name, pause.total_seconds(), error)
                break
            taken += 1
            self._metrics.message(name, "sent")
            with self._lock:
                self._note(self._outbox.told(message, self._clock()))
        # Where another thread is writing, it or the next round does this too.
        if taken and self._writing.acquire(blocking=False):
            try:
                self._write_all()
            finally:
                self._writing.release()
        return taken

    def silence(self, matchers: Sequence[str], lasts: timedelta, comment: str, author: str) -> Silence:
        """Make a silence that holds from now on. Raises `SilenceError`, `WarehouseError`."""
        now = self._clock()
        made = self._history.silence(matchers, now, now + lasts, comment, author)
        self._reload_silences(True)
        return made

    def end_silence(self, silence_id: str) -> Silence:
        """End a silence now. Raises `SilenceError`, `WarehouseError`."""
        ended = self._history.end_silence(silence_id, self._clock())
        self._reload_silences(True)
        return ended

    def standing(self) -> Standing:
        """What is on, what silences it, whom it was told, and which rules cannot be looked at.

        Where another process judges, what that one has written. Raises `WarehouseError` then.
        """
        now = self._clock()
        with self._lock:
            if self._leads:
                return Standing(
                    tuple(
                        (one, self._outbox.delivered(one.alert_id), silenced_by(one, self._silences, now))
                        for one in self._book.active
                    ),
                    tuple(one for one in self._silences if one.until > now),
                    tuple(self._outbox.lines()),
                    dict(self._problems),
                    True,
                )
        kept, silences = self._history.kept(now), self._history.silences(now)
        delivered = {one.alert.alert_id: one.delivered for one in kept.mails}
        return Standing(
            tuple(
                (one, delivered.get(one.alert_id, {}), silenced_by(one, silences, now))
                for one in sorted(kept.active, key=lambda one: one.started_at)
            ),
            tuple(silences),
            (),
            {},
            False,
        )

    def try_rules(self, rules: Sequence[Rule] | None = None) -> list[dict[str, Any]]:
        """Look at rules, its own for None, and raise nothing: what each finds now, as JSON values."""
        now = self._clock()
        return [self._try(rule, now) for rule in (self.rules if rules is None else rules)]

    def _try(self, rule: Rule, now: datetime) -> dict[str, Any]:
        about: dict[str, Any] = {
            "rule": rule.name,
            "asks": rule.metric or "sql",
            "when": str(rule.condition),
            "samples": 0,
            "alerts": [],
            "error": "",
        }
        try:
            samples = self._sampler.samples(rule, now)
            trial = AlertBook()
            trial.judge(rule, samples, now)
        except (AlertSampleError, WarehouseError) as error:
            return {**about, "error": str(error)}
        found = [
            {"labels": dict(one.labels), "value": one.value, "n": one.n, "summary": one.summary} for one in trial.active
        ]
        return {**about, "samples": len(samples), "alerts": found}

    def try_receivers(self) -> list[dict[str, Any]]:
        """Send each receiver an alert that says it is a trial: who took it, and what the others said."""
        now = self._clock()
        mark = fingerprint("trial", {})
        trial = Alert(
            alert_id=occurrence("trial", mark, now),
            rule="trial",
            fingerprint=mark,
            state="firing",
            severity="info",
            labels={},
            summary="Penstock tries whether alerts arrive here: nothing is wrong",
            value=0.0,
            threshold=0.0,
            n=0,
            started_at=now,
            changed_at=now,
            fired_at=now,
        )
        found = []
        for name, told in self.receivers.items():
            problem = ""
            try:
                told.receiver.send(Message(name, (("rule", "trial"),), (trial,), ()), now)
            except DeliveryFailedError as error:
                problem = str(error)
            found.append({"receiver": name, "error": problem})
        return found

    def close(self) -> None:
        """Write what is left, and let go of everything. After the threads that call the rest have ended."""
        if self._write():
            self._reports.commit()
        self._reports.close()
        for told in self.receivers.values():
            told.receiver.close()

    # -- the steps

    def _lead(self) -> bool:
        """Whether this process judges and tells; takes over what another one left when that begins."""
        leads = self._reports.leads
        self._metrics.leads.set(leads)
        if leads and not self._leads:
            now = self._clock()
            kept: Kept = self._history.kept(now)
            silences = tuple(self._history.silences(now))
            with self._lock:
                self._book = AlertBook(kept.active, kept.closed)
                self._outbox = self._new_outbox(kept.mails)
                self._silences = silences
                self._leads = True
                self._change(self._book.retire((rule.name for rule in self.rules), now))
            log.info("alerts: %d rules, %d alerts on, %d events to tell", len(self.rules), *self._counts())
        elif self._leads and not leads:
            with self._lock:
                self._leads = False
                self._book, self._outbox = AlertBook(), self._new_outbox(())
                self._unwritten.clear()
            log.info("alerts: another process judges them now")
        return leads

    def _look(self) -> None:
        started = monotonic()
        for rule in self.rules:
            now = self._clock()
            try:
                samples = self._sampler.samples(rule, now)
                with self._lock:
                    changes = self._book.judge(rule, samples, now)
                    self._change(changes)
                    for alert in self._book.active:
                        if alert.rule == rule.name:
                            self._outbox.update(alert)
                problem = ""
            except (AlertSampleError, WarehouseError) as error:
                problem = str(error)
            # ClickHouse away is the same line for every rule.
            if problem and problem not in self._problems.values():
                log.warning("alerts: rule %s cannot be looked at, its alerts stay as they are: %s", rule.name, problem)
            with self._lock:
                if problem:
                    self._problems[rule.name] = problem
                else:
                    self._problems.pop(rule.name, None)
        with self._lock:
            self._change(self._book.forget(self._clock() - KEPT, self._clock()))
        self._metrics.look_seconds.observe(monotonic() - started)

    def _change(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            mail = self._outbox.add(alert)
            if mail is not None:
                self._note([mail])

    def _note(self, mails: Sequence[Mail]) -> None:
        for one in mails:
            self._unwritten[one.alert.alert_id, one.alert.state, one.alert.changed_at] = one

    def _write(self) -> bool:
        """Write what is not written; whether all of it is."""
        with self._writing:
            return self._write_all()

    def _write_all(self) -> bool:
        with self._lock:
            batch = dict(self._unwritten)
        try:
            self._history.write(list(batch.values()), self._clock())
        except WarehouseError as error:
            if str(error) != self._write_problem:
                log.warning("alerts: %d events are not written down yet: %s", len(batch), error)
            self._write_problem = str(error)
            return False
        self._write_problem = ""
        with self._lock:
            for key, mail in batch.items():
                if self._unwritten.get(key) is mail:
                    del self._unwritten[key]
            return not self._unwritten

    def _reload_silences(self, wanted: bool) -> None:
        if not wanted:
            return
        try:
            found = tuple(self._history.silences(self._clock()))
        except WarehouseError as error:
            log.warning("alerts: silences were not read, those known still hold: %s", error)
            return
        with self._lock:
            self._silences = found

    def _show(self) -> None:
        with self._lock:
            states = [one.state for one in self._book.active]
            failing = {rule.name: rule.name in self._problems for rule in self.rules}
            waiting = {one.receiver: one.waiting for one in self._outbox.lines()}
        self._metrics.show(states, failing, waiting)

    def _counts(self) -> tuple[int, int]:
        return len(self._book.active), sum(one.waiting for one in self._outbox.lines())

    def _new_outbox(self, kept: Sequence[Mail]) -> Outbox:
        return Outbox({name: told.policy for name, told in self.receivers.items()}, kept)
