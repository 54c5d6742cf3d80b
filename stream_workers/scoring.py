"""The scoring worker: Kafka in, micro-batches through ONNX Runtime, replies and evidence out.

    requests ─ Pipeline ─ RequestIntake ─┐            ┌─ ReplySender ── reply topics        at once, at least once
                 (poll)   (read, route)  ├─ Device ───┤
    bulk ───── Pipeline ─ BulkIntake ────┘  (batch,   └─ Ledger ─ Committer ── predictions,  one transaction with the
                                             score)                            summaries,    consumed offsets
                                                                               bulk results
    control ── ControlFollower ── Router, default versions

Each pipeline has a thread that polls and one that commits; the device has one for each batch under way. They meet at
the device's lanes and at the ledger, nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer

from models.batching import BatchLimits
from models.catalog import Catalog
from models.loading import LoadedModel
from models.store import Store
from schemas.codec import Codec
from schemas.placement import DEFAULT, Placement
from schemas.topics import MAX_MESSAGE_BYTES, Topics
from stream_workers.bulk import BulkIntake
from stream_workers.commit import AtLeastOnce, Committer, Delivery, ExactlyOnce
from stream_workers.control import ControlFollower, ControlState
from stream_workers.dead_letters import DeadLetters
from stream_workers.device import Device
from stream_workers.errands import Errands
from stream_workers.handover import Handover
from stream_workers.intake import RequestIntake
from stream_workers.ledger import Ledger
from stream_workers.librdkafka import OnFailure
from stream_workers.ops import Health, WorkerMetrics
from stream_workers.pipeline import Pipeline, PipelineError
from stream_workers.publish import Publisher
from stream_workers.replies import ReplySender, ReplyTopics
from stream_workers.reply_producers import ReplyProducer, reply_producer
from stream_workers.scoring_config import ScoringConfig
from stream_workers.shadow import Shadow
from stream_workers.standby import Standby
from stream_workers.worker_models import WorkerModels
from stream_workers.worker_state import StateTeller

log = logging.getLogger(__name__)
# What librdkafka has to say, in the process's own format.
_kafka_log = logging.getLogger("librdkafka")

# A dead worker's transaction holds up read_committed consumers for this long, unless it comes back under its name.
TRANSACTION_TIMEOUT_MS: Final = 10_000
# How long a fetch may wait for a first record; Kafka answers as soon as there is one.
REQUEST_WAIT_MS: Final = 100
BULK_WAIT_MS: Final = 500
FETCH_BYTES: Final = 2 * MAX_MESSAGE_BYTES
ASK_SECONDS: Final = 5.0
# Bytes of bulk that may be done and not yet committed, to each that may be in flight.
REDO: Final = 16
# Between two looks at the models while none can serve.
LOOK_SECONDS: Final = 1.0
# How long partitions that came wait for control to be read to its end; a share of max.poll.interval.ms.
CATCH_UP_SECONDS: Final = 10.0
# How long the worker waits for Kafka and its topics before it says what is missing and ends.
START_SECONDS: Final = 10.0


class WorkerStartError(RuntimeError):
    """The worker cannot begin: Kafka does not answer, or lacks its topics."""


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
        # A handle of its own that nobody polls: a call on a polled one waits for the poll. Its log lines would pile up.
        asking = {"allow.auto.create.topics": False, "log_level": 0}
        self._asker = Consumer(dict(config.consumer(f"{config.group}-topics", **asking)))
        self._reply_topics = ReplyTopics(partial(_partitions, self._asker))
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
        if not self._await_topics(stop):
            return
        if config.requests:
            self._pipelines.append(self._request_pipeline())
        if config.bulk:
            self._pipelines.append(self._bulk_pipeline())
        control = ControlFollower(
            config.consumer("penstock-control", logger=_kafka_log),
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
            threading.Thread(target=serve, args=pair, name=f"poll-{number}")
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
                failure = self._device.failure or self._load_failure or dead
                if failure is not None:
                    failures.append(failure)
                    # What waits for the device has no end to wait for.
                    for ledger in self._ledgers:
                        ledger.halt()
                    stop.set()
        finally:
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

    def _await_topics(self, stop: threading.Event) -> bool:
        """Wait a while for Kafka and its topics; False where `stop` came first. Raises `WorkerStartError`."""
        own = self._config.topics
        needed = {own.requests, own.bulk, own.predictions, own.summaries, own.dead_letters, own.control}
        needed |= {own.workers, own.shadow_predictions, own.shadow_summaries}
        end = time.monotonic() + START_SECONDS
        while not stop.is_set():
            try:
                missing = needed - self._asker.list_topics(timeout=1.0).topics.keys()
                why = f"Kafka has no topic {', '.join(sorted(missing))}; `penstock topics` creates what is missing"
            except KafkaException as error:
                servers = self._config.consumer(self._config.group)["bootstrap.servers"]
                missing, why = needed, f"Kafka does not answer at {servers}: {error.args[0].str()}"
            if not missing:
                self._health.forget("kafka")
                return True
            self._health.set("kafka", False, why)
            if time.monotonic() > end:
                raise WorkerStartError(why)
            stop.wait(0.5)
        return False

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
        self._device.start(runs=1 if name == "cpu" else self._config.device_options.runs)
        self._loaded.set()
        self._tell_models()
        return True

    def _request_pipeline(self) -> tuple[Pipeline, Committer]:
        consumer = self._consumer(self._config.group, REQUEST_WAIT_MS)
        ledger = Ledger()
        self._replies = replies = ReplySender(self._reply_producer, self._reply_topics, self._metrics)
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
            Producer(dict(self._config.producer(**{"compression.type": "lz4", "logger": _kafka_log}))),
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
        consumer = self._consumer(f"{self._config.group}-bulk", BULK_WAIT_MS)
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

        return self._pipeline("bulk", consumer, self._config.topics.bulk, ledger, intake.take, None, held_back)

    def _pipeline(
        self,
        name: str,
        consumer: Consumer,
        topic: str,
        ledger: Ledger,
        take: Callable[[Any], None],
        replies: ReplySender | None,
        held_back: Callable[[], bool],
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
        )
        committer = Committer(
            ledger,
            self._delivery(name, consumer, errands),
            replies or _NoReplies(),
            interval=config.commit_interval,
            on_commit=pipeline.committed,
            on_failure=pipeline.commit_failed,
        )
        return pipeline, committer

    def _delivery(self, name: str, consumer: Consumer, errands: Errands) -> Delivery:
        config = self._config
        # Commits are grouped already, so what is left to linger for is one record more.
        own: dict[str, Any] = {"linger.ms": 1, "compression.type": "lz4", "logger": _kafka_log}
        if config.delivery == "at-least-once":
            return AtLeastOnce(Producer(dict(config.producer(**own))), consumer, errands)
        own |= {
            "transactional.id": f"{config.group}-{name}-{config.name}",
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        }
        return ExactlyOnce(Producer(dict(config.producer(**own))), consumer, errands)

    def _consumer(self, group: str, wait_ms: int) -> Consumer:
        over = {
            "fetch.wait.max.ms": wait_ms,
            # A larger answer is mapped anew each time, and every page of it faults.
            "fetch.max.bytes": FETCH_BYTES,
            "allow.auto.create.topics": False,
            "logger": _kafka_log,
        }
        return Consumer(dict(self._config.consumer(group, **over)))

    def _reply_producer(self, on_failure: OnFailure) -> ReplyProducer:
        own = {
            # A micro-batch is queued in one call: there is nothing to wait for.
            "linger.ms": 0,
            "queue.buffering.max.messages": 500_000,
            # A topic that was deleted is given up after this long, and until then holds up its epoch.
            "topic.metadata.propagation.max.ms": 5_000,
            "delivery.report.only.error": True,
        }
        return reply_producer(self._config.producer(**own), on_failure, logger=_kafka_log)

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


def _partitions(consumer: Consumer, topic: str) -> int:
    """Partitions of a topic; 0 where there is none. Raises KafkaException where the cluster does not say."""
    found = consumer.list_topics(topic, timeout=ASK_SECONDS).topics.get(topic)
    return 0 if found is None or found.error is not None else len(found.partitions)
