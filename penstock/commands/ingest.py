"""`penstock ingest`: the process that holds the warehouse, fills it from Kafka, serves the page and answers SQL."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ingest")(ingest)


def ingest(
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON at the start: who and where.")] = False,
) -> None:
    """Fill ClickHouse, look at experiments and for drift, raise alerts, serve the page, and answer SQL over HTTP."""
    import logging
    import os
    import signal
    import socket
    import threading

    from analytics.alert_rules import AlertRuleError, read_rules
    from analytics.dashboard.sessions import Sessions
    from analytics.migrate import migrate
    from analytics.readonly import ReadOnlySql
    from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
    from models.errors import ModelError
    from penstock import alert_desk, drift_profile, drift_watch
    from penstock.alert_watch import watch as watch_alerts
    from penstock.console import fail, print_json, settings
    from penstock.experiment_reading import serve
    from penstock.experiment_watch import ExperimentWatch, control_topic, plans_on
    from penstock.model_store import open_store
    from penstock.page import Sources, serve_page
    from penstock.page_access import AccessError, access
    from penstock.page_assets import AssetError
    from penstock.page_guard import Guard
    from penstock.page_lag import LagWatch, lag_of
    from penstock.page_models import versions_in
    from penstock.page_silence import silence_by
    from penstock.warehouse_app import AppServer, create_app
    from penstock.warehouse_config import warehouse_config
    from stream_workers.ingest import Ingest, KafkaConfigs
    from stream_workers.ingest_blocks import BlockLimits
    from stream_workers.ingest_sink import WarehouseSink
    from stream_workers.ops import Health, IngestMetrics, OpsServerError, configure_logging, new_registry

    chosen = settings()
    try:
        who = access(chosen)
        rules = read_rules(chosen.alerts.rules)
    except AccessError as error:
        fail(str(error))
    except AlertRuleError as error:
        fail(f"alerts.rules: {error}")
    configure_logging(chosen.log.format == "json", chosen.log.level, "ingest")
    log = logging.getLogger(__name__)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    config = warehouse_config(chosen)
    warehouse: Warehouse | None = None
    while warehouse is None and not stop.is_set():
        try:
            warehouse = Warehouse.open(config)
            done = migrate(warehouse)
            readonly = ReadOnlySql(warehouse.another())
            for_looks = warehouse.another()
            for_drift = warehouse.another()
            sessions = Sessions(warehouse)
        except WarehouseUnavailableError as error:
            warehouse = None
            log.warning("waiting for the warehouse: %s", error)
            stop.wait(2.0)
        except WarehouseError as error:
            fail(str(error))
    if warehouse is None:
        return
    log.info("%s, database %s, %d migrations applied", config.place, config.database, len(done))

    registry, health = new_registry(), Health(expected=("kafka", "warehouse"))
    name = f"ingest-{socket.gethostname()}-{os.getpid()}"
    kafka = chosen.kafka
    try:
        control = control_topic(chosen)
        watch = ExperimentWatch(for_looks, plans_on(control), chosen.experiments.watch_seconds)
        drift = drift_watch.DriftWatch(
            for_drift, drift_watch.rounds(chosen, for_drift, control), chosen.drift.watch_seconds
        )
        app = create_app(readonly, health, registry, watch.looks)
        serve(app, watch.reading)
        drift_watch.serve(app, drift)
        drift_profile.serve(app, drift.profile)
        metrics = IngestMetrics(registry)
        alerts = watch_alerts(chosen, rules, warehouse.another, registry, health)
        alert_desk.serve(app, alerts.engine)
        store = open_store(chosen.models)
        lags = LagWatch(lag_of(chosen, registry))
        sources = Sources(
            sessions,
            readonly,
            who,
            versions_in(store),
            chosen.models.store,
            lags.latest,
            silence_by(alerts.engine.silence),
        )
        serve_page(app, sources)
        server = AppServer(Guard(app, who), chosen.http.host, chosen.http.warehouse_port)
        with watch, drift, alerts, lags, server:
            log.info("the page, SQL, metrics and health at %s", server.url)
            if as_json:
                about = {"pid": os.getpid(), "url": server.url, "warehouse": config.place, "database": config.database}
                brokers = {"broker": kafka.bootstrap_servers, "group": chosen.ingest.group}
                print_json({**about, **brokers}, in_one_line=True)
            worker = Ingest(
                KafkaConfigs(kafka.client(), kafka.consumer(chosen.ingest.group), kafka.producer()),
                chosen.codec(),
                kafka.topics,
                WarehouseSink(warehouse),
                limits=BlockLimits(rows=chosen.ingest.block_rows, seconds=chosen.ingest.block_seconds),
                name=name,
                metrics=metrics,
                health=health,
            )
            worker.run(stop)
    except (OpsServerError, WarehouseError, AssetError, ModelError) as error:
        fail(str(error))
    finally:
        sessions.close()
        readonly.close()
        warehouse.close()
    log.info("stopped")
