"""What an operator may set: `penstock.toml`, then `PENSTOCK_*` over it, with errors that name the key.

    [kafka]                                PENSTOCK_KAFKA__PARTITIONS=8
    partitions = 8                         PENSTOCK_KAFKA__PROPERTIES__SASL_PASSWORD=…
    properties."security.protocol" = "SASL_SSL"

A key set nowhere, neither in the file nor in the environment, is taken from the local stack where one runs.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as _SourceError

from penstock.running import read_stack
from penstock.settings_errors import SettingsError, explain, hide
from schemas.partitioning import PARTITIONER
from schemas.topics import MAX_MESSAGE_BYTES, Topics

if TYPE_CHECKING:
    from schemas.codec import Codec

__all__ = ["Settings", "SettingsError", "load"]

FILE: Final = "penstock.toml"
PREFIX: Final = "PENSTOCK_"
# Setting one of these would break a law of the design, or has a key of its own.
_OURS: Final = {
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "enable.auto.commit": "Penstock commits offsets itself, after the results are durable",
    "enable.auto.offset.store": "Penstock commits offsets itself, after the results are durable",
    "enable.idempotence": "every producer is idempotent",
    "group.id": "set worker.group or ingest.group",
    "group.protocol": "set kafka.group_protocol",
    "isolation.level": "consumers read committed records only",
    "partitioner": "the key's partition is part of the protocol",
    "transactional.id": "each process has its own",
}
# With group.protocol=consumer the broker decides these, and librdkafka refuses them.
_CLASSIC_ONLY: Final = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")


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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class KafkaSettings(_Section):
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
    session_timeout_ms: int | None = Field(default=None, ge=1000)
    """After how long a silent group member is given up (classic only); not set: librdkafka's 45 s."""
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
            # The default of 10 s would be most of a broker's restart.
            "reconnect.backoff.max.ms": 2000,
        }


