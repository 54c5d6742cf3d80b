"""One run of a bulk job: batches out, answers in, results onto disk in order.

At most `Limits.window` batches are anywhere between file and result, which bounds the memory whatever the file's size;
an answer that comes early waits there for the ones before it. A batch without an answer is sent again under the same
sequence number, and a second answer is dropped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message

from producers.checkpoint import Checkpoint, State
from producers.columns import Layout, Plan, to_wire
from producers.errors import BulkError, BulkInputError
from producers.inbox import Inbox
from producers.kafka import Config, address_of
from producers.mixed import joined
from producers.pieces import Piece, Source, rechunk
from producers.publisher import Publisher
from producers.results import OutputColumn, id_columns, id_types, output_schema, result_table
from producers.window import Window
from schemas.codec import Codec, DecodeError
from schemas.codes import Code
from schemas.placement import Place
from schemas.records import ScoreBatch, ScoreReply
from schemas.topics import MAX_MESSAGE_BYTES, Topics

# A batch of wide rows gets fewer of them: large records make brokers and workers slow.
BATCH_BYTES: Final = 2 * 1024 * 1024
PART_ROWS: Final = 65_536
PART_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.05
RECEIVING: Final[Config] = {"queued.max.messages.kbytes": 16_384}
SENDING: Final[Config] = {"message.timeout.ms": 60_000}
# Codes of a whole batch that does not fit the model. Where it is the first, its layout is at fault and all others would
# meet the same; where it is a later one, it is what these rows hold. Kills and resumptions do not change which it is.
_MISFITS: Final = (Code.INVALID_ARGUMENT, Code.MALFORMED)


@dataclass(frozen=True, slots=True)
class Job:
    """What to score. `version` "": the one that answers first scores all. `outputs`: the model's, for the columns.

    `described`: the version whose signature `layout` and `outputs` are; the one to name where no row was scored.
    """

    input: Path
    output: Path
    model: str
    layout: Layout
    outputs: tuple[OutputColumn, ...]
    version: str = ""
    batch_rows: int = 4096
    force: bool = False
    described: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and for how long. `window`: batches; the rest in seconds.

    `resend_after`: silence until unanswered batches are sent again (longer where answers are slow); `give_up`: silence
    until the job stops; `connect`: for the broker to answer at the start.
    """

    window: int = 64
    resend_after: float = 30.0
    give_up: float = 600.0
    connect: float = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: rows in order on their way to disk, rows in all where known, share of the input (0 to 1)."""

    rows: int
    total: int | None
    share: float
    resumed: int


@dataclass(frozen=True, slots=True)
class _Batch:
    ids: dict[str, Any]
    rows: int
    local: dict[int, str]
    value: bytes
    position: int


@dataclass(frozen=True, slots=True)
class _Scored:
    table: Any
    rows: int
    position: int


class BulkRun:
    """Everything between an opened source and a complete checkpoint. Good for one `run`."""

    def __init__(
        self,
        job: Job,
        source: Source,
        chosen: Plan,
        checkpoint: Checkpoint,
        state: State,
        config: Config,
        codec: Codec,
        topics: Topics,
        place: Callable[[str], Place],
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._job = job
        self._source = source
        self._chosen = chosen
        self._checkpoint = checkpoint
        self._state = state
        self._config = config
        self._codec = codec
        self._topics = topics
        self._place = place
        self._partitions: dict[str, int] = {}
        self._limits = limits
        self._clock = clock
        types = source.types(chosen.wanted)
        self._plain = output_schema(id_types({name: types[name] for name in chosen.ids}), job.outputs)
        self._mark = state.job.encode()
        self._fatal: BulkError | None = None
        # Why workers cannot score, since the last batch that one scored.
        self._unavailable = ""
        self.version = state.version
        self.resumed = 0
        self.resent = 0
        self.duplicates = 0
        self.most_in_flight = 0

    def schema(self) -> Any:
        """The output's schema, with the model and version it was scored with."""
        about = {"penstock.model": self._job.model, "penstock.version": self.version or self._job.described}
        return self._plain.with_metadata(about)

    def run(self, on_progress: Callable[[Progress], None], rng: random.Random) -> None:
        """Score what is not on disk yet. Raises as `producers.bulk.score_file` says."""
        self._on_progress = on_progress
        first = 0
        if self._checkpoint.state is not None:
            first = self._checkpoint.done()
            self.resumed = self._checkpoint.rows()
        self._rows = self.resumed
        self._held: list[Any] = []
        self._waiting = 0
        self._held_from = first
        self._written = self._clock()
        self._window: Window[_Batch, _Scored] = Window(self._limits.window, self._limits.resend_after, first)
        self._inbox = Inbox({**RECEIVING, **self._config}, self._topics.bulk_results, committed_only=True, rng=rng)
        self._inbox.open(self._limits.connect)
        try:
            self._publisher = Publisher({**SENDING, **self._config}, self._codec)
            self._known_partitions(self._place(self._job.model).bulk)
            self._loop()
        except (KeyboardInterrupt, BulkError):
            self._write()
            raise
        finally:
            self.most_in_flight = self._window.most
            self._inbox.close()
        self._write()
        if self._checkpoint.state is None:
            self._checkpoint.begin(self._state)  # a file without rows

    def _loop(self) -> None:
        skip = self._window.next * self._state.batch_rows
        pieces = rechunk(self._source.pieces(self._chosen.wanted, skip), self._state.batch_rows)
        more = True
        while more or len(self._window):
            # Until an answer tells the version, one batch goes alone, so that no other version has a part in the job.
            if more and self._window.open and (self.version or not len(self._window)):
                more = self._send_next(pieces)
                self._receive(0)
            else:
                self._receive(POLL_SECONDS)
            self._keep()
            self._ask_again()

    def _send_next(self, pieces: Iterator[Piece]) -> bool:
        piece = next(pieces, None)
        if piece is None:
            return False
        wire = to_wire(self._job.layout, piece.table, piece.rows)
        sequence = self._window.next
        value = self._codec.encode(
            ScoreBatch(
                job=self._state.job,
                sequence=sequence,
                model=self._job.model,
                version=self.version,
                sent_at=time.time_ns() // 1000,
                reply_topic=self._inbox.topic,
                reply_partition=self._inbox.partition,
                rows=piece.rows,
                inputs=wire.inputs,
                columns=wire.columns,
            )
        )
        if len(value) > MAX_MESSAGE_BYTES - 65_536:
            raise self._too_large(sequence)
        ids = id_columns(piece.table, self._chosen.ids)
        batch = _Batch(ids, piece.rows, {**wire.errors, **piece.errors}, value, piece.position)
        self._send(self._window.add(batch, self._clock()), batch)
        return True

    def _send(self, sequence: int, batch: _Batch) -> None:
        # The model may be moved to another pool meanwhile.
        topic = self._place(self._job.model).bulk
        try:
            self._publisher.send_bytes(
                topic,
                batch.value,
                partition=sequence % self._known_partitions(topic),
                on_delivery=partial(self._on_delivery, sequence),
                timeout=self._limits.give_up,
            )
        except KafkaException as error:
            self._on_delivery(sequence, error.args[0], None)

    def _known_partitions(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = self._publisher.partitions(topic, self._limits.connect)
        return self._partitions[topic]

    def _on_delivery(self, sequence: int, error: KafkaError | None, message: Message | None) -> None:
        del message
        if error is None:
            return
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._fatal = self._too_large(sequence)
        self._window.retry(sequence, self._clock() + RETRY_SECONDS)

    def _too_large(self, sequence: int) -> BulkInputError:
        start = sequence * self._state.batch_rows
        return BulkInputError(
            f"{self._job.input}: {self._state.batch_rows} rows from row {start} on are more than a Kafka record takes "
            f"({MAX_MESSAGE_BYTES} bytes); choose fewer with --batch-rows"
        )

    def _receive(self, timeout: float) -> None:
        self._publisher.poll(0)
        if self._fatal is not None:
            raise self._fatal
        for value in self._inbox.poll(timeout, limit=self._limits.window):
            if self._mark not in value:
                continue  # another job's, on the same partition
            try:
                reply = self._codec.decode(ScoreReply, value)
            except DecodeError as error:
                raise BulkError(f"an answer on {self._inbox.topic} could not be read: {error}") from None
            job, _, sequence = reply.request_id.rpartition("/")
            if job == self._state.job and sequence.isdecimal():
                self._answer(int(sequence), reply)

    def _answer(self, sequence: int, reply: ScoreReply) -> None:
        batch = self._window.waiting(sequence)
        if batch is None:
            self.duplicates += 1
            return
        if reply.code is Code.UNAVAILABLE:
            self._unavailable = reply.message or reply.code
            self._window.retry(sequence, self._clock() + RETRY_SECONDS)
            return
        if reply.code is Code.UNKNOWN_MODEL:
            raise BulkInputError(f"{self._job.model}: {reply.message or reply.code}")
        if reply.code in _MISFITS and sequence == 0:
            raise BulkInputError(
                f"{self._job.input} rows 1 to {batch.rows}: {self._job.model}: {reply.message or reply.code}"
            )
        if self.version and reply.version and reply.version != self.version:
            self.duplicates += 1  # asked before the version was pinned, by a run that was killed
            return
        table = result_table(batch.ids, batch.rows, self._job.outputs, reply, batch.local)
        if reply.version and not self.version:
            self.version = reply.version
        self._unavailable = ""
        self._window.answered(sequence, _Scored(table, batch.rows, batch.position), self._clock())

    def _keep(self) -> None:
        for _, scored in self._window.take():
            self._held.append(scored.table)
            self._waiting += scored.rows
            self._rows += scored.rows
            share = scored.position / max(self._source.size, 1)
            self._on_progress(Progress(self._rows, self._source.rows, min(share, 1.0), self.resumed))
        if self._waiting >= PART_ROWS or (self._held and self._clock() - self._written >= PART_SECONDS):
            self._write()

    def _write(self) -> None:
        if not self._held:
            return
        if self._checkpoint.state is None:
            self._checkpoint.begin(self._state)
        if self._checkpoint.state is not None and self._checkpoint.state.version != self.version:
            self._checkpoint.pin(self.version)
        last = self._held_from + len(self._held) - 1
        self._checkpoint.append(self._held_from, last, joined(self._held))
        self._held = []
        self._waiting = 0
        self._held_from = last + 1
        self._written = self._clock()

    def _ask_again(self) -> None:
        now = self._clock()
        silence = self._window.silence(now)
        if silence > self._limits.give_up:
            if self._unavailable:
                raise BulkError(
                    f"nothing was scored for {silence:.0f} s; the last answer from behind {address_of(self._config)} "
                    f"is {Code.UNAVAILABLE}: {self._unavailable}; mend that and run this again"
                )
            raise BulkError(
                f"no worker behind {address_of(self._config)} has answered for {silence:.0f} s; start one with "
                "`penstock worker` and run this again"
            )
        for sequence, batch in self._window.due(now):
            self.resent += 1
            self._send(sequence, batch)
