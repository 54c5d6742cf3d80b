"""The test bed of a benchmark: a broker with topics of its own, workers as real processes, and their own figures."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from penstock.bench.workload import Workload, make_workload
from penstock.brokers import free_port
from penstock.child import tail
from penstock.settings import Settings
from penstock.stack import EMBEDDED, KAFKA, LocalStack
from penstock.supervisor import Program
from producers.publisher import create_topics
from schemas.topics import MAX_MESSAGE_BYTES, Topics, TopicSpec

READY_SECONDS: Final = 120.0
PARTITIONS: Final = 8


class BenchError(RuntimeError):
    """A benchmark that could not be run to its end, in one line."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker said of itself since its start: seconds, rows, batches, commits; `rss` in bytes."""

    cpu: float = 0.0
    inference: float = 0.0
    publish: float = 0.0
    batches: float = 0.0
    rows: float = 0.0
    commits: float = 0.0
    rss: float = 0.0

    def since(self, before: Usage) -> Usage:
        """What came since `before`; memory as it stands."""
        names = ("cpu", "inference", "publish", "batches", "rows", "commits")
        return Usage(**{name: getattr(self, name) - getattr(before, name) for name in names}, rss=self.rss)

    def plus(self, other: Usage) -> Usage:
        """Of two workers together; memory of the larger one."""
        names = ("cpu", "inference", "publish", "batches", "rows", "commits")
        both = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Usage(**both, rss=max(self.rss, other.rss))

    def to_json(self) -> dict[str, float]:
        """Microseconds a row, and sizes. Publishing runs beside the rest, so that the parts need not add up."""
        rows = max(self.rows, 1.0)
        return {
            "cpu_us_per_row": round(self.cpu / rows * 1e6, 3),
            "inference_us_per_row": round(self.inference / rows * 1e6, 3),
            "publish_us_per_row": round(self.publish / rows * 1e6, 3),
            "rows_per_batch": round(rows / max(self.batches, 1.0), 1),
            "rows_per_commit": round(rows / max(self.commits, 1.0), 1),
            "commit_ms": round(self.publish / max(self.commits, 1.0) * 1e3, 2),
            "worker_rss_mib": round(self.rss / 2**20, 1),
        }


