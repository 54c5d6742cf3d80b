"""`penstock bench bulk`: columnar batches end to end, and a file to a file, beside ONNX Runtime alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from penstock.bench.bed import PARTITIONS, Bed, BenchError, Usage
from penstock.bench.cpu import Processor
from penstock.bench.feed import Feed, marks_of
from penstock.bench.figures import Spread, doubts
from penstock.bench.stream import onnx_alone
from penstock.bench.warming import warm_up
from penstock.bench.workload import POOL, bulk_batch, is_right
from schemas.codes import Code
from schemas.records import ScoreReply

_SILENCE: Final = 60.0
_LEAST_WARM_UPS: Final = 3
_MOST_WARM_UPS: Final = 10
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """Rows a second: of ONNX Runtime alone, of the stream, of a file to a file; of the stream, `Processor.since`."""

    alone: float
    stream: float
    file: float
    usage: Usage
    processor: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "onnxruntime_alone_rows_per_second": round(self.alone),
            "rows_per_second": round(self.stream),
            "ratio": round(self.stream / self.alone, 3),
            "file_rows_per_second": round(self.file),
            "profile": self.usage.to_json(),
            "processor_us_per_row": self.processor,
        }


def run_bulk(bed: Bed, rows: int, rows_each: int, rounds: int, delivery: str, workers: int, say: Say) -> dict[str, Any]:
    """Measure and check. Raises `BenchError` where a worker or the broker does not do its work."""
    feed = Feed(bed, bed.topics.bulk)
    marks = marks_of(bed, bed.topics.bulk_results)
    say(f"starting {workers} worker(s), {delivery}")
    bed.start_workers(workers, delivery)
    batches = max(1, rows // rows_each)

    def fill(number: int) -> None:
        _fill(bed, feed, f"warm-up-{number + 1}", batches, rows_each)

    def once(number: int) -> None:
        _check(bed, _read(bed, feed, f"warm-up-{number + 1}", batches, marks())[1], rows_each)

    warm_up(once, bed.processes, least=_LEAST_WARM_UPS, most=_MOST_WARM_UPS, prepare=fill)
    if workers > 1:
        bed.await_shares(bed.topics.bulk)
    _write_file(bed, batches * rows_each)
    done: list[Round] = []
    for number in range(rounds):
        job = f"round-{number + 1}"
        _fill(bed, feed, job, batches, rows_each)
        alone = onnx_alone(bed)["rows_per_second"]
        usage_before, cores_before = bed.usage(), _processor(bed)
        took, results = _read(bed, feed, job, batches, marks())
        cores, used = _processor(bed).since(cores_before, batches * rows_each), bed.usage().since(usage_before)
        _check(bed, results, rows_each)
        one = Round(alone, batches * rows_each / took, _score_file(bed, batches * rows_each), used, cores)
        done.append(one)
        say(
            f"round {number + 1}: ONNX Runtime alone {one.alone:,.0f} rows/s, stream {one.stream:,.0f}, "
            f"file {one.file:,.0f}"
        )
    bed.stop_workers()
    spreads = {
        "onnxruntime_alone_rows_per_second": Spread(tuple(one.alone for one in done)),
        "rows_per_second": Spread(tuple(one.stream for one in done)),
        "file_rows_per_second": Spread(tuple(one.file for one in done)),
    }
    ratio = Spread(tuple(one.stream / one.alone for one in done))
    return {
        "rows_per_record": rows_each,
        "features": bed.workload.width,
        "rows": batches * rows_each,
        "delivery": delivery,
        "workers": workers,
        **{name: spread.to_json(0) for name, spread in spreads.items()},
        "ratio": ratio.to_json(3),
        "doubts": doubts(**spreads),
        "rounds": [one.to_json() for one in done],
    }


def _fill(bed: Bed, feed: Feed, job: str, batches: int, rows_each: int) -> None:
    codec = bed.settings.codec()
    feed.begin()
    for number in range(batches):
        batch = bulk_batch(bed.workload, job, number, rows_each, bed.topics.bulk_results, number % PARTITIONS)
        feed.put([codec.encode(batch)])
    feed.close()


def _read(
    bed: Bed, feed: Feed, job: str, batches: int, starts: list[int]
) -> tuple[float, list[ScoreReply]]:  # fmt: skip
    """Open the gate and read every result back: seconds between, and the results. Raises `BenchError`."""
    codec = bed.settings.codec()
    consumer = Consumer({**bed.consumer("penstock-bench-results"), "fetch.wait.max.ms": 20})
    consumer.assign([TopicPartition(bed.topics.bulk_results, number, at) for number, at in enumerate(starts)])
    consumer.poll(0.2)
    left = set(range(batches))
    found: list[ScoreReply] = []
    began = ended = feed.open()
    silent_until = time.monotonic() + _SILENCE
    while left:
        message = consumer.poll(0.1)
        if message is None or message.error() is not None:
            for worker in bed.workers:
                _ = worker.pid
            if time.monotonic() > silent_until:
                raise BenchError(f"{len(left)} of {batches} bulk results did not come within {_SILENCE:.0f} s")
            continue
        reply = codec.decode(ScoreReply, message.value())
        name, _, sequence = reply.request_id.rpartition("/")
        if name != job:
            continue
        silent_until = time.monotonic() + _SILENCE
        if int(sequence) not in left:
            raise BenchError(f"bulk result {reply.request_id} came twice")
        left.discard(int(sequence))
        found.append(reply)
        ended = time.perf_counter()
    consumer.close()
    return ended - began, found


def _check(bed: Bed, results: Sequence[ScoreReply], rows_each: int) -> None:
    """Compare them with the model's own. Raises `BenchError` for one that is not right."""
    for reply in results:
        where = (int(reply.request_id.rpartition("/")[2]) + np.arange(rows_each)) % POOL
        if reply.code is not Code.OK or reply.row_errors or not is_right(bed.workload, reply.outputs, where):
            raise BenchError(f"bulk result {reply.request_id} is wrong: {reply.code} {reply.message}")


def _processor(bed: Bed) -> Processor:
    return Processor.now({**bed.processes(), "reader": os.getpid()})


def _write_file(bed: Bed, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    work = bed.workload
    columns: dict[str, Any] = {"row": np.arange(rows)}
    where = np.arange(rows) % POOL
    if work.features:
        for name in work.features[0]:
            columns[name] = np.array([one[name] for one in work.features])[where]
    else:
        for name, array in work.inputs.items():
            for at in range(array[0].size):
                columns[f"{name}{at}"] = array.reshape(POOL, -1)[where, at]
    pq.write_table(pa.table(columns), bed.folder / "in.parquet")


def _score_file(bed: Bed, rows: int) -> float:
    """Rows a second from Parquet to Parquet."""
    from penstock.commands.score import layout_of, outputs_of
    from producers.bulk import score_file
    from producers.bulk_run import Job

    work = bed.workload
    tensors = [
        f"{name}={','.join(f'{name}{at}' for at in range(array[0].size))}" for name, array in work.inputs.items()
    ]
    layout = layout_of(work.signature, [] if work.features else tensors, ("row",))
    output = bed.folder / "out.parquet"
    job = Job(bed.folder / "in.parquet", output, work.model, layout, outputs_of(work.signature), force=True)
    result = score_file(job, bed.client(), bed.settings.codec(), bed.topics)
    if result.rows != rows or result.errors:
        raise BenchError(f"the file came out with {result.rows:,} of {rows:,} rows, {result.errors:,} with an error")
    return rows / result.seconds
