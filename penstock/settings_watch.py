"""The sections of what watches over models: experiments, drift, alerts and the live monitor."""

from __future__ import annotations

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from penstock.settings_base import Section
from penstock.settings_errors import hide


class ExperimentSettings(Section):
    """The job that looks at running experiments, in the ingest process."""

    watch_seconds: float = Field(default=60.0, ge=0)
    """How often it is seen whether a look at an experiment is due; 0: never, looks are then made by hand."""


class DriftSettings(Section):
    """The job that looks for drift, in the ingest process."""

    watch_seconds: float = Field(default=300.0, ge=0)
    """How often what has been scored is counted; 0: never, `penstock drift run` then does it by hand."""
    psi: float = Field(default=0.2, gt=0)
    """The population stability index above which a feature is in drift, if chance and the worst day of the reference
    stay below."""
    ks: float = Field(default=0.15, gt=0, le=1)
    """The same of the Kolmogorov-Smirnov distance."""
    fall: float = Field(default=0.05, gt=0, le=1)
    """The relative fall of performance that gives alarm, if chance and the reference's days stay above."""
    rows: int = Field(default=50, ge=1)
    """Windows with fewer rows are not judged."""
    retrain_days: int = Field(default=3, ge=1)
    """After so many days in a row in drift a model is to be trained again."""
    retrain_every_days: float = Field(default=0, ge=0)
    """Training is due when the reference profile is so many days old; 0: never by schedule."""