class ClickHouseSettings(_Section):
    """Where the evidence is kept."""

    url: str = ""
    """A ClickHouse server, http(s)://user:password@host:port; empty: chDB, ClickHouse in process."""
    path: str = ".penstock/chdb"
    """chDB's folder. One process at a time can open it."""
    database: str = Field(default="penstock", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The database that holds Penstock's tables."""
    settings: dict[str, str | int | float | bool] = {}
    """ClickHouse settings sent with every query."""


class ModelSettings(_Section):
    """Which models there are, and what they run on."""

    store: str = Field(default="models/zoo", min_length=1, validate_default=True)
    """The folder of models: <store>/<name>/<version>/manifest.json. Not set: the models that come with Penstock."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What inference runs on: "cuda" fails where CUDA does not load, "auto" takes it where it does."""
    threads: int = Field(default=1, ge=1)
    """Threads of one inference on a CPU. Scale by workers first."""

    @field_validator("store")
    @classmethod
    def _ours_from_anywhere(cls, value: str) -> str:
        own = Path(__file__).parent.parent / value
        return str(own) if value == "models/zoo" and not Path(value).is_dir() and own.is_dir() else value


class WorkerSettings(_Section):
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
    max_request_bytes: int = Field(default=1024 * 1024, ge=1024, le=MAX_MESSAGE_BYTES)
    """A larger request is answered TOO_LARGE."""


class IngestSettings(_Section):
    """The consumer that writes predictions, summaries and outcomes into ClickHouse."""

    group: str = Field(default="penstock-ingest", min_length=1)
    """Its consumer group."""
    block_rows: int = Field(default=50_000, ge=1)
    """Rows after which a block is written."""
    block_seconds: float = Field(default=1.0, gt=0)
    """Seconds after which a block is written, whatever its size."""


class HttpSettings(_Section):
    """Where the processes listen for their operators."""

    host: str = "127.0.0.1"
    """The address that every process listens on."""
    worker_port: int = Field(default=0, ge=0, le=65535)
    """A worker's /metrics, /healthz and /readyz; 0: any free port."""
    warehouse_port: int = Field(default=8123, ge=0, le=65535)
    """Ingest's /metrics, /healthz, /readyz and read-only /sql; 0: any free port."""


class StackSettings(_Section):
    """The local stack, `penstock up`."""

    workers: int = Field(default=1, ge=0, le=256)
    """Scoring workers."""
    broker: str = "embedded"
    """"embedded", "kafka" (a local Apache Kafka, needs java and mvn), or the host:port of one that runs already."""
    state: str = ".penstock"
    """The folder of the stack's data and logs. One stack at a time can use it."""


class LogSettings(_Section):
    """The processes' logs, on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe line that is written."""
    format: Literal["json", "plain"] = "json"
    """One JSON object a line, or text for a person."""


class Settings(BaseSettings):
    """Everything that can be set. `load` makes it from file and environment, the constructor from its arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: KafkaSettings = KafkaSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    models: ModelSettings = Field(default_factory=ModelSettings)  # looks at the current folder
    worker: WorkerSettings = WorkerSettings()
    ingest: IngestSettings = IngestSettings()
    http: HttpSettings = HttpSettings()
    stack: StackSettings = StackSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone: an object made in code means what the code says, whatever the environment."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def codec(self) -> Codec:
        """The records' codec: single-object encoding, or the registry's framing where one is set."""
        from schemas.codec import Codec

        if not self.kafka.schema_registry_url:
            return Codec()
        from confluent_kafka.schema_registry import SchemaRegistryClient

        from schemas.framing import ConfluentFraming

        return Codec(ConfluentFraming(SchemaRegistryClient({"url": self.kafka.schema_registry_url})))

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these very settings, whatever files it finds. Holds the secrets."""
        sections = {PREFIX + name.upper(): getattr(self, name).model_dump_json() for name in type(self).model_fields}
        return {**sections, f"{PREFIX}CONFIG": os.devnull}

    def shown(self) -> dict[str, Any]:
        """Every key and its value, secrets hidden: fit to be printed or logged."""
        out: dict[str, Any] = hide(self.model_dump(mode="json"))
        return out

    def __repr__(self) -> str:
        return f"Settings({self.shown()})"

    __str__ = __repr__


def load(path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, stack: bool = True) -> Settings:
    """Read the settings.

    `path`: the file; None is `PENSTOCK_CONFIG`, or `penstock.toml` in the current folder where there is one.
    `stack`: take addresses that nobody set from the local stack that runs in `stack.state`.
    Raises `SettingsError`, one line.
    """
    environ = os.environ if environ is None else environ
    file, values = _file(path, environ)
    _refuse_unknown_sections(environ)
    settings = _build(values, file, environ)
    running = read_stack(Path(settings.stack.state)) if stack else None
    if running is None:
        return settings
    kafka, http = settings.kafka, settings.http
    # A broker somebody named is not the stack's: nor are the stack's choices for its own.
    if "bootstrap_servers" not in kafka.model_fields_set:
        unset = {key: value for key, value in running.kafka.items() if key not in kafka.model_fields_set}
        kafka = KafkaSettings.model_validate({**kafka.model_dump(exclude_unset=True), **unset})
    if "warehouse_port" not in http.model_fields_set and running.warehouse_port:
        http = http.model_copy(update={"warehouse_port": running.warehouse_port})
    return settings.model_copy(update={"kafka": kafka, "http": http})


def _build(values: dict[str, Any], file: str, environ: Mapping[str, str]) -> Settings:
    try:
        return Settings(**_merged(values, _Environment(environ)()))
    except ValidationError as error:
        raise SettingsError(explain(error, file, environ, Settings, PREFIX)) from None
    except _SourceError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name = PREFIX + (found[1].upper() if found else "*")
        raise SettingsError(f"{name}: expected JSON, or one variable a key ({name}__KEY=value)") from None


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(under)
    for key, value in over.items():
        below = out.get(key)
        out[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of an environment that is handed in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {key.lower(): value for key, value in self._environ.items()}


def _file(path: str | Path | None, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = path or environ.get(f"{PREFIX}CONFIG")
    file = Path(named or FILE)
    try:
        return str(file), tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if named:
            raise SettingsError(f"{file}: there is no such file of settings") from None
        return str(file), {}
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: is not TOML: {error}") from None


def _refuse_unknown_sections(environ: Mapping[str, str]) -> None:
    """Refuse PENSTOCK_KAFAK__X, which would silently do nothing."""
    for name in environ:
        if not name.upper().startswith(PREFIX) or "__" not in name:
            continue  # the environment has names of others too, such as Kubernetes' PENSTOCK_SERVICE_HOST
        section = name[len(PREFIX) :].split("__")[0].lower()
        if section not in Settings.model_fields:
            raise SettingsError(f"{name}: no section {section!r}; there are {', '.join(Settings.model_fields)}")
