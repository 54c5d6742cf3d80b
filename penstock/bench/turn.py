"""One candidate's turn: its process started, its answers compared with Penstock's, then timed, by one rule for all.

The clock runs from just before the first record can be had until the broker has all replies and, where the candidate
commits offsets, has its group's at the end. Start-up is no part of it: a candidate is warm, since it has just answered
the requests that its answers are compared by.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from penstock.bench.agreement import Answer, Outputs, compare
from penstock.bench.bed import PARTITIONS, Bed, BenchError
from penstock.bench.candidates import Candidate, Kind
from penstock.bench.check import check_round, count_replies
from penstock.bench.feed import Feed, Progress, marks_of, read_new
from penstock.bench.peer_process import PEERS, Peer
from penstock.bench.stream import onnx_alone, raw_copy
from penstock.bench.wire import AvroWire, JsonWire, Wire, json_topics, probes, wanted

COMPARED: Final = 2000
_SLOWEST: Final = 100.0
_START_SECONDS: Final = 180.0
_WATCH_SECONDS: Final = 0.01
_ASK_AGAIN: Final = 1.0
_QUIET_SECONDS: Final = 1.0
_PUT: Final = 50_000
SCHEMAS: Final = PEERS.parent.parent / "schemas" / "avro"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Timed:
    """One timed round. `replied`, `committed`: seconds until all replies were there, and all offsets if it commits."""

    records: int
    seconds: float
    replied: float | None = None
    committed: float | None = None
    cpu_us: float | None = None
    broker_cpu_us: float | None = None
    check: dict[str, Any] | None = None
    profile: dict[str, float] | None = None

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    def to_json(self) -> dict[str, Any]:
        """What there is of it."""
        found = {
            "records": self.records,
            "records_per_second": round(self.rate, 1),
            "seconds": self.seconds,
            "seconds_to_last_reply": self.replied,
            "seconds_to_last_offset": self.committed,
            "cpu_us_per_record": self.cpu_us,
            "broker_cpu_us_per_record": self.broker_cpu_us,
            "check": self.check,
            "profile": self.profile,
        }
        return {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in found.items()
            if value is not None
        }  # fmt: skip


class Course:
    """The bed, the topics and the right answers that all candidates share.

    `python`: where the Python of a peer's environment is, by the peer's folder.
    """

    def __init__(self, bed: Bed, python: Callable[[str], Path], say: Say) -> None:
        self._bed, self._python, self._say = bed, python, say
        self._turns = 0
        self._avro: Wire = AvroWire(bed)
        self._json: Wire | None = None
        self._feeds: dict[str, Feed] = {}
        self.reference: list[Outputs] = []
        # Long before they are used: a topic's leader is known a moment after the topic.
        bed.add_topics(*json_topics(bed))

    def learn_reference(self) -> None:
        """Ask Penstock for the answers that others are compared with; its own are compared with the model's here."""
        bed = self._bed
        group = self._group("reference", self._avro)
        bed.start_workers(1, "exactly-once")
        own = [
            {name: array[at : at + 1] for name, array in bed.workload.expected.items()} for at in range(COMPARED)
        ]  # fmt: skip
        answers = self._answers(self._avro, group, own)
        bed.stop_workers()
        by_id = {one.request_id: one.outputs for one in answers}
        self.reference = [by_id[name] or {} for name in wanted(self._run(), own)]

    def run(self, candidate: Candidate, asked: int) -> Timed:
        """The candidate's turn with `asked` records at most. Raises `BenchError`."""
        self._turns += 1
        records = candidate.records(asked)
        if candidate.kind is Kind.ONNX:
            rate = onnx_alone(self._bed, 2.0)["rows_per_second"]
            return Timed(round(rate * 2.0), 2.0)
        if candidate.kind is Kind.RAW:
            return self._raw(records)
        if candidate.kind is Kind.PENSTOCK:
            return self._penstock(candidate, records)
        return self._peer(candidate, records)

    def _raw(self, records: int) -> Timed:
        feed = self._filled(self._avro, self._run(), records)
        found = raw_copy(self._bed, self._avro.requests, feed)
        feed.open()
        return Timed(records, found["seconds"], cpu_us=found["cpu_seconds"] / records * 1e6)

    def _penstock(self, candidate: Candidate, records: int) -> Timed:
        bed = self._bed
        group = self._group(candidate.name, self._avro)
        bed.start_workers(candidate.workers, candidate.delivery)
        try:
            self._answers(self._avro, group, self.reference)
            if candidate.workers > 1:
                bed.await_shares(self._avro.requests)
            log = marks_of(bed, bed.topics.predictions)()
            replies = marks_of(bed, bed.topics.replies)()
            run = self._run(1)
            before = bed.usage()
            timed, _ = self._timed(self._avro, run, records, group, replies, cpu=lambda: bed.usage().cpu)
            profile = bed.usage().since(before).to_json()
        finally:
            bed.stop_workers()
        checked = check_round(
            bed, run, records, replies, log, twice_is_wrong=candidate.delivery == "exactly-once"
        )  # fmt: skip
        if checked.faults:
            raise BenchError(f"{candidate.name}: not all requests were answered and logged once: {checked.to_json()}")
        return replace(timed, check=checked.to_json(), profile=profile)

    def _peer(self, candidate: Candidate, records: int) -> Timed:
        bed = self._bed
        wire = self._wire(candidate)
        group = self._group(candidate.name, wire)
        kafka, model = bed.settings.kafka, bed.workload
        settings = {
            "bootstrap": bed.bootstrap,
            "requests": wire.requests,
            "replies": wire.replies,
            "group": group,
            "model_file": str(model.path),
            "model": model.model,
            "version": model.version,
            "schemas": str(SCHEMAS),
            "threads": bed.settings.models.threads,
            "session_timeout_ms": kafka.session_timeout_ms or 45_000,
        }
        with ExitStack() as stack:
            peer = stack.enter_context(Peer(candidate.folder, self._python(candidate.folder), settings, bed.folder))
            self._await_first(wire, peer)
            frozen = peer if candidate.reads_uncommitted else None
            commits = group if candidate.commits else None
            self._answers(wire, commits, self.reference, peer, frozen)
            replies = marks_of(bed, wire.replies)()
            run = self._run(1)
            timed, _ = self._timed(wire, run, records, commits, replies, peer, frozen, cpu=peer.cpu)
        return replace(timed, check=self._counted(candidate, wire, run, records, replies))

    def _counted(
        self, candidate: Candidate, wire: Wire, run: str, records: int, replies: Sequence[int]
    ) -> dict[str, int]:
        """How the round's replies stand to its requests. Raises `BenchError` where one has none, or a wrong one."""
        messages = read_new(self._bed, wire.replies, replies, committed=False)
        if wire is self._avro:
            values = (one.value() for one in messages)
            seen, wrong, compared = count_replies(self._bed.settings.codec(), self._bed.workload, run, records, values)
            found = {"missing": int((seen == 0).sum()), "twice": int((seen > 1).sum()), "wrong": wrong}
            found |= {"requests": records, "compared": compared}
        else:
            expected = self._bed.workload.expected
            pool = len(next(iter(expected.values())))
            own = [{name: array[[at % pool]] for name, array in expected.items()} for at in range(records)]
            agreed = compare(wanted(run, own), (wire.read(one) for one in messages))
            found = {"missing": agreed.missing, "twice": agreed.twice, "wrong": agreed.wrong}
            found |= {"requests": records, "compared": records}
        if found["missing"] or found["wrong"]:
            raise BenchError(f"{candidate.name}: not all requests were answered: {found}")
        return found

    def _answers(
        self,
        wire: Wire,
        group: str | None,
        reference: Sequence[Outputs],
        peer: Peer | None = None,
        frozen: Peer | None = None,
    ) -> list[Answer]:
        """The candidate's answers to the first requests, the reference's own. Raises `BenchError` where they differ."""
        run = self._run()
        starts = marks_of(self._bed, wire.replies)()
        self._timed(wire, run, len(reference), group, starts, peer, frozen)
        answers = [wire.read(one) for one in read_new(self._bed, wire.replies, starts, committed=False)]
        # A topic's last probe may be answered twice, and the embedded broker tells a topic's end too low.
        answers = [one for one in answers if one.request_id.startswith(run)]
        agreed = compare(wanted(run, reference), answers)
        if agreed.faults:
            raise BenchError(f"answers are not Penstock's, so that nothing was timed: {agreed.to_json()}")
        return answers

    def _timed(
        self,
        wire: Wire,
        run: str,
        records: int,
        group: str | None,
        replies: Sequence[int],
        peer: Peer | None = None,
        frozen: Peer | None = None,
        cpu: Callable[[], float] = lambda: 0.0,
    ) -> tuple[Timed, Feed]:
        bed = self._bed
        come = _counter(bed, wire, run, replies)
        progress = None if group is None else Progress(bed, group, wire.requests)
        if frozen is not None:
            frozen.freeze()
        feed = self._filled(wire, run, records)
        cpu_before, broker_before = cpu(), bed.broker_cpu()
        if frozen is not None:
            feed.open()
            began = time.perf_counter()
            frozen.thaw()
        else:
            began = feed.open()
        end = time.monotonic() + 60 + records / _SLOWEST
        replied: float | None = None
        committed: float | None = None
        answered = 0
        pause = threading.Event()
        while replied is None or (progress is not None and committed is None):
            if replied is None and (answered := come()) >= records:
                replied = time.perf_counter() - began
            if progress is not None and committed is None and progress.done(feed.starts) >= records:
                committed = time.perf_counter() - began
            _ = peer.pid if peer is not None else [worker.pid for worker in bed.workers]
            if time.monotonic() > end:
                what = f"{answered:,} of {records:,} replies came"
                if replied is not None:
                    what = f"the replies came, but the group's offsets did not reach the end of {wire.requests}"
                raise BenchError(f"{what} within {60 + records / _SLOWEST:.0f} s")
            pause.wait(_WATCH_SECONDS)
        used = (cpu() - cpu_before) / records * 1e6
        after = bed.broker_cpu()
        broker = None if after is None or broker_before is None else (after - broker_before) / records * 1e6
        return Timed(records, max(replied, committed or 0.0), replied, committed, used, broker), feed

    def _filled(self, wire: Wire, run: str, records: int) -> Feed:
        feed = self._feeds.get(wire.requests)
        if feed is None:
            feed = self._feeds[wire.requests] = Feed(self._bed, wire.requests)
        feed.begin()
        for at in range(0, records, _PUT):
            feed.put(*wire.many(run, at, min(_PUT, records - at)), wire.headers)
        feed.close()
        return feed

    def _await_first(self, wire: Wire, peer: Peer) -> None:
        """Return when the peer has answered a request from each partition, and nothing more comes.

        Some begin at a topic's end as they find it, so what is written before is lost on them.
        """
        bed, run = self._bed, self._run(2)
        starts = marks_of(bed, wire.replies)()
        consumer = Consumer(
            {**bed.consumer("penstock-bench-probes"), "isolation.level": "read_uncommitted", "fetch.wait.max.ms": 50}
        )
        consumer.assign([TopicPartition(wire.replies, number, at) for number, at in enumerate(starts)])
        producer = Producer({**bed.producer(), "linger.ms": 0})
        waiting, end, asked = set(range(PARTITIONS)), time.monotonic() + _START_SECONDS, 0.0
        quiet = time.monotonic()
        while waiting or time.monotonic() - quiet < _QUIET_SECONDS:
            _ = peer.pid
            if waiting and time.monotonic() - asked > _ASK_AGAIN:
                asked = time.monotonic()
                for number, (value, key) in enumerate(probes(wire, run)):
                    if number in waiting:
                        producer.produce(wire.requests, value, key, partition=number, headers=wire.headers or [])
                producer.flush(10)
            for message in consumer.consume(100, 0.1):
                if message.error() is None and wire.read(message).request_id.startswith(run):
                    waiting.discard(int(wire.read(message).request_id[-8:]))
                    quiet = time.monotonic()
            if waiting and time.monotonic() > end:
                raise BenchError(f"{peer.name} does not answer; its log is {peer.log}")
        consumer.close()

    def _wire(self, candidate: Candidate) -> Wire:
        if not candidate.json:
            return self._avro
        if self._json is None:
            self._json = JsonWire(self._bed)
        return self._json

    def _group(self, name: str, wire: Wire) -> str:
        """A group of this turn, placed at the topic's end."""
        group = self._bed.use_group(f"{self._turns}-{name}")
        places = [
            TopicPartition(wire.requests, number, at)
            for number, at in enumerate(marks_of(self._bed, wire.requests)())
        ]  # fmt: skip
        consumer = Consumer({**self._bed.client(), "group.id": group, "enable.auto.commit": False})
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()
        return group

    def _run(self, part: int = 0) -> str:
        return f"{self._bed.run_id[:22]}{self._turns:08x}{part:02x}"


def _counter(bed: Bed, wire: Wire, run: str, starts: Sequence[int]) -> Callable[[], int]:
    """A function that says how many replies of the run are on the broker, behind these offsets.

    By where the partitions end, which costs nobody anything; where the broker is not known to tell that, by reading.
    """
    if bed.tells_ends:
        marks = marks_of(bed, wire.replies)
        return lambda: sum(marks()) - sum(starts)
    consumer = Consumer(
        {**bed.consumer("penstock-bench-count"), "isolation.level": "read_uncommitted", "fetch.wait.max.ms": 20}
    )
    consumer.assign([TopicPartition(wire.replies, number, at) for number, at in enumerate(starts)])
    count = 0

    def read() -> int:
        nonlocal count
        while messages := consumer.consume(10_000, 0.0):
            count += sum(1 for one in messages if one.error() is None and wire.is_of(one, run))
        return count

    return read
