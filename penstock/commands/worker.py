"""`penstock worker`: one scoring worker."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock import console
from penstock.settings import Settings

if TYPE_CHECKING:
    from models.device_options import DeviceOptions
    from models.store import Store
    from penstock.settings_sections import ModelSettings
    from stream_workers.ops import Health
    from stream_workers.scoring_config import ScoringConfig

# Between two looks into a store without a model. A folder, perhaps on a network, calls nobody.
LOOK_SECONDS: Final = 1.0
SWITCH_SECONDS: Final = 0.0005


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(worker)


def worker(
    name: Annotated[str | None, typer.Option(help="Name in logs, metrics and the log of predictions.")] = None,
    pool: Annotated[
        str, typer.Option(help="The pool of the settings whose models it takes; else the default one.")
    ] = "",
    delivery: Annotated[str, typer.Option(help="exactly-once or at-least-once.")] = "exactly-once",
    port: Annotated[int | None, typer.Option(help="Port of /metrics, /healthz and /readyz; 0: any free one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON at the start: who and where.")] = False,
) -> None:
    """Score requests and bulk batches until stopped."""
    from models.errors import ModelError
    from penstock.model_store import open_store
    from penstock.ops_access import ops_server
    from penstock.pools import check_pool, pool_group
    from schemas.framing import RegistryUnavailableError
    from schemas.placement import DEFAULT, PlacementError
    from stream_workers.control import ControlError
    from stream_workers.ops import Health, OpsServerError, WorkerMetrics, configure_logging, new_registry
    from stream_workers.pipeline import PipelineError
    from stream_workers.scoring import ScoringWorker, WorkerStartError

    settings = console.settings()
    if delivery not in ("exactly-once", "at-least-once"):
        console.fail(f"--delivery: expected exactly-once or at-least-once, got {delivery!r}")
    try:
        pool = check_pool(settings, pool)
        store = open_store(settings.models, must_exist=True)
    except (ModelError, PlacementError) as error:
        console.fail(str(error))
    own_name = name or settings.worker.name or f"{socket.gethostname()}-{os.getpid()}"
    configure_logging(settings.log.format == "json", settings.log.level, own_name)
    registry, health, stop = new_registry(), Health(expected=("control", "models")), threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    own_port = settings.http.worker_port if port is None else port
    try:
        with ops_server(settings, own_port, registry, health) as server:
            if as_json:
                about = {"worker": own_name, "pid": os.getpid(), "url": server.url, "store": str(store.root)}
                kafka = {"broker": settings.kafka.bootstrap_servers, "group": pool_group(settings, pool)}
                console.print_json({**about, "pool": pool or DEFAULT, **kafka}, in_one_line=True)
            if not _await_models(store, health, stop):
                return
            metrics = WorkerMetrics(registry, own_name)
            config = scoring_config(settings, own_name, delivery, pool)
            # The hot path makes many short-lived dicts and no cycles, and each full collection walks all the libraries.
            gc.freeze()
            gc.set_threshold(100_000, 20, 100)
            # A request passes several threads, and at each of them waits this long for one that works on bulk.
            sys.setswitchinterval(SWITCH_SECONDS)
            ScoringWorker(config, settings.codec(), store, metrics, health).run(stop)
    except (
        ControlError, ModelError, OpsServerError, PipelineError, RegistryUnavailableError, WorkerStartError
    ) as error:  # fmt: skip
        console.fail(str(error), code=1)


def _await_models(store: Store, health: Health, stop: threading.Event) -> bool:
    """Wait until the store holds a model; False where `stop` came first.

    A worker with nothing to serve stays out of the group: there it would take its share of the requests, and answer
    each UNKNOWN_MODEL beside workers that could have scored it.
    """
    from models.errors import StoreError

    said = ""
    while True:
        try:
            if store.names():
                return True
            why = f"there is no model in {store.root} yet: the worker joins once there is (penstock models add)"
        except StoreError as error:
            why = f"{error}; the worker joins once it answers"
        health.set("models", False, why)
        if said != why:
            logging.getLogger(__name__).error(why)
            said = why
        if stop.wait(LOOK_SECONDS):
            return False


def device_options(own: ModelSettings) -> DeviceOptions:
    """How a GPU is used, as the settings have it."""
    from models.device_options import DeviceOptions

    return DeviceOptions(
        memory_limit=None if own.gpu_memory_limit_mb is None else own.gpu_memory_limit_mb * 1024 * 1024,
        graphs=own.cuda_graphs,
        fp16=own.tensorrt_fp16,
        engine_cache=own.tensorrt_cache,
    )


def scoring_config(settings: Settings, name: str, delivery: str = "exactly-once", pool: str = "") -> ScoringConfig:
    """The settings as a worker of a pool takes them; "" is the default pool."""
    from penstock.pools import holding, placement, pool_group, pool_topics
    from stream_workers.scoring_config import ScoringConfig

    own, of_pool = settings.worker, settings.pools.get(pool)
    return ScoringConfig(
        name=name,
        consumer=settings.kafka.consumer,
        producer=settings.kafka.producer,
        client=settings.kafka.client,
        topics=pool_topics(settings, pool),
        group=pool_group(settings, pool),
        pool=pool,
        placement=placement(settings),
        holding=holding(settings, pool),
        device=(of_pool and of_pool.device) or settings.models.device,
        device_options=device_options(settings.models),
        threads=(of_pool and of_pool.threads) or settings.models.threads,
        delivery=delivery,
        max_rows=own.max_rows,
        max_wait=None if own.max_wait_ms is None else own.max_wait_ms / 1000,
        p99_target=None if own.p99_target_ms is None else own.p99_target_ms / 1000,
        commit_interval=own.commit_interval_ms / 1000,
        bulk=own.bulk,
        bulk_share=own.bulk_share,
        on_device_loss=own.on_device_loss,
        cpu_on_failure=own.cpu_on_failure,
        last_answer_bytes=own.last_answer_mb * 1024 * 1024,
        max_request_bytes=own.max_request_bytes,
    )
