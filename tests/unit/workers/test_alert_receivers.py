"""What receivers are sent, and what is said of those that do not take it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from analytics.alert_outbox import Message
from analytics.alert_state import Alert
from stream_workers.alert_receivers import (
    AlertmanagerReceiver,
    DeliveryFailedError,
    LogReceiver,
    WebhookReceiver,
    document,
    slack,
)

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
SECRET = "https://hooks.example.org/services/T0/B0/topsecret"  # noqa: S105 - of nobody


def alert(name: str = "a", state: str = "firing", severity: str = "critical", **labels: str) -> Alert:
    return Alert(
        alert_id=name,
        rule="slow",
        fingerprint="f",
        state=state,  # type: ignore[arg-type] - "firing" or "resolved"
        severity=severity,
        labels={"model": "a<b>", **labels},
        summary="p99 of a<b> & c",
        value=2.5,
        threshold=1.0,
        n=10,
        started_at=NOW - timedelta(seconds=90),
        fired_at=NOW - timedelta(seconds=60),
        changed_at=NOW - timedelta(seconds=5),
    )


class Server:
    """Answers as it is told and remembers what it was asked."""

    def __init__(self, status: int = 200, text: str = "ok", headers: dict[str, str] | None = None) -> None:
        self.asked: list[httpx.Request] = []
        self._answer = (status, text, headers or {})
        self.transport = httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        status, text, headers = self._answer
        return httpx.Response(status, text=text, headers=headers)

    def body(self, number: int = -1) -> Any:
        return json.loads(self.asked[number].content)


def message(*alerts: Alert, again: frozenset[str] = frozenset()) -> Message:
    firing = tuple(one for one in alerts if one.state == "firing")
    resolved = tuple(one for one in alerts if one.state == "resolved")
    return Message("r", (("rule", "slow"),), firing, resolved, again)


def test_alertmanager_is_sent_its_own_v2_shape() -> None:
    server = Server()
    receiver = AlertmanagerReceiver(
        "http://am:9093/prefix/", timedelta(seconds=60), link="http://page", transport=server.transport
    )
    receiver.send(message(alert(), alert("b", "resolved", empty="", **{"1-x": "y"})), NOW)
    receiver.close()
    assert str(server.asked[0].url) == "http://am:9093/prefix/api/v2/alerts"
    on, over = server.body()
    assert on == {
        "labels": {"model": "a<b>", "alertname": "slow", "severity": "critical", "source": "rule"},
        "annotations": {"summary": "p99 of a<b> & c", "value": "2.5", "threshold": "1", "alert_id": "a"},
        "startsAt": "2026-01-05T11:59:00.000Z",
        "endsAt": "2026-01-05T12:04:00.000Z",
        "generatorURL": "http://page",
    }
    assert over["endsAt"] == "2026-01-05T11:59:55.000Z"
    assert over["labels"]["_1_x"] == "y"
    assert "empty" not in over["labels"], "a label without a value is none there"


def test_slack_is_sent_text_and_a_coloured_attachment_with_its_own_escapes() -> None:
    body = slack(message(alert(), alert("b", "resolved"), again=frozenset({"a"})), "http://page")
    assert body["text"] == "slow: 1 firing, 1 resolved"
    (attachment,) = body["attachments"]
    assert (attachment["color"], attachment["title_link"]) == ("danger", "http://page")
    first, second = attachment["text"].splitlines()
    assert first == ":red_circle: *slow* (still firing, critical): p99 of a&lt;b&gt; &amp; c"
    assert second.startswith(":white_check_mark: *slow* (resolved)")
    assert slack(message(alert(severity="info")))["attachments"][0]["color"] == "warning"
    assert slack(message(alert("b", "resolved")))["attachments"][0]["color"] == "good"
    many = slack(message(*(alert(str(number)) for number in range(25))))
    assert many["attachments"][0]["text"].endswith("… and 5 more")


def test_a_webhook_is_sent_every_field_and_a_key_that_stays_when_the_same_is_sent_again() -> None:
    server = Server(204)
    receiver = WebhookReceiver("http://x/y", "json", headers={"Authorization": "me"}, transport=server.transport)
    for number in range(2):
        receiver.send(message(alert(), alert("b", "resolved")), NOW + timedelta(seconds=number))
    receiver.send(message(alert(), again=frozenset({"a"})), NOW)
    receiver.close()
    keys = [one.headers["Idempotency-Key"] for one in server.asked]
    assert keys[0] == keys[1] != keys[2]
    assert server.asked[0].headers["Authorization"] == "me"
    body = server.body(0)
    assert (body["status"], body["group"], len(body["alerts"])) == ("firing", {"rule": "slow"}, 2)
    assert body["alerts"][0]["labels"] == {"model": "a<b>"}
    assert body["alerts"][0]["fired_at"] == "2026-01-05T11:59:00.000Z"
    assert document(message(alert("b", "resolved")), "", NOW)["status"] == "resolved"


@pytest.mark.parametrize(
    ("server", "said", "pause"),
    [
        (Server(404, "no_service\n"), "https://hooks.example.org answers 404 Not Found: no_service", None),
        (Server(429, "", {"Retry-After": "30"}), "answers 429 Too Many Requests", timedelta(seconds=30)),
        (Server(503, "x" * 900, {"Retry-After": "soon"}), "answers 503 Service Unavailable: xxx", None),
        (Server(302, "", {"Location": "http://elsewhere"}), "answers 302 Found", None),
    ],
)
def test_a_refusal_is_one_line_without_the_secret_of_the_address(
    server: Server, said: str, pause: timedelta | None, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = WebhookReceiver(SECRET, "slack", transport=server.transport)
    with caplog.at_level(logging.INFO), pytest.raises(DeliveryFailedError) as caught:
        receiver.send(message(alert()), NOW)
    receiver.close()
    assert said in str(caught.value)
    assert caught.value.pause == pause
    assert len(str(caught.value)) < 300
    assert "topsecret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "cannot be reached: [Errno 111] Connection refused"),
        (httpx.ReadTimeout("x"), "did not answer within 10 s"),
        (httpx.RemoteProtocolError(""), "cannot be reached: RemoteProtocolError"),
    ],
)
def test_nobody_there_is_one_line(error: httpx.TransportError, said: str) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    receiver = WebhookReceiver(SECRET, "json", transport=httpx.MockTransport(fail))
    with pytest.raises(DeliveryFailedError, match=r"https://hooks\.example\.org") as caught:
        receiver.send(message(alert()), NOW)
    receiver.close()
    assert said in str(caught.value)


def test_the_log_has_a_line_an_alert_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "penstock.alerts"):
        LogReceiver().send(message(alert(), alert("b", "resolved")), NOW)
    on, over = caplog.records
    assert on.getMessage() == "alert slow firing, critical: p99 of a<b> & c"
    assert (on.levelname, on.__dict__["alert_id"], over.levelname) == ("WARNING", "a", "INFO")
