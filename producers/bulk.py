"""Scores a whole file over Kafka, in the file's order, and goes on where a killed run was: the job around `BulkRun`."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from producers.bulk_run import BATCH_BYTES, BulkRun, Job, Limits, Progress
from producers.checkpoint import Checkpoint, State
from producers.columns import Plan, plan, to_wire
from producers.errors import BulkInputError
from producers.files import open_source
from producers.kafka import Config
from producers.pieces import Source, rechunk
from producers.results import id_types, output_schema
from producers.writers import check_output
from schemas.codec import Codec
from schemas.placement import Place, Placement
from schemas.topics import Topics


@dataclass(frozen=True, slots=True)
class Result:
    """What a job did. `rows`, `errors`: of the whole file; `resumed`: rows that an earlier run had done.

    `version`: the one that scored; where none did, the one that the job was described by.
    """

    output: str
    model: str
    version: str
    rows: int
    errors: int
    resumed: int
    resent: int
    duplicates: int
    most_in_flight: int
    seconds: float


def score_file(
    job: Job,
    config: Config,
    codec: Codec,
    topics: Topics,
    *,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    place: Callable[[str], Place] | None = None,
    clock: Callable[[], float] = time.monotonic,
    rng: random.Random | None = None,
) -> Result:
    """Score `job.input` into `job.output`, or go on with it where a run was killed.

    `place`: where a model's batches go, by its name; None: to `topics.bulk`.

    Raises `BulkInputError` with nothing written where the job cannot be done as asked, `BulkError` where it stopped and
    may be started again, `BrokerUnavailableError`.
    """
    began = clock()
    source, chosen, binding = _prepare(job)
    checkpoint = Checkpoint(job.output)
    try:
        state = checkpoint.resume(binding, force=job.force)
        if job.output.exists() and not job.force and not (state is not None and state.finished):
            raise BulkInputError(f"{job.output} exists already; overwrite it with --force")
        if state is None:
            rows = _batch_rows(job, source, chosen)
            state = State(binding, uuid.uuid4().hex, rows, job.version)
        where = place or Placement.create(topics).of
        run = BulkRun(job, source, chosen, checkpoint, state, config, codec, topics, where, limits or Limits(), clock)
        if not state.finished:
            try:
                run.run(on_progress or (lambda _progress: None), rng or random.SystemRandom())
            except BulkInputError as error:
                raise _with_what_is_kept(error, checkpoint) from None
        rows, errors = checkpoint.finish(run.schema())
    finally:
        checkpoint.close()
    return Result(
        output=str(job.output),
        model=job.model,
        version=run.version or job.described,
        rows=rows,
        errors=errors,
        resumed=run.resumed,
        resent=run.resent,
        duplicates=run.duplicates,
        most_in_flight=run.most_in_flight,
        seconds=clock() - began,
    )


def _with_what_is_kept(error: BulkInputError, checkpoint: Checkpoint) -> BulkInputError:
    """Say what is on disk, if anything is: the same would happen again to the same file."""
    if checkpoint.state is None:
        return error
    return BulkInputError(
        f"{error}; {checkpoint.folder} keeps the {checkpoint.rows():,} rows before it: the same command goes on there, "
        "and with a mended input or other options --force starts over"
    )


def _prepare(job: Job) -> tuple[Source, Plan, dict[str, Any]]:
    """All that can be said of a job before anything is sent or written."""
    if job.batch_rows < 1:
        raise BulkInputError(f"batch rows: expected 1 or more, got {job.batch_rows}")
    source = open_source(job.input)
    if not job.output.parent.is_dir():
        raise BulkInputError(f"{job.output}: there is no folder {job.output.parent}")
    if not os.access(job.output.parent, os.W_OK | os.X_OK):
        raise BulkInputError(f"{job.output}: no right to write into {job.output.parent}")
    if job.output.is_dir() or (job.output.exists() and job.output.samefile(job.input)):
        raise BulkInputError(f"{job.output}: is {'a folder' if job.output.is_dir() else 'the input itself'}")
    folder = Checkpoint(job.output).folder
    if folder.exists() and not folder.is_dir():
        raise BulkInputError(f"{folder}: is in the way; a folder of that name holds what a job has done so far")
    chosen = plan(job.layout, source.schema, job.input)
    types = source.types(chosen.wanted)
    check_output(job.output, output_schema(id_types({name: types[name] for name in chosen.ids}), job.outputs))
    binding = {
        "input": str(job.input.resolve()),
        "size": source.size,
        "modified": source.modified_ns,
        "model": job.model,
        "version": job.version,
        "layout": asdict(job.layout),
        "ids": list(chosen.ids),
        "outputs": [asdict(one) for one in job.outputs],
        "batch_rows": job.batch_rows,
    }
    return source, chosen, binding


def _batch_rows(job: Job, source: Source, chosen: Plan) -> int:
    """Rows a batch, from the job's wish and from what the first rows weigh."""
    for piece in rechunk(source.pieces(chosen.wanted), 256):
        wire = to_wire(job.layout, piece.table, piece.rows)
        size = sum(len(one.data) for one in (*wire.inputs, *wire.columns))
        fitting: int = BATCH_BYTES * piece.rows // max(size, 1)
        return max(1, min(job.batch_rows, fitting))
    return job.batch_rows