class WebhookSettings(Section):
    """An address that is told of alerts."""

    url: str
    """Where to POST, http(s)://…; it may hold a secret and is not shown."""
    form: Literal["slack", "json"] = "json"
    """"slack": what Slack's incoming webhooks take; "json": every field."""
    headers: dict[str, str] = {}
    """Headers of each request, such as Authorization."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return _http_address(value)


class AlertSettings(Section):
    """The engine that raises alerts and tells people, in the ingest process."""

    rules: str = ""
    """A TOML file of rules; empty: those that come with Penstock. An empty file: none."""
    watch_seconds: float = Field(default=15.0, ge=0)
    """How often rules are looked at; 0: never, and nobody is told of anything."""
    group: str = Field(default="penstock-alerts", min_length=1)
    """The consumer group that reads the topic of alerts: of several ingest processes the one that holds it leads."""
    alertmanager: tuple[str, ...] = ()
    """Prometheus Alertmanagers, http(s)://host:9093 each; all of them are told."""
    alertmanager_refresh_seconds: float = Field(default=60.0, ge=1)
    """How often an Alertmanager is told again of what is on; after four times without, it takes it for resolved."""
    webhooks: dict[str, WebhookSettings] = {}
    """Tables by name: url, form ("slack" or "json"), headers."""
    log: bool = True
    """Whether alerts are lines of the log as well."""
    link: str = ""
    """Where whoever is told finds more, http(s)://…: the generatorURL of Alertmanager, a link in Slack. Empty: none."""
    group_by: tuple[str, ...] = ("rule",)
    """Webhooks get one message for the alerts that have these labels in common (rule and severity count as labels)."""
    group_wait_seconds: float = Field(default=10.0, ge=0)
    """How long a webhook's first message of a group waits for others of it."""
    group_interval_seconds: float = Field(default=60.0, ge=0)
    """How long until a webhook's next message of the same group."""
    repeat_seconds: float = Field(default=4 * 3600.0, ge=60)
    """After how long a webhook is told again of what is still on."""

    @field_validator("alertmanager")
    @classmethod
    def _are_http(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("an Alertmanager is there twice")
        return tuple(_http_address(one) for one in value)

    @field_validator("link")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return _http_address(value) if value else value

    @field_validator("webhooks")
    @classmethod
    def _are_named(cls, value: dict[str, WebhookSettings]) -> dict[str, WebhookSettings]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "log" or name.startswith("alertmanager"):
                raise ValueError(f"{name!r} is no name for a webhook: letters, digits, _, -, not log or alertmanager")
        return value


def _http_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise ValueError(f"expected http(s)://host[:port][/path], got {hide(value)[:16]!r}…")
    return value


class Limits(Section):
    """Limits that differ from `[monitor]`'s."""

    p99_ms: float | None = Field(default=None, ge=0)
    error_rate: float | None = Field(default=None, ge=0, le=1)
    score_psi: float | None = Field(default=None, ge=0)
    feature_psi: float | None = Field(default=None, ge=0)
    min_rows: int | None = Field(default=None, ge=1)
    min_score_rows: int | None = Field(default=None, ge=1)

    def given(self) -> dict[str, float | None]:
        """Those that somebody set."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class MonitorSettings(Section):
    """The live monitor: what a window of traffic may not exceed."""

    group: str = Field(default="penstock-monitor", min_length=1)
    """Its consumer group, and the beginning of its changelog topic's name."""
    window_seconds: int = Field(default=60, ge=1, le=3600)
    """How much traffic is looked at: the last so many seconds. A whole number of panes."""
    pane_seconds: int = Field(default=5, ge=1)
    """How finely the window slides."""
    p99_ms: float | None = Field(default=None, ge=0)
    """Latency, from sent to scored, of 99% of the rows; not set: the manifest's p99_target, else 1000; 0: no limit."""
    error_rate: float = Field(default=0.05, ge=0, le=1)
    """The share of rows that may fail for other reasons than what their sender did; 0: no limit."""
    score_psi: float = Field(default=0.25, ge=0)
    """How far scores may move from the version's profile, or the control's scores where it has none; 0: no limit."""
    feature_psi: float = Field(default=0.0, ge=0)
    """The same of each feature; 0: no limit. A minute of traffic is not a day, so that features move all the time."""
    min_rows: int = Field(default=200, ge=1)
    """Rows in a window before its p99 and error rate can be a breach."""
    min_score_rows: int = Field(default=1000, ge=1)
    """Rows in a window before a shift can be a breach."""
    recovery_share: float = Field(default=0.8, gt=0, le=1)
    """A breach is over once the value has kept below this share of its limit,"""
    recovery_seconds: float = Field(default=30.0, ge=0)
    """for so many seconds."""
    models: dict[str, Limits] = {}
    """Limits of one model, by its name: `[monitor.models.flight-delay]`, `p99_ms = 200`."""
    experiments: dict[str, Limits] = {}
    """Limits of one experiment's variants, which win over the model's: `[monitor.experiments.NAME]`."""
    stop: bool = True
    """Whether a variant at fault is stopped; false: there is an alert only."""

    @model_validator(mode="after")
    def _whole_panes(self) -> Self:
        if self.window_seconds % self.pane_seconds:
            raise ValueError(
                f"window_seconds = {self.window_seconds} is no whole number of panes of {self.pane_seconds} s"
            )
        return self


class RolloutSettings(Section):
    """How a new version is rolled out, where `penstock models promote` does not say otherwise."""

    drive: bool = True
    """Whether the monitor drives rollouts; false: somebody else does."""
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    """The shares of users that meet the new version, one step after the other; everybody comes last."""
    hold_seconds: float = Field(default=300.0, ge=0)
    """How long each step is held at least,"""
    min_requests: int = Field(default=1000, ge=1)
    """and how many requests the new version has to answer in it."""
    shadow_seconds: float = Field(default=3600.0, ge=0)
    """How long a shadow scores at least."""
    error_rate: float = Field(default=0.02, ge=0, le=1)
    """The share of rows that may fail; more, and the new version is rolled back where it is to blame. 0: no limit."""
    p99_ms: float | None = Field(default=None, ge=0)
    """Latency of 99% of the rows, at most; not set: the manifest's p99_target, else 1000; 0: no limit."""
    p99_ratio: float = Field(default=3.0, ge=0)
    """The same as a multiple of the current version's, where that is more than 50 ms; 0: no limit."""
    score_psi: float = Field(default=0.25, ge=0)
    """How far scores may move from the current version's over the same time; 0: no limit."""
    min_rows: int = Field(default=100, ge=1)
    """Rows before any of these is judged."""

    @field_validator("steps")
    @classmethod
    def _grow(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < one <= 1 for one in value) or list(value) != sorted(set(value)):
            raise ValueError("expected shares above 0 and up to 1, each larger than the one before")
        return value
