"""The workers and the load of a campaign of swaps, on a benchmark's test bed, and what befalls them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from random import Random
from typing import Any, Final

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from benchmarks.swap_figures import SECOND, Event, Scored
from benchmarks.swap_load import Answers, Plan
from benchmarks.swap_operator import Operator, now_us
from benchmarks.swap_worker import WORKER
from penstock.bench.bed import READY_SECONDS, Bed, BenchError, Worker
from penstock.bench.workload import number_of
from penstock.brokers import free_port
from penstock.supervisor import Program
from schemas.records import PredictionBatch
from schemas.tensors import unpack_strings
from stream_workers.ingest_rows import micro_batches

# As a supervisor's first pause.
_RESTART_SECONDS: Final = 0.5


class Stage:
    """The workers of a bed, which an operator's versions serve in. `quiet`: moments at which nothing was done."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.rng = Random(1)
        self.quiet: list[int] = []

    def pids(self) -> set[int]:
        """Processes of the workers that run."""
        return {worker.pid for worker in self.bed.workers if is_running(worker)}

    def still(self, operator: Operator, seconds: float) -> None:
        """Do nothing, and note the middle: the windows around it show what the machine does by itself."""
        operator.rest(seconds / 2)
        self.quiet.append(now_us())
        operator.rest(seconds / 2)

    def swap_and_kill(self, operator: Operator, version: str) -> Event:
        """Promote a version and kill a worker at some moment of the swap; it is started again, as by a supervisor."""
        victim, delay = self.rng.choice(self.bed.workers), self.rng.uniform(0.0, 0.4)

        def kill() -> Mapping[str, Any]:
            operator.rest(delay)
            os.kill(victim.pid, signal.SIGKILL)
            self.start_again(operator, victim)
            return {"killed_after_seconds": round(delay, 3)}

        return operator.swap(version, "kill", kill)

    def lose_device(self, operator: Operator) -> Event:
        """Let a worker's device fail under it; it is started again once it has ended, as by a supervisor."""
        at, victim = now_us(), self.rng.choice(self.bed.workers)
        os.kill(victim.pid, signal.SIGUSR1)
        self.await_end(operator, victim)
        ended = now_us()
        self.start_again(operator, victim)
        return operator.keep("device", at, {"ended_after_seconds": round((ended - at) / SECOND, 2)})

    @contextmanager
    def monitored(self) -> Iterator[None]:
        """With a monitor, which drives rollouts."""
        settings, port = self.bed.settings, free_port()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        monitor = Program(
            "monitor",
            [sys.executable, "-m", "penstock", "monitor", "--port", str(port)],
            self.bed.folder / "logs" / "monitor.log",
            env={**inherited, **settings.environment()},
            ready_url=f"http://127.0.0.1:{port}/readyz",
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.stop()

    def ramp(self, operator: Operator, version: str, *, kill: bool) -> Event:
        """Roll a version out step by step; with `kill` a worker is killed on the way, and started again."""

        def meanwhile() -> Mapping[str, Any]:
            if not kill:
                return {}
            delay = self.rng.uniform(0.0, 4.0)
            operator.rest(delay)
            victim = self.rng.choice(self.bed.workers)
            os.kill(victim.pid, signal.SIGKILL)
            self.start_again(operator, victim)
            return {"killed_after_seconds": round(delay, 3)}

        return operator.ramp(version, meanwhile)

    def change_devices(self) -> None:
        """Start the workers anew, one after the other, on what they take for a GPU: see `swap_worker`."""
        settings = self.bed.settings
        models = settings.models.model_copy(update={"device": "cuda"})
        settings = settings.model_copy(update={"models": models})
        for at, before in enumerate(self.bed.workers):
            before.stop()
            name = f"gpu-{at + 1}"
            log = self.bed.folder / "logs" / f"{name}.log"
            worker = self.bed.workers[at] = Worker(name, settings, "exactly-once", log, WORKER)
            worker.start()
        self.bed.await_shares(self.bed.topics.requests)

    def start_again(self, operator: Operator, worker: Worker) -> None:
        """Start a worker that has ended, and wait until all share the partitions again."""
        self.await_end(operator, worker)
        operator.rest(_RESTART_SECONDS)
        worker.start()
        self.bed.await_shares(self.bed.topics.requests)

    def await_end(self, operator: Operator, worker: Worker) -> None:
        """Wait until a worker's process has ended."""
        operator.until(lambda: not is_running(worker), READY_SECONDS, "a worker that was to end goes on")

    def memory(self) -> list[int]:
        """Bytes that each worker holds."""
        return [worker.rss() for worker in self.bed.workers]


def is_running(worker: Worker) -> bool:
    """Whether its process has not ended."""
    try:
        return worker.pid > 0
    except BenchError:
        return False


@contextmanager
def asking(bed: Bed, model: str, run: str, rate: float, users: int) -> Iterator[Callable[[], Answers]]:
    """The load, from here until what this yields is called, which returns the answers."""
    out = bed.folder / f"{run}.npz"
    plan = Plan(
        producer=bed.producer(),
        consumer=bed.consumer(f"swaps-{run}"),
        requests=bed.topics.requests,
        replies=bed.topics.replies,
        run=run,
        model=model,
        store=str(bed.settings.models.store),
        rate=rate,
        users=users,
        out=str(out),
    )
    plan.write(bed.folder / f"{run}.json")
    command = [sys.executable, "-m", "benchmarks.swap_load", str(bed.folder / f"{run}.json")]
    program = Program("load", command, bed.folder / "logs" / "load.log", stop_seconds=120.0)
    program.start()

    def finish() -> Answers:
        program.stop()
        if status := program.wait():
            raise BenchError(f"the load ended with status {status}; its log is {program.log}")
        return Answers.read(out, run, users)

    try:
        yield finish
    finally:
        program.stop()


def read_log(bed: Bed, run: str) -> Iterator[Scored]:
    """Committed batches of the prediction log with requests of this run, each of one row."""
    codec, topic = bed.settings.codec(), bed.topics.predictions
    own = {"isolation.level": "read_committed", "enable.partition.eof": True}
    reader = Consumer({**bed.consumer(f"swaps-log-{run}"), **own})
    try:
        left = set(reader.list_topics(topic, timeout=10).topics[topic].partitions)
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        while left:
            for message in reader.consume(500, 1.0):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition() or 0)
                elif error is not None:
                    raise BenchError(f"the prediction log cannot be read: {error.str()}")
                else:
                    record = codec.decode(PredictionBatch, message.value() or b"")
                    ids = iter(unpack_strings(record.request_ids))
                    for batch in micro_batches(record):
                        own = [one for one in islice(ids, batch.rows) if one.startswith(run)]
                        numbers = np.array([number_of(one.encode()) for one in own], np.int64)
                        if own:
                            yield Scored(record.worker, record.version, batch.scored_at, numbers)
    finally:
        reader.close()


__all__ = ["Stage", "asking", "is_running", "read_log"]