class Worker:
    """A scoring worker's process."""

    def __init__(self, name: str, settings: Settings, delivery: str, log: Path, module: str = "penstock") -> None:
        """`module`: what `python -m` runs with the arguments of `penstock worker`."""
        port = free_port()
        http = settings.http.model_copy(update={"host": "127.0.0.1", "worker_port": port})
        environment = settings.model_copy(update={"http": http}).environment()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", module, "worker", "--name", name, "--delivery", delivery]
        self._program = Program(
            name, command, log, env={**inherited, **environment}, ready_url=f"{self._url}/readyz"
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process. Raises `BenchError` where it has ended."""
        pid = self._program.pid
        if pid is None:
            raise BenchError(f"{self._program.name} has ended: {tail(self._program.log)}")
        return pid

    def start(self) -> None:
        """Start it and return when it is ready."""
        self._program.start()
        end = time.monotonic() + READY_SECONDS
        pause = threading.Event()
        while not self._program.ready():
            if time.monotonic() > end:
                raise BenchError(f"{self._program.name} is not ready after {READY_SECONDS:.0f} s: {self._last()}")
            _ = self.pid
            pause.wait(0.05)

    def stop(self) -> None:
        """End it in order."""
        self._program.stop()

    def rss(self) -> int:
        """Its memory in bytes. Raises `BenchError` where it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            raise BenchError(f"{self._program.name} has ended: {self._last()}") from None

    def usage(self) -> Usage:
        """What its /metrics say."""
        return usage_of(self._samples())

    def partitions(self, topic: str) -> int:
        """How many of the topic's partitions it has."""
        return sum(
            1 for name, labels, _ in self._samples() if name == "penstock_lag" and labels.get("topic") == topic
        )  # fmt: skip

    def _samples(self) -> list[tuple[str, Mapping[str, str], float]]:
        from prometheus_client.parser import text_string_to_metric_families

        _ = self.pid
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
            text = answer.read().decode()
        return [
            (one.name, one.labels, one.value)
            for family in text_string_to_metric_families(text)
            for one in family.samples
        ]

    def _last(self) -> str:
        return tail(self._program.log)


def usage_of(samples: Iterable[tuple[str, Mapping[str, str], float]]) -> Usage:
    """A worker's figures from the samples of its /metrics."""
    sums: dict[str, float] = {}
    for name, _, value in samples:
        sums[name] = sums.get(name, 0.0) + value
    return Usage(
        cpu=sums.get("process_cpu_seconds_total", 0.0),
        inference=sums.get("penstock_inference_seconds_sum", 0.0),
        publish=sums.get("penstock_publish_seconds_sum", 0.0),
        batches=sums.get("penstock_batch_rows_count", 0.0),
        rows=sums.get("penstock_batch_rows_sum", 0.0),
        commits=sums.get("penstock_commits_total", 0.0),
        rss=sums.get("process_resident_memory_bytes", 0.0),
    )


class Bed:
    """Broker, topics and workers of one benchmark, gone when it is over. A context manager.

    Topics have a prefix of their own and workers a group of their own, so that a broker in use is not disturbed; on a
    broker that runs already the topics are deleted at the end.
    """

    def __init__(
        self,
        settings: Settings,
        broker: str,
        model: str,
        *,
        say: Callable[[str], None] = lambda _line: None,
        worker_module: str = "penstock",
    ) -> None:
        """`model`: see `make_workload`. Its errors are raised by `__enter__`. `worker_module`: see `Worker`."""
        self._worker_module = worker_module
        self._given = settings
        self._broker = broker
        self._model = model
        self._say = say
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-bench-")
        self.folder = Path(self._folder.name)
        self.run_id = uuid.uuid4().hex
        self.workers: list[Worker] = []
        self.workload: Workload

    def __enter__(self) -> Self:
        given = self._given
        try:
            self.workload = make_workload(self._model, self.folder, given.models.store)
            self.settings = given.model_copy(
                update={
                    "kafka": given.kafka.model_copy(
                        update={"topic_prefix": f"bench-{self.run_id[:12]}.", "partitions": PARTITIONS}
                    ),
                    "models": given.models.model_copy(update={"store": str(self.workload.store)}),
                    "stack": given.stack.model_copy(update={"state": str(self.folder / "stack")}),
                    "worker": given.worker.model_copy(update={"group": f"penstock-bench-{self.run_id[:12]}"}),
                }
            )
            self._stack = LocalStack(self.settings, broker=self._broker, workers=0, ingest=False, say=self._say)
            self._stack.start()
            self.settings = self._stack.settings
            self.add_topics(self.copies, *self.echo_topics)
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop_workers()
            if self._broker not in (EMBEDDED, KAFKA):
                self._delete_topics()
        finally:
            self._stack.stop()
            self._folder.cleanup()

    @property
    def topics(self) -> Topics:
        """The topics of the benchmark."""
        return self.settings.kafka.topics

    @property
    def copies(self) -> str:
        """Where the raw loop copies to."""
        return f"{self.topics.prefix}raw.copies"

    @property
    def echo_topics(self) -> tuple[str, str]:
        """Questions and answers of the raw echo."""
        return f"{self.topics.prefix}raw.questions", f"{self.topics.prefix}raw.answers"

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return self.settings.kafka.bootstrap_servers

    @property
    def broker(self) -> str:
        """What the broker is."""
        return {EMBEDDED: "embedded (Tansu, in memory)", KAFKA: "Apache Kafka, one node"}.get(
            self._broker, "a broker that ran already"
        )

    @property
    def tells_ends(self) -> bool:
        """Whether the broker is known to tell where a partition ends as soon as a record is in it: Apache Kafka does.

        The embedded broker tells it too low for a while.
        """
        return self._broker == KAFKA

    def client(self) -> dict[str, Any]:
        """librdkafka's configuration of a client of the benchmark itself, which keeps quiet about a broker's end."""
        return {**self.settings.kafka.client(), "log_level": 0}

    def consumer(self, group: str) -> dict[str, Any]:
        """The same of a consumer."""
        return {**self.settings.kafka.consumer(group), "log_level": 0}

    def producer(self) -> dict[str, Any]:
        """The same of a producer."""
        return {**self.settings.kafka.producer(), "log_level": 0}

    def broker_cpu(self) -> float | None:
        """CPU seconds that the broker has used; None where it is not ours."""
        pid = self._stack.processes.get("broker")
        if pid is None:
            return None
        used = psutil.Process(pid).cpu_times()
        return float(used.user + used.system)

    def processes(self) -> dict[str, int]:
        """The ids of the worker's process (of workers: "worker-1" and on), and of the broker's where it is ours."""
        names = ["worker"] if len(self.workers) == 1 else [f"worker-{at + 1}" for at in range(len(self.workers))]
        found = {name: worker.pid for name, worker in zip(names, self.workers, strict=True)}
        broker = self._stack.processes.get("broker")
        return found if broker is None else {**found, "broker": broker}

    def use_group(self, name: str) -> str:
        """Let the workers that are started next be in this group, told apart from other benchmarks'; its full name."""
        group = f"penstock-bench-{self.run_id[:12]}-{name}"
        worker = self.settings.worker.model_copy(update={"group": group})
        self.settings = self.settings.model_copy(update={"worker": worker})
        return group

    def add_topics(self, *names: str) -> None:
        """Create topics with as many partitions as the others."""
        size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
        create_topics(self.settings.kafka.client(), [TopicSpec(name, PARTITIONS, size) for name in names])

    def start_workers(self, count: int, delivery: str) -> None:
        """Start them and return when all are ready."""
        for number in range(count):
            name = f"bench-{number + 1}"
            worker = Worker(name, self.settings, delivery, self.folder / "logs" / f"{name}.log", self._worker_module)
            self.workers.append(worker)
            worker.start()

    def stop_workers(self) -> None:
        """Stop all of them."""
        while self.workers:
            self.workers.pop().stop()

    def usage(self) -> Usage:
        """All workers' figures together."""
        total = Usage()
        for worker in self.workers:
            total = total.plus(worker.usage())
        return total

    def await_shares(self, topic: str, seconds: float = READY_SECONDS) -> None:
        """Wait until every worker has partitions of the topic, and all of them are given out."""
        end = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            shares = [worker.partitions(topic) for worker in self.workers]
            if min(shares) > 0 and sum(shares) == PARTITIONS:
                return
            if time.monotonic() > end:
                raise BenchError(f"the workers do not share {topic} after {seconds:.0f} s: {shares}")
            pause.wait(0.2)

    def _delete_topics(self) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient(self.settings.kafka.client())
        names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(self.topics.prefix)]
        for name, done in admin.delete_topics(names).items():
            try:
                done.result(30)
            except KafkaException as error:
                self._say(f"topic {name} could not be deleted: {error.args[0].str()}")


def machine(settings: Settings, broker: str) -> dict[str, Any]:
    """What a figure depends on besides Penstock: machine and versions."""
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import PackageNotFoundError, version

    import confluent_kafka

    versions = {"librdkafka": confluent_kafka.libversion()[0]}
    for name in ("penstock", "confluent-kafka", "onnxruntime", "onnxruntime-gpu", "numpy", "fastavro"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    if broker == KAFKA:
        from penstock.kafka_install import kafka_version

        versions["kafka"] = kafka_version()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": _processor() or platform.processor() or platform.machine(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "load_average": [round(one, 2) for one in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions,
        "commit_interval_ms": settings.worker.commit_interval_ms,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
