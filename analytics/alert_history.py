"""Alerts and silences in the warehouse: what has happened, what is on, who is still to be told (migration 007)."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import pyarrow as pa

from analytics.alert_outbox import Mail
from analytics.alert_silences import Silence, SilenceError, matcher
from analytics.alert_state import Alert, State
from analytics.warehouse import Warehouse

# Events of alerts that ended longer ago than this are history: nobody is told of them any more.
KEPT: Final = timedelta(days=8)
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = pa.timestamp("us", "UTC")
_TEXTS: Final = pa.map_(pa.string(), pa.string())
_EVENTS: Final = pa.schema(
    [
        ("alert_id", pa.string()),
        ("rule", pa.string()),
        ("fingerprint", pa.string()),
        ("state", pa.string()),
        ("severity", pa.string()),
        ("labels", _TEXTS),
        ("summary", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("n", pa.uint64()),
        ("started_at", _TIME),
        ("fired_at", _TIME),
        ("changed_at", _TIME),
        ("source", pa.string()),
        ("evidence", pa.string()),
        ("delivered", _TEXTS),
        ("written_at", _TIME),
    ]
)
_SILENCES: Final = pa.schema(
    [
        ("silence_id", pa.string()),
        ("matchers", pa.list_(pa.string())),
        ("starts_at", _TIME),
        ("until", _TIME),
        ("comment", pa.string()),
        ("author", pa.string()),
        ("written_at", _TIME),
    ]
)
_COLUMNS: Final = ", ".join(name for name in _EVENTS.names if name != "written_at")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a new process needs: alerts that are pending or firing, events on their way, reports that were resolved."""

    active: tuple[Alert, ...]
    mails: tuple[Mail, ...]
    closed: tuple[str, ...]


class AlertHistory:
    """Reads and writes the tables. Every method raises `WarehouseError`."""

    def __init__(self, warehouse: Warehouse) -> None:
        """`warehouse`: a session whose owner closes it."""
        self._warehouse = warehouse

    def write(self, mails: Sequence[Mail], now: datetime) -> None:
        """Write events, or write them again with what has become of telling them."""
        if not mails:
            return
        rows = [
            {
                "alert_id": one.alert.alert_id,
                "rule": one.alert.rule,
                "fingerprint": one.alert.fingerprint,
                "state": one.alert.state,
                "severity": one.alert.severity,
                "labels": list(one.alert.labels.items()),
                "summary": one.alert.summary,
                "value": one.alert.value,
                "threshold": one.alert.threshold,
                "n": one.alert.n,
                "started_at": one.alert.started_at,
                "fired_at": one.alert.fired_at or _NEVER,
                "changed_at": one.alert.changed_at,
                "source": one.alert.source,
                "evidence": one.alert.evidence,
                "delivered": list(one.delivered.items()),
                "written_at": now,
            }
            for one in mails
        ]
        self._warehouse.insert("alert_events", pa.Table.from_pylist(rows, _EVENTS))

    def kept(self, now: datetime) -> Kept:
        """What an earlier process left behind."""
        rows = self._warehouse.query(
            f"SELECT {_COLUMNS} FROM alert_events FINAL WHERE alert_id IN ("  # noqa: S608 - column names of ours
            "SELECT alert_id FROM alerts_now WHERE state != 'resolved' OR changed_at > {since:DateTime64(6)}) "
            "ORDER BY changed_at",
            {"since": now - KEPT},
        ).rows
        mails = [_mail(row) for row in rows]
        newest: dict[str, Alert] = {one.alert.alert_id: one.alert for one in mails}
        open_ids = {alert_id for alert_id, alert in newest.items() if alert.state != "resolved"}
        waiting = {one.alert.alert_id for one in mails if "" in one.delivered.values()}
        return Kept(
            active=tuple(alert for alert in newest.values() if alert.alert_id in open_ids),
            mails=tuple(one for one in mails if one.alert.alert_id in open_ids | waiting),
            closed=tuple(
                one.alert_id for one in newest.values() if one.state == "resolved" and one.source == "monitor"
            ),
        )

    def events(self, since: datetime, rule: str = "", limit: int = 1000) -> list[Mail]:
        """What has happened since, newest first."""
        rows = self._warehouse.query(
            f"SELECT {_COLUMNS} FROM alert_events FINAL WHERE changed_at >= {{since:DateTime64(6)}} "  # noqa: S608
            "AND ({rule:String} = '' OR rule = {rule:String}) ORDER BY changed_at DESC, alert_id LIMIT {limit:UInt32}",
            {"since": since, "rule": rule, "limit": limit},
        ).rows
        return [_mail(row) for row in rows]

    def silences(self, now: datetime) -> list[Silence]:
        """The silences that hold now or later, those that end first first."""
        rows = self._warehouse.query(
            "SELECT silence_id, matchers, starts_at, until, comment, author FROM alert_silences FINAL "
            "WHERE until > {now:DateTime64(6)} ORDER BY until, silence_id",
            {"now": now},
        ).rows
        return [
            Silence(name, tuple(matcher(one) for one in matchers), starts, until, comment, author)
            for name, matchers, starts, until, comment, author in rows
        ]

    def silence(
        self, matchers: Iterable[str], starts_at: datetime, until: datetime, comment: str, author: str
    ) -> Silence:
        """Make a silence. Raises `SilenceError` besides."""
        if until <= starts_at:
            raise SilenceError("a silence has to end after it starts")
        made = Silence(
            uuid.uuid4().hex[:12], tuple(matcher(one) for one in matchers), starts_at, until, comment, author
        )
        self._put(made, starts_at)
        return made

    def end_silence(self, silence_id: str, now: datetime) -> Silence:
        """End a silence before its time. Raises `SilenceError` where none of this id holds."""
        for one in self.silences(now):
            if one.silence_id == silence_id:
                ended = Silence(one.silence_id, one.matchers, one.starts_at, now, one.comment, one.author)
                self._put(ended, now)
                return ended
        raise SilenceError(f"no silence {silence_id!r} holds; `penstock alerts list` names those that do")

    def _put(self, silence: Silence, now: datetime) -> None:
        row = {
            "silence_id": silence.silence_id,
            "matchers": [str(one) for one in silence.matchers],
            "starts_at": silence.starts_at,
            "until": silence.until,
            "comment": silence.comment,
            "author": silence.author,
            "written_at": now,
        }
        self._warehouse.insert("alert_silences", pa.Table.from_pylist([row], _SILENCES))


def _mail(row: Sequence[Any]) -> Mail:
    found = dict(zip((name for name in _EVENTS.names if name != "written_at"), row, strict=True))
    delivered = cast("dict[str, str]", found.pop("delivered"))
    fired = found.pop("fired_at")
    state: State = found.pop("state")
    alert = Alert(
        **{**found, "labels": dict(found["labels"]), "n": int(found["n"])},
        state=state,
        fired_at=fired if fired > _NEVER else None,
    )
    return Mail(alert, dict(delivered))
