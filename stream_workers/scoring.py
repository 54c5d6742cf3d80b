"""The scoring worker: Kafka in, micro-batches through ONNX Runtime, replies and evidence out.

    requests ─ Pipeline ─ RequestIntake ─┐            ┌─ ReplySender ── reply topics        at once, at least once
                 (poll)   (read, route)  ├─ Device ───┤
    bulk ───── Pipeline ─ BulkIntake ────┘  (batch,   └─ Ledger ─ Committer ── predictions,  one transaction with the
                                             score)                            summaries,    consumed offsets
                                                                               bulk results
    control ── ControlFollower ── Router, default versions

Each pipeline has a thread that polls and one that commits; the device has one for each batch under way, and one that
publishes. A few requests are run and published by the thread that polled them. They meet at the device's lanes, its
outlet and the ledger, nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

from confluent_kafka import Consumer

from models.batching import BatchLimits
from models.catalog import Catalog
from models.loading import LoadedModel
from models.store import Store
from schemas.codec import Codec
from schemas.placement import DEFAULT, Placement
from schemas.topics import Topics
from stream_workers.bulk import BulkIntake
from stream_workers.commit import Committer
from stream_workers.control import ControlFollower, ControlState
from stream_workers.dead_letters import DeadLetters
from stream_workers.device import Device
from stream_workers.errands import Errands
from stream_workers.giving_way import GivingWay
from stream_workers.handover import Handover
from stream_workers.intake import RequestIntake
from stream_workers.ledger import Ledger
from stream_workers.ops import Health, WorkerMetrics
from stream_workers.outputs import OnGivenUp
from stream_workers.pipeline import Pipeline, PipelineError
from stream_workers.publish import Publisher
from stream_workers.replies import ReplySender, ReplyTopics
from stream_workers.scoring_clients import ScoringClients, WorkerStartError
from stream_workers.scoring_config import ScoringConfig
from stream_workers.shadow import Shadow
from stream_workers.standby import Standby
from stream_workers.threads import NamedThread
from stream_workers.worker_models import WorkerModels
from stream_workers.worker_state import StateTeller

__all__ = ["ScoringWorker", "WorkerStartError", "now_us"]

log = logging.getLogger(__name__)

# Bytes of bulk that may be done and not yet committed, to each that may be in flight.
REDO: Final = 16
# Between two looks at the models while none can serve.
LOOK_SECONDS: Final = 1.0
# How long partitions that came wait for control to be read to its end; a share of max.poll.interval.ms.
CATCH_UP_SECONDS: Final = 10.0


class ScoringWorker:
    """One process, one device, one member of the scoring groups. Build it, `run` it, set the event to stop it."""

    def __init__(
        self,
        config: ScoringConfig,
        codec: Codec,
        store: Store,
        metrics: WorkerMetrics,
        health: Health,
    ) -> None:
        """Connects nothing yet."""
        self._config = config
        self._codec = codec
        self._metrics = metrics
        self._health = health
        self._store = store
        self._loaded = threading.Event()
        self._run_id = f"{config.name}-{uuid.uuid4().hex[:12]}"
        self._standby = Standby(
            config,
            codec,
            store,
            metrics,
            find=lambda model, version: self._catalog.ready(model, version),
            on_change=lambda: self._device.look_again(),
            now_us=now_us,
        )
        self._device = Device(bulk_share=config.bulk_share, ladders=self._standby.ladders, on_idle=self._idle)
        self._catalog = Catalog(
            store,
            self._standby.load,
            on_ready=self._release,
            on_gone=self._gone,
            on_swap=lambda model, before, after: self._models.swapped(model, before, after),
            is_busy=self._device.is_busy,
            holding=config.holding,
            events=metrics,
        )
        self._models = WorkerModels(self._catalog, metrics, config.name, self._run_id, now_us)
        self._teller = StateTeller(config.producer(), codec, config.topics.workers, config.name, self._models.state)
        self._placement = config.placement or Placement.create(Topics(config.topics.prefix))
        self._handovers: list[Handover] = []
        self._clients = ScoringClients(config)
        self._reply_topics = ReplyTopics(self._clients.partitions)
        self._intakes: list[RequestIntake | BulkIntake] = []
        self._pipelines: list[tuple[Pipeline, Committer]] = []
        self._ledgers: list[Ledger] = []
        self._load_failure: BaseException | None = None
        self._replies: ReplySender | None = None
        self._shadow: Shadow | None = None
        health.set("control", False, "the control topic is not read yet")
        health.set("models", False, "models are not loaded yet")
        if config.pool:
            health.set("pool", True, config.pool)
        metrics.pool(config.pool or DEFAULT)
        metrics.models_budget.set(config.holding.budget or 0)

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. Raises what made it impossible to go on, `DeviceError` among it."""
        config = self._config
        if not self._clients.await_topics(self._health, stop):
            return
        if config.requests:
            self._pipelines.append(self._request_pipeline())
        if config.bulk:
            self._pipelines.append(self._bulk_pipeline())
        control = ControlFollower(
            self._clients.control(),
            config.topics.control,
            ControlState(self._codec),
            self._controlled,
        )
        control.start(timeout=60.0)
        self._control = control
        self._health.set("control", True)
        self._teller.start()
        if not self._start_device(stop):
            self._standby.close()
            self._teller.stop()
            self._catalog.close()
            control.stop()
            if self._replies is not None:
                self._replies.close()
            return
        failures: list[BaseException] = []

        def serve(pipeline: Pipeline, committer: Committer) -> None:
            try:
                pipeline.run(stop, committer)
            except PipelineError as error:
                failures.append(error)
            except BaseException as error:
                failures.append(error)
                raise
            finally:
                stop.set()

        threads = [
            NamedThread(target=serve, args=pair, name=f"poll-{number}")
            for number, pair in enumerate(self._pipelines)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            while not stop.wait(0.5):
                self._metrics.rows_in_flight.set(self._device.rows(False) + self._device.rows(True))
                self._catalog.refresh()
                dead = self._standby.tick() or self._models.must_leave()
                self._device.look_again()
                self._tell_memory()
                failure = self._device.failure or self._load_failure or dead or control.failure
                if failure is not None:
                    failures.append(failure)
                    # What waits for the device has no end to wait for.
                    for ledger in self._ledgers:
                        ledger.halt()
                    stop.set()
        finally:
            # Whatever ended this loop: nobody may go on without the one who looks after the device and the models.
            stop.set()
            for thread in threads:
                thread.join()
            self._teller.stop()
            self._device.stop()
            self._standby.close()
            if self._shadow is not None:
                self._shadow.close()
            self._catalog.close()
            control.stop()
            if self._replies is not None:
                self._replies.close()
        if failures:
            raise failures[0]

    def _start_device(self, stop: threading.Event) -> bool:
        """Load the models and start the device; False where `stop` came before one of them could serve.

        Until then this worker stays out of the groups: there it would take its share of the requests, and answer each
        UNAVAILABLE beside workers that could have scored it.
        """
        loaded, problems = self._catalog.preload()
        said = ""
        while True:
            # A user who met a candidate elsewhere must not meet the version before it here.
            missing = self._models.await_candidates()
            # One all of whose models were moved away takes its partitions: what still comes there has to be handed on.
            if (loaded or self._catalog.is_elsewhere()) and not missing:
                break
            why = missing or "; ".join(problems) or self._catalog.store_problem
            why = why or f"there is no model in {self._store.root} yet"
            what = (
                f"{'a rollout needs' if missing else 'no model can serve'}, so this worker takes no partitions: {why}"
            )
            self._health.set("models", False, what)
            if what != said:
                log.error(what)
                said = what
            if stop.wait(LOOK_SECONDS):
                return False
            loaded, problems = self._catalog.preload()
        for problem in problems:
            log.error("not served: %s", problem)
        for model in loaded:
            log.info("model %s %s on %s (%s)", model.name, model.version, model.device, model.session.why)
        name = loaded[0].device if loaded else self._config.device.replace("auto", "cpu")
        self._metrics.device(name)
        # To a GPU the next batch is copied while one runs; two on a CPU would only take its cores from each other.
        on_cpu = name == "cpu"
        self._device.start(runs=1 if on_cpu else self._config.device_options.runs, lends=on_cpu)
        self._loaded.set()
        self._standby.serves = True
        self._tell_models()
        return True

    def _request_pipeline(self) -> tuple[Pipeline, Committer]:
        consumer = self._clients.requests()
        ledger = Ledger()
        self._replies = replies = ReplySender(self._clients.replies, self._reply_topics, self._metrics)
        publisher = self._publisher(ledger, replies)
        intake = RequestIntake(
            self._codec,
            ledger,
            publisher,
            self._dead_letters(ledger),
            self._handover(ledger, self._config.topics.requests, bulk=False),
            self._catalog,
            self._device,
            limits_of=self._limits,
            now_us=now_us,
            max_request_bytes=self._config.max_request_bytes,
            fallback_of=self._standby.fallback_of,
        )
        self._intakes.append(intake)
        self._models.users_met = intake.users_met
        self._shadow = Shadow(
            self._codec,
            self._config.topics,
            self._clients.shadow(),
            self._catalog,
            self._device,
            self._metrics,
            worker=self._config.name,
            run_id=self._run_id,
            limits_of=self._limits,
            now_us=now_us,
        )
        intake.shadow = self._shadow.offer

        def held_back() -> bool:
            return ledger.uncommitted_bytes > self._config.max_bytes_in_flight

        return self._pipeline(
            "requests", consumer, self._config.topics.requests, ledger, intake.take, replies, held_back
        )

    def _bulk_pipeline(self) -> tuple[Pipeline, Committer]:
        consumer = self._clients.bulk()
        ledger = Ledger()
        intake = BulkIntake(
            self._codec,
            self._config.topics,
            ledger,
            self._dead_letters(ledger),
            self._handover(ledger, self._config.topics.bulk, bulk=True),
            self._catalog,
            self._device,
            self._reply_topics,
            self._metrics,
            worker=self._config.name,
            run_id=self._run_id,
            limits_of=self._limits,
            now_us=now_us,
        )
        self._intakes.append(intake)
        most = self._config.max_bytes_in_flight

        def held_back() -> bool:
            # What is scored leaves only its outputs behind; the rest is bounded by what a crash may cost to do again.
            return max(intake.bytes_in_flight, ledger.held_bytes, ledger.uncommitted_bytes / REDO) > most

        return self._pipeline(
            "bulk", consumer, self._config.topics.bulk, ledger, intake.take, None, held_back, intake.undeliverable
        )

    def _pipeline(
        self,
        name: str,
        consumer: Consumer,
        topic: str,
        ledger: Ledger,
        take: Callable[[Any], None],
        replies: ReplySender | None,
        held_back: Callable[[], bool],
        on_given_up: OnGivenUp = lambda _topic, _reason: None,
    ) -> tuple[Pipeline, Committer]:
        config = self._config
        bulk = name == "bulk"
        self._ledgers.append(ledger)
        errands = Errands()
        pipeline = Pipeline(
            name,
            consumer,
            [topic],
            ledger,
            take,
            errands,
            # A bulk record is thousands of rows.
            max_poll=8 if bulk else config.max_poll,
            held_back=lambda: self._device.rows(bulk) > config.max_rows_in_flight or held_back(),
            health=self._health,
            metrics=self._metrics,
            on_assigned=(lambda: None) if bulk else self._catch_up,
            around_few=nullcontext if bulk else self._device.lent,
            between_polls=GivingWay(lambda: self._device.asked_at) if bulk else self._device.let_gather,
        )
        committer = Committer(
            ledger,
            self._clients.delivery(name, consumer, errands, on_given_up),
            replies or _NoReplies(),
            interval=config.commit_interval,
            on_commit=pipeline.committed,
            on_failure=pipeline.commit_failed,
        )
        return pipeline, committer

    def _publisher(self, ledger: Ledger, replies: ReplySender) -> Publisher:
        return Publisher(
            self._codec,
            self._config.topics,
            replies,
            ledger,
            self._metrics,
            worker=self._config.name,
            run_id=self._run_id,
            now_us=now_us,
            answers=self._standby.answers,
        )

    def _dead_letters(self, ledger: Ledger) -> DeadLetters:
        return DeadLetters(
            self._codec,
            self._config.topics.dead_letters,
            ledger,
            self._metrics,
            worker=self._config.name,
            now_us=now_us,
        )

    def _handover(self, ledger: Ledger, own: str, *, bulk: bool) -> Handover:
        made = Handover(ledger, self._reply_topics, self._metrics, self._placement, own=own, bulk=bulk)
        self._handovers.append(made)
        return made

    def _limits(self, model: LoadedModel) -> BatchLimits:
        """The model's own limits, where the worker's settings do not override them."""
        config, limits = self._config, model.manifest.batching
        given = {"max_rows": config.max_rows, "max_wait": config.max_wait, "p99_target": config.p99_target}
        return replace(limits, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def _controlled(self, state: ControlState) -> None:
        """Every change of control: candidates begin to load before anybody is sent to one."""
        placement, own = self._placement.with_moved(state.moved), self._config.topics.requests
        for one in self._handovers:
            one.placement = placement
        self._catalog.set_mine(lambda model: placement.of(model).requests == own)
        self._models.obey(state)
        for intake in self._intakes:
            if isinstance(intake, RequestIntake):
                intake.router = state.router
                intake.obey(state.rollouts)
        self._models.obeyed()
        if self._loaded.is_set():
            self._catalog.refresh()
            self._teller.poke()

    def _gone(self, model: str, version: str) -> None:
        self._device.forget(model, version)
        self._standby.forget(model, version)

    def _release(self, model: str, version: str) -> None:
        try:
            for intake in self._intakes:
                intake.release(model, version)
        except BaseException as error:
            # The pool of the loading thread would swallow it, and what waited for this version would wait for ever.
            self._load_failure = error
            raise
        if self._loaded.is_set():
            self._tell_models()
        self._teller.poke()

    def _catch_up(self) -> None:
        """Before a partition is read: control as it stands, which its owner before may have obeyed already."""
        if not self._control.catch_up(CATCH_UP_SECONDS):
            log.warning("control was not read to its end within %g s: partitions are taken by what it said before",
                        CATCH_UP_SECONDS)  # fmt: skip

    def _idle(self) -> None:
        self._catalog.residency.look_again()

    def _tell_models(self) -> None:
        self._health.set("models", self._catalog.is_fit(), "; ".join(self._catalog.state()[1]))
        self._tell_memory()

    def _tell_memory(self) -> None:
        self._metrics.models_loaded.set(self._catalog.state()[0])
        self._metrics.models_bytes.set(self._catalog.residency.held_bytes())


class _NoReplies:
    """For bulk, whose replies are in the transaction."""

    def flush(self, parity: int, timeout: float) -> int:
        """Nothing is under way."""
        del parity, timeout
        return 0


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000
