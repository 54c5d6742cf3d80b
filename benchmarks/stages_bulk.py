"""What each stage of a bulk record costs a row, alone in one thread: `python -m benchmarks.stages_bulk`.

Records of 4,096 rows of 32 floats, the small MLP; processor time. `before` is the way that was taken at first: batches
read by fastavro and so copied, each record told by itself. Prints a table, and JSON with --json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from benchmarks.stages import PARTITIONS, ROWS, consumed, cost, run
from models.batching import BatchLimits
from models.catalog import Catalog
from models.loading import LoadedModel
from models.registry import ModelStore
from penstock.bench.workload import bulk_batch, make_workload
from penstock.brokers import ApacheKafka, EmbeddedBroker
from penstock.settings_sections import KafkaSettings
from producers.publisher import create_topics
from schemas.codec import Codec
from schemas.placement import Placement
from schemas.records import ScoreBatch
from schemas.tensors import Array
from schemas.topics import Topics
from stream_workers.bulk import BulkIntake
from stream_workers.dead_letters import DeadLetters
from stream_workers.handover import Handover
from stream_workers.lanes import GROUP
from stream_workers.ledger import Ledger, Output
from stream_workers.ops import WorkerMetrics
from stream_workers.outputs import produce_all
from stream_workers.replies import ReplyTopics
from stream_workers.runs import Run
from stream_workers.work import BulkPart

RECORDS: Final = 64
POLL: Final = 8
TOPICS: Final = Topics("stages.")


class Bulk:
    """A bulk intake and the model behind it; this stands in the place of the device and keeps what that would get."""

    def __init__(self, codec: Codec, model: LoadedModel, catalog: Catalog) -> None:
        self.pieces: list[BulkPart] = []
        self.ledger = Ledger()
        self._model = model
        metrics = WorkerMetrics(CollectorRegistry(), "stages")
        replies = ReplyTopics(lambda _topic: PARTITIONS)
        self.intake = BulkIntake(
            codec, TOPICS, self.ledger,
            DeadLetters(codec, TOPICS.dead_letters, self.ledger, metrics, worker="stages", now_us=lambda: 1),
            Handover(self.ledger, replies, metrics, Placement.create(TOPICS), own=TOPICS.bulk, bulk=True),
            catalog, self, replies, metrics,  # type: ignore[arg-type]
            worker="stages", run_id="stages", limits_of=lambda _model: BatchLimits(), now_us=lambda: 1,
        )  # fmt: skip

    def submit(self, _key: Any, _model: Any, piece: BulkPart, *_rest: Any) -> None:
        """See `Device.submit`."""
        self.pieces.append(piece)

    def take(self, messages: Sequence[Any]) -> None:
        """As polls of `POLL` records; what was there before is forgotten."""
        self.pieces.clear()
        self.ledger.halt()
        self.ledger.resume()
        for at in range(0, len(messages), POLL):
            self.intake.take(messages[at : at + POLL])

    def run(self) -> list[dict[str, Array]]:
        """Each record by itself."""
        return [self._model.run([piece.inputs])[0] for piece in self.pieces]

    def tell(self, outputs: Sequence[dict[str, Array]], at_once: int) -> list[Output]:
        """Of runs so many at once; what goes into the transaction."""
        for at in range(0, len(self.pieces), at_once):
            some = slice(at, at + at_once)
            self.intake.scored(self._model, self.pieces[some], outputs[some], Run(0.0, 0.001, 0))
        epoch = self.ledger.close()
        assert epoch is not None  # noqa: S101 - all of it was taken just now
        return epoch.outputs


def measure(broker: ApacheKafka | EmbeddedBroker, folder: Path) -> dict[str, dict[str, float]]:
    """Microseconds a row by stage: `now`, and `before` where that was another way."""
    codec, kafka = Codec(), KafkaSettings(bootstrap_servers=broker.address)
    create_topics(broker.address, TOPICS, PARTITIONS)
    work = make_workload("mlp", folder, "")
    store = ModelStore(work.store)
    model = LoadedModel.load(store, "mlp", "1", "cpu", threads=1)
    catalog = Catalog(store, lambda _name, _version: model, on_ready=lambda *_: None)
    catalog.preload()
    values = [
        codec.encode(bulk_batch(work, "job", number, ROWS, TOPICS.bulk_results, number % PARTITIONS))
        for number in range(RECORDS)
    ]
    poll, messages = consumed(kafka, TOPICS.bulk, values, [b"job"] * RECORDS, repeats=32, most=POLL)
    bulk, rows = Bulk(codec, model, catalog), RECORDS * ROWS

    def both(now: Callable[[], Any], before: Callable[[], Any]) -> dict[str, float]:
        return {"now": cost(now, rows), "before": cost(before, rows)}

    decode = both(
        lambda: [codec.decode_batch(value) for value in values],
        lambda: [codec.decode(ScoreBatch, value) for value in values],
    )
    taken = cost(lambda: bulk.take(messages), rows)
    infer = cost(bulk.run, rows)
    outputs = bulk.run()
    # To be told anew, a record has to be taken anew.
    tell = both(
        lambda: (bulk.take(messages), bulk.tell(outputs, GROUP)), lambda: (bulk.take(messages), bulk.tell(outputs, 1))
    )
    bulk.take(messages)
    results = bulk.tell(outputs, GROUP)
    return {
        "poll": {"now": poll / ROWS},
        "decode": decode,
        "check and queue": {"now": taken - decode["now"]},
        "batch and infer": {"now": infer},
        "tell and encode": {way: of - taken for way, of in tell.items()},
        "publish": {"now": _published(kafka, results, rows)},
    }


def _published(kafka: KafkaSettings, results: Sequence[Output], rows: int) -> float:
    """Until the broker has them, librdkafka's threads included."""
    producer = Producer({**kafka.producer(), "linger.ms": 1, "compression.type": "lz4"})

    def call() -> None:
        produce_all(producer, results)
        if producer.flush(30):
            raise RuntimeError("results were not delivered within 30 s")

    return cost(call, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print."""
    return run("stages_bulk", __doc__, "before", measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
