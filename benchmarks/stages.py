"""What each stage of a scoring worker costs a row, alone in one thread: `python -m benchmarks.stages`.

Beside each stage stands the way that the libraries' own documentation leads to: fastavro record by record, a dict a
message for confluent-kafka. Single-row requests of 32 floats, the small MLP; processor time, so that what else runs on
the machine counts less. Prints a table, and JSON with --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from prometheus_client import CollectorRegistry

from models.loading import LoadedModel
from models.profile_bins import FeatureBins
from models.registry import ModelStore
from penstock.bench.workload import RequestMaker, make_workload
from penstock.brokers import ApacheKafka, EmbeddedBroker, kafka_jars
from penstock.settings_sections import KafkaSettings
from producers.publisher import create_topics
from schemas.batch_codec import decode_requests
from schemas.byte_columns import BytesColumn
from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import ScoreReply, ScoreRequest
from schemas.reply_codec import ReplyEncoder
from schemas.tensors import to_tensor
from schemas.topics import Topics
from stream_workers.fates import Fate
from stream_workers.ledger import Epoch
from stream_workers.ops import WorkerMetrics
from stream_workers.prediction_log import encoded, log_record
from stream_workers.publish import COUNT_PAUSE_US
from stream_workers.reply_producers import PlainProducer, ReplyProducer, reply_producer
from stream_workers.runs import Run
from stream_workers.scoring_clients import REQUESTS_AHEAD
from stream_workers.work import Requests

ROWS: Final = 4096
REPEATS: Final = 15
PARTITIONS: Final = 8
ZOO: Final = Path(__file__).parent.parent / "models" / "zoo"
ABOUT: Final = {"model": "mlp", "version": "1", "variant": "", "replied_at": 2}


def cost(call: Callable[[], Any], rows: int = ROWS, repeats: int = REPEATS) -> float:
    """Microseconds of this process's processor time a row: the median of `repeats` calls after one to warm up."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return statistics.median(taken) / rows * 1e6


def measure(broker: ApacheKafka | EmbeddedBroker, folder: Path) -> dict[str, dict[str, float]]:
    """Microseconds a row by stage: `now`, and `plain` where there is another way."""
    topics, codec, kafka = Topics("stages."), Codec(), KafkaSettings(bootstrap_servers=broker.address)
    create_topics(broker.address, topics, PARTITIONS)
    work = make_workload("mlp", folder, "")
    model = LoadedModel.load(ModelStore(work.store), "mlp", "1", "cpu", threads=1)
    values, keys = RequestMaker(codec, work, "s" * 32, topics.replies, PARTITIONS).many(0, ROWS)
    stages: dict[str, dict[str, float]] = {}

    consumer, messages = consumed(kafka, topics.requests, values, keys)
    stages["poll"] = {"now": consumer}
    stages["read the messages' fields"] = {
        "now": cost(lambda: [[*map(read, messages)] for read in _READS]),
        "plain": cost(
            lambda: [(one.error(), one.partition(), one.offset(), one.value(), one.headers()) for one in messages]
        ),
    }
    stages["decode"] = {
        "now": cost(lambda: decode_requests(codec, values)),
        "plain": cost(lambda: [codec.decode(ScoreRequest, value) for value in values]),
    }
    (group,), _ = decode_requests(codec, values)
    (tensor,) = group.tensors
    inputs = {tensor.name: np.frombuffer(tensor.data, np.float32).reshape(ROWS, work.width)}
    stages["batch and infer"] = {"now": cost(lambda: model.run([inputs]))}
    (outputs,) = model.run([inputs])
    encoder = ReplyEncoder(codec)
    ids = group.request_ids
    stages["encode replies"] = {
        "now": cost(lambda: encoder.encode_ok(ids, 1, outputs, received_at=np.ones(ROWS, np.int64), **ABOUT)),
        "plain": cost(lambda: _plain_replies(codec, ids, outputs)),
    }
    replies = encoder.encode_ok(ids, 1, outputs, received_at=np.ones(ROWS, np.int64), **ABOUT)
    partitions = np.arange(ROWS, dtype=np.int64) % PARTITIONS
    stages["hand over replies"] = {
        "now": _handed(reply_producer(_sending(kafka), _failed), topics.replies, replies, partitions),
        "plain": _handed(PlainProducer(_sending(kafka), _failed), topics.replies, replies, partitions),
    }
    piece = _piece(group, inputs, topics.requests)
    scores = np.zeros(ROWS)
    stages["prediction log"] = {"now": cost(lambda: encoded(codec, _logged(piece, scores, outputs)))}
    stages["count features"] = {"now": _counted(sum(one["now"] for one in stages.values()))}
    metrics = WorkerMetrics(CollectorRegistry(), "stages")
    waits = np.full(ROWS, 0.001)
    stages["metrics"] = {
        "now": cost(
            lambda: metrics.batch(
                "mlp", "1", "", rows=ROWS, inference_seconds=0.001, queue_seconds=waits, batch_seconds=waits,
                codes={Code.OK: ROWS},
            )
        )
    }  # fmt: skip
    return stages


