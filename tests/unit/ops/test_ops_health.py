"""Health conditions, heartbeats, and the HTTP server that tells of them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any

import pytest

from penstock.ops_access import ops_token
from penstock.settings import HttpSettings, PageSettings, Settings
from stream_workers.ops import Health, OpsServer, OpsServerError, WorkerMetrics, new_registry


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def get(server: OpsServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_a_process_is_ready_only_when_every_condition_holds() -> None:
    health = Health(expected=["kafka", "models"])
    assert health.ready() == (False, {"kafka": "not yet", "models": "not yet"})
    health.set("kafka", True)
    health.set("models", False, "flight-delay 2 is warming up")
    assert health.ready() == (False, {"kafka": "ok", "models": "flight-delay 2 is warming up"})
    health.set("models", True)
    assert health.ready() == (True, {"kafka": "ok", "models": "ok"})


def test_a_loop_that_stops_beating_makes_the_process_neither_alive_nor_ready() -> None:
    clock = Clock()
    health = Health(clock)
    health.watch("poll", 10)
    clock.now = 10.0
    assert health.alive() == (True, {"poll": "ok"})
    clock.now = 10.1
    assert health.alive() == (False, {"poll": "no heartbeat for 10.1 s, limit 10 s"})
    assert not health.ready()[0]
    health.beat("poll")
    assert health.alive()[0]
    assert health.ready()[0]


def test_a_condition_that_fails_leaves_the_process_alive() -> None:
    health = Health()
    health.set("clickhouse", False, "no answer")
    assert health.alive() == (True, {})


def test_the_first_beat_watches_and_a_forgotten_loop_may_be_silent() -> None:
    clock = Clock()
    health = Health(clock)
    health.beat("publish", max_age=1)
    clock.now = 5.0
    assert not health.alive()[0]
    health.forget("publish")
    assert health.alive() == (True, {})


def test_the_server_tells_health_and_readiness_with_reasons() -> None:
    health = Health(expected=["models"])
    with OpsServer("127.0.0.1", 0, new_registry(), health) as server:
        status, kind, body = get(server, "/healthz")
        assert (status, kind, json.loads(body)) == (200, "application/json", {"ok": True, "reasons": {}})
        status, _, body = get(server, "/readyz?verbose=1")
        assert (status, json.loads(body)) == (503, {"ok": False, "reasons": {"models": "not yet"}})
        health.set("models", True)
        assert get(server, "/readyz")[0] == 200
        assert get(server, "/readyz", "HEAD") == (200, "application/json", b"")


def test_the_server_serves_metrics_in_the_form_that_is_asked_for() -> None:
    registry = new_registry()
    WorkerMetrics(registry, "w-1").requests("OK", 2, model="m", version="1")
    with OpsServer("127.0.0.1", 0, registry, Health()) as server:
        status, kind, body = get(server, "/metrics")
        assert status == 200
        assert kind.startswith("text/plain; version=")
        assert b'penstock_requests_total{code="OK",model="m",variant="",version="1"} 2.0\n' in body
        assert b"process_resident_memory_bytes" in body
        assert b"python_gc_collections_total" in body
        assert b"_created" not in body
        kind, body = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")[1:]
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")


def test_metrics_behind_a_token_are_for_those_who_send_it_and_health_is_for_all() -> None:
    token = "t" * 20
    with OpsServer("127.0.0.1", 0, new_registry(), Health(), token=token) as server:
        for sent in ({}, {"Authorization": "Bearer t"}, {"Authorization": f"Basic {token}"}):
            status, _, body = get(server, "/metrics", **sent)
            assert (status, json.loads(body)) == (
                401, {"error": "a token is needed: send it as Authorization: Bearer"},
            )  # fmt: skip
        assert get(server, "/metrics", Authorization=f"Bearer {token}")[0] == 200
        assert get(server, "/healthz")[0] == get(server, "/readyz")[0] == 200


@pytest.mark.parametrize(
    ("host", "page", "token"),
    [
        ("127.0.0.1", {}, ""),
        ("localhost", {"token": "t" * 16}, ""),
        ("0.0.0.0", {"token": "t" * 16}, "t" * 16),  # noqa: S104 - settings, nothing listens there
        ("0.0.0.0", {"open_metrics": True}, ""),  # noqa: S104
        ("10.0.0.1", {}, None),
    ],
)
def test_an_address_that_others_can_reach_asks_for_the_token_of_the_page(
    host: str, page: dict[str, Any], token: str | None
) -> None:
    settings = Settings(http=HttpSettings(host=host), page=PageSettings(**page))
    if token is None:
        with pytest.raises(OpsServerError, match=r"http.host = '10.0.0.1' .* PENSTOCK_PAGE__TOKEN"):
            ops_token(settings)
    else:
        assert ops_token(settings) == token


def test_an_unknown_path_is_told_those_there_are() -> None:
    with OpsServer("127.0.0.1", 0, new_registry(), Health()) as server:
        status, _, body = get(server, "/nothing")
    assert status == 404
    assert json.loads(body)["paths"] == ["/metrics", "/healthz", "/readyz"]


def test_a_silent_client_does_not_hold_up_the_others_nor_the_end() -> None:
    server = OpsServer("127.0.0.1", 0, new_registry(), Health()).start()
    with socket.create_connection((server.host, server.port)):
        assert get(server, "/healthz")[0] == 200
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        stopped.join(5)
        assert not stopped.is_alive()


def test_the_log_names_the_port_that_was_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with OpsServer("127.0.0.1", 0, new_registry(), Health()) as server:
        assert f"metrics and health at http://127.0.0.1:{server.port}" in caplog.messages


def test_after_stop_the_port_is_free_and_stop_again_does_no_harm() -> None:
    server = OpsServer("127.0.0.1", 0, new_registry(), Health()).start()
    server.stop()
    server.stop()
    with OpsServer("127.0.0.1", server.port, new_registry(), Health()) as again:
        assert get(again, "/healthz")[0] == 200


def test_a_taken_port_is_one_line_that_says_what_to_do() -> None:
    line = r"^cannot serve metrics on 127.0.0.1:\d+: .*; choose another port.*$"
    with OpsServer("127.0.0.1", 0, new_registry(), Health()) as server, pytest.raises(OpsServerError, match=line):
        OpsServer("127.0.0.1", server.port, new_registry(), Health())
