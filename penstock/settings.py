"""What an operator may set: `penstock.toml`, then `PENSTOCK_*` over it, with errors that name the key.

    [kafka]                                PENSTOCK_KAFKA__PARTITIONS=8
    partitions = 8                         PENSTOCK_KAFKA__PROPERTIES__SASL_PASSWORD=…
    properties."security.protocol" = "SASL_SSL"

A key set nowhere, neither in the file nor in the environment, is taken from the local stack where one runs.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as _SourceError

from penstock.running import read_stack
from penstock.settings_errors import SettingsError, explain, hide, place
from penstock.settings_pools import PoolSettings
from penstock.settings_properties import wrong_properties
from penstock.settings_sections import (
    ClickHouseSettings,
    HttpSettings,
    IngestSettings,
    KafkaSettings,
    LogSettings,
    ModelSettings,
    PageSettings,
    StackSettings,
    WorkerSettings,
)
from penstock.settings_watch import AlertSettings, DriftSettings, ExperimentSettings, MonitorSettings, RolloutSettings
from schemas.placement import Place, Placement, Pool
from schemas.topics import Topics

if TYPE_CHECKING:
    from schemas.codec import Codec

__all__ = [
    "AlertSettings",
    "ClickHouseSettings",
    "DriftSettings",
    "ExperimentSettings",
    "HttpSettings",
    "IngestSettings",
    "KafkaSettings",
    "LogSettings",
    "ModelSettings",
    "MonitorSettings",
    "PageSettings",
    "PoolSettings",
    "RolloutSettings",
    "Settings",
    "SettingsError",
    "StackSettings",
    "WorkerSettings",
    "load",
]

FILE: Final = "penstock.toml"
PREFIX: Final = "PENSTOCK_"


class Settings(BaseSettings):
    """Everything that can be set. `load` makes it from file and environment, the constructor from its arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: KafkaSettings = KafkaSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    models: ModelSettings = Field(default_factory=ModelSettings)  # looks at the current folder
    worker: WorkerSettings = WorkerSettings()
    pools: dict[str, PoolSettings] = Field(
        default_factory=dict,
        description='Pools of workers for some models, by name: `[pools.heavy]`, `models = ["bert-*"]` and '
        "[more](pools.md).",
    )
    ingest: IngestSettings = IngestSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    alerts: AlertSettings = AlertSettings()
    monitor: MonitorSettings = MonitorSettings()
    rollout: RolloutSettings = RolloutSettings()
    drift: DriftSettings = DriftSettings()
    http: HttpSettings = HttpSettings()
    page: PageSettings = PageSettings()
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

    @field_validator("pools")
    @classmethod
    def _do_not_contradict(cls, value: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
        Placement.create(
            Topics(),
            [Pool(Place.of_pool(name, "", one.topic, one.bulk_topic), one.models) for name, one in value.items()],
        )
        return value

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
        own = self.model_dump(mode="json")
        sections = {PREFIX + name.upper(): json.dumps(own[name]) for name in type(self).model_fields}
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
    for table, name, problem in wrong_properties(settings.kafka):
        raise SettingsError(f"{place(['kafka', table, name], file, environ, PREFIX)}: {problem}")
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
