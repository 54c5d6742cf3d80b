"""Where alerts are told: Prometheus Alertmanager, any webhook, the log. One `send` is one attempt, to be repeated.

DeliveryFailedError    one line: who did not take it and why, without the secrets of an address; `pause`: what the
                       receiver asked for (Retry-After)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self
from urllib.parse import urlsplit

import httpx

from analytics.alert_outbox import Message
from analytics.alert_state import Alert

log = logging.getLogger("penstock.alerts")
Form = Literal["slack", "json"]
# Alertmanager takes an alert for resolved when it has not heard of it for so many refreshes, as from Prometheus.
REFRESHES_MISSED: Final = 4
_TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
_MARKS: Final = {
    "critical": ":red_circle:",
    "warning": ":large_orange_circle:",
    "info": ":blue_circle:",
}
# What Slack shows without folding; the rest is counted.
_LINES: Final = 20


class DeliveryFailedError(RuntimeError):
    """A message that was not taken, in one line."""

    def __init__(self, message: str, pause: timedelta | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class Receiver(Protocol):
    """Somebody who is told. `send` blocks up to seconds and raises `DeliveryFailedError`."""

    def send(self, message: Message, now: datetime) -> None:
        """Tell it once."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class _Http:
    """Posts JSON to one address."""

    def __init__(self, url: str, headers: Mapping[str, str], transport: httpx.BaseTransport | None) -> None:
        # Its log would name the whole address of each request, and an address may hold a secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._url = url
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
        self._client = httpx.Client(headers=dict(headers), timeout=_TIMEOUT, transport=transport)

    def post(self, body: Any, headers: Mapping[str, str] | None = None) -> None:
        try:
            answer = self._client.post(self._url, json=body, headers=dict(headers or {}))
        except httpx.TimeoutException:
            raise DeliveryFailedError(f"{self.place} did not answer within {_TIMEOUT.read:g} s") from None
        except httpx.HTTPError as error:
            raise DeliveryFailedError(f"{self.place} cannot be reached: {str(error) or type(error).__name__}") from None
        if not answer.is_success:
            said = " ".join(answer.text.split())[:200]
            raise DeliveryFailedError(
                f"{self.place} answers {answer.status_code} {answer.reason_phrase}" + (f": {said}" if said else ""),
                _asked_pause(answer.headers.get("Retry-After", "")),
            )

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AlertmanagerReceiver(_Http):
    """Prometheus Alertmanager, by `POST /api/v2/alerts`: it takes the same alert any number of times.

    Labels are the alert's with `alertname` and `severity`; annotations its summary and figures. A firing alert ends,
    as far as Alertmanager knows, after `refresh` has been missed four times.
    """

    def __init__(
        self,
        url: str,
        refresh: timedelta,
        *,
        link: str = "",
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url`: Alertmanager's own, with its prefix where it has one; `link`: generatorURL of every alert."""
        super().__init__(f"{url.rstrip('/')}/api/v2/alerts", headers or {}, transport)
        self._ends_after = refresh * REFRESHES_MISSED
        self._link = link

    def send(self, message: Message, now: datetime) -> None:
        """See `Receiver`."""
        self.post([self.alert(one, now) for one in (*message.firing, *message.resolved)])

    def alert(self, alert: Alert, now: datetime) -> dict[str, Any]:
        """One alert as the API's postableAlert."""
        ends = now + self._ends_after if alert.state == "firing" else alert.changed_at
        labels = {
            **{_label(name): value for name, value in alert.labels.items()},
            "alertname": alert.rule,
            "severity": alert.severity,
            "source": alert.source,
        }
        body: dict[str, Any] = {
            # A label without a value is no label there.
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {
                "summary": alert.summary,
                "value": f"{alert.value:g}",
                "threshold": f"{alert.threshold:g}",
                "alert_id": alert.alert_id,
            },
            "startsAt": _time(alert.fired_at or alert.started_at),
            # Of two alerts that fired and ended within its clock's grain Alertmanager would refuse the second.
            "endsAt": _time(max(ends, alert.fired_at or alert.started_at)),
        }
        if self._link:
            body["generatorURL"] = self._link
        return body


class WebhookReceiver(_Http):
    """Any address that takes a POST of JSON: Slack's shape, or all there is to know.

    The header `Idempotency-Key` is the same when the same news is sent again, so that whoever wants to can drop it.
    """

    def __init__(
        self,
        url: str,
        form: Form,
        *,
        link: str = "",
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, headers or {}, transport)
        self._form = form
        self._link = link

    def send(self, message: Message, now: datetime) -> None:
        """See `Receiver`."""
        body = slack(message, self._link) if self._form == "slack" else document(message, self._link, now)
        parts = [f"{one.alert_id}.{one.state}" for one in (*message.firing, *message.resolved)]
        again = f".{int(now.timestamp())}" if message.again else ""
        self.post(body, {"Idempotency-Key": _key(parts) + again})


class LogReceiver:
    """The log of the process: one line an alert, with its fields beside the text."""

    place = "log"

    def send(self, message: Message, now: datetime) -> None:
        """See `Receiver`; it never fails."""
        del now
        for one in (*message.firing, *message.resolved):
            level = logging.INFO if one.state == "resolved" or one.severity == "info" else logging.WARNING
            fields = {"alert_id": one.alert_id, "rule": one.rule, "state": one.state, "severity": one.severity}
            log.log(level, "alert %s %s: %s", one.rule, _word(one, message), one.summary, extra={**fields})

    def close(self) -> None:
        """It has nothing to let go of."""


def slack(message: Message, link: str = "") -> dict[str, Any]:
    """A message in the shape of Slack's incoming webhooks: `text` for notifications, `attachments` with colours."""
    head = " · ".join(value for _, value in message.group if value) or "alerts"
    counts = []
    if message.firing:
        counts.append(f"{len(message.firing)} firing")
    if message.resolved:
        counts.append(f"{len(message.resolved)} resolved")
    lines = [
        f"{_MARKS.get(one.severity, '')} *{_escape(one.rule)}* ({_word(one, message)}): {_escape(one.summary)}"
        for one in message.firing
    ] + [f":white_check_mark: *{_escape(one.rule)}* (resolved): {_escape(one.summary)}" for one in message.resolved]
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"… and {len(lines) - _LINES} more"]
    text = f"{_escape(head)}: {', '.join(counts)}"
    colour = "good"
    if message.firing:
        colour = "danger" if any(one.severity == "critical" for one in message.firing) else "warning"
    attachment: dict[str, Any] = {"color": colour, "text": "\n".join(lines), "mrkdwn_in": ["text"], "fallback": text}
    if link:
        attachment |= {"title": "Penstock", "title_link": link}
    return {"text": text, "attachments": [attachment]}


def document(message: Message, link: str, now: datetime) -> dict[str, Any]:
    """A message as plain JSON, every field of every alert."""
    return {
        "sent_at": _time(now),
        "group": dict(message.group),
        "status": "firing" if message.firing else "resolved",
        "link": link,
        "alerts": [
            {**fields_of(one), "again": one.alert_id in message.again} for one in (*message.firing, *message.resolved)
        ],
    }


def fields_of(alert: Alert) -> dict[str, Any]:
    """An alert for JSON; times in ISO 8601."""
    return {
        "alert_id": alert.alert_id,
        "rule": alert.rule,
        "state": alert.state,
        "severity": alert.severity,
        "source": alert.source,
        "labels": dict(alert.labels),
        "summary": alert.summary,
        "value": alert.value if abs(alert.value) < float("inf") else None,
        "threshold": alert.threshold if abs(alert.threshold) < float("inf") else None,
        "n": alert.n,
        "started_at": _time(alert.started_at),
        "fired_at": _time(alert.fired_at) if alert.fired_at else None,
        "changed_at": _time(alert.changed_at),
        "evidence": alert.evidence,
    }


def _word(alert: Alert, message: Message) -> str:
    if alert.state == "resolved":
        return "resolved"
    return f"still firing, {alert.severity}" if alert.alert_id in message.again else f"firing, {alert.severity}"


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _label(name: str) -> str:
    """A name as Prometheus takes it."""
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{plain}" if plain[:1].isdigit() else plain or "_"


def _escape(text: str) -> str:
    """Slack's three control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _key(parts: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:32]


def _asked_pause(header: str) -> timedelta | None:
    """Retry-After, in seconds or as a date."""
    if header.isdigit():
        return timedelta(seconds=int(header))
    try:
        return max(timedelta(), parsedate_to_datetime(header) - datetime.now(UTC))
    except (ValueError, TypeError):  # none, or none that anybody could obey
        return None
