"""`penstock monitor`: watches live traffic, raises alerts, stops a variant that does harm, and drives rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console

if TYPE_CHECKING:
    from penstock.monitor_stop import ExperimentStop
    from penstock.settings import Settings
    from stream_workers.monitor import MonitorConfig
    from stream_workers.monitor_rules import LimitTable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(monitor)


def monitor(
    port: Annotated[int | None, typer.Option(help="Port of /metrics, /healthz and /readyz; 0: any free one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON at the start: who and where.")] = False,
) -> None:
    """Watch batch summaries, raise alerts, stop variants that do harm and drive rollouts. Needs no warehouse."""
    import os
    import signal
    import socket
    import threading

    from penstock.model_store import open_store
    from penstock.ops_access import ops_server
    from penstock.rollout_watch import rollout_watch
    from producers.kafka import LOG
    from schemas.framing import RegistryUnavailableError
    from stream_workers.alert_topic import AlertTopic
    from stream_workers.control import ControlError, ControlFollower
    from stream_workers.monitor import EXPECTED, Monitor
    from stream_workers.monitor_faust import MonitorConfigError
    from stream_workers.monitor_metrics import MonitorMetrics
    from stream_workers.monitor_rules import LiveRules, Plans
    from stream_workers.ops import Health, OpsServerError, configure_logging, new_registry

    settings = console.settings()
    configure_logging(
        settings.log.format == "json", settings.log.level, f"monitor-{socket.gethostname()}-{os.getpid()}"
    )
    _quieten()
    registry, health, stop = new_registry(), Health(expected=("kafka", "control")), threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    kafka, own_port = settings.kafka, settings.http.monitor_port if port is None else port
    try:
        with ops_server(settings, own_port, registry, health) as server:
            config, codec = monitor_config(settings), settings.codec()
            if as_json:
                about = {"pid": os.getpid(), "url": server.url, "group": config.faust.group}
                console.print_json({**about, "broker": kafka.bootstrap_servers}, in_one_line=True)
            plans = Plans(codec)
            follower = ControlFollower(
                kafka.consumer("penstock-control", logger=LOG),
                kafka.topics.control,
                plans,
                lambda _state: None,
                on_failure=stop.set,
            )
            follower.start(timeout=60.0)
            health.set("control", True)
            try:
                rules = LiveRules(limit_table(settings), open_store(settings.models), plans)
                alerts = AlertTopic(kafka.client(), codec, kafka.topics.alerts)
                metrics = MonitorMetrics(registry)
                with rollout_watch(settings, codec, plans, alerts, registry, health, stop):
                    Monitor(config, codec, rules, alerts, _stop(settings), metrics, health).run(stop)
                if follower.failure is not None:
                    raise follower.failure
            finally:
                follower.stop()
    except (*EXPECTED, ControlError, MonitorConfigError, OpsServerError, RegistryUnavailableError) as error:
        console.fail(str(error), code=1)


def monitor_config(settings: Settings) -> MonitorConfig:
    """The settings as a monitor takes them. Raises `BrokerUnavailableError` where a topic of its own is missing."""
    from confluent_kafka.admin import AdminClient

    from penstock.pools import pool_topics
    from producers.kafka import partitions_of, topics_at
    from stream_workers.guardrails import Recovery
    from stream_workers.monitor import MonitorConfig
    from stream_workers.monitor_faust import FaustConfig
    from stream_workers.monitor_watch import Span
    from stream_workers.monitor_windows import MICRO

    kafka, own = settings.kafka, settings.monitor
    client = kafka.client()
    there = topics_at(AdminClient(client), client, 15.0)
    for name in (kafka.topics.control, kafka.topics.alerts):
        partitions_of(there, name, client)
    faust = FaustConfig(
        group=f"{kafka.topic_prefix}{own.group}",
        properties=client,
        partitions=partitions_of(there, kafka.topics.summaries, client),
        session_timeout=(kafka.session_timeout_ms or 10_000) / 1000,
    )
    span = Span(own.window_seconds * MICRO, own.pane_seconds * MICRO)
    bulk = frozenset(pool_topics(settings, pool).bulk for pool in settings.pools)
    return MonitorConfig(faust, kafka.topics, span, Recovery(own.recovery_share, own.recovery_seconds), bulk)


def limit_table(settings: Settings) -> LimitTable:
    """The settings' limits."""
    from stream_workers.guardrails import Limits
    from stream_workers.monitor_rules import LimitTable

    own = settings.monitor
    usual = Limits(
        own.p99_ms, own.error_rate, own.score_psi, own.feature_psi, own.min_rows, own.min_score_rows
    )  # fmt: skip
    models = {name: one.given() for name, one in own.models.items()}
    return LimitTable(usual, models, {name: one.given() for name, one in own.experiments.items()})


def _stop(settings: Settings) -> ExperimentStop:
    from penstock.experiment_watch import control_topic
    from penstock.monitor_stop import ExperimentStop

    return ExperimentStop(control_topic(settings), allowed=settings.monitor.stop)


def _quieten() -> None:
    """Faust tells of each of its services, those of ours among them, aiokafka of each step of a rebalance."""
    import logging

    for name in ("faust", "mode", "aiokafka", "stream_workers.monitor_consumer"):
        logging.getLogger(name).setLevel(logging.WARNING)
