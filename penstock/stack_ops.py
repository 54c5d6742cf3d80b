"""What `penstock up` shows of itself: whether its processes are ready, and how often each was started again."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

from stream_workers.ops_health import Health, OpsServer
from stream_workers.ops_metrics import new_registry


class StackOps:
    """Ready while all of `processes` are. Raises `OpsServerError` where the port is taken."""

    def __init__(
        self,
        host: str,
        port: int,
        processes: Iterable[str],
        registry: CollectorRegistry | None = None,
        *,
        token: str = "",
    ) -> None:
        names = tuple(processes)
        registry = registry or new_registry()
        self._health = Health(expected=names)
        self._restarts = Counter(
            "penstock_stack_restarts_total", "Times a process was started again", ("name",), registry=registry
        )
        for name in names:
            self._restarts.labels(name)  # a series that begins at 0 shows its first step
        self._server = OpsServer(host, port, registry, self._health, token=token).start()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return self._server.url

    def ready(self, name: str) -> None:
        """A process is ready for the first time."""
        self._health.set(name, True)

    def ended(self, name: str, why: str) -> None:
        """A process is not there for a while."""
        self._health.set(name, False, why)

    def again(self, name: str) -> None:
        """A process was started again and is ready."""
        self._restarts.labels(name).inc()
        self._health.set(name, True)

    def stop(self) -> None:
        """Stop answering. Safe to call twice."""
        self._server.stop()
