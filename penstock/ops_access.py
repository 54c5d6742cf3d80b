"""Who may read a process's /metrics: this machine, or whoever sends the page's token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.page_access import loopback
from stream_workers.ops_health import OpsServer, OpsServerError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from penstock.settings import Settings
    from stream_workers.ops_health import Health


def ops_token(settings: Settings) -> str:
    """What /metrics asks for, empty for nothing. Raises `OpsServerError` where one is needed and none is set."""
    host, page = settings.http.host, settings.page
    if loopback(host) or page.open_metrics:
        return ""
    if not page.token:
        raise OpsServerError(
            f"http.host = {host!r} can be reached from other machines, and page.token is not set: set "
            "PENSTOCK_PAGE__TOKEN to a secret of 16 characters or more, or PENSTOCK_PAGE__OPEN_METRICS=true where "
            "anybody may read /metrics, or listen on 127.0.0.1"
        )
    return page.token


def ops_server(settings: Settings, port: int, registry: CollectorRegistry, health: Health) -> OpsServer:
    """A process's /metrics, /healthz and /readyz at the address that the settings name. Raises `OpsServerError`."""
    return OpsServer(settings.http.host, port, registry, health, token=ops_token(settings))
