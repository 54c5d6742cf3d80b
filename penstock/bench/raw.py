"""The limits of Kafka and its client on this machine, each a process of its own that decodes nothing.

python -m penstock.bench.raw copy    consumes records and produces the same bytes: what a stream worker cannot beat
python -m penstock.bench.raw echo    answers each record with itself: what request/reply cannot beat
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

POLL: Final = 10_000


def copy(bootstrap: str, source: str, target: str, starts: list[int], records: int, seconds: float) -> dict[str, float]:
    """Copy `records` records from the offsets `starts` (by partition) on, each to the partition of its number.

    The clock runs from the first records in hand to the last one's acknowledgement. Raises RuntimeError after
    `seconds`.
    """
    consumer = Consumer(reading(bootstrap))
    producer = Producer(_fast(bootstrap))
    consumer.list_topics(target, timeout=10)
    producer.list_topics(target, timeout=10)
    consumer.assign([TopicPartition(source, number, at) for number, at in enumerate(starts)])
    left, began, cpu = records, 0.0, 0.0
    give_up = time.monotonic() + seconds
    while left > 0:
        messages = [one for one in consumer.consume(min(POLL, left), 0.05) if one.error() is None]
        if not began and messages:
            began, cpu = time.perf_counter(), _cpu()
        left -= len(messages)
        batches: dict[int, list[dict[str, Any]]] = {}
        for one in messages:
            batches.setdefault(one.partition() or 0, []).append({"value": one.value()})
        for partition, batch in batches.items():
            _send(producer, target, partition, batch)
        if not messages and time.monotonic() > give_up:
            raise RuntimeError(f"{left} of {records} records did not come within {seconds:.0f} s")
    if producer.flush(seconds):
        raise RuntimeError(f"records were not acknowledged within {seconds:.0f} s")
    took, used = time.perf_counter() - began, _cpu() - cpu
    consumer.close()
    return {"records": records, "seconds": took, "cpu_seconds": used}


def _send(producer: Producer, target: str, partition: int, batch: list[dict[str, Any]]) -> None:
    while batch:
        # A partition in a message's own dict is not heeded.
        queued = producer.produce_batch(target, batch, partition=partition)
        producer.poll(0)
        if queued == len(batch):
            return
        batch = [one for one in batch if one.pop("_error", None) is not None]
        producer.poll(0.01)


def reading(bootstrap: str) -> dict[str, Any]:
    """How the copy reads: no slower by its settings than a worker."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": "penstock-bench-raw",
        "enable.auto.commit": False,
        "isolation.level": "read_uncommitted",
        "queued.min.messages": 500_000,
        "fetch.wait.max.ms": 100,
        "max.partition.fetch.bytes": 8 << 20,
        # As a worker's, for its reasons: a queue that is full would be left alone for a second, however soon it is
        # empty, and an answer of the usual 50 MB is mapped anew each time. It reads further ahead than a worker does,
        # which makes the copy faster by a fifth, and a worker no faster.
        "fetch.queue.backoff.ms": 10,
        "fetch.max.bytes": 16 << 20,
    }


def _fast(bootstrap: str) -> dict[str, Any]:
    """The fastest settings that were found, with no promise weaker than those of a worker's replies."""
    return {
        "bootstrap.servers": bootstrap,
        "enable.idempotence": True,
        "linger.ms": 5,
        "batch.num.messages": 10_000,
        "queue.buffering.max.messages": 1_000_000,
        "delivery.report.only.error": True,
    }


def echo(bootstrap: str, source: str, target: str) -> None:
    """Send every new record of `source` to the same partition of `target`, at once, until terminated."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "penstock-bench-echo",
            "enable.auto.commit": False,
            # The embedded broker looks for new records only every half of this.
            "fetch.wait.max.ms": 2,
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 0})
    known = consumer.list_topics(source, timeout=10).topics[source].partitions
    places = [TopicPartition(source, number) for number in known]
    consumer.assign(
        [TopicPartition(one.topic, one.partition, consumer.get_watermark_offsets(one)[1]) for one in places]
    )
    print("ready", flush=True)
    while True:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            producer.produce(target, message.value(), partition=message.partition() or 0)
        producer.poll(0)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """The command line of one of the processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["copy", "echo"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--starts", default="")
    parser.add_argument("--records", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120.0)
    given = parser.parse_args()
    if given.what == "echo":
        echo(given.bootstrap, given.source, given.target)
        return
    starts = [int(one) for one in given.starts.split(",")]
    try:
        done = copy(given.bootstrap, given.source, given.target, starts, given.records, given.seconds)
    except RuntimeError as error:
        sys.exit(f"raw copy: {error}")
    print(json.dumps(done))


if __name__ == "__main__":
    main()
