"""Keeps processes running: starts them in order, restarts what ends with growing pauses, stops them in reverse order.

`Restarts` decides and knows no process; `Supervisor` acts. One thread waits on each process, so that nothing polls.
"""

from __future__ import annotations

import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from penstock.child import spawn, tail

READY_SECONDS: Final = 120.0
# Between two questions whether a process is ready: it has no way to call back.
_ASK_AGAIN: Final = 0.1


class ServiceError(RuntimeError):
    """A service that could not be started, in one line that names its log file."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """Pauses before restarts in seconds: `first`, then twice the last up to `cap`, anew after a run of `healthy`."""

    first: float = 0.5
    cap: float = 30.0
    healthy: float = 60.0


class Restarts:
    """How long to wait before each restart of one service. It never gives up."""

    def __init__(self, back_off: BackOff) -> None:
        self._back_off = back_off
        self._failures = 0

    def pause(self, ran: float) -> float:
        """Seconds to wait after a run of `ran` seconds has ended."""
        if ran >= self._back_off.healthy:
            self._failures = 0
        # The exponent is bounded so that a service failing for years does not overflow a float.
        pause = min(self._back_off.first * 2.0 ** min(self._failures, 60), self._back_off.cap)
        self._failures += 1
        return pause


class Service(Protocol):
    """Something with a process that can be kept running."""

    @property
    def name(self) -> str:
        """Its name among the services."""

    @property
    def log(self) -> Path:
        """The file that its process writes to."""

    @property
    def pid(self) -> int | None:
        """Its process while it runs."""

    def start(self) -> None:
        """Start the process. Raises `ServiceError`."""

    def ready(self) -> bool:
        """Whether it is fit for use now."""

    def wait(self) -> int:
        """Wait until the process has ended; its status, negative for a signal. At once where none was started."""

    def stop(self, seconds: float | None = None) -> None:
        """End the process within `seconds` (None: its own bound), and do nothing where none runs."""


class Program:
    """A service that is a command of its own, ready when its `ready_url` answers 200 (at once without one)."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        ready_url: str = "",
        stop_seconds: float = 20.0,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = tuple(argv)
        self._env = env
        self._ready_url = ready_url
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the command. Raises `ServiceError`."""
        try:
            self._process = spawn(self._argv, self.log, env=self._env)
        except OSError as error:
            raise ServiceError(f"{self.name} cannot be started: {error}") from None

    def ready(self) -> bool:
        """Whether `ready_url` answers 200 now."""
        if not self._ready_url:
            return self.pid is not None
        try:
            with urllib.request.urlopen(self._ready_url, timeout=2) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait(self) -> int:
        """Wait until the process has ended; its status."""
        return self._process.wait() if self._process is not None else 0

    def stop(self, seconds: float | None = None) -> None:
        """SIGTERM, and SIGKILL after `seconds` (None: `stop_seconds`)."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(self._stop_seconds if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Ended:
    """A service ended that nobody had stopped; it starts again after `pause` seconds."""

    service: str
    how: str
    log: Path
    pause: float

    def __str__(self) -> str:
        return f"{self.service} {self.how}; it starts again in {self.pause:.1f} s; its log is {self.log}"


class _Watched:
    """A service and the thread that waits on it.

    `held`: it was ended on purpose, or should not wait for its next start. `go`: it may be started.
    """

    def __init__(self, service: Service, watch: Callable[[_Watched, float], None], began: float) -> None:
        self.service = service
        self.held = threading.Event()
        self.go = threading.Event()
        self.go.set()
        name = f"watch-{service.name}"
        self.thread = threading.Thread(target=watch, args=(self, began), name=name, daemon=True)