def _counted(others: float) -> float:
    """Of the flights' network, whose profile has 15 features: the small MLP has none.

    One count of a batch of its largest size, over the rows that pass between two of them at `others` µs a row.
    """
    manifest = ModelStore(ZOO).manifest("flight-delay", "2")
    rng, most = np.random.default_rng(1), manifest.batching.max_rows
    bins = FeatureBins(manifest.profile, manifest.signature)
    part = {
        one.name: rng.integers(0, 100, (most, *one.shape[1:])).astype(one.dtype)  # type: ignore[arg-type]
        for one in manifest.signature.inputs
    }
    times = 64
    once = cost(lambda: [bins.count([part]) for _ in range(times)], rows=times)
    return once / (COUNT_PAUSE_US / others)


_READS: Final = (Message.error, Message.partition, Message.offset, Message.value, len, Message.headers)


def consumed(
    kafka: KafkaSettings,
    topic: str,
    values: Sequence[bytes],
    keys: Sequence[bytes],
    *,
    repeats: int = REPEATS * 4,
    most: int = ROWS,
) -> tuple[float, list[Message]]:
    """Microseconds of processor time a record of consuming, librdkafka's threads with it, and as many messages.

    The topic is filled with `repeats` times the values; a call takes up to `most` of them.
    """
    producer = Producer({**kafka.producer(), "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for _ in range(repeats):
        for at, (value, key) in enumerate(zip(values, keys, strict=True)):
            producer.produce(topic, value, key, at % PARTITIONS)
        producer.flush()
    consumer = Consumer(kafka.consumer("stages", **REQUESTS_AHEAD))
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    messages: list[Message] = []
    while len(messages) < len(values):
        messages += consumer.consume(len(values) - len(messages), 30)
    began, count = time.process_time(), 0
    while count < (repeats - 2) * len(values):
        count += len(consumer.consume(most, 5))
    taken = time.process_time() - began
    consumer.close()
    return taken / count * 1e6, messages


def _plain_replies(codec: Codec, ids: BytesColumn, outputs: dict[str, Any]) -> list[bytes]:
    return [
        codec.encode(
            ScoreReply(
                own.decode(), Code.OK, "", "mlp", "1", "", 1, 2,
                tuple(to_tensor(name, array[i : i + 1]) for name, array in outputs.items()),
            )
        )
        for i, own in enumerate(ids)
    ]  # fmt: skip


def _sending(kafka: KafkaSettings) -> dict[str, Any]:
    own = {"delivery.report.only.error": True, "queue.buffering.max.messages": 1_000_000, "linger.ms": 0}
    return kafka.producer(**own)


def _failed(reason: str, topic: str) -> None:
    raise RuntimeError(f"{topic}: {reason}")


def _handed(producer: ReplyProducer, topic: str, replies: BytesColumn, partitions: Any) -> float:
    """Until the broker has them: librdkafka's threads work for both ways, and count."""

    def call() -> None:
        producer.send(topic, replies, partitions)
        if producer.flush(30):
            raise RuntimeError("replies were not delivered within 30 s")

    try:
        return cost(call)
    finally:
        producer.close()


def _piece(group: Any, inputs: dict[str, Any], topic: str) -> Requests:
    return Requests(
        epoch=Epoch(0), topic=topic, model="mlp", version="1", experiment="", variant="", reply_topic=group.reply_topic,
        ids=group.request_ids, users=group.user_ids, keys=(), partitions=np.arange(ROWS) % PARTITIONS,
        offsets=np.arange(ROWS), sent_at=group.sent_at, deadlines=group.deadlines,
        reply_partitions=group.reply_partitions, received_at=np.ones(ROWS, np.int64), taken=np.zeros(ROWS),
        inputs=inputs,
    )  # fmt: skip


def _logged(piece: Requests, scores: Any, outputs: dict[str, Any]) -> Any:
    run = Run(0.0, 0.001, 0)
    fate = Fate.of("b", 2, Code.OK, [piece], device="cpu", run=run, outputs=[outputs], scores=scores)
    return log_record([fate], "w")


def run(
    program: str,
    about: str | None,
    other: str,
    measured: Callable[[ApacheKafka | EmbeddedBroker, Path], dict[str, dict[str, float]]],
    arguments: Sequence[str] | None,
) -> int:
    """Start a broker, measure, and print microseconds a row by stage: `now`, and the `other` way where there is one."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=about)
    parser.add_argument("--broker", choices=["kafka", "embedded"], default="kafka")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jars = kafka_jars() if options.broker == "kafka" else None
        made = ApacheKafka(folder / "kafka", jars=jars) if jars else EmbeddedBroker(log=folder / "broker.log")
        with made as broker:
            stages = measured(broker, folder)
    total = {way: sum(one.get(way, one["now"]) for one in stages.values()) for way in ("now", other)}
    if options.json:
        document = {"rows": ROWS, "microseconds_per_row": stages, "total": total}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return 0
    for stage, one in [*stages.items(), ("all", total)]:
        beside = f"{one[other]:9.4f}" if other in one else ""
        sys.stdout.write(f"{stage:<28}{one['now']:9.4f}{beside}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print."""
    return run("stages", __doc__, "plain", measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
