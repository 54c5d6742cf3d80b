"""The local stack: broker, topics, warehouse, monitor and workers, and so how the parts of Penstock fit together.

    broker ── topics ── ingest (writes the warehouse, answers /sql) ─┬─ monitor (raises alerts, stops what does harm)
                                                                     └─ workers (score what is asked)

They start in this order, each waits until the one before is ready, and stop in the reverse order. Every process is
supervised: what ends is started again with growing pauses; where a broker that keeps everything in memory comes back
empty, all others start anew with it. If this process dies, however it dies, all the others die with it. While it
runs, `stack.json` in the state folder tells other commands where everything listens.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from penstock.brokers import ApacheKafka, BrokerError, EmbeddedBroker, LocalBroker, free_port, port_is_free
from penstock.model_store import open_store
from penstock.ops_access import ops_token
from penstock.page_access import AccessError, access
from penstock.pools import pool_specs
from penstock.running import RunningStack, read_stack, remove_stack, started_at, write_stack
from penstock.settings import Settings
from penstock.stack_ops import StackOps
from penstock.supervisor import Ended, Program, Service, ServiceError, Supervisor
from producers.errors import BrokerUnavailableError
from producers.publisher import create_topics
from stream_workers.ops_health import OpsServerError

EMBEDDED: Final = "embedded"
KAFKA: Final = "kafka"
# What others need to know of the settings to be clients of the stack's broker.
_ANNOUNCED: Final = (
    *("bootstrap_servers", "group_protocol", "session_timeout_ms", "topic_prefix", "partitions"),
    *("consumer_properties", "producer_properties"),
)
# What a process may take to end when its broker has ended and forgets: there is nobody to finish with.
_FORGOTTEN_SECONDS: Final = 1.5


class StackError(RuntimeError):
    """A stack that cannot be started, in one line."""


class LocalStack:
    """Penstock on this machine; a context manager.

        with LocalStack(settings, workers=2) as stack:
            client = connect(stack.settings)

    `settings`: what the operator set; `stack.settings` is the same with the addresses of what was started.
    `broker`: "embedded", "kafka" or "host:port" (None: what the settings say); `workers` likewise; `ingest` False
    leaves the warehouse out. `prepare` is called with `stack.settings` when the topics are there and nobody reads them
    yet: what it writes to the control topic holds from the first request on; it is called again for a broker that has
    forgotten. `say` gets a line for people now and then, also from other threads. `start` raises `StackError`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        broker: str | None = None,
        workers: int | None = None,
        ingest: bool = True,
        prepare: Callable[[Settings], None] = lambda _settings: None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.settings = settings
        self.broker = broker or settings.stack.broker
        self.state = Path(settings.stack.state)
        self.workers = settings.stack.workers if workers is None else workers
        self.ingest = ingest
        # Without workers there is nothing to watch.
        self.monitor = settings.stack.monitor and bool(self._worker_pools())
        self.addresses: dict[str, str] = {}
        self._prepare = prepare
        self._say = say
        self._supervisor = Supervisor(self._ended, self._restarted)
        self._ops: StackOps | None = None
        self._lock: IO[str] | None = None

    def start(self) -> Self:
        """Start everything and return when all of it is ready; leaves nothing behind where that fails."""
        self._check_access()
        self._check_models()
        self._take_state()
        try:
            self._start_ops()
            self._start_broker()
            self._create_topics()
            self._prepare(self.settings)
            if self.ingest:
                self._start_ingest()
            self._start_monitor_and_workers()
            self._announce()
        except (ServiceError, BrokerError, BrokerUnavailableError, OpsServerError) as error:
            self.stop()
            raise StackError(str(error)) from None
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything, last started first. Safe to call twice."""
        if self._lock is not None:
            remove_stack(self.state)  # from now on nobody should be sent here
        self._supervisor.stop()
        if self._ops is not None:
            self._ops.stop()
        if self._lock is not None:
            remove_stack(self.state)  # a restart may just have written it again
            self._lock.close()
            self._lock = None

    @property
    def processes(self) -> dict[str, int]:
        """The pids of what runs now, by name: "broker", "ingest", "worker-1" and so on."""
        return {one.name: one.pid for one in self._supervisor.services if one.pid is not None}

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return next((one.log for one in self._supervisor.services if one.name == name), self._log(name))

    # -- the parts, in the order of their start

    def _start_ops(self) -> None:
        own = ["broker"] if self.broker in (EMBEDDED, KAFKA) else []
        monitor = ["monitor"] if self.monitor else []
        names = [*own, *(["ingest"] if self.ingest else []), *monitor, *self._worker_pools()]
        http = self.settings.http
        self._ops = StackOps(http.host, http.stack_port, names, token=ops_token(self.settings))
        self.addresses["up"] = self._ops.url

    def _start_broker(self) -> None:
        if self.broker == EMBEDDED:
            self._run_broker(EmbeddedBroker(self._broker_port(), log=self._log("broker")))
        elif self.broker == KAFKA:
            self._run_broker(ApacheKafka(self.state.absolute() / "kafka", self._broker_port()))
        else:
            self._change("kafka", bootstrap_servers=self.broker)
        self.addresses["broker"] = self.settings.kafka.bootstrap_servers

    def _run_broker(self, broker: LocalBroker) -> None:
        self._say(f"starting {broker.name}")
        kafka = self.settings.kafka
        chosen: dict[str, Any] = {
            "group_protocol": broker.group_protocol,
            "session_timeout_ms": broker.session_timeout_ms,
        }
        if broker.partitions is not None:
            # A worker without a partition would have nothing to do.
            chosen["partitions"] = max(broker.partitions, self.workers)
        chosen = {key: value for key, value in chosen.items() if key not in kafka.model_fields_set}
        chosen["consumer_properties"] = {**broker.consumer_properties, **kafka.consumer_properties}
        chosen["producer_properties"] = {**broker.producer_properties, **kafka.producer_properties}
        self._change("kafka", bootstrap_servers=broker.address, **chosen)
        # A broker that forgets is given its topics again each time it starts.
        self._run(_BrokerService(broker, self._fill_again))

    def _broker_port(self) -> int | None:
        """The port that clients look at first, where it is free; None: any free one."""
        stack = self.settings.stack
        if not stack.broker_port or "broker_port" in stack.model_fields_set or port_is_free(stack.broker_port):
            return stack.broker_port or None
        port = free_port()
        self._say(f"port {stack.broker_port} is taken, so the broker listens on 127.0.0.1:{port}")
        return port

    def _fill_again(self) -> None:
        self._create_topics()
        self._prepare(self.settings)

    def _create_topics(self) -> None:
        kafka = self.settings.kafka
        create_topics(kafka.client(), pool_specs(self.settings))

    def _start_ingest(self) -> None:
        if "path" not in self.settings.clickhouse.model_fields_set:
            self._change("clickhouse", path=str(self.state / "chdb"))
        http = self.settings.http
        if not http.warehouse_port or ("warehouse_port" not in http.model_fields_set and not self._free(http)):
            self._change("http", warehouse_port=free_port())
        self._say("starting ingest and the warehouse")
        self._run(self._command("ingest", self.settings.http.warehouse_port, "ingest"))

    def _start_monitor_and_workers(self) -> None:
        """Side by side: each joins a group, which takes a while.

        Nobody waits until the monitor has joined: what it has not seen yet is kept in Kafka.
        """
        services = []
        if self.monitor:
            http = self.settings.http
            self._say("starting the live monitor")
            services.append(self._command("monitor", http.monitor_port or free_port(), "monitor", path="healthz"))
        workers = self._worker_pools()
        if workers:
            self._say(f"starting {len(workers)} scoring worker{'s' if len(workers) > 1 else ''}")
        for name, pool in workers.items():
            of_pool = ("--pool", pool) if pool else ()
            services.append(self._command(name, free_port(), "worker", "--name", name, *of_pool))
        self._run(*services)

    # -- what they have in common

    def _run(self, *services: Service) -> None:
        self._supervisor.start(*services)
        for one in services:
            if self._ops is not None:
                self._ops.ready(one.name)

    def _worker_pools(self) -> dict[str, str]:
        """The workers by name, each with its pool, "" for the default one. Without workers of that there are none."""
        found = {f"worker-{number + 1}": "" for number in range(self.workers)}
        for pool, own in self.settings.pools.items() if self.workers else ():
            found |= {f"{pool}-worker-{number + 1}": pool for number in range(own.workers + own.spares)}
        return found

    def _check_models(self) -> None:
        """A worker waits for a first model, and the stack for its workers: better say so than have both wait."""
        if self.workers and not open_store(self.settings.models).names():
            raise StackError(
                f"there is no model in models.store = {self.settings.models.store!r}: add one "
                "(penstock models add), or start without workers (--workers 0)"
            )

    def _check_access(self) -> None:
        """Ingest would refuse an address that others can reach without a token, again and again."""
        if self.ingest:
            try:
                access(self.settings)
            except AccessError as error:
                raise StackError(str(error)) from None

    def _command(self, name: str, port: int, *arguments: str, path: str = "readyz") -> Program:
        """A Penstock command as a service that listens on `port`; it is waited for until `path` says 200."""
        ports = {"monitor_port": port} if name == "monitor" else {"worker_port": port}
        http = self.settings.http.model_copy(update=ports)
        settings = self.settings.model_copy(update={"http": http})
        # Settings travel in the environment alone: what this process was told is what its children are told.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        url = f"http://{http.host}:{port}"
        self.addresses[name] = url
        return Program(
            name,
            [sys.executable, "-m", "penstock", *arguments],
            self._log(name),
            env={**inherited, **settings.environment()},
            ready_url=f"{url}/{path}",
        )

    def _change(self, section: str, **values: Any) -> None:
        changed = getattr(self.settings, section).model_copy(update=values)
        self.settings = self.settings.model_copy(update={section: changed})

    def _log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def _free(self, http: Any) -> bool:
        return port_is_free(http.warehouse_port, http.host)

    def _take_state(self) -> None:
        """Hold the state folder's lock for as long as this process lives: a second stack would share its data."""
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            lock = (self.state / "lock").open("a")
        except OSError as error:
            raise StackError(f"the state folder {self.state} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            other = read_stack(self.state)
            who = f"by process {other.pid}" if other is not None else "by a process that is starting or stopping"
            raise StackError(f"a stack already runs in {self.state}, {who}; stop it, or set stack.state") from None
        self._lock = lock
        remove_stack(self.state)

    def _ended(self, ended: Ended) -> None:
        self._say(str(ended))
        if self._ops is not None:
            self._ops.ended(ended.service, str(ended))
        # Clients would hold on to groups, offsets and producers that the next broker knows nothing of; and one that
        # joins its old group there, and is then ended, leaves the group waiting for it.
        if others := self._with_forgetful(ended.service):
            self._supervisor.hold(others, _FORGOTTEN_SECONDS)
            for one in others:
                if self._ops is not None:
                    self._ops.ended(one.name, "it waits for the broker, to start anew with it")

    def _restarted(self, service: Service) -> None:
        if self._ops is not None:
            self._ops.again(service.name)
        lost = others = ""
        if isinstance(service, _BrokerService) and service.forgets:
            lost = " and is empty: its topics were in memory, what was in them is lost"
            if held := self._with_forgetful(service.name):
                others = f"; {', '.join(one.name for one in held)} start anew"
                self._supervisor.go_on(held, _FORGOTTEN_SECONDS)
        self._say(f"{service.name} runs again{lost}{others}")
        self._announce()

    def _with_forgetful(self, name: str) -> list[Service]:
        """What has to start anew with the service of this name: all others, where it is a broker that forgets."""
        services = self._supervisor.services
        forgets = any(isinstance(one, _BrokerService) and one.forgets and one.name == name for one in services)
        return [one for one in services if one.name != name] if forgets else []

    def _announce(self) -> None:
        stack = RunningStack(
            pid=os.getpid(),
            started=started_at(os.getpid()) or 0,
            broker=self.broker,
            kafka={key: getattr(self.settings.kafka, key) for key in _ANNOUNCED},
            warehouse_port=self.settings.http.warehouse_port if self.ingest else 0,
            addresses=self.addresses,
            processes=self.processes,
        )
        write_stack(self.state, stack)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _BrokerService:
    """A local broker as a service: started when it answers and, where it forgets, has its topics again."""

    name = "broker"

    def __init__(self, broker: LocalBroker, prepare: Callable[[], None]) -> None:
        self._broker = broker
        self._prepare = prepare
        self._started = False

    @property
    def log(self) -> Path:
        return self._broker.log

    @property
    def pid(self) -> int | None:
        return self._broker.pid

    @property
    def forgets(self) -> bool:
        return self._broker.forgets

    def start(self) -> None:
        try:
            self._broker.start()
            if self._started and self.forgets:
                self._prepare()
        except (BrokerError, BrokerUnavailableError) as error:
            raise ServiceError(str(error)) from None
        self._started = True

    def ready(self) -> bool:
        return self.pid is not None

    def wait(self) -> int:
        process = self._broker.process
        return process.wait() if process is not None else 0

    def stop(self, seconds: float | None = None) -> None:
        if seconds is None:
            self._broker.stop()
        else:
            self._broker.stop(seconds)


_: type[Service] = _BrokerService