class Supervisor:
    """Starts services and keeps them running until `stop`.

    `on_end` and `on_restart` are called from other threads: when a service has ended that nobody stopped, and when it
    is ready again.
    """

    def __init__(
        self,
        on_end: Callable[[Ended], None] = lambda _ended: None,
        on_restart: Callable[[Service], None] = lambda _service: None,
        *,
        back_off: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_end = on_end
        self._on_restart = on_restart
        self._back_off = back_off or BackOff()
        self._clock = clock
        self._stopping = threading.Event()
        self._watched: list[_Watched] = []

    @property
    def services(self) -> tuple[Service, ...]:
        """The services in the order of their start."""
        return tuple(one.service for one in self._watched)

    def start(self, *services: Service, seconds: float = READY_SECONDS) -> None:
        """Start services side by side and return when all of them are ready.

        Raises `ServiceError` for one that ends before it is ready, or is not ready within `seconds`: what does not
        come up even once has a cause that a restart does not mend.
        """
        give_up = self._clock() + seconds
        for service in services:
            # Known before it runs: a Ctrl-C in between must not forget it.
            self._watched.append(_Watched(service, self._watch, self._clock()))
            service.start()
        for service in services:
            self._await_ready(service, give_up, seconds)
        for one in self._watched:
            if one.service in services:
                one.thread.start()

    def hold(self, services: Sequence[Service], seconds: float) -> None:
        """End services, each within `seconds`, and keep them down until `go_on`: it is no failure of theirs.

        Returns at once. One that was never ready is left alone.
        """
        for one in self._of(services):
            one.go.clear()
            one.held.set()
            self._aside(one.service.name, one.service.stop, seconds)

    def go_on(self, services: Sequence[Service], seconds: float) -> None:
        """Start held services. Returns at once; what still runs of them is ended first, within `seconds`."""
        for one in self._of(services):
            self._aside(one.service.name, self._release, one, seconds)

    def stop(self) -> None:
        """Stop all services, the last started first, each within its own bound. Safe to call twice."""
        self._stopping.set()
        for one in self._watched:  # nobody waits for the end of a pause
            one.held.set()
            one.go.set()
        while self._watched:
            last = self._watched[-1]
            last.service.stop()
            while last.thread.is_alive():
                last.thread.join(1.0)
                last.service.stop()  # it may have been on its way up again
            self._watched.pop()

    def _await_ready(self, service: Service, give_up: float, seconds: float) -> None:
        while not service.ready():
            if service.pid is None:
                how = _how(service.wait())
                raise ServiceError(
                    f"{service.name} {how} before it was ready; its log is {service.log}: {tail(service.log)}"
                )
            if self._clock() > give_up:
                raise ServiceError(f"{service.name} is not ready after {seconds:.0f} s; its log is {service.log}")
            self._stopping.wait(_ASK_AGAIN)

    def _watch(self, watched: _Watched, began: float) -> None:
        service = watched.service
        restarts = Restarts(self._back_off)
        how = ""
        while True:
            how = how or _how(service.wait())
            if not watched.held.is_set():
                pause = restarts.pause(self._clock() - began)
                self._on_end(Ended(service.name, how, service.log, pause))
                watched.held.wait(pause)
            watched.go.wait()
            if self._stopping.is_set():
                return
            watched.held.clear()
            began = self._clock()
            try:
                service.start()
                how = ""
            except ServiceError as error:
                how = f"did not start again ({error})"
            # `stop` may have come and gone while it was starting.
            if self._stopping.is_set():
                service.stop()
                return
            if not how and self._becomes_ready(service):
                self._on_restart(service)

    def _of(self, services: Sequence[Service]) -> list[_Watched]:
        return [one for one in self._watched if one.service in services and one.thread.is_alive()]

    def _release(self, one: _Watched, seconds: float) -> None:
        # It may have been on its way up when it was held. Before `go` is set nothing new of it can come.
        one.service.stop(seconds)
        one.go.set()

    def _aside(self, name: str, function: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, name=f"aside-{name}", daemon=True).start()

    def _becomes_ready(self, service: Service) -> bool:
        """Wait until it is ready; False where it ended first, or all is to stop."""
        while not service.ready():
            if service.pid is None or self._stopping.wait(_ASK_AGAIN):
                return False
        return True


def _how(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
