"""The sections of the settings: every key with its type, default, bounds and meaning, and what it is to librdkafka."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from penstock.settings_base import Section
from penstock.settings_errors import hide
from penstock.settings_pools import Bytes
from schemas.partitioning import PARTITIONER
from schemas.topics import MAX_MESSAGE_BYTES, Topics

# Setting one of these would break a law of the design, or has a key of its own.
_OURS: Final = {
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "enable.auto.commit": "Penstock commits offsets itself, after the results are durable",
    "enable.auto.offset.store": "Penstock commits offsets itself, after the results are durable",
    "enable.idempotence": "every producer is idempotent",
    "group.id": "set worker.group or ingest.group",
    "group.protocol": "set kafka.group_protocol",
    "isolation.level": "consumers read committed records only",
    "logger": "it is no property of librdkafka; what a client has to say is in the process's log",
    "partitioner": "the key's partition is part of the protocol",
    "transactional.id": "each process has its own",
}
# With group.protocol=consumer the broker decides these, and librdkafka refuses them.
_CLASSIC_ONLY: Final = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")
_SHORTEST_TOKEN: Final = 16


def _flat(value: Any) -> Any:
    """Nested tables, numbers and truth values as librdkafka wants them: {"a": {"b": true}} is {"a.b": "true"}.

    librdkafka's names have dots where an environment variable can only have underscores.
    """
    if not isinstance(value, Mapping):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = str(key) if "." in str(key) or key == "log_level" else str(key).replace("_", ".")
        if isinstance(item, Mapping):
            out.update({f"{name}.{below}": deeper for below, deeper in _flat(item).items()})
        else:
            out[name] = str(item).lower() if isinstance(item, bool) else str(item)
    return out


Properties = Annotated[dict[str, str], BeforeValidator(_flat)]


class KafkaSettings(Section):
    """How to reach Kafka, and how its topics are named."""

    bootstrap_servers: str = Field(default="127.0.0.1:9092", min_length=1)
    """Brokers to begin with, "host:port,host:port". Where it is not set, a running local stack's broker is taken."""
    properties: Properties = {}
    """Any librdkafka property, for every client (security, SASL, TLS and so on). It wins over Penstock's choices."""
    consumer_properties: Properties = {}
    """Any librdkafka property, for consumers only."""
    producer_properties: Properties = {}
    """Any librdkafka property, for producers only."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """How group members share partitions: "consumer" needs Apache Kafka 4; "classic" is cooperative-sticky."""
    session_timeout_ms: int | None = Field(default=10_000, ge=1000)
    """After how long a silent group member is given up. Classic only; with "consumer" the broker decides (its 45 s)."""
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Put in front of every topic's name, so that several deployments can share a cluster."""
    schema_registry_url: str = ""
    """A Confluent schema registry; empty: Avro single-object encoding, which needs none."""
    partitions: int = Field(default=8, ge=1, le=10_000)
    """Partitions of the topics that Penstock creates."""

    @field_validator("properties", "consumer_properties", "producer_properties")
    @classmethod
    def _leaves_ours_alone(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if key in _OURS:
                raise ValueError(f"{key} cannot be set: {_OURS[key]}")
        return value

    @property
    def topics(self) -> Topics:
        """The topics' names."""
        return Topics(self.topic_prefix)

    def client(self) -> dict[str, Any]:
        """librdkafka's configuration of any client, the admin client for one."""
        return {**self._common(), **self.properties}

    def consumer(self, group: str, **over: Any) -> dict[str, Any]:
        """A consumer that commits only when told and reads committed records only.

        `over` (librdkafka's names) wins over the defaults, the operator's properties win over `over`.
        """
        classic: dict[str, Any] = {"partition.assignment.strategy": "cooperative-sticky"}
        if self.session_timeout_ms is not None:
            classic["session.timeout.ms"] = self.session_timeout_ms
            classic["heartbeat.interval.ms"] = max(self.session_timeout_ms // 6, 300)
        ours: dict[str, Any] = {
            **self._common(),
            "group.id": group,
            "group.protocol": self.group_protocol,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "max.partition.fetch.bytes": MAX_MESSAGE_BYTES,
            # A partition whose local queue is full is fetched again after this; the default of 1 s lets a worker that
            # empties its queue in less stand idle for the rest.
            "fetch.queue.backoff.ms": 10,
            **classic,
            **over,
        }
        if self.group_protocol == "consumer":
            ours = {key: value for key, value in ours.items() if key not in _CLASSIC_ONLY}
        return {**ours, **self.properties, **self.consumer_properties}

    def producer(self, **over: Any) -> dict[str, Any]:
        """An idempotent producer that puts keys on the partitions every other client expects them on."""
        ours: dict[str, Any] = {
            **self._common(),
            "enable.idempotence": True,
            "partitioner": PARTITIONER,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "linger.ms": 1,
        }
        return {**ours, **over, **self.properties, **self.producer_properties}

    def _common(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": "penstock",
            "socket.keepalive.enable": True,
            # Small requests would wait for the acknowledgement of the one before.
            "socket.nagle.disable": True,
            # The default of 10 s would be most of a broker's restart.
            "reconnect.backoff.max.ms": 2000,
        }


class ClickHouseSettings(Section):
    """Where the evidence is kept."""

    url: str = ""
    """A ClickHouse server, http(s)://user:password@host:port; empty: chDB, ClickHouse in process."""
    path: str = ".penstock/chdb"
    """chDB's folder. One process at a time can open it."""
    database: str = Field(default="penstock", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The database that holds Penstock's tables."""
    settings: dict[str, str | int | float | bool] = {}
    """ClickHouse settings sent with every query."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none
            good = False
        if value and not good:
            raise ValueError(f"expected http(s)://user:password@host:port or nothing, got {hide(value)!r}")
        return value


class ModelSettings(Section):
    """Which models there are, and what they run on."""

    store: str = Field(default="models/zoo", min_length=1, validate_default=True)
    """The registry of models: a folder, or a URL of fsspec (s3://, gs://). Not set: those that come with Penstock."""
    cache: str = Field(default=".penstock/models", min_length=1)
    """The folder that models are brought to from a registry; it may be deleted while no worker loads one."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """What inference runs on: "cuda" and "tensorrt" fail where they do not load, "auto" takes CUDA where it loads."""
    cache_size: Bytes = 20 * 1024**3
    """Bytes ("20GiB") above which versions leave that folder: the least recently used, and none that is loaded."""
    memory: Bytes | None = None
    """Bytes ("2GiB") that all versions in a worker's memory may take; not set: no limit. See pools.md."""
    preload: bool = True
    """Whether each model is loaded before anybody asks, and stays; false: when it is first asked for."""
    pinned: tuple[str, ...] = ()
    """Models, `*` and `?` standing for anything, that are loaded in any case and never evicted."""
    threads: int = Field(default=1, ge=1)
    """Threads of one inference on a CPU. Scale by workers first."""
    gpu_memory_limit_mb: int | None = Field(default=None, ge=1)
    """Megabytes of a GPU that one model version's arena may take, weights and activations; not set: no limit."""
    cuda_graphs: bool = False
    """Whether a GPU captures each size of batch as a CUDA graph in the warm-up; a model that cannot be runs without."""
    tensorrt_fp16: bool = False
    """Whether TensorRT may compute in FP16; inputs and outputs stay as they are."""
    tensorrt_cache: str = Field(default=".penstock/tensorrt", min_length=1)
    """The folder of TensorRT's engines, which take minutes to build: for one GPU model and one TensorRT each."""

    @field_validator("store")
    @classmethod
    def _ours_from_anywhere(cls, value: str) -> str:
        own = Path(__file__).parent.parent / value
        return str(own) if value == "models/zoo" and not Path(value).is_dir() and own.is_dir() else value


class WorkerSettings(Section):
    """A scoring worker."""

    name: str = ""
    """The worker's name in logs, metrics and the prediction log; empty: host and process id."""
    group: str = Field(default="penstock-scoring", min_length=1)
    """The consumer group whose members share the requests."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows of a micro-batch at most; not set: what the model's manifest says."""
    max_wait_ms: float | None = Field(default=None, ge=0)
    """How long the oldest record of a micro-batch waits at most; not set: what the model's manifest says."""
    p99_target_ms: float | None = Field(default=None, gt=0)
    """Batches are kept small enough for this latency; not set: what the model's manifest says."""
    commit_interval_ms: int = Field(default=100, ge=1, le=10_000)
    """How often the prediction log and the consumed offsets are committed in a Kafka transaction."""
    bulk: bool = True
    """Whether this worker takes bulk scoring too."""
    bulk_share: float = Field(default=0.1, gt=0, le=1)
    """The share of the device's time that bulk scoring gets at least while requests keep it busy."""
    on_device_loss: Literal["leave", "cpu"] = "leave"
    """What a worker does whose device is dead: leave the group and end, or go on on the CPU as long as it is."""
    cpu_on_failure: bool = True
    """Whether a version whose device fails goes on on the CPU, which needs memory for a copy of it there."""
    last_answer_mb: int = Field(default=64, ge=0)
    """Memory for users' last answers, of versions whose manifest allows these where nothing can answer anew."""
    max_request_bytes: int = Field(default=1024 * 1024, ge=1024, le=MAX_MESSAGE_BYTES)
    """A larger request is answered TOO_LARGE."""


class IngestSettings(Section):
    """The consumer that writes predictions, summaries and outcomes into ClickHouse."""

    group: str = Field(default="penstock-ingest", min_length=1)
    """Its consumer group."""
    block_rows: int = Field(default=50_000, ge=1)
    """Rows after which a block is written."""
    block_seconds: float = Field(default=1.0, gt=0)
    """Seconds after which a block is written, whatever its size."""


class HttpSettings(Section):
    """Where the processes listen for their operators."""

    host: str = "127.0.0.1"
    """The address that every process listens on."""
    worker_port: int = Field(default=0, ge=0, le=65535)
    """A worker's /metrics, /healthz and /readyz; 0: any free port."""
    warehouse_port: int = Field(default=8123, ge=0, le=65535)
    """The page, read-only /sql, /metrics, /healthz and /readyz of ingest; 0: any free port."""
    monitor_port: int = Field(default=0, ge=0, le=65535)
    """The monitor's /metrics, /healthz and /readyz; 0: any free port."""
    stack_port: int = Field(default=0, ge=0, le=65535)
    """The /metrics, /healthz and /readyz of `penstock up` itself; 0: any free port."""


class PageSettings(Section):
    """The page of the process that holds the warehouse, and whoever asks that process anything."""

    token: str = ""
    """What everybody who asks for data has to show, 16 characters or more. Needed where http.host is not loopback."""
    hosts: str = ""
    """Names under which a proxy gives the page out, with commas between them. Needs the token."""
    open_metrics: bool = False
    """Whether /metrics is told without the token too, for a Prometheus that sends none."""

    @field_validator("token")
    @classmethod
    def _is_long(cls, value: str) -> str:
        if value and (len(value) < _SHORTEST_TOKEN or not value.isprintable() or not value.isascii() or " " in value):
            raise ValueError(f"expected {_SHORTEST_TOKEN} or more letters, digits and signs of ASCII, without spaces")
        return value


class StackSettings(Section):
    """The local stack, `penstock up`."""

    workers: int = Field(default=1, ge=0, le=256)
    """Scoring workers."""
    monitor: bool = True
    """Whether the live monitor runs beside the workers."""
    broker: str = "embedded"
    """"embedded", "kafka" (a local Apache Kafka, needs java and mvn), or the host:port of one that runs already."""
    broker_port: int = Field(default=9092, ge=0, le=65535)
    """The local broker's port; 0: any free port. Not set, and 9092 is taken: any free port as well."""
    state: str = ".penstock"
    """The folder of the stack's data and logs. One stack at a time can use it."""


class LogSettings(Section):
    """The processes' logs, on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe line that is written."""
    format: Literal["json", "plain"] = "json"
    """One JSON object a line, or text for a person."""
